"""What a home fills the disk with, beside the database: backups and the server's log."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import Final

BACKUPS: Final = "backups"
LOG_FILE: Final = "serve.log"
OLD_LOG: Final = "serve.log.1"

_OURS = re.compile(r"taskforge-(?:[0-9]{8}T[0-9]{6}Z(?:-[0-9]+)?|before-[0-9]{4}-[0-9]+)\.db")


def backup_path(home: Path, at: str) -> Path:
    """A free name in `backups/` for a backup taken `at` (RFC 3339): `taskforge-20261123T061500Z.db`."""
    stem = f"taskforge-{file_stamp(at)}"
    path, number = home / BACKUPS / f"{stem}.db", 1
    while path.exists():
        number += 1
        path = path.with_name(f"{stem}-{number}.db")
    return path


def file_stamp(at: str) -> str:
    """A time (RFC 3339) as a part of a file's name."""
    return re.sub(r"\.[0-9]+|[-:]", "", at)


def list_backups(home: Path) -> list[Path]:
    """The backups in `backups/` that have names of ours, oldest first. Other files there are left alone."""
    found = [path for path in _files(home / BACKUPS) if _OURS.fullmatch(path.name)]
    return sorted(found, key=lambda path: (_modified(path), path.name))


def home_bytes(home: Path, without: tuple[str, ...] = ()) -> int:
    """Size of all files in the home and in `backups/`, but those named in `without`."""
    files = [path for path in (*_files(home), *_files(home / BACKUPS)) if path.name not in without]
    return sum(_size(path) for path in files)


def set_log_aside(home: Path, limit: int, descriptor: int = 2) -> int:
    """When `serve.log` is larger than `limit` bytes and is where this process writes, move what it has to
    `serve.log.1`, in place of what was there. Returns the bytes that this freed.

    The server's own descriptor stays open on the file, so that it is emptied and not renamed; it is written to at its
    end, wherever that is."""
    path = home / LOG_FILE
    with contextlib.suppress(OSError):
        found = path.stat()
        if found.st_size <= limit or not os.path.samestat(found, os.fstat(descriptor)):
            return 0
        old = home / OLD_LOG
        freed = _size(old)
        unfinished = old.with_name(f"{OLD_LOG}.part")
        try:
            with contextlib.suppress(OSError):  # on a full disk the log is emptied all the same
                shutil.copyfile(path, unfinished)
                unfinished.chmod(0o600)
                unfinished.replace(old)
        finally:
            unfinished.unlink(missing_ok=True)
        os.truncate(path, 0)
        return freed + found.st_size - _size(old)
    return 0


def remove_file(path: Path) -> int:
    """Delete a file; returns the bytes that this freed, 0 when it cannot be."""
    size = _size(path)
    with contextlib.suppress(OSError):
        path.unlink()
        return size
    return 0


def _files(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [path for path in folder.iterdir() if path.is_file() and not path.is_symlink()]
    return []


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _modified(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime_ns
    return 0
