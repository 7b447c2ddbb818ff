"""The home directory: made once, safely beside another process that makes it too, and after a crash half-way."""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from taskforge.config.reading import CONFIG_FILE
from taskforge.config.settings import rules
from taskforge.config.values import Value, shown
from taskforge.core.errors import StartupError
from taskforge.core.record import dataclass

KEY_FILE = "secret.key"
DATABASE_FILE = "taskforge.db"
LOG_FILE = "serve.log"
_TEMPORARY = ".new-"


class HomeError(StartupError):
    """The home directory cannot be made or used; the message names the path and what to do."""


@dataclass(frozen=True, slots=True)
class HomeReport:
    """What `create_home` made: names of files, and `home` itself as `.`; empty when everything was there."""

    home: Path
    created: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def create_home(home: Path) -> HomeReport:
    """Make what is missing of the home: the directory (0700), `secret.key` and `config.toml` (0600), synced to disk.

    What is there already is never changed. Raises HomeError, naming the path.
    """
    try:
        created = _make_directory(home)
        warnings = check_home(home)
        if not ((home / KEY_FILE).exists() and (home / CONFIG_FILE).exists()):
            with _locked(home) as alone:
                if alone:
                    _remove_leftovers(home)
                created += _make_files(home)
    except OSError as error:
        raise HomeError(_explain(home, error)) from None
    return HomeReport(home, tuple(created), tuple(warnings))


def is_home(home: Path) -> bool:
    """Was this home made before?"""
    return (home / CONFIG_FILE).is_file()


def check_home(home: Path) -> list[str]:
    """Warnings about an existing home: who owns it, who can look inside. HomeError when it belongs to someone else."""
    found = home.stat()
    me = os.geteuid()
    warnings = []
    if found.st_uid != me:
        words = f"{home} belongs to user {found.st_uid}, and this process runs as user {me}"
        if me != 0:
            raise HomeError(f"{words}; run as its owner, or set TASKFORGE_HOME to a directory of your own")
        warnings.append(f"{words}: files made now will belong to user 0")
    if stat.S_IMODE(found.st_mode) & 0o077:
        warnings.append(
            f"{home} can be entered by others (mode {stat.S_IMODE(found.st_mode):04o}); run: chmod 700 {home}"
        )
    return warnings


def new_token() -> str:
    """A new API token with 256 bits of randomness: `tf_` and 43 characters."""
    return "tf_" + base64.urlsafe_b64encode(os.urandom(32)).decode("ascii").rstrip("=")


def render_config(token: str) -> str:
    """The text of a new `config.toml`: token and address set, every other setting as a comment with its default."""
    lines = [
        "# TaskForge settings. A setting behind a # has its default; remove the # to change it.",
        "# Variables such as TASKFORGE_SERVER__PORT and flags go before this file.",
    ]
    written = {("auth", "token"): token, ("server", "host"): None, ("server", "port"): None}
    for section, keys in rules().items():
        lines += ["", f"[{section}]"]
        for key, rule in keys.items():
            told = "" if isinstance(rule.default, (str, bool, tuple)) else f" {rule.accepted().capitalize()}."
            if rule.choices:
                told = f" {rule.accepted().capitalize()}."
            value = written.get((section, key)) or rule.default
            mark = "" if (section, key) in written else "#"
            lines += [f"# {rule.doc}{told}", f"{mark}{key} = {_toml(value)}"]
    return "\n".join(lines) + "\n"


def _toml(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value)


def _make_directory(home: Path) -> list[str]:
    home.parent.mkdir(parents=True, exist_ok=True)
    try:
        home.mkdir(mode=0o700)
    except FileExistsError:
        if not home.is_dir():
            raise HomeError(f"{home} is not a directory; move it away, or set TASKFORGE_HOME") from None
        found = home.stat()
        # An empty directory of our own is a home that somebody made for us with the usual umask.
        mine = found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX
        if mine and found.st_mode & 0o077 and not any(home.iterdir()):
            home.chmod(0o700)
        return []
    home.chmod(0o700)
    _sync_directory(home.parent)
    return ["."]


def _make_files(home: Path) -> list[str]:
    created = []
    if not (home / KEY_FILE).exists():
        if (home / DATABASE_FILE).exists():
            raise HomeError(
                f"{home / KEY_FILE} is missing, but {DATABASE_FILE} is there and its secrets need that key; "
                f"put the key back from your backup, or move {DATABASE_FILE} away to begin anew"
            )
        created += _write_new(home / KEY_FILE, base64.b64encode(os.urandom(32)).decode("ascii") + "\n")
    if not (home / CONFIG_FILE).exists():
        created += _write_new(home / CONFIG_FILE, render_config(new_token()))
    return created


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[bool]:
    """One process at a time makes the files. False where directories cannot be locked: `_write_new` is safe alone."""
    import fcntl  # not on Windows, where the client must still be able to import this module

    handle = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _remove_leftovers(home: Path) -> None:
    for leftover in home.glob(f"{_TEMPORARY}*"):
        leftover.unlink(missing_ok=True)


def _write_new(path: Path, text: str) -> list[str]:
    """Put a file of mode 0600 in place, whole or not at all, and never over one that is there."""
    temporary = path.with_name(f"{_TEMPORARY}{path.name}-{os.getpid()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return []
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            os.rename(temporary, path)  # no hard links on this file system; the lock keeps others out
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)
    return [path.name]


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _explain(home: Path, error: OSError) -> str:
    named = Path(os.fsdecode(error.filename)) if error.filename else home
    path = home if named.is_relative_to(home) else named  # our temporary files' names tell a person nothing
    advice = "set TASKFORGE_HOME to a directory that you can write to"
    reasons = {
        errno.EACCES: f"{path} may not be written by user {os.geteuid()}; change its permissions, or {advice}",
        errno.EPERM: f"{path} may not be written by user {os.geteuid()}; change its permissions, or {advice}",
        errno.EROFS: f"{path} is on a read-only file system; {advice}",
        errno.ENOSPC: f"the disk that holds {path} is full; make space, or {advice}",
        errno.ENOTDIR: f"{path} cannot be made because a part of the path is not a directory; {advice}",
        errno.EEXIST: f"{path} is not a directory; move it away, or {advice}",
    }
    return reasons.get(error.errno or 0, f"{path} cannot be used: {error.strerror}; {advice}")
