"""The lock on a home: one server at a time, and the next one is told which.

The lock is an operating system lock on `serve.pid`, so that it ends with its process however that dies.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from taskforge.core.errors import StartupError

PID_FILE = "serve.pid"


class HomeInUse(StartupError):
    """Another server holds the home; the message names it."""

    code, title = "HOME_IN_USE", "The home is in use"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a home: its process id and, once it listens, its address."""

    pid: int
    url: str | None = None


class HomeLock:
    """Held from construction to `release`. `announce` stores the address for clients. Raises HomeInUse."""

    def __init__(self, home: Path) -> None:
        self.path = home / PID_FILE
        try:
            # Read and write without truncating: the first server's words must stay readable for the second.
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        except OSError as error:
            raise StartupError(f"cannot write {self.path}: {error.strerror}") from None
        self._file: IO[Any] = os.fdopen(descriptor, "r+")
        if not _lock(self._file):
            holder = read_holder(home)
            self._file.close()
            raise HomeInUse(_in_use(home, holder))
        self._write({"pid": os.getpid()})

    def announce(self, url: str) -> None:
        self._write({"pid": os.getpid(), "url": url})

    def release(self) -> None:
        """Empty the file and give the lock back."""
        self._file.seek(0)
        self._file.truncate()
        self._file.close()

    def _write(self, value: dict[str, Any]) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps(value) + "\n")
        self._file.flush()


def read_holder(home: Path) -> Holder | None:
    """Return who last said that it holds the home, or None. It may be dead: only the lock is proof."""
    try:
        value = json.loads((home / PID_FILE).read_text())
        return Holder(int(value["pid"]), value.get("url"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
