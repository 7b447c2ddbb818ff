"""The home directory, its files' modes, and its backups."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from taskforge.cli.doctor.finding import Finding, failure, note, ok, warning
from taskforge.config.home import DATABASE_FILE, KEY_FILE, LOG_FILE
from taskforge.config.lock import PID_FILE
from taskforge.config.reading import CONFIG_FILE

_BACKUPS: Final = "backups"
_OLD_DAYS: Final = 7
_DAY_MS: Final = 86_400_000
_CHOOSE: Final = "set TASKFORGE_HOME to a directory of your own"


def check_home(home: Path) -> list[Finding]:
    """The directory itself. A failure means that nothing in it needs to be looked at."""
    try:
        found = home.stat()
    except FileNotFoundError:
        return [failure("HOME_MISSING", f"there is no {home}", "taskforge init")]
    except OSError as error:
        return [failure("HOME_UNUSABLE", f"{home} cannot be looked at: {_words(error)}", _CHOOSE)]
    if not stat.S_ISDIR(found.st_mode):
        return [failure("HOME_UNUSABLE", f"{home} is not a directory", f"move it away, or {_CHOOSE}")]
    me = os.geteuid()
    if found.st_uid != me:
        words = f"{home} belongs to user {found.st_uid}, and this process runs as user {me}"
        if me != 0:
            return [failure("HOME_UNUSABLE", words, f"run as its owner, or {_CHOOSE}")]
        return [warning("HOME_UNUSABLE", f"{words}: files made now will belong to user 0", "run as its owner")]
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        return [failure("HOME_UNUSABLE", f"{home} cannot be written", f"chmod 700 {home}   (or mount it writable)")]
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        return [warning("HOME_OPEN", f"{home} can be entered by others (mode {mode:04o})", f"chmod 700 {home}")]
    return [ok("HOME_OK", f"{home} is yours alone")]


def check_modes(home: Path) -> Iterator[Finding]:
    """Files that others can read."""
    for name, code in ((CONFIG_FILE, "CONFIG_OPEN"), (KEY_FILE, "KEY_OPEN")):
        mode = _open_mode(home / name)
        if mode is not None:
            words = f"{home / name} can be read by others (mode {mode:04o})"
            yield failure(code, words, f"chmod 600 {home / name}")
    names = (DATABASE_FILE, f"{DATABASE_FILE}-wal", f"{DATABASE_FILE}-shm", LOG_FILE, f"{LOG_FILE}.1", PID_FILE)
    paths = [home / name for name in names] + _backups(home)
    wide = [path for path in paths if _open_mode(path) is not None]
    if wide:
        names_of = " ".join(str(path) for path in wide)
        words = f"{wide[0]} can be read by others" + (f", and {len(wide) - 1} other files" if len(wide) > 1 else "")
        yield warning("FILE_OPEN", words, f"chmod 600 {names_of}")


def check_backups(home: Path, now: int) -> Finding:
    """Is there a recent copy of the database in the home? Copies kept elsewhere are not known here."""
    times = [path.stat().st_mtime_ns // 1_000_000 for path in _backups(home)]
    fix = "taskforge db backup   (and keep a copy on another machine, apart from secret.key)"
    if not times:
        return note("BACKUP_NONE", f"there is no backup in {home / _BACKUPS}", fix)
    days = max(0, now - max(times)) // _DAY_MS
    if days >= _OLD_DAYS:
        return note("BACKUP_OLD", f"the newest backup in {home / _BACKUPS} is {days} days old", fix)
    return ok(
        "BACKUP_OK", f"{len(times)} in {home / _BACKUPS}, the newest {f'{days} days old' if days else 'of today'}"
    )


def _backups(home: Path) -> list[Path]:
    try:
        return [path for path in (home / _BACKUPS).iterdir() if path.is_file() and not path.name.endswith(".part")]
    except OSError:
        return []


def _open_mode(path: Path) -> int | None:
    """The mode of a file that others can read or write; None for all others."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
    return mode if mode & 0o077 else None


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
