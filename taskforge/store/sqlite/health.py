"""Looking for damage: the file, the migrations, the statistics and the invariants of runs. One line per finding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import apsw

from taskforge import __version__
from taskforge.core.errors import StartupError
from taskforge.store.migrate import load_migrations, pending
from taskforge.store.sql import load_queries
from taskforge.store.sqlite.connection import Session
from taskforge.store.sqlite.opening import (
    applied_migrations,
    look_at_files,
    look_inside,
    open_reader,
    startup_errors,
)


def look(session: Session, part: Callable[[Session], list[str]]) -> list[str]:
    """Run a part of the check; a page that cannot be read is a finding, too."""
    try:
        return part(session)
    except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError) as error:
        return [f"damage met while looking: {error}"]


def find_damage(session: Session) -> list[str]:
    """Have SQLite read the whole file."""
    found = [text for (text,) in session.execute("PRAGMA integrity_check(50)").fetchall() if text != "ok"]
    return [f"integrity: {text}" for text in found]


def find_orphans(session: Session) -> list[str]:
    """Rows whose parent is gone."""
    rows = session.execute("PRAGMA foreign_key_check").fetchall()
    return [f"foreign key: a row of {table} has no parent in {parent}" for table, _, parent, _ in rows[:50]]


def find_changed_migrations(session: Session) -> list[str]:
    """Migrations that are not those of this program."""
    try:
        missing = pending(
            applied_migrations(session.conn), load_migrations("sqlite"), program_version=__version__, place="the schema"
        )
    except StartupError as error:
        return [f"migrations: {error.message}"]
    return [f"migrations: number {migration.number} ({migration.name}) is not applied" for migration in missing]


def find_wrong_counts(session: Session) -> list[str]:
    """Statistics that differ from the rows."""
    rows = session.rows("check_counts")
    return [f"counts: {kind} {state} is {kept}, there are {real}" for kind, state, kept, real in rows]


def find_broken_invariants(session: Session) -> list[str]:
    """The invariants I2 to I5 and I8 of runs, as far as rows show them, and those of places and children."""
    found: list[str] = []
    for name, meaning in _INVARIANTS.items():
        found += [f"{meaning}: {what}" for (what,) in session.rows(name)]
    return found


_INVARIANTS: Final = {
    "check_terminal_runs": "I2 a run that has ended is still held or due, or has steps that have not ended",
    "check_run_ends": "I2 a run has more ends than generations",
    "check_step_ends": "I2 a step has more ends than generations",
    "check_stuck_runs": "I4 a run is held by nobody and nothing is due in it, or it is both held and due",
    "check_stuck_steps": "I4 a step waits without a time at which it is due",
    "check_free_places": "I4 a run waits for a place in `concurrency` that is free",
    "check_full_places": "more runs hold a place in `concurrency` than its limit",
    "check_forgotten_children": "I4 the parent of a run that it waits for has ended, and the run does not know",
    "check_lost_running": "I3 an attempt runs in a run that its owner does not hold",
    "check_running_steps": "I3 an attempt runs but its step does not",
    "check_attempt_numbers": "I5 the attempts of a step are not numbered without holes",
    "check_letters_without_failure": "I8 an open dead letter belongs to a step that is not FAILED",
    "check_failures_without_letter": "I8 a run failed at an action that has no dead letter",
}

PARTS: Final[tuple[Callable[[Session], list[str]], ...]] = (
    find_damage,
    find_orphans,
    find_changed_migrations,
    find_wrong_counts,
    find_broken_invariants,
)
"""The parts of a check; each is a read of its own, so that the WAL can be emptied in between."""


def check_file(path: Path) -> list[str]:
    """Run every part on a database file or a backup, whether or not a server has it open. Changes nothing.

    StartupError when there is no such file, or it cannot be opened at all.
    """
    if not path.is_file():
        raise StartupError(f"there is no database at {path}; set TASKFORGE_HOME to the home that you mean")
    with startup_errors(path):
        look_at_files(path, writable=False)
        conn = open_reader(path)
        try:
            look_inside(conn, path)
            session = Session(conn, load_queries("sqlite"))
            return [finding for part in PARTS for finding in look(session, part)]
        finally:
            conn.close()
