"""Backups: one whole private file, taken beside a writer; absent when anything goes wrong."""

from __future__ import annotations

import asyncio
import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from taskforge.core.errors import StartupError
from taskforge.store.sqlite import backup, opening
from taskforge.store.sqlite.backup import Stamp, copy_database, read_stamp, remove_unfinished
from taskforge.store.sqlite.health import check_file
from tests.store.desk import Desk
from tests.store.sqlite.conftest import OpenStore
from tests.support.clock import ManualClock
from tests.support.mounts import small_disk
from tests.support.server import ROOT


async def filled(open_store: OpenStore, runs: int = 5) -> Desk:
    desk = Desk(await open_store(), ManualClock())
    await desk.publish()
    for _ in range(runs):
        await desk.start()
    return desk


def read(path: Path) -> apsw.Connection:
    return apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)


async def test_a_copy_is_one_private_file_that_says_when_by_what_and_for_which_key(
    open_store: OpenStore, tmp_path: Path
) -> None:
    desk = await filled(open_store)
    target = tmp_path / "copies" / "one.db"
    size = await desk.store.back_up(target, 123, "a fingerprint")
    assert [path.name for path in target.parent.iterdir()] == ["one.db"]
    assert (target.stat().st_mode & 0o777, target.stat().st_size) == (0o600, size)
    assert check_file(target) == []
    conn = read(target)
    assert read_stamp(conn) == Stamp(123, "a fingerprint")
    assert conn.pragma("journal_mode") == "delete" and conn.pragma("auto_vacuum") == 2
    assert conn.execute("SELECT count(*) FROM runs").fetchall() == [(5,)]
    conn.close()


async def test_a_copy_has_one_moment_however_much_is_written_meanwhile(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_PAGES_AT_ONCE", 2)
    desk = await filled(open_store, 50)
    copying = asyncio.create_task(desk.store.back_up(tmp_path / "copy.db", 1, None))
    written = 50
    while not copying.done():
        await desk.start()
        written += 1
    await copying
    conn = read(tmp_path / "copy.db")
    assert 50 <= int(conn.execute("SELECT count(*) FROM runs").fetchall()[0][0]) < written  # type: ignore[arg-type]
    conn.close()
    assert check_file(tmp_path / "copy.db") == []


async def test_a_server_that_died_leaves_a_log_and_its_backup_has_it(open_store: OpenStore, tmp_path: Path) -> None:
    await filled(open_store)
    dead = tmp_path / "dead"
    dead.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(tmp_path / f"taskforge.db{suffix}", dead)
    before = (dead / "taskforge.db").read_bytes()
    opening.back_up(dead / "taskforge.db", tmp_path / "copy.db", Stamp(1, None))
    assert (dead / "taskforge.db").read_bytes() == before
    conn = read(tmp_path / "copy.db")
    assert conn.execute("SELECT count(*) FROM runs").fetchall() == [(5,)]
    conn.close()


def test_a_home_without_a_database_has_no_backup(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="there is no database"):
        opening.back_up(tmp_path / "taskforge.db", tmp_path / "copy.db", Stamp(1, None))
    assert list(tmp_path.iterdir()) == []


async def test_a_damaged_database_gives_no_backup_under_a_good_name(open_store: OpenStore, tmp_path: Path) -> None:
    desk = await filled(open_store)
    await desk.store.close()
    path = tmp_path / "taskforge.db"
    path.write_bytes(path.read_bytes()[: 4096 * 10])
    with pytest.raises(StartupError, match="damaged"):
        opening.back_up(path, tmp_path / "copy.db", Stamp(1, None))
    assert not list(tmp_path.glob("copy*"))


@pytest.mark.parametrize("size", ["128k", "200k"])
async def test_a_full_disk_leaves_the_target_as_it_was(open_store: OpenStore, tmp_path: Path, size: str) -> None:
    desk = await filled(open_store)
    await desk.store.close()
    with small_disk(tmp_path / "disk", size) as disk:
        target = disk / "copy.db"
        target.write_bytes(b"the one of yesterday")
        with pytest.raises(StartupError, match=r"[Mm]ake room"):
            opening.back_up(tmp_path / "taskforge.db", target, Stamp(1, None))
        assert [path.name for path in disk.iterdir()] == ["copy.db"]
        assert target.read_bytes() == b"the one of yesterday"


async def test_a_disk_that_fills_up_on_the_way_leaves_the_target_as_it_was(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_require_space", lambda *_: None)
    desk = await filled(open_store)
    await desk.store.close()
    with small_disk(tmp_path / "disk", "128k") as disk:
        with pytest.raises(StartupError, match="is full"):
            opening.back_up(tmp_path / "taskforge.db", disk / "copy.db", Stamp(1, None))
        assert list(disk.iterdir()) == []


def test_what_a_dead_process_left_is_removed_and_what_a_live_one_is_making_is_not(tmp_path: Path) -> None:
    for name in ("taskforge-1.db.part", "taskforge-2.db.part", "film.db.part", "taskforge-3.db"):
        (tmp_path / name).touch()
    with (tmp_path / "taskforge-2.db.part").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert remove_unfinished(tmp_path) == [tmp_path / "taskforge-1.db.part"]
        with pytest.raises(StartupError, match=r"another process is writing taskforge-2\.db"):
            copy_database(apsw.Connection(":memory:"), tmp_path / "taskforge-2.db", Stamp(1, None))
    assert remove_unfinished(tmp_path) == [tmp_path / "taskforge-2.db.part"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.db.part", "taskforge-3.db"]


async def test_a_look_at_a_database_at_rest_leaves_nothing_beside_it(open_store: OpenStore, tmp_path: Path) -> None:
    await (await filled(open_store)).store.close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert check_file(tmp_path / "taskforge.db") == []
    assert opening.missing_migrations(tmp_path / "taskforge.db")[1] == []
    opening.back_up(tmp_path / "taskforge.db", tmp_path / "copy.db", Stamp(1, None))
    (tmp_path / "copy.db").unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


async def test_killed_at_any_step_a_backup_is_absent_or_whole(open_store: OpenStore, tmp_path: Path) -> None:
    await filled(open_store)
    assert die_at_every_step("backup", tmp_path, ("taskforge.db", "taskforge.db-wal")) > 10


def die_at_every_step(act: str, tmp_path: Path, files: tuple[str, ...]) -> int:
    """Kill the act at each of its steps, on copies of these files; returns how many steps there were."""
    before = tmp_path / "before"
    before.mkdir()
    for name in files:
        shutil.copy(tmp_path / name, before)
    command = [sys.executable, "-m", "tests.support.dying", act, str(before), str(tmp_path / "place")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
