"""Looking at a database file from outside, beside a server or without one, and leaving no trace.

A file that was closed has no log: it is read as it lies. One with a log is read as any reader does; then the log is
never moved, not even by the last connection that closes. A log that was deleted under a server is not made anew.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Final, Literal, NamedTuple

import apsw

from taskforge.core.record import dataclass
from taskforge.store.sql import load_queries
from taskforge.store.sqlite.connection import APPLICATION_ID, Session, configure_reader, open_connection
from taskforge.store.sqlite.opening import applied_migrations, wal_path

_MAGIC: Final = b"SQLite format 3\0"
_HEADER: Final = 100
_WAL_HEADER: Final = 32
_WAL_MAGIC: Final = (0x377F0682, 0x377F0683)
_WAL_FORMAT: Final = 3_007_000

Kind = Literal["missing", "not_a_file", "empty", "foreign", "truncated", "database"]


class Outside(NamedTuple):
    """What a file and its log look like from outside; sizes in bytes."""

    kind: Kind
    size: int = 0
    wanted: int = 0
    log_size: int | None = None
    log_is_foreign: bool = False


class Sealed(NamedTuple):
    """A stored secret; `key_id` names the key that it was sealed with."""

    name: str
    sealed: bytes
    key_id: str


@dataclass
class Rows:
    """What is late, left behind or to be compared. Times are milliseconds UTC."""

    schema: int = 0
    """How many migrations were applied."""
    newest: int | None = None
    sealed: list[Sealed] = field(default_factory=list)
    zones: list[tuple[str, str]] = field(default_factory=list)
    """Workflow/trigger, and its time zone."""
    expired: list[tuple[str, int]] = field(default_factory=list)
    abandoned: list[str] = field(default_factory=list)
    overdue_runs: list[tuple[str, int, bool]] = field(default_factory=list)
    """Run, since when, and whether it needs a slot."""
    overdue_schedules: list[tuple[str, int]] = field(default_factory=list)
    suspects: list[str] = field(default_factory=list)
    holds: list[str] = field(default_factory=list)
    open_letters: int = 0


def look_outside(path: Path) -> Outside:
    """Judge the file by its first bytes and its size. OSError when it cannot be read."""
    log = wal_path(path)
    log_size = log.stat().st_size if log.is_file() else None
    if not path.exists():
        return Outside("missing", log_size=log_size)
    if not path.is_file():
        return Outside("not_a_file", log_size=log_size)
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEADER)
    if size == 0:
        return Outside("empty", log_size=log_size)
    if len(head) < _HEADER or not head.startswith(_MAGIC):
        return Outside("foreign", size, log_size=log_size)
    (stored, pages, application) = (*struct.unpack(">H", head[16:18]), *struct.unpack(">I", head[28:32]),
                                    *struct.unpack(">I", head[68:72]))  # fmt: skip
    page_size = 65_536 if stored == 1 else stored
    # With pages in the log, the file may rightly be shorter than it says, or not even have its mark yet.
    logged = log_size is not None and log_size > _WAL_HEADER
    kind: Kind = "database"
    if application != APPLICATION_ID and not logged:
        kind = "foreign"
    elif size < pages * page_size and not logged:
        kind = "truncated"
    return Outside(kind, size, pages * page_size, log_size, _is_foreign_log(log, page_size))


def _is_foreign_log(log: Path, page_size: int) -> bool:
    """SQLite takes a log that is not its own for an empty one, and forgets what was in the right one."""
    try:
        with log.open("rb") as file:
            head = file.read(_WAL_HEADER)
    except FileNotFoundError:
        return False
    if not head.strip(b"\0"):
        return False
    if len(head) < _WAL_HEADER:
        return True
    magic, form, pages = struct.unpack(">III", head[:12])
    return magic not in _WAL_MAGIC or form != _WAL_FORMAT or pages != page_size


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Session]:
    """A session that changes nothing, not even the files beside the database. Raises apsw.Error."""
    if wal_path(path).exists():
        conn = open_connection(path)
    else:
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        conn = apsw.Connection(f"{path.absolute().as_uri()}?immutable=1", flags=flags)
    try:
        configure_reader(conn)
        yield Session(conn, load_queries("sqlite"))
    finally:
        conn.close()


def read_rows(session: Session, now: int, *, served: bool) -> Rows:
    """Read them; `served`: a server of now has the database, so that what others hold is held by the dead."""
    rows = Rows(schema=len(applied_migrations(session.conn)))
    rows.newest = session.rows("check_newest_time")[0][0]
    rows.sealed = [Sealed(*row) for row in session.rows("check_sealed")]
    rows.zones = [(name, zone or "UTC") for name, zone in session.rows("check_schedule_zones")]
    rows.expired = session.rows("check_expired_leases", (now - 5_000,))
    rows.abandoned = [name for name, _ in session.rows("check_held_by_the_dead", (not served,))]
    rows.overdue_runs = [
        (name, at, bool(slot)) for name, at, slot in session.rows("check_overdue_runs", (now - 60_000,))
    ]
    rows.overdue_schedules = session.rows("check_overdue_schedules", (now - 60_000,))
    rows.suspects = [name for (name,) in session.rows("check_suspect_runs")]
    rows.holds = [name for (name,) in session.rows("check_holds")]
    rows.open_letters = session.rows("check_open_letters")[0][0]
    return rows
