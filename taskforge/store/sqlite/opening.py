"""Opening the database file: what it is, whether it is whole, and which migrations it needs.

A new database is made under another name and renamed when it is complete, so that a file of zero bytes, or a `-wal`
without its database, is always damage and never the start of a silently empty database.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import apsw

from taskforge import __version__
from taskforge.core.errors import StartupError
from taskforge.store.migrate import Applied, Migration, load_migrations, pending
from taskforge.store.sqlite.backup import Stamp, copy_database, sync, touch_private
from taskforge.store.sqlite.connection import (
    APPLICATION_ID,
    NO_SPACE,
    configure_reader,
    configure_writer,
    open_connection,
    require_library,
)
from taskforge.store.sqlite.marks import mark_closed, mark_open, missing_log, was_open
from taskforge.store.sqlite.place import doubts_about
from taskforge.store.sqlite.restoring import finish_restore, paused_notices, remove_unfinished_restore

_CHECKED_AFTER_CRASH: Final = 16 * 1024 * 1024
"""Size up to which a file is read whole after a crash: about 15 ms a MiB."""

_RESTORE: Final = "Restore a backup with `taskforge db restore`, or move the file away to start anew"

_CREATE_REGISTER = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied_at INTEGER NOT NULL,
    program_version TEXT NOT NULL
) STRICT
"""
_REGISTER = "INSERT INTO schema_migrations (number, name, checksum, applied_at, program_version) VALUES (?, ?, ?, ?, ?)"


class Prepared(NamedTuple):
    """A database that is whole and up to date; `notices` is what a person should know about its past."""

    conn: apsw.Connection
    notices: list[str]


def prepare(path: Path, backups: Path, now: int, *, vfs: str | None = None) -> Prepared:
    """Open the database, made or migrated where needed.

    StartupError with one clear line otherwise, and then nothing was changed."""
    require_library()
    migrations = load_migrations("sqlite")
    with startup_errors(path):
        restored = finish_restore(path)
        remove_unfinished_restore(path)
        if not path.exists():
            _create(path, migrations, now)
        look_at_files(path)
        has_log = wal_path(path).exists()
        if not has_log:
            _look_without_a_trace(path, migrations)
        conn = open_connection(path, vfs=vfs)
        try:
            # Until the file is known to be ours and of our time, closing must not move the WAL into it.
            conn.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            missing = pending(look_inside(conn, path), migrations, program_version=__version__, place=str(path))
            if missing:
                target = backups / f"{path.stem}-before-{missing[-1].number:04d}-{now}.db"
                copy_database(conn, target, Stamp(now, None))
                _apply(conn, missing, now)
            conn.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
            notices = restored + doubts_about(path) + paused_notices(conn)
            if was_open(conn):
                notices += [] if has_log else [missing_log(path)]
                _look_for_damage(conn, path)
            configure_writer(conn)
            mark_open(conn)
        except BaseException:
            conn.close()
            raise
        return Prepared(conn, notices)


@contextlib.contextmanager
def startup_errors(path: Path, advice: str = _RESTORE) -> Iterator[None]:
    """Turn every error of opening into a StartupError that names the path and says what to do. `advice`: where it is
    damaged."""
    try:
        yield
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise StartupError(f"{path} is damaged or no database ({error}). Nothing was changed. {advice}") from None
    except apsw.FullError:
        raise StartupError(f"the disk that holds {path} is full. Make room and start again") from None
    except (apsw.ReadOnlyError, apsw.PermissionsError, apsw.CantOpenError) as error:
        raise StartupError(
            f"{path} cannot be opened for writing ({error}): check the owner and mode of the file and of its directory"
        ) from None
    except apsw.BusyError:
        raise StartupError(f"another program holds {path}. Close it and start again") from None
    except apsw.Error as error:
        raise StartupError(f"{path} cannot be opened: {error}. Check the disk") from None
    except OSError as error:
        raise StartupError(f"{error.filename or path}: {error.strerror or error}") from None


def open_reader(path: Path) -> apsw.Connection:
    """Open a database for a look, beside a server or without one. What lies beside the file is afterwards as it was."""
    alone = not wal_path(path).exists()
    if alone and not os.access(path, os.W_OK):
        # On a medium that takes no writes SQLite could not put its index of the log beside the file.
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        return apsw.Connection(f"{path.absolute().as_uri()}?immutable=1", flags=flags)
    conn = open_connection(path)
    try:
        configure_reader(conn)
    except BaseException:
        conn.close()
        raise
    if alone:
        # Only then the empty log that opening makes is taken away, and only by the last who has it open.
        conn.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    return conn


def back_up(path: Path, target: Path, stamp: Stamp) -> int:
    """Copy the database at `path` to `target`, whether or not a server has it open. Returns the copy's bytes.

    StartupError with one clear line; then there is no such file."""
    if not path.is_file():
        raise StartupError(f"there is no database at {path}; set TASKFORGE_HOME to the home that you mean")
    with startup_errors(path):
        look_at_files(path)
        conn = open_reader(path)
        try:
            look_inside(conn, path)
            try:
                return copy_database(conn, target, stamp)
            except (apsw.FullError, apsw.IOError, apsw.CantOpenError, OSError) as error:
                raise StartupError(_not_written(target, error)) from None
        finally:
            conn.close()


