"""What a setting's value may be: kinds, ranges and the checks of texts, each with the words for a refusal."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taskforge.core.record import dataclass

Value = bool | int | float | str | tuple[str, ...]
Check = Callable[[str], str | None]

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})
_HOST_NAME = re.compile(r"(?:\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})|\[?[0-9A-Fa-f:.]+\]?")
_URL = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?(/[A-Za-z0-9._~/%-]*)?")
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Rule:
    """One setting's declaration. `check` says what is wrong with a text, or with one entry of a list; None is right."""

    default: Value
    doc: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    check: Check | None = None
    entries: str = "texts"
    secret: bool = False

    def accepted(self) -> str:
        """In words, what the setting may be."""
        if self.choices:
            return "one of " + ", ".join(f'"{choice}"' for choice in self.choices)
        if isinstance(self.default, bool):
            return "true or false"
        if isinstance(self.default, tuple):
            return f"a list of {self.entries}"
        if isinstance(self.default, str):
            return "a text"
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        return f"{kind} from {shown(self.low)} to {shown(self.high)}"

    def judge(self, raw: object) -> tuple[Value, None] | tuple[None, str]:
        """The value in the setting's type, or what is wrong with it."""
        value = self._typed(raw)
        if value is None or not self._in_range(value):
            return None, f"is {self._shown(raw)}; it must be {self.accepted()}"
        if self.check is not None:
            listed = isinstance(value, tuple)
            for entry in value if isinstance(value, tuple) else (value,):
                wrong = self.check(entry) if isinstance(entry, str) else None
                if wrong is not None:
                    return None, f"{'has' if listed else 'is'} {self._shown(entry)}; {wrong}"
        return value, None

    def _in_range(self, value: Value) -> bool:
        if isinstance(value, (bool, str, tuple)):
            return True
        return (self.low or 0) <= value <= (math.inf if self.high is None else self.high)

    def _shown(self, value: object) -> str:
        return "not accepted" if self.secret else shown(value)

    def _typed(self, raw: object) -> Value | None:
        if isinstance(self.default, bool):
            return raw if isinstance(raw, bool) else None
        if isinstance(self.default, int):
            return raw if isinstance(raw, int) and not isinstance(raw, bool) else None
        if isinstance(self.default, float):
            return float(raw) if isinstance(raw, (int, float)) and not isinstance(raw, bool) else None
        if isinstance(self.default, str):
            return raw if isinstance(raw, str) and (not self.choices or raw in self.choices) else None
        if isinstance(raw, (list, tuple)) and all(isinstance(entry, str) for entry in raw):
            return tuple(raw)
        return None

    def from_variable(self, text: str) -> object:
        """What a variable's text stands for; text that stands for nothing comes back as it is, for `judge` to refuse.

        Lists are written as in the file (`["a", "b"]`) or with commas (`a, b`).
        """
        text = text.strip() if not isinstance(self.default, str) else text
        if isinstance(self.default, bool):
            lowered = text.lower()
            return True if lowered in _TRUE else False if lowered in _FALSE else text
        if isinstance(self.default, tuple):
            if not text.startswith("["):
                return [entry.strip() for entry in text.split(",")]
            try:
                return json.loads(text)
            except (ValueError, RecursionError):
                return text
        if isinstance(self.default, str) or not re.fullmatch(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?", text):
            return text
        return float(text) if "." in text else int(text)


def shown(value: object) -> str:
    """A value as the configuration file would write it, cut when long, never with control characters."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    try:
        text = json.dumps(value, ensure_ascii=True, default=str) if not hasattr(value, "isoformat") else str(value)
    except ValueError:  # Python writes no number of thousands of digits
        return "a very long number"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def check_host(text: str) -> str | None:
    if _HOST_NAME.fullmatch(text):
        return None
    return "it must be a host name or an IP address, without scheme, port or path"


def check_range(text: str) -> str | None:
    import ipaddress

    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        if "host bits" in str(error):
            return f"the range is {ipaddress.ip_network(text, strict=False)}"
        return "it must be an IP range such as 10.0.0.0/8 or an IP address"
    return None


def check_token(text: str) -> str | None:
    if re.fullmatch(r"[!-~]{8,200}", text) or not text:
        return None
    return "it must be 8 to 200 printable ASCII characters without spaces"


STORE, ENV, FILE, COMMAND = "store", "env", "file", "command"
"""Kinds of providers of secrets."""


def split_provider(text: str) -> tuple[str, str]:
    """The kind of a provider, and what it is given: `env:PREFIX` is (`env`, `PREFIX`)."""
    kind, _, argument = text.partition(":")
    return kind, argument


def split_command(argument: str) -> list[str]:
    """The program and its arguments: a JSON list, or the path of a program alone. Raises ValueError."""
    if not argument.startswith("["):
        return [argument]
    found = json.loads(argument)
    if not found or not all(isinstance(part, str) and part and "\0" not in part for part in found):
        raise ValueError("it must be a list of texts")
    return list(found)


def check_provider(text: str) -> str | None:
    kind, argument = split_provider(text)
    if text == STORE:
        return None
    if kind == ENV:
        good = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", argument)
        return None if good else "env needs the beginning of variables' names, such as env:TASKFORGE_SECRET_"
    if kind == FILE:
        if not argument or "\0" in argument:
            return "file needs a directory, such as file:/run/secrets"
        try:
            Path(argument).expanduser()
        except (RuntimeError, ValueError):
            return f"this system knows no home directory for {argument.split('/')[0]}; write the directory out"
        return None
    if kind == COMMAND:
        form = 'command needs a program, such as command:/usr/local/bin/secret or command:["pass", "show", "{name}"]'
        try:
            return None if all(split_command(argument)) and "\0" not in argument else form
        except (ValueError, RecursionError):
            return form
    return "a provider is store, env:PREFIX, file:DIRECTORY or command:PROGRAM"


def check_url(text: str) -> str | None:
    if not text or _URL.fullmatch(text):
        return None
    return "it must be a URL such as https://flows.example.com, without user, query and fragment"


def json_schema(rule: Rule) -> dict[str, Any]:
    """The setting as JSON Schema."""
    found: dict[str, Any] = {"description": rule.doc}
    if isinstance(rule.default, bool):
        found["type"] = "boolean"
    elif isinstance(rule.default, tuple):
        found |= {"type": "array", "items": {"type": "string"}}
    elif isinstance(rule.default, str):
        found["type"] = "string"
    else:
        found["type"] = "integer" if isinstance(rule.default, int) else "number"
        found |= {"minimum": rule.low or 0, "maximum": rule.high}
    if rule.choices:
        found["enum"] = list(rule.choices)
    if not rule.secret:
        found["default"] = list(rule.default) if isinstance(rule.default, tuple) else rule.default
    return found
