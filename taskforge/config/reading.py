"""Settings from flags, variables and `config.toml`, in this order of precedence, with every error at once."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from taskforge.config.settings import SECTIONS, Settings, rules
from taskforge.config.values import Value, shown
from taskforge.core.errors import StartupError
from taskforge.core.record import dataclass

CONFIG_FILE = "config.toml"
_PREFIX = "TASKFORGE_"
_NO_SETTINGS = ("TASKFORGE_HOME", "TASKFORGE_SERVER", "TASKFORGE_TOKEN", "TASKFORGE_PROFILE")
_OTHERS = ("TASKFORGE_TEST_", "TASKFORGE_SECRET_")
"""Beginnings of names that are no settings; the second is what `env` providers of secrets are shown with."""


class ConfigError(StartupError):
    """The configuration cannot be used. `faults` has one line for each thing that is wrong, each with its place."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = list(faults)
        super().__init__("\n".join(self.faults))


@dataclass(frozen=True, slots=True)
class _Given:
    """One value that was given, and how its place reads in an error."""

    raw: object
    source: str


def resolve_home(environ: Mapping[str, str]) -> Path:
    """`TASKFORGE_HOME`, else `~/.taskforge`, as an absolute path; nothing is read or made."""
    named = environ.get("TASKFORGE_HOME", "")
    try:
        return Path(os.path.abspath(Path(named).expanduser())) if named else Path.home() / ".taskforge"
    except (RuntimeError, ValueError):
        raise ConfigError(["variable TASKFORGE_HOME: set it to a directory; this user has no home directory"]) from None


def load_settings(home: Path, environ: Mapping[str, str], flags: Mapping[str, Value] | None = None) -> Settings:
    """Read what the program runs with. A home without a `config.toml` gives the defaults.

    `flags` maps `section.key` to a value given on the command line. Raises ConfigError with every fault.
    """
    faults: list[str] = []
    given, warnings = _from_file(home / CONFIG_FILE, faults)
    given |= _from_variables(environ, faults)
    given |= {
        _split(name): _Given(value, f"flag --{name.split('.')[1].replace('_', '-')}")
        for name, value in (flags or {}).items()
    }
    chosen: dict[str, dict[str, Value]] = {name: {} for name in SECTIONS}
    declared = rules()
    for (section, key), entry in given.items():
        value, wrong = declared[section][key].judge(entry.raw)
        if value is None:
            faults.append(f"{entry.source}: {section}.{key} {wrong}")
        else:
            chosen[section][key] = value
    server = chosen["server"]
    if bool(server.get("tls_cert")) != bool(server.get("tls_key")):
        missing = "tls_key" if server.get("tls_cert") else "tls_cert"
        other = given["server", "tls_cert" if missing == "tls_key" else "tls_key"]
        faults.append(f"{other.source}: server.{missing} is missing; server.tls_cert and server.tls_key go together")
    if faults:
        raise ConfigError(sorted(faults, key=lambda fault: _order(home / CONFIG_FILE, fault)))
    sections: dict[str, Any] = {name: make(**chosen[name]) for name, make in SECTIONS.items()}
    sources = {f"{section}.{key}": entry.source for (section, key), entry in given.items()}
    return Settings(home=home, **sections, sources=sources, warnings=tuple(warnings))


def _from_file(path: Path, faults: list[str]) -> tuple[dict[tuple[str, str], _Given], list[str]]:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError([f"{path}: is not a file"])
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}, []
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    warnings = []
    if mode & 0o077:
        warnings.append(
            f"{path} holds the token and can be read by others (mode {stat.S_IMODE(mode):04o}); run: chmod 600 {path}"
        )
    from taskforge.config.places import find_places  # these imports wait until there is a file: the CLI starts faster

    text, document = _parse(path, content)
    places = find_places(text)
    found: dict[tuple[str, str], _Given] = {}
    declared = rules()
    for section, entries in document.items():
        at = places[(section,)]
        if section not in declared:
            faults.append(f"{_place(path, at.key)}: {_unknown_section(section, entries)}")
            continue
        if not isinstance(entries, dict):
            faults.append(f"{_place(path, at.value)}: {section} is {shown(entries)}; it must be a section: [{section}]")
            continue
        for key, raw in entries.items():
            spot = places.get((section, key), at)
            if key in declared[section]:
                found[section, key] = _Given(raw, _place(path, spot.value))
            else:
                faults.append(f"{_place(path, spot.key)}: {_unknown_key(section, key)}")
    return found, warnings


