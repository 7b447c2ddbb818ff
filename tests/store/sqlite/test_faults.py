"""Faults of the disk: nothing acknowledged is lost, nothing is half done, and everyone is told."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import apsw
import pytest

from taskforge.core import events as ev
from taskforge.core.errors import LeaseLost, StoreFull, Unavailable
from taskforge.core.snapshot import RunSnapshot
from taskforge.store.sqlite import connection
from taskforge.store.sqlite import writer as writer_module
from taskforge.store.sqlite.store import SqliteStore
from tests.store.backends import Dump, SqliteBackend
from tests.store.desk import LEASE_MS, Desk
from tests.store.sqlite.faulty_vfs import NAME, FaultyVFS, after_power_loss, faulty_vfs, io_error
from tests.support.clock import ManualClock
from tests.support.plans import CALL_THEN_GIVE, ONE_CALL, THREE_GIVES, plan, step


@pytest.fixture
def vfs() -> Iterator[FaultyVFS]:
    with faulty_vfs() as made:
        yield made


def dump(path: Path) -> Dump:
    backend = SqliteBackend(path, ManualClock())
    return backend.dump()


# ---- every I/O call of every core transaction fails once


async def start(desk: Desk, runs: dict[str, RunSnapshot]) -> object:
    return await desk.start(CALL_THEN_GIVE, input='"' + "x" * 2_000 + '"')


async def publish(desk: Desk, runs: dict[str, RunSnapshot]) -> object:
    return await desk.store.publish_workflow("flow", '{"v":2}', "v: 2", "yaml", None, desk.clock.now())


async def finish(desk: Desk, runs: dict[str, RunSnapshot]) -> object:
    return await desk.succeed(runs["running"], output="x" * 6_000)


async def fail(desk: Desk, runs: dict[str, RunSnapshot]) -> object:
    return await desk.fail(runs["running"], error_class=None)


async def cancel(desk: Desk, runs: dict[str, RunSnapshot]) -> object:
    return await desk.apply(desk.store.cancel_run, runs["running"], ev.CancelAsked())


async def retry(desk: Desk, runs: dict[str, RunSnapshot]) -> object:
    return await desk.apply(desk.store.retry_run, runs["failed"], ev.RetryAsked())


async def renew(desk: Desk, runs: dict[str, RunSnapshot]) -> object:
    return await desk.store.renew_leases(desk.owner, desk.clock.now() + 2 * LEASE_MS)


async def rescue(desk: Desk, runs: dict[str, RunSnapshot]) -> object:
    return await desk.store.rescue_leases([desk.owner], desk.clock.now())


async def release(desk: Desk, runs: dict[str, RunSnapshot]) -> object:
    await desk.store.release_run(runs["held"].key, runs["held"].revision, desk.clock.now())
    return None


async def delete(desk: Desk, runs: dict[str, RunSnapshot]) -> object:
    await desk.store.delete_workflow("flow", desk.clock.now())
    return None


async def register(desk: Desk, runs: dict[str, RunSnapshot]) -> object:
    return await desk.store.register_node("node_b", "{}", desk.clock.now())


Verb = Callable[[Desk, dict[str, RunSnapshot]], Awaitable[object]]
VERBS: list[Verb] = [start, publish, finish, fail, cancel, retry, renew, rescue, release, delete, register]


async def prepared(path: Path) -> tuple[Desk, dict[str, RunSnapshot]]:
    """A store on the faulty file system with a run of each sort; always the same one."""
    clock = ManualClock()
    store = await SqliteStore.open(path, clock=clock, vfs=NAME)
    desk = Desk(store, clock)
    await desk.publish()
    failed = await desk.start(ONE_CALL)
    await desk.fail(failed, error_class=None)
    held = await desk.start(plan(step("ask", config="ask the child")))
    return desk, {"failed": failed, "held": held, "running": await desk.start(CALL_THEN_GIVE)}


async def states_around(folder: Path, verb: Verb, vfs: FaultyVFS) -> tuple[Dump, Dump, int]:
    """What the verb changes, and how many calls to the disk it makes."""
    found = []
    for name in ("old", "new"):
        path = folder / name / "taskforge.db"
        path.parent.mkdir()
        desk, runs = await prepared(path)
        calls = len(vfs.log)
        if name == "new":
            await verb(desk, runs)
        calls = len(vfs.log) - calls
        await desk.store.close()
        found.append(dump(path))
    return found[0], found[1], calls


ERRORS: dict[str, Callable[[], BaseException]] = {
    "full": lambda: apsw.FullError("disk full"),
    "write": lambda: io_error(apsw.SQLITE_IOERR_WRITE),
    "sync": lambda: io_error(apsw.SQLITE_IOERR_FSYNC),
}


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
async def test_a_call_to_the_disk_that_fails_leaves_the_old_or_the_new_state(
    vfs: FaultyVFS, tmp_path: Path, verb: Verb, kind: str
) -> None:
    old, new, calls = await states_around(tmp_path, verb, vfs)
    assert calls > 2 and old != new
    rng = random.Random(f"{verb.__name__} {kind}")
    # The first and the last calls, and some in between; the last is the sync.
    for n in sorted({0, 1, calls - 2, calls - 1, *rng.sample(range(calls), min(2, calls))}):
        path = tmp_path / f"{kind}-{n}" / "taskforge.db"
        path.parent.mkdir()
        desk, runs = await prepared(path)
        left = [n]

        def fail_once(_kind: str, _file: str, left: list[int] = left) -> BaseException | None:
            left[0] -= 1
            return ERRORS[kind]() if left[0] == -1 else None

        vfs.fail = fail_once
        with pytest.raises(StoreFull if kind == "full" else Unavailable):
            await verb(desk, runs)
        fatal = kind == "sync"
        if fatal:
            with pytest.raises(Unavailable, match="Nothing is acknowledged any more"):
                await desk.store.ping()
        else:
            # The disk works again: so does the store, on the same connection.
            await desk.store.ping()
        vfs.fail = lambda kind, file: None
        await desk.store.close()
        found = dump(path)
        assert found in (old, new)
        assert fatal or found == old
        reopened = await SqliteStore.open(path, clock=ManualClock())
        assert await reopened.check() == []
        await reopened.close()


async def test_a_failed_sync_ends_all_acknowledgements_and_the_process_is_told(vfs: FaultyVFS, tmp_path: Path) -> None:
    desk, _ = await prepared(tmp_path / "taskforge.db")
    assert isinstance(desk.store, SqliteStore)
    told: list[BaseException] = []
    called = asyncio.Event()

    def on_failure(error: BaseException) -> None:
        told.append(error)
        called.set()

    desk.store.on_failure = on_failure
    vfs.fail = lambda kind, file: io_error(apsw.SQLITE_IOERR_FSYNC) if kind == "sync" else None
    answers = await asyncio.gather(*(desk.start() for _ in range(20)), return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    vfs.fail = lambda kind, file: None
    with pytest.raises(Unavailable, match="restart TaskForge"):
        await desk.start()
    await asyncio.wait_for(called.wait(), 5)
    assert len(told) == 1
    await desk.store.close()
    reopened = await SqliteStore.open(tmp_path / "taskforge.db", clock=ManualClock())
    assert await reopened.check() == []
    await reopened.close()


async def test_nothing_is_acknowledged_while_the_disk_is_full_and_work_resumes_after(
    vfs: FaultyVFS, tmp_path: Path
) -> None:
    desk, _ = await prepared(tmp_path / "taskforge.db")
    vfs.fail = lambda kind, file: apsw.FullError("disk full") if kind == "write" else None
    for _ in range(3):
        answers = await asyncio.gather(*(desk.start() for _ in range(20)), return_exceptions=True)
        assert all(isinstance(answer, StoreFull) for answer in answers)
    vfs.fail = lambda kind, file: None
    answers = await asyncio.gather(*(desk.start() for _ in range(20)), return_exceptions=True)
    assert sorted(answer.number or 0 for answer in answers if isinstance(answer, RunSnapshot)) == [*range(4, 24)]
    await desk.store.close()


async def test_a_checkpoint_that_fails_costs_nothing(
    vfs: FaultyVFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "CHECKPOINT_PAGES", 10)
    desk, _ = await prepared(tmp_path / "taskforge.db")
    main = tmp_path.joinpath("taskforge.db").name
    vfs.fail = lambda kind, file: apsw.FullError("disk full") if kind == "write" and file == main else None
    for _ in range(50):
        await desk.start()
    vfs.fail = lambda kind, file: None
    for _ in range(5):
        await desk.start()
    await desk.store.close()
    reopened = await SqliteStore.open(tmp_path / "taskforge.db", clock=ManualClock())
    assert (await reopened.get_run("flow#58")).number == 58 and await reopened.check() == []
    await reopened.close()


# ---- power loss


async def work_until_done(path: Path, vfs: FaultyVFS) -> None:
    """Eight clients start and finish runs; what they are told is written into the log of the disk."""
    clock = ManualClock()
    desk = Desk(await SqliteStore.open(path, clock=clock, vfs=NAME), clock)
    await desk.publish()
    vfs.note("published")

    async def client() -> None:
        for _ in range(6):
            run = await desk.start(CALL_THEN_GIVE, input='"' + "x" * 3_000 + '"')
            vfs.note(f"started {run.id}")
            await desk.succeed(run)
            vfs.note(f"ended {run.id}")

    await asyncio.gather(*(client() for _ in range(8)))
    await desk.store.close()


async def lost_after(path: Path, log: list[object], files: dict[str, bytes]) -> int:
    """Put the files where the power went, open, and count what was acknowledged and is not there."""
    for entry in path.parent.iterdir():
        if entry.is_file():
            entry.unlink()
    for name, content in files.items():
        path.with_name(name).write_bytes(content)
    store = await SqliteStore.open(path, clock=ManualClock())
    lost = 0
    try:
        assert await store.check() == []
        for op in log:
            if getattr(op, "kind", "") != "note":
                continue
            event, _, id = getattr(op, "file", "").partition(" ")
            try:
                if event != "published":
                    row = await store.get_run(id)
                    lost += event == "ended" and row.record.state != "SUCCEEDED"
            except Exception:
                lost += 1
    finally:
        await store.close()
    return lost


async def cuts(vfs: FaultyVFS, tmp_path: Path, count: int) -> list[int]:
    path = tmp_path / "taskforge.db"
    await (await SqliteStore.open(path, clock=ManualClock())).close()
    before = {path.name: path.read_bytes()}
    await work_until_done(path, vfs)
    rng = random.Random(1)
    found = []
    for _ in range(count):
        log = vfs.log[: rng.randrange(20, len(vfs.log))]
        found.append(await lost_after(path, list(log), after_power_loss(before, log, rng)))
    return found


async def test_nothing_acknowledged_is_missing_after_a_power_loss(
    vfs: FaultyVFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "CHECKPOINT_PAGES", 40)
    assert set(await cuts(vfs, tmp_path, 50)) == {0}


async def test_the_power_loss_test_sees_a_store_that_does_not_sync(
    vfs: FaultyVFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connection._WRITER, "synchronous", 1)
    assert max(await cuts(vfs, tmp_path, 10)) > 0


# ---- a real full disk

FILLS_ITS_DISK = """
import asyncio, os, pathlib, resource, sys
from taskforge.core.errors import StoreFull
from taskforge.store.sqlite.store import SqliteStore
from tests.store.desk import Desk
from tests.support.clock import ManualClock
from tests.support.plans import ONE_CALL
async def main():
    path, clock = pathlib.Path(sys.argv[1]), ManualClock()
    desk = Desk(await SqliteStore.open(path, clock=clock), clock)
    await desk.publish()
    filler = None
    if sys.argv[2] == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    else:
        filler = path.with_name("filler")
        free = os.statvfs(path.parent)
        filler.write_bytes(bytes(free.f_bavail * free.f_frsize - 400_000))
    accepted, refused = [], 0
    while refused < 20:
        answers = await asyncio.gather(
            *(desk.start(ONE_CALL, input='"' + "x" * 3000 + '"') for _ in range(10)), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                assert isinstance(answer, StoreFull), repr(answer)
                refused += 1
            else:
                accepted.append(answer)
    assert accepted
    for run in accepted:
        assert (await desk.rows(run)).run.id == run.id
    if filler is None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        filler.unlink()
    for run in accepted[:50]:
        await desk.succeed(run)
    await desk.start()
    stats = await desk.store.stats(clock.now())
    assert sum(stats.runs.values()) == len(accepted) + 1, (stats, len(accepted))
    assert await desk.store.check() == []
    await desk.store.close()
    print("resumed")
asyncio.run(main())
"""


def fills_its_disk(path: Path, how: str) -> None:
    script = [sys.executable, "-c", FILLS_ITS_DISK, str(path), how]
    done = subprocess.run(script, capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.stderr) == ("resumed\n", "")


def test_a_file_that_may_not_grow_is_a_full_disk_and_work_resumes_when_it_may(tmp_path: Path) -> None:
    fills_its_disk(tmp_path / "taskforge.db", "limit")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB; only root can have one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_reads_work_on_a_full_disk_and_work_resumes_when_there_is_room(small_disk: Path) -> None:
    fills_its_disk(small_disk / "taskforge.db", "disk")


STARTS_ON_A_FULL_DISK = """
import asyncio, os, pathlib, sys
from taskforge.core.errors import StartupError
from taskforge.store.sqlite.store import SqliteStore
from tests.support.clock import ManualClock
async def main():
    path = pathlib.Path(sys.argv[1])
    free = os.statvfs(path.parent)
    with open(path.with_name("filler"), "wb") as filler:
        filler.write(bytes(free.f_bavail * free.f_frsize - int(sys.argv[2])))
    try:
        await SqliteStore.open(path, clock=ManualClock())
    except StartupError as error:
        print(error.message)
asyncio.run(main())
"""


@pytest.mark.parametrize("room", [0, 8_192, 65_536])
def test_a_start_on_a_full_disk_says_so_and_makes_no_half_database(small_disk: Path, room: int) -> None:
    path = small_disk / "taskforge.db"
    script = [sys.executable, "-c", STARTS_ON_A_FULL_DISK, str(path), str(room)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60, check=True)
    assert "full" in done.stdout or "No space left" in done.stdout
    assert done.stdout.count("\n") == 1 and str(small_disk) in done.stdout
    assert not path.exists()


async def test_a_file_that_another_program_is_writing_to_is_waited_for_and_never_an_error_of_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "taskforge.db", ManualClock()
    monkeypatch.setattr(connection, "BUSY_TIMEOUT_MS", 50)
    monkeypatch.setitem(connection._WRITER, "busy_timeout", 50)
    store = await SqliteStore.open(path, clock=clock)
    desk = Desk(store, clock)
    await desk.publish()
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    answers = await asyncio.gather(*(desk.start(THREE_GIVES) for _ in range(5)), return_exceptions=True)
    for answer in answers:
        assert isinstance(answer, Unavailable) and "another program is writing" in answer.message
        assert "locked" not in answer.message
    other.execute("ROLLBACK")
    other.close()
    assert (await desk.start()).number == 1
    await store.close()


async def test_a_refusal_after_a_fault_is_still_a_refusal(vfs: FaultyVFS, tmp_path: Path) -> None:
    desk, runs = await prepared(tmp_path / "taskforge.db")
    runs["running"].revision += 1
    with pytest.raises(LeaseLost):
        await desk.succeed(runs["running"])
    await desk.store.close()
