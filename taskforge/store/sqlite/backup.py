"""A copy of the database in one plain file: consistent, taken beside a server that writes, absent or whole.

The copy is that of one read transaction, made page by page, so that the writer is never kept waiting. While it lasts
the log cannot begin anew, and grows. The copy has no log: it is whole by itself, and says in its table `properties`
when it was made, by which program, and to which key its secrets belong.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw

from taskforge import __version__
from taskforge.core.errors import StartupError
from taskforge.core.jsontext import JsonError, dumps, loads

_PAGES_AT_ONCE: Final = 128
"""Pages copied before others may have the processor and the disk."""

_PAUSE_SHARE: Final = 0.5
"""Pause after a piece, as a share of the time that the piece took."""

_SYNC_EVERY: Final = 4_096
"""Pages after which the copy is synced, so that the writer's own syncs never wait for all of it."""

UNFINISHED: Final = ".part"
"""What the name of a copy ends with until it is whole."""

_STAMP_SET: Final = "INSERT OR REPLACE INTO properties (name, value) VALUES ('backup', ?), ('open', 0)"
_STAMP_GET: Final = "SELECT value FROM properties WHERE name = 'backup'"


class Stamp(NamedTuple):
    """What a backup says of itself. `taken_at`: milliseconds UTC; `key_id`: the fingerprint of the home's key, never
    anything of the key itself; None where it is not known."""

    taken_at: int
    key_id: str | None
    program: str = __version__


def copy_database(conn: apsw.Connection, target: Path, stamp: Stamp, *, finish: bool = True) -> int:
    """Copy what `conn` sees now to `target`: absent or whole, mode 0600, synced. Returns its bytes.

    With `finish` False the copy keeps its unfinished name (`target` and `.part`), for more to be done to it."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = target.with_name(target.name + UNFINISHED)
    with _claimed(unfinished):
        try:
            _fill(conn, unfinished, stamp)
            sync(unfinished)
            size = unfinished.stat().st_size
            if finish:
                unfinished.rename(target)
                sync(target.parent)
            return size
        except BaseException:
            with contextlib.suppress(OSError):
                remove_database(unfinished)
            raise


def _fill(conn: apsw.Connection, unfinished: Path, stamp: Stamp) -> None:
    with reading(conn):
        _require_space(conn, unfinished.parent)
        copy = _open_copy(unfinished)
        try:
            _copy_pages(conn, copy, unfinished)
        except BaseException:
            copy.close()
            raise
    with contextlib.closing(copy):
        # A file without a log: nothing that belongs to it can be left behind.
        copy.pragma("journal_mode", "delete")
        copy.execute(_STAMP_SET, (dumps(stamp._asdict()),))


@contextlib.contextmanager
def _claimed(unfinished: Path) -> Iterator[None]:
    """Have an empty file of this name for oneself. What a dead process left there is overwritten; one that lives and
    writes a copy of the same name is not disturbed."""
    descriptor = _lock(unfinished, os.O_RDWR | os.O_CREAT)
    if descriptor is None:
        raise StartupError(f"another process is writing {unfinished.name.removesuffix(UNFINISHED)}; wait for it")
    try:
        os.ftruncate(descriptor, 0)
        os.fchmod(descriptor, 0o600)
        for suffix in ("-journal", "-wal", "-shm"):
            unfinished.with_name(unfinished.name + suffix).unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def _lock(path: Path, flags: int) -> int | None:
    """Open a file and lock it; None when another process has it."""
    import fcntl  # not on Windows, where the client must still be able to import this module

    while True:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # It may have got its final name, or have been removed, just before.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        os.close(descriptor)


def read_stamp(conn: apsw.Connection) -> Stamp | None:
    """Return what a backup says of itself; None for a database that is no backup, or was restored and used since."""
    for (value,) in conn.execute(_STAMP_GET).fetchall():
        with contextlib.suppress(JsonError, TypeError, ValueError, KeyError):
            told: dict[str, Any] = loads(str(value))
            return Stamp(int(told["taken_at"]), told.get("key_id"), str(told["program"]))
    return None


@contextlib.contextmanager
def reading(conn: apsw.Connection) -> Iterator[None]:
    """Hold one snapshot: without it, every write of another connection would make the copy begin anew."""
    conn.execute("BEGIN")
    try:
        conn.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        yield
    finally:
        with contextlib.suppress(apsw.Error):
            conn.execute("ROLLBACK")


def remove_unfinished(folder: Path) -> list[Path]:
    """Remove copies with names of ours that a process left behind when it died."""
    removed = []
    for path in folder.glob(f"taskforge-*.db{UNFINISHED}"):
        with contextlib.suppress(OSError):
            descriptor = _lock(path, os.O_RDWR)
            if descriptor is not None:
                remove_database(path)
                os.close(descriptor)
                removed.append(path)
    return removed


def remove_database(path: Path) -> None:
    """Remove a file and what SQLite may have put beside it."""
    for suffix in ("-journal", "-wal", "-shm", ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def touch_private(path: Path) -> None:
    """Make an empty file that only its owner may read."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def sync(path: Path) -> None:
    """Return when a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_copy(path: Path) -> apsw.Connection:
    copy = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    # It is nobody else's until it has its name, is synced as a whole, and thrown away when anything goes wrong.
    copy.pragma("locking_mode", "exclusive")
    copy.pragma("journal_mode", "off")
    copy.pragma("synchronous", 0)
    return copy


def _copy_pages(
    conn: apsw.Connection, copy: apsw.Connection, path: Path, pause: Callable[[float], None] = time.sleep
) -> None:
    with copy.backup("main", conn, "main") as work:
        unsynced = 0
        while not work.done:
            begun = time.perf_counter()
            work.step(_PAGES_AT_ONCE)
            unsynced += _PAGES_AT_ONCE
            if unsynced >= _SYNC_EVERY:
                sync(path)
                unsynced = 0
            pause((time.perf_counter() - begun) * _PAUSE_SHARE)


def _require_space(conn: apsw.Connection, folder: Path) -> None:
    """Refuse before anything is written: a copy that fills the disk would stop the server, too."""
    wanted = conn.pragma("page_count") * conn.pragma("page_size")
    free = os.statvfs(folder)
    if free.f_bavail * free.f_frsize < wanted:
        raise StartupError(
            f"the disk that holds {folder} has {free.f_bavail * free.f_frsize >> 20} MiB free; the copy needs "
            f"{(wanted >> 20) + 1} MiB. Make room, or write it to another disk"
        )
