"""What a home fills the disk with, beside the database: backups and the server's log."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Final

BACKUPS: Final = "backups"
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
