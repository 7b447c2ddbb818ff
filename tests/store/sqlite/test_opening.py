"""Opening a database: made whole, refused with one clear line, never silently replaced by an empty one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from taskforge import __version__
from taskforge.core.errors import StartupError
from taskforge.store.sqlite.place import doubts_about
from taskforge.store.sqlite.store import SqliteStore
from tests.store.desk import Desk
from tests.store.sqlite.conftest import OpenStore
from tests.support.clock import ManualClock
from tests.support.plans import ONE_CALL


def contents(path: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in sorted(path.parent.iterdir()) if entry.is_file()}


async def refused(open_store: OpenStore, path: Path, message: str) -> None:
    """Opening says one line that names the path, and changes no file."""
    before = contents(path)
    with pytest.raises(StartupError, match=message) as refusal:
        await open_store()
    assert "\n" not in refusal.value.message
    assert str(path.parent) in refusal.value.message
    after = contents(path)
    # SQLite's lock file holds nothing; it may come and go.
    for files in (before, after):
        files.pop("taskforge.db-shm", None)
    if before.get("taskforge.db-wal", b"") == b"":
        before.pop("taskforge.db-wal", None), after.pop("taskforge.db-wal", None)
    assert after == before


async def test_a_new_database_is_private_and_complete(open_store: OpenStore, path: Path) -> None:
    old = os.umask(0)
    try:
        store = await open_store()
        await Desk(store, ManualClock()).publish()
    finally:
        os.umask(old)
    assert sorted(entry.name for entry in path.parent.iterdir()) == [
        "taskforge.db",
        "taskforge.db-shm",
        "taskforge.db-wal",
    ]
    assert {entry.stat().st_mode & 0o777 for entry in path.parent.iterdir()} == {0o600}
    assert await store.check() == [] and store.notices == []


async def test_a_closed_store_leaves_one_file(open_store: OpenStore, path: Path) -> None:
    await (await open_store()).close()
    assert [entry.name for entry in path.parent.iterdir()] == ["taskforge.db"]


async def test_what_the_store_relies_on_is_in_force(open_store: OpenStore) -> None:
    store = await open_store()
    expected = {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 5000,
        "mmap_size": 0,
        "journal_size_limit": 64 * 1024 * 1024,
        "auto_vacuum": 2,
        "page_size": 4096,
    }

    def pragmas(session: object) -> dict[str, object]:
        conn = session.conn  # type: ignore[attr-defined]
        return {name: conn.pragma(name) for name in (*expected, "query_only")}

    assert await store._writer.enqueue(pragmas) == {**expected, "query_only": 0}
    assert await store._readers.submit(pragmas) == {**expected, "query_only": 1}


async def test_a_leftover_of_a_broken_creation_is_no_obstacle(open_store: OpenStore, path: Path) -> None:
    path.with_name("taskforge.db.new").write_bytes(b"half")
    path.with_name("taskforge.db.new-journal").write_bytes(b"half")
    await (await open_store()).close()
    assert [entry.name for entry in path.parent.iterdir()] == ["taskforge.db"]


# ---- damage


async def filled(open_store: OpenStore, runs: int = 50) -> SqliteStore:
    store = await open_store()
    desk = Desk(store, ManualClock())
    await desk.publish()
    for _ in range(runs):
        await desk.start(ONE_CALL, input='"' + "x" * 500 + '"')
    return store


def crashed(path: Path) -> None:
    """Leave the files as a kill would: copied away while the store was open, and put back."""
    for suffix in ("", "-wal"):
        source = Path(f"{path}{suffix}")
        shutil.copyfile(source, Path(f"{source}.kept"))


def put_back(path: Path) -> None:
    for suffix in ("", "-wal"):
        Path(f"{path}{suffix}.kept").rename(Path(f"{path}{suffix}"))


async def test_a_file_of_zero_bytes_is_never_taken_for_a_new_database(open_store: OpenStore, path: Path) -> None:
    path.touch()
    await refused(open_store, path, r"is empty \(0 bytes\)")


async def test_a_log_without_its_database_is_refused(open_store: OpenStore, path: Path) -> None:
    store = await filled(open_store)
    crashed(path)
    await store.close()
    put_back(path)
    path.unlink()
    await refused(open_store, path, "is there but .* is not")


async def test_a_log_that_vanished_after_a_crash_is_noticed(open_store: OpenStore, path: Path) -> None:
    store = await filled(open_store)
    crashed(path)
    await store.close()
    put_back(path)
    Path(f"{path}-wal").unlink()
    store = await open_store()
    (notice,) = store.notices
    assert "its log taskforge.db-wal is not there" in notice


async def test_a_crash_alone_is_nothing_to_notice(open_store: OpenStore, path: Path) -> None:
    store = await filled(open_store)
    crashed(path)
    await store.close()
    put_back(path)
    store = await open_store()
    assert store.notices == [] and await store.check() == []
    assert (await store.get_run("flow#50")).number == 50


async def test_a_file_that_is_no_database_is_refused(open_store: OpenStore, path: Path) -> None:
    path.write_bytes(b"this is no database, whatever its name says" * 200)
    await refused(open_store, path, "is damaged or no database")


async def test_the_database_of_another_program_is_refused(open_store: OpenStore, path: Path) -> None:
    conn = apsw.Connection(str(path))
    conn.execute("CREATE TABLE schema_migrations (version TEXT)")
    conn.close()
    await refused(open_store, path, "not one of TaskForge")


async def test_a_file_that_was_cut_short_is_refused(open_store: OpenStore, path: Path) -> None:
    await (await filled(open_store)).close()
    os.truncate(path, path.stat().st_size // 2)
    await refused(open_store, path, "is cut short|is damaged")


async def test_a_directory_in_the_files_place_is_refused(open_store: OpenStore, path: Path) -> None:
    path.mkdir()
    await refused(open_store, path, "is no file")


async def test_a_directory_that_is_not_there_is_named(clock: ManualClock, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"nowhere.*No such file"):
        await SqliteStore.open(tmp_path / "nowhere" / "taskforge.db", clock=clock)
    assert list(tmp_path.iterdir()) == []


async def test_every_flipped_byte_is_noticed_at_start_or_by_a_check(open_store: OpenStore, path: Path) -> None:
    """The first byte of each page: no crash, and no silence. Inside a stored text SQLite could not see it."""
    await (await filled(open_store)).close()
    whole = path.read_bytes()
    noticed = 0
    pages = len(whole) // 4096
    for page in range(pages):
        damaged = bytearray(whole)
        place = page * 4096 + (100 if page == 0 else 0)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        try:
            store = await open_store()
        except StartupError as error:
            assert "damaged" in error.message
            noticed += 1
        else:
            noticed += bool(await store.check())
            await store.close()
    # The pointer map of incremental auto-vacuum and free pages have bytes that mean nothing.
    assert noticed >= pages - 3


async def test_a_second_name_of_the_file_is_noticed(open_store: OpenStore, path: Path) -> None:
    await (await open_store()).close()
    path.with_name("other.db").hardlink_to(path)
    (notice,) = (await open_store()).notices
    assert "has 2 names (hard links)" in notice


@pytest.mark.parametrize(
    ("place", "kind", "warned"),
    [
        ("/", "nfs4", True),
        ("{home}", "nfs", True),
        ("{home}", "cifs", True),
        ("{home}", "ext4", False),
        ("/elsewhere", "nfs", False),
    ],
)
def test_a_network_file_system_is_noticed(tmp_path: Path, place: str, kind: str, warned: bool) -> None:
    path = tmp_path / "a home" / "taskforge.db"
    path.parent.mkdir()
    path.touch()
    mounts = tmp_path / "mounts"
    name = place.format(home=path.parent).replace(" ", r"\040")
    mounts.write_text(f"dev / ext4 rw 0 0\ndev {name} {kind} rw 0 0\nnonsense\n")
    found = doubts_about(path, mounts)
    assert any(f"network file system ({kind})" in line for line in found) == warned
    assert doubts_about(path, tmp_path / "no such file") == []


# ---- versions


async def test_a_newer_database_is_refused_with_both_versions_and_nothing_changes(
    open_store: OpenStore, path: Path
) -> None:
    await (await filled(open_store)).close()
    conn = apsw.Connection(str(path))
    conn.execute("INSERT INTO schema_migrations VALUES (99, 'later', 'x', 1, '9.9.9')")
    conn.close()
    await refused(open_store, path, rf"TaskForge 9\.9\.9 \(schema 99\); this is TaskForge {__version__}")


async def test_a_newer_database_with_a_full_log_is_left_as_it_is(open_store: OpenStore, path: Path) -> None:
    store = await filled(open_store)
    conn = apsw.Connection(str(path))
    conn.execute("INSERT INTO schema_migrations VALUES (99, 'later', 'x', 1, '9.9.9')")
    conn.close()
    crashed(path)
    await store.close()
    put_back(path)
    assert Path(f"{path}-wal").stat().st_size > 0
    await refused(open_store, path, "9.9.9")


async def test_a_migration_that_was_changed_after_it_was_applied_is_refused(open_store: OpenStore, path: Path) -> None:
    await (await filled(open_store)).close()
    conn = apsw.Connection(str(path))
    conn.execute("UPDATE schema_migrations SET checksum = 'abc'")
    conn.close()
    await refused(open_store, path, "its checksum is abc")


async def test_an_sqlite_library_that_can_lose_commits_is_refused(
    open_store: OpenStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, works in [("3.51.2", False), ("3.9.99", False), ("3.51.3", True), ("3.100.0", True), ("4.0.0", True)]:
        monkeypatch.setattr(apsw, "sqlite_lib_version", lambda version=version: version)
        if works:
            await (await open_store()).close()
        else:
            with pytest.raises(StartupError, match=r"needs 3\.51\.3"):
                await open_store()
            assert not path.exists()


# ---- rights

AS_NOBODY = """
import asyncio, os, pathlib, sys, urllib.parse  # nobody may not be able to import anything later
from taskforge.core.errors import StartupError
from taskforge.store.sqlite.store import SqliteStore
from tests.support.clock import ManualClock
from taskforge.store.sql import load_queries
load_queries("sqlite")
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
async def main():
    try:
        store = await SqliteStore.open(pathlib.Path(sys.argv[1]), clock=ManualClock())
        await store.publish_workflow("w", "{}", "{}", "json", None, 1)
    except StartupError as error:
        print("StartupError", error.message)
asyncio.run(main())
"""


def open_as_nobody(path: Path) -> str:
    script = [sys.executable, "-c", AS_NOBODY, str(path)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return done.stdout.strip()


def closed_file(folder: Path) -> None:
    (folder / "taskforge.db").chmod(0o000)


def read_only_file(folder: Path) -> None:
    (folder / "taskforge.db").chmod(0o444)


def read_only_folder(folder: Path) -> None:
    (folder / "taskforge.db").chmod(0o666)
    folder.chmod(0o555)


def empty_read_only_folder(folder: Path) -> None:
    (folder / "taskforge.db").unlink()
    folder.chmod(0o555)


@pytest.mark.parametrize("forbid", [closed_file, read_only_file, read_only_folder, empty_read_only_folder])
async def test_a_place_that_cannot_be_written_is_named(clock: ManualClock, forbid: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        await (await SqliteStore.open(folder / "taskforge.db", clock=clock)).close()
        forbid(folder)
        said = open_as_nobody(folder / "taskforge.db")
        folder.chmod(0o777)
    assert said.startswith("StartupError") and name in said and "\n" not in said
