"""The writer thread: group commit, isolation of the verbs in a group, bounds, and its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from taskforge.core.errors import NotFound, Unavailable
from taskforge.store.sqlite import writer as writer_module
from taskforge.store.sqlite.connection import Session
from taskforge.store.sqlite.store import SqliteStore
from tests.store.desk import Desk
from tests.store.sqlite.conftest import OpenStore
from tests.store.sqlite.faulty_vfs import NAME, faulty_vfs
from tests.support.clock import ManualClock
from tests.support.plans import plan, step


@contextmanager
def held(store: SqliteStore) -> Iterator[asyncio.Future[None]]:
    """Keep the writer busy with one verb while the body runs, so that what is queued in it becomes one group."""
    begun, go_on = threading.Event(), threading.Event()

    def hold(session: Session) -> None:
        begun.set()
        go_on.wait(30)

    holding = store._writer.enqueue(hold)
    assert begun.wait(30)
    try:
        yield holding
    finally:
        go_on.set()


async def test_what_queued_up_during_a_commit_shares_the_next_one(desk: Desk, store: SqliteStore) -> None:
    before = store.commits
    with held(store):
        starts = [asyncio.ensure_future(desk.start()) for _ in range(100)]
        await asyncio.sleep(0)
    await asyncio.gather(*starts)
    assert store.commits - before == 2


async def test_many_concurrent_starts_use_fewer_commits_than_verbs(desk: Desk, store: SqliteStore) -> None:
    commits, verbs = store.commits, store.verbs
    await asyncio.gather(*(desk.start() for _ in range(500)))
    assert store.verbs - verbs == 500
    assert store.commits - commits <= 100


async def test_a_verb_alone_is_committed_at_once(desk: Desk, store: SqliteStore) -> None:
    before = store.commits
    for _ in range(5):
        await desk.start()
    assert store.commits - before == 5


async def test_a_refused_verb_in_a_group_undoes_only_itself(desk: Desk, store: SqliteStore) -> None:
    def write_and_refuse(session: Session) -> None:
        session.write("create_token", ("tok_bad", "", "h", "[]", 1, None))
        session.add("run", "QUEUED", 7)
        raise NotFound("refused after it had written")

    with held(store):
        starts = [asyncio.ensure_future(desk.start()) for _ in range(3)]
        await asyncio.sleep(0)
        refused = store._writer.enqueue(write_and_refuse)
        starts += [asyncio.ensure_future(desk.start()) for _ in range(3)]
        await asyncio.sleep(0)
    with pytest.raises(NotFound):
        await refused
    assert [run.number for run in await asyncio.gather(*starts)] == [1, 2, 3, 4, 5, 6]
    assert await store.list_tokens() == []
    assert (await store.stats(desk.clock.now())).runs == {**dict.fromkeys(RUN_STATES, 0), "SUCCEEDED": 6}


RUN_STATES = ["QUEUED", "RUNNING", "WAITING", "SUCCEEDED", "FAILED", "CANCELLED"]


async def test_a_refused_verb_alone_undoes_itself(desk: Desk, store: SqliteStore) -> None:
    def write_and_refuse(session: Session) -> None:
        session.write("create_token", ("tok_bad", "", "h", "[]", 1, None))
        raise NotFound("refused after it had written")

    with pytest.raises(NotFound):
        await store._writer.enqueue(write_and_refuse)
    assert await store.list_tokens() == []
    await desk.start()


async def test_a_verb_that_breaks_a_constraint_fails_alone(desk: Desk, store: SqliteStore) -> None:
    new, _, changes = desk.begin()
    await store.start_run(new, changes)
    with held(store):
        again = asyncio.ensure_future(store.start_run(new, changes))
        good = asyncio.ensure_future(desk.start())
        await asyncio.sleep(0)
    with pytest.raises(Exception, match=r"UNIQUE constraint failed: runs\.id"):
        await again
    assert (await good).number == 2


async def test_a_caller_that_gave_up_before_its_turn_changes_nothing(desk: Desk, store: SqliteStore) -> None:
    with held(store):
        given_up = asyncio.ensure_future(desk.start())
        good = asyncio.ensure_future(desk.start())
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
    assert (await good).number == 1
    assert given_up.cancelled()


async def test_a_caller_that_gives_up_during_the_commit_disturbs_nobody(desk: Desk, store: SqliteStore) -> None:
    with held(store) as holding:
        await asyncio.sleep(0)
        holding.cancel()
    assert (await desk.start()).number == 1


async def test_more_waiting_verbs_than_the_bound_are_refused(open_store: OpenStore, desk: Desk) -> None:
    await desk.store.close()
    store = await open_store(queue_limit=5)
    desk.store = store
    with held(store) as holding:
        starts = [asyncio.ensure_future(desk.start()) for _ in range(20)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    answers = await asyncio.gather(*starts, return_exceptions=True)
    await holding
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert all(isinstance(answer, Unavailable) for answer in refused)
    assert len(refused) == 15
    assert (await desk.start()).number == 6


async def test_closing_commits_what_is_queued_and_takes_no_more(open_store: OpenStore, desk: Desk) -> None:
    store = desk.store
    assert isinstance(store, SqliteStore)
    with held(store):
        starts = [asyncio.ensure_future(desk.start()) for _ in range(10)]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(store.close())
        await asyncio.sleep(0)
    await asyncio.gather(*starts)
    await closing
    with pytest.raises(Unavailable, match="closed"):
        await desk.start()
    with pytest.raises(Unavailable, match="closed"):
        await store.get_run("flow#1")
    again = await open_store()
    assert (await again.get_run("flow#10")).number == 10


async def test_closing_twice_is_closing_once(store: SqliteStore) -> None:
    await store.close()
    await store.close()


async def test_a_writer_that_ends_says_so_and_refuses_everything(desk: Desk, store: SqliteStore) -> None:
    told: list[BaseException] = []
    called = asyncio.Event()

    def on_failure(error: BaseException) -> None:
        told.append(error)
        called.set()

    store.on_failure = on_failure

    def crash(session: Session) -> None:
        raise SystemExit("a bug")

    with held(store):
        before = asyncio.ensure_future(desk.start())
        await asyncio.sleep(0)
        crashing = store._writer.enqueue(crash)
        after = asyncio.ensure_future(desk.start())
        await asyncio.sleep(0)
    answers = await asyncio.gather(before, crashing, after, return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers), answers
    await asyncio.wait_for(called.wait(), 5)
    assert len(told) == 1 and "the writer stopped: SystemExit: a bug" in str(told[0])
    for attempt in (desk.start(), store.ping()):
        with pytest.raises(Unavailable, match="the writer stopped"):
            await attempt
    # What was committed before can still be read.
    assert [row.name for row in await store.list_workflows(None, 10)] == ["flow"]


async def test_a_bug_in_a_verb_is_its_own_failure(desk: Desk, store: SqliteStore) -> None:
    def bug(session: Session) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store._writer.enqueue(bug)
    assert (await desk.start()).number == 1


async def test_everything_is_in_the_database_itself_when_the_store_is_quiet(
    desk: Desk, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(writer_module, "IDLE_SECONDS", 0.01)
    for batch in range(1, 4):
        await asyncio.gather(*(desk.start() for _ in range(200)))
        async with asyncio.timeout(20):
            while store._writer._wal_pages:
                await asyncio.sleep(0.01)
        copy = tmp_path / f"without-the-log-{batch}.db"
        copy.write_bytes(store.path.read_bytes())
        alone = apsw.Connection(str(copy))
        assert alone.execute("SELECT count(*) FROM runs").fetchall() == [(200 * batch,)]
        alone.close()
    assert (await store.stats(1)).wal_bytes > 0 and await store.check() == []


async def test_the_log_is_used_again_from_its_start_after_a_quiet_time(
    desk: Desk, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "IDLE_SECONDS", 0.01)
    sizes = []
    for _ in range(5):
        for _ in range(20):
            await desk.start()
        async with asyncio.timeout(20):
            while store._writer._wal_pages:
                await asyncio.sleep(0.01)
        sizes.append((await store.stats(1)).wal_bytes)
    assert max(sizes) < 2 * sizes[0]


async def test_the_log_stays_small_under_load(desk: Desk, store: SqliteStore) -> None:
    peak = 0
    wide = plan(*(step(f"s{i}", config="x" * 700) for i in range(20)))
    for _ in range(20):
        await asyncio.gather(*(desk.start(wide) for _ in range(50)))
        peak = max(peak, (await store.stats(1)).wal_bytes)
    assert peak < 32 * 1024 * 1024
    assert (await store.stats(1)).db_bytes > 10 * 1024 * 1024


# ---- short verbs on the loop


async def test_a_lock_of_another_process_is_waited_for_without_stopping_the_loop(
    desk: Desk, store: SqliteStore
) -> None:
    other = apsw.Connection(str(store.path))
    other.execute("BEGIN IMMEDIATE")
    starting = asyncio.ensure_future(desk.start())
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert not starting.done()
    other.execute("ROLLBACK")
    other.close()
    assert (await starting).number == 1


async def test_a_slow_sync_does_not_stop_the_loop(path: Path, clock: ManualClock) -> None:
    syncing, go_on = threading.Event(), threading.Event()
    on_loop = threading.get_ident()

    def wait(kind: str, file: str) -> None:
        if kind == "sync":
            assert threading.get_ident() != on_loop
            syncing.set()
            go_on.wait(30)

    with faulty_vfs() as vfs:
        store = await SqliteStore.open(path, clock=clock, vfs=NAME)
        desk = Desk(store, clock)
        await desk.publish()
        vfs.fail = wait
        starting = asyncio.ensure_future(desk.start())
        async with asyncio.timeout(20):
            while not syncing.is_set():
                await asyncio.sleep(0.002)
        assert not starting.done()
        go_on.set()
        assert (await starting).number == 1
        await store.close()


async def test_short_verbs_of_one_turn_of_the_loop_share_a_commit(desk: Desk, store: SqliteStore) -> None:
    before = store.commits
    await asyncio.gather(*(desk.start() for _ in range(100)))
    assert store.commits - before == 1


async def test_a_short_verb_that_is_refused_after_a_write_undoes_only_itself(desk: Desk, store: SqliteStore) -> None:
    def write_and_refuse(session: Session) -> None:
        session.write("create_token", ("tok_bad", "", "h", "[]", 1, None))
        raise NotFound("refused after it had written")

    starts = [asyncio.ensure_future(desk.start()) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(NotFound):
        await store._writer.enqueue(write_and_refuse, is_short=True)
    assert [run.number for run in await asyncio.gather(*starts)] == [1, 2, 3]
    assert await store.list_tokens() == []
