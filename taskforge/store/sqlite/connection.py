"""Connections to the database file, and the one place where SQLite's errors become ours."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Final

import apsw

from taskforge.core.errors import StartupError, StoreFull, TaskForgeError, Unavailable

OLDEST_LIBRARY: Final = (3, 51, 3)
"""Older libraries can lose commits when the WAL is reset (sqlite.org/wal.html, "the WAL-reset bug")."""

APPLICATION_ID: Final = 0x7461_6B66
"""Marks a file as a TaskForge database ("takf" in its header)."""

JOURNAL_SIZE_LIMIT: Final = 64 * 1024 * 1024
BUSY_TIMEOUT_MS: Final = 5_000

_COMMON: Final[dict[str, int]] = {
    "foreign_keys": 1,
    "busy_timeout": BUSY_TIMEOUT_MS,
    "mmap_size": 0,
    "journal_size_limit": JOURNAL_SIZE_LIMIT,
    "trusted_schema": 0,
    "cell_size_check": 1,
    "temp_store": 2,
    # On macOS only F_FULLFSYNC reaches the disk; elsewhere these change nothing.
    "fullfsync": 1,
    "checkpoint_fullfsync": 1,
}
_WRITER: Final = {**_COMMON, "synchronous": 2, "cache_size": -8_192, "wal_autocheckpoint": 0}
_READER: Final = {**_COMMON, "synchronous": 2, "cache_size": -2_048, "query_only": 1}

NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SYNC_FAILED = frozenset(
    {apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC, apsw.SQLITE_IOERR_DATA, apsw.SQLITE_IOERR_CORRUPTFS}
)
_DAMAGED = (apsw.CorruptError, apsw.NotADBError)


_MANY_ROWS: Final = 64
_SOME_ROWS: Final = 8
"""Rows in one INSERT: many, else some or what is left. So only nine statements of each sort are kept compiled."""


@cache
def _for_rows(one: str, count: int) -> str:
    """Return an INSERT of one row as an INSERT of several."""
    head, _, values = one.rpartition("VALUES")
    return f"{head}VALUES{','.join([values] * count)}"


class Session:
    """A connection with the named statements. `counts` gathers what the running verb adds to the statistics; `sources`
    are the workflows whose ends start runs, where that is known (only the writing connection asks); `numbers` are the
    next numbers of workflows' runs, as they were last seen here."""

    __slots__ = (
        "changes",
        "conn",
        "counts",
        "execute",
        "executemany",
        "last_insert_rowid",
        "numbers",
        "sources",
        "sql",
    )

    def __init__(self, conn: apsw.Connection, sql: Mapping[str, str]) -> None:
        self.conn = conn
        self.sql = sql
        self.execute = conn.execute
        self.executemany = conn.executemany
        self.changes = conn.changes
        self.last_insert_rowid = conn.last_insert_rowid
        self.counts: dict[tuple[str, str], int] = {}
        self.sources: frozenset[str] | None = None
        self.numbers: dict[str, int] = {}

    def rows(self, name: str, bindings: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of a statement; it is finished when this returns."""
        return self.execute(self.sql[name], bindings).fetchall()

    def row(self, name: str, bindings: Sequence[Any] = ()) -> Any | None:
        """Return the first row or None."""
        found = self.execute(self.sql[name], bindings).fetchall()
        return found[0] if found else None

    def pragma(self, name: str) -> int:
        """Return a number that SQLite keeps about the file."""
        return int(self.execute(f"PRAGMA {name}").fetchall()[0][0])  # type: ignore[arg-type]

    def write(self, name: str, bindings: Sequence[Any]) -> int:
        """Execute a statement; return how many rows it changed."""
        self.execute(self.sql[name], bindings)
        return self.changes()

    def insert(self, name: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows by a statement that ends in `VALUES (…)`, several at a time: there are fewer statements, and each
        lets go of the interpreter."""
        one = self.sql[name]
        start, left = 0, len(rows)
        if left == 1:
            self.execute(one, rows[0])
            return
        while left:
            count = _MANY_ROWS if left >= _MANY_ROWS else min(left, _SOME_ROWS)
            self.execute(_for_rows(one, count), tuple(chain.from_iterable(rows[start : start + count])))
            start += count
            left -= count

    def add(self, kind: str, state: str, difference: int) -> None:
        """Add to the statistics of the verb that runs."""
        key = (kind, state)
        self.counts[key] = self.counts.get(key, 0) + difference


def require_library() -> None:
    """StartupError on an SQLite library that can lose commits."""
    version = apsw.sqlite_lib_version()
    if tuple(int(part) for part in version.split(".")[:3]) < OLDEST_LIBRARY:
        oldest = ".".join(map(str, OLDEST_LIBRARY))
        raise StartupError(
            f"the SQLite library {version} can lose commits; TaskForge needs {oldest} or newer. Install apsw "
            f"{oldest}.0 or newer: pip install --upgrade apsw"
        )


def open_connection(path: Path, *, vfs: str | None = None, statements: int = 200) -> apsw.Connection:
    """Open an existing file for reading and writing. Pragmas are not set yet."""
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOMUTEX
    return apsw.Connection(str(path), flags=flags, vfs=vfs, statementcachesize=statements)


def configure_writer(conn: apsw.Connection) -> None:
    """Set what the writer relies on and make sure that it is in force."""
    mode = conn.pragma("journal_mode", "wal")
    if mode != "wal":
        raise StartupError(f"the database cannot use write-ahead logging on this file system (journal mode {mode})")
    _set(conn, _WRITER)


def configure_reader(conn: apsw.Connection) -> None:
    """Set what a reader relies on and make sure that it is in force. A reader never moves the log, not even as the last
    connection that closes."""
    conn.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    _set(conn, _READER)


def _set(conn: apsw.Connection, wanted: Mapping[str, int]) -> None:
    for name, value in wanted.items():
        conn.pragma(name, value)
        found = conn.pragma(name)
        if found != value:
            raise StartupError(f"SQLite refused the setting {name} = {value} (it is {found})")


def system_errno(conn: apsw.Connection | None) -> int:
    """Return the operating system's last error number on this connection, or 0."""
    try:
        return conn.system_errno if conn is not None else 0
    except apsw.Error:
        return 0


def is_fatal(error: BaseException) -> bool:
    """Return whether nothing may be acknowledged after this error: a failed sync leaves unknown what is on disk, and a
    damaged file must not be written to."""
    return isinstance(error, _DAMAGED) or (
        isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) in _SYNC_FAILED
    )


def translate(error: apsw.Error, conn: apsw.Connection | None, path: Path) -> TaskForgeError:
    """Return our error for one of SQLite's. Nothing was changed by what it interrupted."""
    if isinstance(error, apsw.FullError) or (
        isinstance(error, apsw.IOError) and not is_fatal(error) and system_errno(conn) in NO_SPACE
    ):
        return StoreFull(f"the disk that holds {path} is full; nothing was stored. Make room and try again")
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return Unavailable(f"another program is writing to {path}; nothing was stored. Close it and try again")
    if isinstance(error, apsw.ReadOnlyError | apsw.PermissionsError | apsw.CantOpenError):
        return Unavailable(f"{path} cannot be written: check the owner and mode of the file and of its directory")
    if isinstance(error, _DAMAGED):
        return Unavailable(f"{path} is damaged ({error}): stop the server, run `taskforge db check`, restore a backup")
    if isinstance(error, apsw.IOError):
        code = system_errno(conn)
        reason = errno.errorcode.get(code, str(error)) if code else str(error)
        return Unavailable(f"reading or writing {path} failed ({reason}); nothing was stored. Check the disk")
    return Unavailable(f"the database refused the work: {error}")
