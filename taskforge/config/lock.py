"""The lock on a home: one server at a time, and the next one is told which.

The lock is an operating system lock on `serve.pid`, so that it ends with its process however that dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import IO, Any

from taskforge.core.errors import StartupError
from taskforge.core.record import dataclass

PID_FILE = "serve.pid"
_TRIES = 10
_PAUSE_S = 0.02


class HomeInUse(StartupError):
    """Another server holds the home; the message names it."""

    code, title = "HOME_IN_USE", "The home is in use"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a home: its process id and, once it listens, its address and since when (milliseconds UTC)."""

    pid: int
    url: str | None = None
    ready_at: int | None = None
    stopping: bool = False


class HomeLock:
    """Held from construction to `release`. `announce` stores the address for clients. Raises HomeInUse.

    Someone who only looks has the lock for a moment, so a lock that is taken is tried again for a fifth of a second.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / PID_FILE
        try:
            # Read and write without truncating: the first server's words must stay readable for the second.
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        except OSError as error:
            raise StartupError(f"cannot write {self.path}: {error.strerror}") from None
        self._file: IO[Any] = os.fdopen(descriptor, "r+")
        for tried in range(_TRIES):
            if _lock(self._file):
                break
            if tried + 1 == _TRIES:
                holder = read_holder(home)
                self._file.close()
                raise HomeInUse(_in_use(home, holder))
            time.sleep(_PAUSE_S)
        self._told: dict[str, Any] = {"pid": os.getpid()}
        self._write(self._told)

    def announce(self, url: str, ready_at: int | None = None) -> None:
        """Say where the server listens, and since when (milliseconds UTC)."""
        self._told = {"pid": os.getpid(), "url": url} | ({} if ready_at is None else {"ready_at": ready_at})
        self._write(self._told)

    def announce_stop(self) -> None:
        """Say that the server was told to end; a disk that does not take the words keeps nobody from ending."""
        with contextlib.suppress(StartupError):
            self._write(self._told | {"stopping": True})

    def release(self) -> None:
        """Empty the file and give the lock back."""
        with contextlib.suppress(OSError):  # words that a full disk did not take are thrown away here
            self._file.seek(0)
            self._file.truncate()
        with contextlib.suppress(OSError):
            self._file.close()

    def _write(self, value: dict[str, Any]) -> None:
        # Over what stands there, and only then cut: on a full disk the file keeps its place.
        try:
            self._file.seek(0)
            self._file.write(json.dumps(value) + "\n")
            self._file.truncate()
        except OSError as error:
            raise StartupError(f"cannot write {self.path}: {(error.strerror or str(error)).lower()}") from None


def read_holder(home: Path) -> Holder | None:
    """Return who last said that it holds the home, or None. It may be dead: only the lock is proof."""
    try:
        value = json.loads((home / PID_FILE).read_text())
        url, ready_at = value.get("url"), value.get("ready_at")
        return Holder(
            int(value["pid"]),
            url if isinstance(url, str) else None,
            ready_at if isinstance(ready_at, int) else None,
            value.get("stopping") is True,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def forget_holder(home: Path) -> None:
    """Empty what a dead server has left in `serve.pid`, so that whatever stands there next is a new server's word."""
    with contextlib.suppress(OSError), open(home / PID_FILE, "r+") as file:
        if _lock(file):
            file.truncate(0)


def is_held(home: Path) -> bool:
    """Return whether a live server holds the home."""
    try:
        with open(home / PID_FILE, "r+") as file:
            return not _lock(file)
    except OSError:
        return False


def _in_use(home: Path, holder: Holder | None) -> str:
    who = "another server"
    if holder is not None:
        who = f"a server with process id {holder.pid}" + (f" at {holder.url}" if holder.url else "")
    return f"{who} already serves the home {home}; stop it first, or set TASKFORGE_HOME to another directory"


def _lock(file: IO[Any]) -> bool:
    if sys.platform == "win32":
        import msvcrt

        try:
            file.seek(1 << 20)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
