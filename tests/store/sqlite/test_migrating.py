"""Migrations: one transaction each, a backup before, killed at any statement without harm."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import apsw
import pytest

from taskforge.core.errors import StartupError
from taskforge.store.migrate import Applied, Migration, load_migrations, pending
from taskforge.store.sqlite import opening
from tests.store.desk import Desk
from tests.store.sqlite.conftest import OpenStore
from tests.support.clock import ManualClock

SECOND = Migration(
    2,
    "second",
    "checksum of the second",
    """
    CREATE TABLE extra (id INTEGER PRIMARY KEY, run INTEGER NOT NULL) STRICT;
    INSERT INTO extra (run) SELECT key FROM runs;
    ALTER TABLE workflows ADD COLUMN note TEXT;
    UPDATE workflows SET note = 'seen';
    DROP INDEX runs_created;
    CREATE INDEX runs_created ON runs (created_at);
    """,
)


def schema(path: Path) -> list[str]:
    conn = apsw.Connection(str(path))
    try:
        rows = conn.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").fetchall()
        return [str(sql) for (sql,) in rows]
    finally:
        conn.close()


async def old_database(open_store: OpenStore) -> None:
    store = await open_store()
    desk = Desk(store, ManualClock())
    await desk.publish()
    for _ in range(3):
        await desk.start()
    await store.close()


async def test_each_migration_is_registered_with_its_checksum_and_version(open_store: OpenStore, path: Path) -> None:
    await (await open_store()).close()
    conn = apsw.Connection(str(path))
    rows = [Applied._make(row) for row in conn.execute("SELECT * FROM schema_migrations").fetchall()]
    conn.close()
    known = load_migrations("sqlite")
    assert [(row.number, row.name, row.checksum) for row in rows] == [(at.number, at.name, at.checksum) for at in known]
    assert {row.applied_at for row in rows} == {1_800_000_000_000}


async def test_a_first_creation_needs_no_backup(open_store: OpenStore, path: Path) -> None:
    await (await open_store()).close()
    assert not (path.parent / "backups").exists()


async def test_an_old_database_is_backed_up_and_then_migrated(
    open_store: OpenStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await old_database(open_store)
    before = schema(path)
    monkeypatch.setattr(opening, "load_migrations", lambda dialect: [*load_migrations("sqlite"), SECOND])
    store = await open_store()
    assert (await store.get_run("flow#3")).number == 3
    await store.close()
    assert schema(path) != before
    (backup,) = (path.parent / "backups").iterdir()
    assert backup.name == "taskforge-before-0002-1800000000000.db"
    assert backup.stat().st_mode & 0o777 == 0o600
    assert schema(backup) == before
    conn = apsw.Connection(str(backup))
    assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert conn.execute("SELECT count(*) FROM runs").fetchall() == [(3,)]
    assert conn.pragma("auto_vacuum") == 2
    conn.close()


async def test_a_backup_that_fails_stops_the_migration(
    open_store: OpenStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await old_database(open_store)
    before = path.read_bytes()
    monkeypatch.setattr(opening, "load_migrations", lambda dialect: [*load_migrations("sqlite"), SECOND])
    (path.parent / "backups").write_text("a file in the folder's place")
    with pytest.raises(StartupError, match="backups"):
        await open_store()
    assert path.read_bytes() == before


async def test_a_migration_that_fails_leaves_the_old_version(
    open_store: OpenStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await old_database(open_store)
    before = schema(path)
    broken = SECOND._replace(sql=SECOND.sql + "INSERT INTO nowhere VALUES (1);")
    monkeypatch.setattr(opening, "load_migrations", lambda dialect: [*load_migrations("sqlite"), broken])
    with pytest.raises(StartupError, match="no such table: nowhere"):
        await open_store()
    assert schema(path) == before
    monkeypatch.undo()
    store = await open_store()
    assert (await store.get_run("flow#3")).number == 3 and await store.check() == []


KILLED = """
import os, pathlib, signal, sys
import apsw
from taskforge.store.migrate import load_migrations
from taskforge.store.sqlite import opening
from tests.store.sqlite.test_migrating import SECOND
path, last = pathlib.Path(sys.argv[1]), int(sys.argv[2])
seen = 0
def trace(cursor, sql, bindings):
    global seen
    seen += 1
    if seen == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return True
def hook(conn):
    conn.exec_trace = trace
apsw.connection_hooks.append(hook)
migrations = [*load_migrations("sqlite"), SECOND][: int(sys.argv[3])]
opening.load_migrations = lambda dialect: migrations
opening.prepare(path, path.parent / "backups", 1).conn.close()
print("done", seen)
"""


def killed_at(path: Path, statement: int, migrations: int) -> bool:
    """Open in a process of its own that is killed before its n-th statement; return whether it came to that."""
    script = [sys.executable, "-c", KILLED, str(path), str(statement), str(migrations)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, -9), done.stderr
    return done.returncode == -9


def clear(path: Path) -> None:
    for entry in path.parent.iterdir():
        if entry.is_file():
            entry.unlink()


@pytest.mark.slow
@pytest.mark.crash
async def test_a_creation_killed_at_any_statement_is_finished_by_the_next_start(
    open_store: OpenStore, path: Path
) -> None:
    statement = 1
    while killed_at(path, statement, 1):
        store = await open_store()
        assert await store.check() == []
        await store.close()
        clear(path)
        # Statements inside the migration differ in nothing; every third is enough.
        statement += 1 if statement < 6 else 3
    assert statement > 20


@pytest.mark.slow
@pytest.mark.crash
async def test_a_migration_killed_at_any_statement_leaves_the_old_or_the_new_version(
    open_store: OpenStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await old_database(open_store)
    whole, old = path.read_bytes(), schema(path)
    statement, seen = 1, set()
    while killed_at(path, statement, 2):
        found = schema(path)
        if found == old:
            seen.add("old")
        else:
            assert any("CREATE TABLE extra" in sql for sql in found) and any("note TEXT" in sql for sql in found)
            seen.add("new")
        for backup in (path.parent / "backups").glob("*.db"):
            assert schema(backup) == old
        with monkeypatch.context() as patch:
            patch.setattr(opening, "load_migrations", lambda dialect: [*load_migrations("sqlite"), SECOND])
            store = await open_store()
            assert (await store.get_run("flow#3")).number == 3
            await store.close()
        clear(path)
        for backup in (path.parent / "backups").iterdir():
            backup.unlink()
        path.write_bytes(whole)
        statement += 1
    assert seen == {"old", "new"}


# ---- what is still to be applied


def applied(migrations: Sequence[Migration]) -> list[Applied]:
    return [Applied(at.number, at.name, at.checksum, 1, "0.0.1") for at in migrations]


def test_only_what_is_missing_is_pending() -> None:
    known = [Migration(number, f"m{number}", f"c{number}", "") for number in (1, 2, 3)]
    for count in range(4):
        assert pending(applied(known[:count]), known, program_version="1", place="db") == known[count:]


def test_a_changed_checksum_is_refused_wherever_it_stands() -> None:
    known = [Migration(number, f"m{number}", f"c{number}", "") for number in (1, 2, 3)]
    for changed in range(3):
        rows = applied(known)
        rows[changed] = rows[changed]._replace(checksum="other")
        with pytest.raises(StartupError, match=rf"migration {changed + 1} \(m{changed + 1}\), applied by TaskForge 0"):
            pending(rows, known, program_version="1", place="db")
