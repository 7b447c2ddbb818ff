"""`serve.log`: put aside when it has grown, so that a server that runs for years does not fill the disk with words."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from taskforge.observe.logs import LineHandler

_STREAMS: Final = (1, 2)
_LOOK_BYTES: Final = 64 * 1024


def open_log(path: Path, limit: int) -> int:
    """Open the log to append to it, mode 0600, put aside first if it has `limit` bytes. Returns the descriptor."""
    with contextlib.suppress(OSError):
        if path.stat().st_size >= limit:
            path.rename(older(path))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, 0o600)
    return descriptor


def older(path: Path) -> Path:
    """Where the log goes that was put aside."""
    return path.with_name(f"{path.name}.1")


def keep_small(path: Path, limit: int) -> None:
    """From now on put the log aside whenever it has `limit` bytes, if this process's entries go there at all."""
    if any(_is(descriptor, path) for descriptor in _STREAMS):
        LineHandler.wrote = staticmethod(_Watch(path, limit).wrote)


class _Watch:
    """Counts what is written; looks at the file now and then, for others write to it, too."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._until_look = 0

    def wrote(self, count: int) -> None:
        self._until_look -= count
        if self._until_look > 0:
            return
        self._until_look = min(_LOOK_BYTES, self._limit)
        with contextlib.suppress(OSError):  # a full disk, a directory that is gone: the next look tries again
            if self._path.stat().st_size >= self._limit:
                self._put_aside()

    def _put_aside(self) -> None:
        ours = [descriptor for descriptor in _STREAMS if _is(descriptor, self._path)]
        if not ours:
            return
        self._path.rename(older(self._path))
        try:
            fresh = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError:
            older(self._path).rename(self._path)
            raise
        for descriptor in ours:
            os.dup2(fresh, descriptor)
        os.close(fresh)


def _is(descriptor: int, path: Path) -> bool:
    try:
        mine, there = os.fstat(descriptor), path.stat()
    except OSError:
        return False
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)