def missing_migrations(path: Path) -> tuple[int, list[Migration]]:
    """Return the newest schema that this program knows, and which migrations the database at `path` still needs."""
    known = load_migrations("sqlite")
    if not path.is_file():
        raise StartupError(f"there is no database at {path}; set TASKFORGE_HOME to the home that you mean")
    with startup_errors(path):
        look_at_files(path)
        conn = open_reader(path)
        try:
            return len(known), pending(look_inside(conn, path), known, program_version=__version__, place=str(path))
        finally:
            conn.close()


def migrate_file(path: Path, backups: Path, now: int) -> None:
    """Bring a database that no server has up to date, as a start does; then close it."""
    conn = prepare(path, backups, now).conn
    try:
        mark_closed(conn)
    finally:
        conn.close()


def _not_written(target: Path, error: Exception) -> str:
    if isinstance(error, apsw.FullError) or (isinstance(error, OSError) and error.errno in NO_SPACE):
        return f"the disk that holds {target.parent} is full. Nothing was left behind; make room and try again"
    reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
    return f"{target} cannot be written: {reason}"


def applied_migrations(conn: apsw.Connection) -> list[Applied]:
    """Return the rows of `schema_migrations`, in order."""
    query = "SELECT number, name, checksum, applied_at, program_version FROM schema_migrations ORDER BY number"
    return [Applied._make(row) for row in conn.execute(query).fetchall()]


def wal_path(path: Path) -> Path:
    """Return where SQLite keeps the write-ahead log of a database."""
    return path.with_name(f"{path.name}-wal")


def _create(path: Path, migrations: Sequence[Migration], now: int) -> None:
    if wal_path(path).exists():
        raise StartupError(
            f"{wal_path(path)} is there but {path} is not: the database was moved or deleted without its log. "
            "Nothing was changed. Put the database back beside its log, or restore a backup with `taskforge db restore`"
        )
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)
    unfinished.with_name(f"{unfinished.name}-journal").unlink(missing_ok=True)
    touch_private(unfinished)
    conn = open_connection(unfinished)
    try:
        conn.pragma("page_size", 4096)
        conn.pragma("auto_vacuum", 2)
        conn.pragma("synchronous", 2)
        _apply(conn, migrations, now)
    finally:
        conn.close()
    sync(unfinished)
    unfinished.rename(path)
    sync(path.parent)


def look_at_files(path: Path, *, writable: bool = True) -> None:
    """Notice from outside what SQLite would silently take for a new or a shorter database."""
    if not path.is_file():
        raise StartupError(f"{path} is no file")
    if path.stat().st_size == 0:
        raise StartupError(
            f"{path} is empty (0 bytes), so what was in it is lost. Nothing was changed. Restore a backup with "
            "`taskforge db restore`, or move the file and what lies beside it away to start anew"
        )
    if not os.access(path, os.R_OK | os.W_OK if writable else os.R_OK):
        wanted = "read and written" if writable else "read"
        raise StartupError(f"{path} may not be {wanted} by user {os.geteuid()}: check its owner and mode")


def _look_without_a_trace(path: Path, migrations: Sequence[Migration]) -> None:
    """Refuse what would be refused anyway before SQLite makes a log and its index beside a database that was closed."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    conn = apsw.Connection(f"{path.absolute().as_uri()}?immutable=1", flags=flags)
    try:
        pending(look_inside(conn, path), migrations, program_version=__version__, place=str(path))
    finally:
        conn.close()


def look_inside(conn: apsw.Connection, path: Path) -> list[Applied]:
    """Return the migrations of a database of ours. StartupError for one of others, or one that is cut short."""
    tables = {name for (name,) in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()}
    if "schema_migrations" not in tables or conn.pragma("application_id") != APPLICATION_ID:
        raise StartupError(
            f"{path} is a SQLite database, but not one of TaskForge. Nothing was changed. Move it away, or choose "
            "another home with TASKFORGE_HOME"
        )
    wanted = conn.pragma("page_count") * conn.pragma("page_size")
    log = wal_path(path)
    if path.stat().st_size < wanted and not (log.exists() and log.stat().st_size):
        raise StartupError(
            f"{path} is cut short: it has {path.stat().st_size} bytes and should have {wanted}. Nothing was changed. "
            "Restore a backup with `taskforge db restore`"
        )
    return applied_migrations(conn)


def _look_for_damage(conn: apsw.Connection, path: Path) -> None:
    """After a crash, have SQLite read a small file whole; a large one is left to `taskforge db check`."""
    if path.stat().st_size <= _CHECKED_AFTER_CRASH:
        for (found,) in conn.execute("PRAGMA quick_check(1)").fetchall():
            if found != "ok":
                raise apsw.CorruptError(found)


def _apply(conn: apsw.Connection, migrations: Sequence[Migration], now: int) -> None:
    """Apply each migration in a transaction of its own, together with its row in the register."""
    for migration in migrations:
        conn.execute("BEGIN IMMEDIATE")
        try:
            conn.execute(_CREATE_REGISTER)
            conn.execute(migration.sql)
            conn.pragma("application_id", APPLICATION_ID)
            conn.execute(_REGISTER, (migration.number, migration.name, migration.checksum, now, __version__))
            conn.execute("COMMIT")
        except BaseException:
            if conn.in_transaction:
                with contextlib.suppress(apsw.Error):
                    conn.execute("ROLLBACK")
            raise
