"""Putting a backup in the place of the database: nothing is deleted, and what is restored begins paused.

The copy is made, checked and changed beside the database, under a name of its own. One rename says that it is to be the
database; from then on the swap is finished by whoever comes next, also after a crash. The log of the old database must
never meet the new file, so both are moved aside, together, before the new one takes the name.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw

from taskforge.core.jsontext import dumps, loads
from taskforge.store.sqlite.backup import remove_database, sync

CHOSEN: Final = ".restored-"
"""Stands between the database's name and the time of the restore, once a copy is to become the database."""

REPLACED: Final = ".replaced-"
"""The same for the database that was there before."""

EVERYTHING: Final = "*"

_JOURNAL_LEAP: Final = 1_000_000
"""Followers of the old database may have seen more events than the backup has: new ones are numbered beyond those."""

_PAUSE: Final = """
INSERT INTO holds (workflow, held_at) VALUES (:everything, :now) ON CONFLICT (workflow) DO NOTHING;
INSERT OR REPLACE INTO properties (name, value) VALUES ('restored', :told), ('open', 0);
DELETE FROM properties WHERE name = 'backup';
UPDATE sqlite_sequence SET seq = seq + :leap WHERE name = 'journal';
"""
# `next_at` is worked out anew when the server starts.
_FORGET_MISSED: Final = """
UPDATE schedules SET cursor = max(cursor, :now), held_at = NULL, next_at = iif(next_at IS NULL, NULL, :now)
"""
_DROP_SECRETS: Final = "DELETE FROM secrets WHERE name IN (SELECT value FROM json_each(?))"
_KEYS: Final = "SELECT DISTINCT key_id FROM secrets ORDER BY key_id"
_LIVE: Final = "SELECT count(*) FROM runs WHERE state IN ('QUEUED', 'RUNNING', 'WAITING')"
_IN_FLIGHT: Final = "SELECT count(*) FROM attempts WHERE state = 'RUNNING'"
_HELD: Final = "SELECT 1 FROM holds WHERE workflow = ?"
_TOLD: Final = "SELECT value FROM properties WHERE name = 'restored'"


class Contents(NamedTuple):
    """What matters of a backup to the person who restores it."""

    runs: int
    live: int
    in_flight: int
    """Attempts that were under way: they are sent again when work goes on."""
    schedules: int


def secret_keys(conn: apsw.Connection) -> list[str]:
    """The fingerprints of the keys that the stored secrets were sealed with."""
    return [str(key) for (key,) in conn.execute(_KEYS).fetchall()]


def drop_secrets(conn: apsw.Connection, opens: Callable[[str, bytes], bool]) -> int:
    """Delete the secrets that no key opens. Returns how many."""
    rows: list[Any] = conn.execute("SELECT name, sealed FROM secrets").fetchall()
    conn.execute(_DROP_SECRETS, (dumps([name for name, sealed in rows if not opens(name, bytes(sealed))]),))
    return conn.changes()


def pause(conn: apsw.Connection, now: int, source: str) -> None:
    """Hold everything, and have schedules go on from `now`: what they missed before it stays missed."""
    conn.execute("BEGIN IMMEDIATE")
    told = dumps({"at": now, "from": source})
    conn.execute(_PAUSE, {"everything": EVERYTHING, "now": now, "told": told, "leap": _JOURNAL_LEAP})
    conn.execute(_FORGET_MISSED, {"now": now})
    conn.execute("COMMIT")


def contents(conn: apsw.Connection) -> Contents:
    """Count what is in a database."""

    def count(query: str) -> int:
        return int(conn.execute(query).fetchall()[0][0])  # type: ignore[arg-type]

    return Contents(
        count("SELECT count(*) FROM runs"),
        count(_LIVE),
        count(_IN_FLIGHT),
        count("SELECT count(*) FROM schedules WHERE active = 1"),
    )


def choose(copy: Path, database: Path, stamp: str) -> Path | None:
    """Make the finished copy the database. Returns where the old one is kept now, or None without one."""
    number, first = 1, stamp
    while (kept := database.with_name(f"{database.name}{REPLACED}{stamp}")).exists():
        number += 1
        stamp = f"{first}-{number}"
    copy.rename(database.with_name(f"{database.name}{CHOSEN}{stamp}"))
    sync(database.parent)
    finish_restore(database)
    return kept if kept.exists() else None


def finish_restore(database: Path) -> list[str]:
    """Finish a restore that was begun and interrupted; can itself be interrupted anywhere. Returns what to tell."""
    pattern = re.compile(re.escape(database.name + CHOSEN) + r"[0-9A-Za-z-]+")
    chosen = sorted(path for path in database.parent.glob(f"{database.name}{CHOSEN}*") if pattern.fullmatch(path.name))
    for copy in chosen:
        stamp = copy.name.removeprefix(database.name + CHOSEN)
        kept = database.with_name(f"{database.name}{REPLACED}{stamp}")
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                database.with_name(database.name + suffix).rename(kept.with_name(kept.name + suffix))
        database.with_name(f"{database.name}-shm").unlink(missing_ok=True)
        sync(database.parent)
        copy.rename(database)
        sync(database.parent)
    return [f"the restore of {database} that was interrupted is finished"] if chosen else []


def remove_unfinished_restore(database: Path) -> Path:
    """Return the name for the copy, with nothing left there by a restore that was interrupted."""
    copy = database.with_name(f"{database.name}.restoring")
    remove_database(copy)
    remove_database(copy.with_name(f"{copy.name}.part"))
    return copy


def paused_notices(conn: apsw.Connection) -> list[str]:
    """Say that everything is held since a restore, as long as it is."""
    if not conn.execute(_HELD, (EVERYTHING,)).fetchall():
        return []
    for (value,) in conn.execute(_TOLD).fetchall():
        source = loads(str(value)).get("from")
        return [
            f"the database was restored from {source}, and everything is held since: nothing is sent and no schedule "
            "fires until you say `taskforge workflow release --all`"
        ]
    return []
