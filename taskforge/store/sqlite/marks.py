"""A mark in the database that says whether it was closed properly, so that a log that vanished is noticed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import apsw

_SET: Final = "INSERT OR REPLACE INTO properties (name, value) VALUES ('open', ?)"
_GET: Final = "SELECT value FROM properties WHERE name = 'open'"


def mark_open(conn: apsw.Connection) -> None:
    """Say, in the main file itself, that the database is in use."""
    conn.execute(_SET, (1,))
    # Another program that reads may keep the log from being emptied; then the mark reaches the main file later.
    with contextlib.suppress(apsw.BusyError):
        conn.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def mark_closed(conn: apsw.Connection) -> None:
    """Say that nothing is left in the log; closing the last connection takes this into the main file."""
    conn.execute(_SET, (0,))


def was_open(conn: apsw.Connection) -> bool:
    """Return whether the last process ended without closing the database."""
    return bool(conn.execute(_GET).fetchall() == [(1,)])


def missing_log(path: Path) -> str:
    """What to tell when the database was not closed but its log is not there."""
    return (
        f"{path} was not closed properly and its log {path.name}-wal is not there. If no other program has taken the "
        "log in, what was accepted last is missing: compare with a backup"
    )
