"""Restoring: refused before anything changes, or whole; nothing of the old database is lost, and all begins paused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from taskforge.core.errors import StartupError
from taskforge.core.jsontext import dumps
from taskforge.store.migrate import load_migrations
from taskforge.store.protocol import RunFilter
from taskforge.store.sqlite import opening
from taskforge.store.sqlite import restore as restore_module
from taskforge.store.sqlite.backup import Stamp
from taskforge.store.sqlite.opening import back_up
from taskforge.store.sqlite.restore import Restored, Unsound, Wish, restore_database
from taskforge.store.sqlite.store import SqliteStore
from taskforge.store.triggered import TriggerSpec
from tests.store.desk import Desk
from tests.store.sqlite.conftest import OpenStore
from tests.store.sqlite.test_backup import die_at_every_step, filled
from tests.store.sqlite.test_migrating import SECOND
from tests.support.clock import ManualClock
from tests.support.mounts import small_disk
from tests.support.plans import ONE_CALL

LATER = 1_900_000_000_000


def wish(tmp_path: Path, **more: Any) -> Wish:
    made = Wish(tmp_path / "copy.db", tmp_path / "taskforge.db", LATER, "then", ["mine"])
    return made._replace(**more)


def restore(tmp_path: Path, **more: Any) -> Restored:
    return restore_database(wish(tmp_path, **more))


async def backed_up(open_store: OpenStore, tmp_path: Path, key: str | None = "mine") -> Desk:
    """A closed database with two runs more than its backup `copy.db`, which has five."""
    desk = await filled(open_store)
    await desk.store.back_up(tmp_path / "copy.db", 1, key)
    await desk.start()
    await desk.start()
    await desk.store.close()
    return desk


async def runs_of(path: Path) -> int:
    store = await SqliteStore.open(path, clock=ManualClock())
    try:
        return len(await store.list_runs(RunFilter()))
    finally:
        await store.close()


def change(path: Path, *statements: str) -> None:
    conn = apsw.Connection(str(path))
    for statement in statements:
        conn.execute(statement)
    conn.close()


async def test_the_backup_takes_the_place_and_the_old_database_is_kept(open_store: OpenStore, tmp_path: Path) -> None:
    await backed_up(open_store, tmp_path)
    done = restore(tmp_path)
    assert (done.contents.runs, done.findings, done.warnings) == (5, [], [])
    assert done.replaced == tmp_path / "taskforge.db.replaced-then"
    assert (tmp_path / "taskforge.db").stat().st_mode & 0o777 == 0o600
    assert (await runs_of(tmp_path / "taskforge.db"), await runs_of(done.replaced)) == (5, 7)


async def test_a_second_restore_in_the_same_second_keeps_both_old_databases(
    open_store: OpenStore, tmp_path: Path
) -> None:
    await backed_up(open_store, tmp_path)
    kept = [restore(tmp_path).replaced, restore(tmp_path).replaced]
    assert [path.name for path in kept if path] == ["taskforge.db.replaced-then", "taskforge.db.replaced-then-2"]


async def test_the_old_log_goes_with_the_old_database(open_store: OpenStore, tmp_path: Path) -> None:
    """A log that met another database file would be replayed into it."""
    desk = await filled(open_store)
    await desk.store.back_up(tmp_path / "copy.db", 1, None)
    await desk.start()
    dead = tmp_path / "dead"
    dead.mkdir()
    for suffix in ("", "-wal", "-shm"):
        shutil.copy(tmp_path / f"taskforge.db{suffix}", dead)
    done = restore(tmp_path, database=dead / "taskforge.db")
    assert done.replaced is not None and not (dead / "taskforge.db-wal").exists()
    assert (await runs_of(dead / "taskforge.db"), await runs_of(done.replaced)) == (5, 6)


async def test_what_is_restored_is_held_and_says_so_until_it_is_released(open_store: OpenStore, tmp_path: Path) -> None:
    await backed_up(open_store, tmp_path)
    restore(tmp_path)
    store = await open_store()
    assert await store.list_holds() == ["*"]
    assert any("release --all" in notice for notice in store.notices)
    await store.set_hold(None, False, LATER)
    await store.close()
    assert (await open_store()).notices == []


async def test_schedules_go_on_from_the_restore_and_followers_see_new_events(
    open_store: OpenStore, tmp_path: Path
) -> None:
    store = await open_store()
    config = dumps({"cron": "* * * * *"})
    await store.publish_workflow(
        "flow", "{}", "", "json", None, 1, [TriggerSpec("tick", "cron", config=config, cursor=1_000, next_at=60_000)]
    )
    desk = Desk(store, ManualClock())
    await desk.start()
    last = await store.last_journal_id()
    await store.back_up(tmp_path / "copy.db", 1, None)
    await store.close()
    restore(tmp_path)
    store = await open_store()
    (row,) = await store.list_schedules(None, 0, 10)
    assert (row.cursor, row.next_at, row.held_at, row.active) == (LATER, LATER, None, True)
    await Desk(store, ManualClock(LATER)).start()
    assert await store.last_journal_id() > last + 1_000


async def test_attempts_under_way_at_the_backup_are_counted(open_store: OpenStore, tmp_path: Path) -> None:
    desk = await filled(open_store)
    await desk.start(ONE_CALL)
    await desk.store.back_up(tmp_path / "copy.db", 1, None)
    await desk.store.close()
    assert restore(tmp_path).contents[:3] == (6, 1, 1)


async def test_a_home_without_a_database_gets_one(open_store: OpenStore, tmp_path: Path) -> None:
    await backed_up(open_store, tmp_path)
    (tmp_path / "new").mkdir()
    done = restore(tmp_path, database=tmp_path / "new" / "taskforge.db")
    assert done.replaced is None
    assert await runs_of(tmp_path / "new" / "taskforge.db") == 5


async def test_an_older_schema_is_restored_and_brought_up_to_date_by_the_next_start(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backed_up(open_store, tmp_path)
    for module in (restore_module, opening):
        monkeypatch.setattr(module, "load_migrations", lambda dialect: [*load_migrations("sqlite"), SECOND])
    done = restore(tmp_path)
    assert (done.schema, done.migrates) == (1, True)
    assert len(await (await open_store()).list_runs(RunFilter())) == 5
    assert opening.missing_migrations(tmp_path / "taskforge.db") == (2, [])


# ---- refused


async def refused(tmp_path: Path, words: str, **more: Any) -> None:
    """The restore is refused with these words, and nothing has changed."""
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(StartupError, match=words):
        restore(tmp_path, **more)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


async def test_a_backup_of_another_key_is_refused_and_one_of_an_earlier_key_is_not(
    open_store: OpenStore, tmp_path: Path
) -> None:
    await backed_up(open_store, tmp_path, key="theirs")
    await refused(tmp_path, r"its key is theirs, this home's is mine.*secret\.key")
    assert restore(tmp_path, keys=["new", "theirs"]).contents.runs == 5


async def test_the_secrets_themselves_say_which_key_they_need(open_store: OpenStore, tmp_path: Path) -> None:
    desk = await filled(open_store)
    await desk.store.put_secret("A", b"sealed", "theirs", 1)
    await desk.store.put_secret("B", b"sealed", "mine", 1)
    await desk.store.back_up(tmp_path / "copy.db", 1, None)
    await desk.store.close()
    await refused(tmp_path, "its key is theirs")
    assert restore(tmp_path, without_secrets=True, opens=lambda name, sealed: name == "B").secrets_left_out == 1
    assert [row.name for row in await (await open_store()).list_secrets()] == ["B"]


async def test_a_newer_schema_is_refused_with_both_versions(open_store: OpenStore, tmp_path: Path) -> None:
    await backed_up(open_store, tmp_path)
    change(tmp_path / "copy.db", "INSERT INTO schema_migrations VALUES (2, 'new', 'x', 1, '9.9.9')")
    await refused(tmp_path, r"TaskForge 9\.9\.9 \(schema 2\).*schemas up to 1")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8192])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def overwrite(path: Path) -> None:
    path.write_bytes(b"this is no database, but a text of some length\n" * 500)


def of_others(path: Path) -> None:
    path.unlink()
    change(path, "CREATE TABLE t (a)")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (cut, "damaged.*Take another"),
        (empty, r"0 bytes"),
        (overwrite, "no database"),
        (of_others, "not one of TaskForge"),
    ],
)
async def test_what_is_no_whole_backup_is_refused(
    open_store: OpenStore, tmp_path: Path, harm: Callable[[Path], None], words: str
) -> None:
    await backed_up(open_store, tmp_path)
    harm(tmp_path / "copy.db")
    await refused(tmp_path, words)


async def test_broken_invariants_are_refused_unless_it_must_be(open_store: OpenStore, tmp_path: Path) -> None:
    await backed_up(open_store, tmp_path)
    change(tmp_path / "copy.db", "UPDATE counts SET n = 77 WHERE kind = 'run'")
    with pytest.raises(Unsound) as caught:
        restore(tmp_path)
    assert caught.value.findings == ["counts: run SUCCEEDED is 77, there are 5"]
    assert len(restore(tmp_path, despite=True).findings) == 1


async def test_damaged_pages_are_found(open_store: OpenStore, tmp_path: Path) -> None:
    await backed_up(open_store, tmp_path)
    content = bytearray((tmp_path / "copy.db").read_bytes())
    for page in range(10, len(content) // 4096, 3):
        content[page * 4096 : page * 4096 + 100] = b"\xa5" * 100
    (tmp_path / "copy.db").write_bytes(content)
    await refused(tmp_path, "not sound|damaged")


async def test_the_database_itself_is_no_backup(open_store: OpenStore, tmp_path: Path) -> None:
    await backed_up(open_store, tmp_path)
    await refused(tmp_path, "the database itself", source=tmp_path / "taskforge.db")


async def test_a_plain_copy_without_its_log_is_warned_of_and_with_it_complete(
    open_store: OpenStore, tmp_path: Path
) -> None:
    desk = await filled(open_store)
    (tmp_path / "live").mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(tmp_path / f"taskforge.db{suffix}", tmp_path / "live" / f"copy.db{suffix}")
    await desk.store.close()
    done = restore(tmp_path, source=tmp_path / "live" / "copy.db")
    assert (done.contents.runs, done.warnings) == (5, [])
    (tmp_path / "live" / "copy.db-wal").unlink()
    done = restore(tmp_path, source=tmp_path / "live" / "copy.db")
    assert done.contents.runs < 5 and "without its log" in done.warnings[0]


# ---- interrupted


async def test_killed_at_any_step_a_restore_has_happened_or_not(open_store: OpenStore, tmp_path: Path) -> None:
    desk = await filled(open_store, 3)
    back_up(tmp_path / "taskforge.db", tmp_path / "source.db", Stamp(1, "key"))
    await desk.start()
    await desk.start()
    steps = die_at_every_step("restore", tmp_path, ("taskforge.db", "taskforge.db-wal", "source.db"))
    assert steps > 20


@pytest.mark.parametrize("size", ["600k", "800k"])
async def test_a_full_disk_leaves_the_database_as_it_was(open_store: OpenStore, tmp_path: Path, size: str) -> None:
    await backed_up(open_store, tmp_path)
    with small_disk(tmp_path / "disk", size) as disk:
        shutil.copy(tmp_path / "taskforge.db", disk)
        (disk / "ballast").write_bytes(
            b"x" * (int(size[:-1]) * 1024 - (disk / "taskforge.db").stat().st_size - 180_000)
        )
        before = sorted(path.name for path in disk.iterdir())
        with pytest.raises(StartupError, match=r"[Mm]ake room"):
            restore(tmp_path, database=disk / "taskforge.db")
        assert sorted(path.name for path in disk.iterdir()) == before
        assert await runs_of(disk / "taskforge.db") == 7
