"""`restore`: from a backup file to the database of a home that no server holds. Refused before anything is changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import apsw

from taskforge import __version__
from taskforge.core.errors import StartupError
from taskforge.store.migrate import load_migrations, pending
from taskforge.store.sql import load_queries
from taskforge.store.sqlite import health
from taskforge.store.sqlite.backup import UNFINISHED, Stamp, copy_database, read_stamp, remove_database, sync
from taskforge.store.sqlite.connection import Session, configure_reader, open_connection, require_library
from taskforge.store.sqlite.marks import was_open
from taskforge.store.sqlite.opening import applied_migrations, look_at_files, look_inside, startup_errors, wal_path
from taskforge.store.sqlite.restoring import (
    Contents,
    choose,
    contents,
    drop_secrets,
    finish_restore,
    pause,
    remove_unfinished_restore,
    secret_keys,
)

_OTHER: Final = "Take another backup"
_PARTS: Final[tuple[Callable[[Session], list[str]], ...]] = (health.find_damage, health.find_orphans)
_PARTS_OF_OUR_SCHEMA: Final = (*_PARTS, health.find_wrong_counts, health.find_broken_invariants)


class Wish(NamedTuple):
    """What is to be restored, and how. `keys`: fingerprints of the home's keys. `stamp`: the time, as part of a name.
    `despite`: restore although the check has findings; `without_secrets`: leave out those that `opens`, given name and
    sealed value, says no to."""

    source: Path
    database: Path
    now: int
    stamp: str
    keys: Sequence[str]
    despite: bool = False
    without_secrets: bool = False
    opens: Callable[[str, bytes], bool] = lambda name, sealed: True


class Restored(NamedTuple):
    """What was done. `replaced`: where the old database is kept; `schema`: the backup's; `migrates`: the next start
    brings it up to date."""

    taken: Stamp | None
    size: int
    replaced: Path | None
    schema: int
    migrates: bool
    secrets_left_out: int
    contents: Contents
    findings: list[str]
    warnings: list[str]


def restore_database(wish: Wish) -> Restored:
    """Put the backup in the place of the database, which is kept aside, and pause everything. The caller holds the
    home's lock.

    StartupError with one clear line, or `Unsound`; then nothing was changed."""
    require_library()
    source, database = wish.source, wish.database
    if not source.is_file():
        raise StartupError(f"there is no file {source}")
    if database.exists() and source.samefile(database):
        raise StartupError(f"{source} is the database itself; name a backup")
    with startup_errors(database):
        finish_restore(database)
    copy = remove_unfinished_restore(database)
    unfinished = copy.with_name(copy.name + UNFINISHED)
    try:
        with startup_errors(source, _OTHER):
            if source.stat().st_size == 0:
                raise StartupError(f"{source} is empty (0 bytes). Nothing was changed. {_OTHER}")
            look_at_files(source, writable=False)
            taken, warnings = _copy(source, copy, wish)
        with startup_errors(source, _OTHER):
            done = _prepare(unfinished, wish, taken, warnings)
            sync(unfinished)
            return done._replace(size=unfinished.stat().st_size, replaced=choose(unfinished, database, wish.stamp))
    except BaseException:
        remove_database(unfinished)
        raise


class Unsound(StartupError):
    """The check of the backup has findings."""

    code, title = "BACKUP_UNSOUND", "The backup is not sound"

    def __init__(self, message: str, findings: list[str]) -> None:
        super().__init__(message)
        self.findings = findings


def _copy(source: Path, copy: Path, wish: Wish) -> tuple[Stamp | None, list[str]]:
    """Copy the backup beside the database, once it is known to be one that can be restored."""
    log = wal_path(source)
    has_log = log.exists() and log.stat().st_size > 0
    if has_log:
        conn = open_connection(source)
        configure_reader(conn)
    else:
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        conn = apsw.Connection(f"{source.absolute().as_uri()}?immutable=1", flags=flags)
    try:
        applied = look_inside(conn, source)
        pending(applied, load_migrations("sqlite"), program_version=__version__, place=str(source))
        taken = read_stamp(conn)
        _check_key(conn, taken, wish)
        warnings = []
        if was_open(conn) and not has_log:
            warnings.append(
                f"{source} is a plain copy of a database in use, without its log: what was accepted last may be "
                "missing. `taskforge db backup` makes complete ones"
            )
        copy_database(conn, copy, taken or Stamp(wish.now, None), finish=False)
        return taken, warnings
    finally:
        conn.close()


def _check_key(conn: apsw.Connection, taken: Stamp | None, wish: Wish) -> None:
    needed = set(secret_keys(conn))
    if taken is not None and taken.key_id is not None:
        needed.add(taken.key_id)
    foreign = sorted(needed.difference(wish.keys))
    if not foreign or wish.without_secrets:
        return
    have = ", ".join(wish.keys) or "missing"
    raise StartupError(
        f"{wish.source} belongs to another secret.key: its key is {', '.join(foreign)}, this home's is {have}. Nothing "
        f"was changed. Put the secret.key that was in use with the backup into {wish.database.parent}; if it is lost, "
        "--without-secrets restores all but the secrets"
    )


def _prepare(path: Path, wish: Wish, taken: Stamp | None, warnings: list[str]) -> Restored:
    """Check the copy, and pause what is in it."""
    conn = open_connection(path)
    try:
        conn.pragma("locking_mode", "exclusive")
        conn.pragma("foreign_keys", 1)
        conn.pragma("cell_size_check", 1)
        conn.pragma("cache_size", -65_536)
        applied = applied_migrations(conn)
        migrates = len(applied) < len(load_migrations("sqlite"))
        session = Session(conn, load_queries("sqlite"))
        parts = _PARTS if migrates else _PARTS_OF_OUR_SCHEMA
        findings = [finding for part in parts for finding in health.look(session, part)]
        if findings and not wish.despite:
            raise Unsound(
                f"{wish.source} is not sound ({len(findings)} findings). Nothing was changed. Take another backup; if "
                "there is none, --force restores it as it is",
                findings,
            )
        dropped = drop_secrets(conn, wish.opens) if wish.without_secrets else 0
        found = contents(conn)
        pause(conn, wish.now, str(wish.source))
        return Restored(taken, 0, None, len(applied), migrates, dropped, found, findings, warnings)
    finally:
        conn.close()