def _parse(path: Path, content: bytes) -> tuple[str, dict[str, Any]]:
    import tomllib

    from taskforge.config.places import position

    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8-sig")
        line, column = position(before, len(before))
        raise ConfigError([f"{path}:{line}:{column}: the file is not UTF-8 text"]) from None
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason, _, where = str(error).rpartition(" (at ")
        numbers = re.findall(r"\d+", where)
        line, column = (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 else position(text, len(text))
        raise ConfigError([f"{path}:{line}:{column}: this is not valid TOML: {reason}"]) from None
    except RecursionError:
        raise ConfigError([f"{path}:1:1: the file is nested too deeply"]) from None
    except ValueError as error:  # a number of thousands of digits
        raise ConfigError([f"{path}:1:1: the file holds a value that cannot be read: {error}"]) from None


def _from_variables(environ: Mapping[str, str], faults: list[str]) -> dict[tuple[str, str], _Given]:
    found: dict[tuple[str, str], _Given] = {}
    declared = rules()
    for name in sorted(environ):
        if not name.startswith(_PREFIX) or name.startswith(_OTHERS) or name in _NO_SETTINGS or "__" not in name:
            continue
        section, _, key = name.removeprefix(_PREFIX).partition("__")
        known = declared.get(section.lower(), {}).get(key.lower())
        if known is None or name != name.upper():
            faults.append(f"variable {name}: unknown setting{_nearest_variable(name)}")
        elif environ[name] != "":  # an empty variable counts as not set: compose files make them
            found[section.lower(), key.lower()] = _Given(known.from_variable(environ[name]), f"variable {name}")
    return found


def _order(path: Path, fault: str) -> tuple[bool, int, int]:
    """Faults of the file go first, from its top to its end; others stay in their order."""
    line, column, *_ = (*fault.removeprefix(f"{path}:").split(":"), "", "")
    placed = fault.startswith(f"{path}:") and line.isdecimal() and column.isdecimal()
    return (False, int(line), int(column)) if placed else (True, 0, 0)


def _place(path: Path, at: tuple[int, int]) -> str:
    return f"{path}:{at[0]}:{at[1]}"


def _split(name: str) -> tuple[str, str]:
    section, _, key = name.partition(".")
    return section, key


def _unknown_section(section: str, entries: object) -> str:
    if not isinstance(entries, dict):
        owners = [name for name, keys in rules().items() if section in keys]
        hint = f"; did you mean {section} in [{owners[0]}]?" if owners else ""
        return f"{_named(section)} stands outside any section{hint}"
    near = _nearest(section, SECTIONS)
    return f"unknown section [{_named(section)}]" + (
        f"; did you mean [{near}]?" if near else f"; there are: {', '.join(SECTIONS)}"
    )


def _unknown_key(section: str, key: str) -> str:
    declared = rules()
    unknown = f"unknown setting {section}.{_named(key)}"
    near = _nearest(key, declared[section])
    if near is not None:
        return f"{unknown}; did you mean {section}.{near} ({declared[section][near].accepted()})?"
    owners = [name for name, keys in declared.items() if key in keys]
    if owners:
        return f"{unknown}; did you mean {owners[0]}.{key} ({declared[owners[0]][key].accepted()})?"
    return f"{unknown}; [{section}] has: {', '.join(declared[section])}"


def _nearest_variable(name: str) -> str:
    known = {f"{section}__{key}".upper(): rule for section, keys in rules().items() for key, rule in keys.items()}
    near = _nearest(name.removeprefix(_PREFIX).upper(), known)
    return f"; did you mean {_PREFIX}{near} ({known[near].accepted()})?" if near else ""


def _nearest(word: str, known: Iterable[str]) -> str | None:
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return near[0] if near else None


def _named(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", key) else shown(key)
