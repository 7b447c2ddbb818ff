"""Profiles: servers that a person talks to, with their tokens, in one file (0600) of the user's configuration."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Final, NamedTuple

from taskforge.core.errors import StartupError
from taskforge.core.record import dataclass

PROFILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
PROFILES_FILE: Final = "profiles.toml"
_FOLDER: Final = "taskforge"


class Profile(NamedTuple):
    """A server's address, and the token for it (empty: none)."""

    server: str
    token: str = ""


@dataclass(slots=True)
class Profiles:
    """All profiles by name, and the one that is used where nothing else is said."""

    path: Path
    known: dict[str, Profile] = field(default_factory=dict)
    current: str | None = None

    def save(self) -> None:
        """Replace the file as a whole, mode 0600. Raises OSError."""
        lines = ["# Servers that `taskforge` talks to; `taskforge profile` changes this file."]
        lines += [] if self.current is None else [f"current = {json.dumps(self.current)}"]
        for name, profile in sorted(self.known.items()):
            lines += ["", f"[profiles.{json.dumps(name)}]", f"server = {json.dumps(profile.server)}"]
            lines += [f"token = {json.dumps(profile.token)}"] if profile.token else []
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self.path.with_name(f".{self.path.name}-{os.getpid()}")
        try:
            handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, self.path)
        finally:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)


def profiles_path(environ: Mapping[str, str]) -> Path | None:
    """`$XDG_CONFIG_HOME/taskforge/profiles.toml`, else below `~/.config`; None for a user without a home directory."""
    base = environ.get("XDG_CONFIG_HOME", "")
    if base and os.path.isabs(base):
        return Path(base) / _FOLDER / PROFILES_FILE
    home = environ.get("HOME", "")
    with contextlib.suppress(RuntimeError):
        return (Path(home) if home else Path.home()) / ".config" / _FOLDER / PROFILES_FILE
    return None


def load_profiles(environ: Mapping[str, str]) -> Profiles:
    """Read the file; no profiles where there is none. Raises StartupError, naming the file and never a token."""
    path = profiles_path(environ)
    if path is None:
        return Profiles(Path(PROFILES_FILE))
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return Profiles(path)
    except OSError as error:
        raise StartupError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    import tomllib

    try:
        return _profiles(path, tomllib.loads(raw.decode()))
    except (ValueError, TypeError, RecursionError):
        raise StartupError(f"{path} holds no profiles; mend it, or remove it and add them again") from None


def _profiles(path: Path, document: dict[str, Any]) -> Profiles:
    known = {name: Profile(_text(entry["server"]), _text(entry.get("token", "")))
             for name, entry in dict(document.get("profiles") or {}).items() if isinstance(entry, dict)
             and "server" in entry}  # fmt: skip
    current = document.get("current")
    return Profiles(path, known, None if current is None else _text(current))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
