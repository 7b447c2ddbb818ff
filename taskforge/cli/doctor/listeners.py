"""Who listens on a port, as far as the system tells this user (Linux)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_LISTEN: Final = "0A"
_TABLES: Final = ("net/tcp", "net/tcp6")


def find_listener(port: int, processes: Path = Path("/proc")) -> str | None:
    """`process 123 (name)`, or None where that is not to be seen."""
    inodes = {f"socket:[{inode}]" for inode in _inodes(port, processes)}
    if not inodes:
        return None
    for process in processes.glob("[0-9]*"):
        if inodes & set(_links(process / "fd")):
            return f"process {process.name} ({_name(process)})"
    return None


def _links(descriptors: Path) -> Iterator[str]:
    """What a process has open; nothing where it is another user's."""
    with contextlib.suppress(OSError):
        for entry in descriptors.iterdir():
            with contextlib.suppress(OSError):  # closed since
                yield str(entry.readlink())


def _inodes(port: int, processes: Path) -> Iterator[str]:
    for table in _TABLES:
        try:
            lines = (processes / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if len(fields) > 9 and fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text(errors="replace").strip() or "?"
    except OSError:
        return "?"
