"""Where a database file lies, and whether its locks and its syncs can be trusted there."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_MOUNTS: Final = Path("/proc/self/mounts")

_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs"})
"""File systems whose locks or syncs SQLite cannot rely on (sqlite.org/useovernet.html)."""


def doubts_about(path: Path, mounts: Path = _MOUNTS) -> list[str]:
    """Return what a person should know about the place of the file; mostly nothing."""
    found: list[str] = []
    names = path.stat().st_nlink
    if names > 1:
        found.append(
            f"{path} has {names} names (hard links): two programs that open it by different names would damage it. "
            "Remove the others"
        )
    kind = _file_system(path.resolve(), mounts)
    if kind in _REMOTE:
        found.append(
            f"{path} is on a network file system ({kind}), where locks and syncs may not hold what they promise. Move "
            "the home to a local disk"
        )
    return found


def _file_system(path: Path, mounts: Path) -> str | None:
    """Return the kind of file system that holds `path`, or None where the system does not say."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    longest, kind = -1, None
    for fields in (line.split(" ") for line in lines):
        if len(fields) < 3:
            continue
        place = Path(fields[1].replace("\\040", " "))
        # Of two mounts on one place the later hides the earlier.
        if path.is_relative_to(place) and len(place.parts) >= longest:
            longest, kind = len(place.parts), fields[2]
    return kind
