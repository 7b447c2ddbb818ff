"""JSON and YAML text that is safe on a terminal: what it would act upon, or hide, stands escaped."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./@-]*(?: [A-Za-z0-9_./@-]+)*")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def encode(value: Any, indent: int | None = 2) -> str:
    """JSON text with every digit of an integer. `indent` None: all on one line."""
    return "".join(_json(value, indent, "\n" if indent else ""))


def encode_yaml(value: Any) -> str:
    """YAML 1.2 text with the same content, ending in a newline."""
    return "".join(_yaml(value, "")).lstrip("\n") + "\n"


def escape(text: str) -> str:
    """Text for one line of a terminal: control characters, direction marks and lone surrogates as `\\u001b`."""
    return _HIDDEN.sub(_as_unicode, text)


def ascii_only(document: str) -> str:
    """The same JSON or YAML document for a stream that is not UTF-8: there, other characters stand in quotes only."""
    return "".join(char if char.isascii() else json.dumps(char)[1:-1] for char in document)


def _as_unicode(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _scalar(value: Any) -> str:
    return escape(json.dumps(value, ensure_ascii=False))


def _json(value: Any, indent: int | None, newline: str) -> Iterator[str]:
    if not isinstance(value, (dict, list)):
        yield _scalar(value)
        return
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    if not value:
        yield opening + closing
        return
    deeper = newline + " " * indent if indent else ""
    colon = ": " if indent else ":"
    yield opening
    for position, entry in enumerate(value.items() if isinstance(value, dict) else value):
        yield "," + deeper if position else deeper
        if isinstance(value, dict):
            yield _scalar(entry[0]) + colon
            entry = entry[1]
        yield from _json(entry, indent, deeper)
    yield newline + closing


def _yaml(value: Any, margin: str) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, entry in value.items():
            yield f"\n{margin}{_yaml_text(key)}:"
            yield from _yaml_entry(entry, margin + "  ", margin)
    elif isinstance(value, list) and value:
        for entry in value:
            yield f"\n{margin}-"
            if isinstance(entry, (dict, list)) and entry:
                yield " " + "".join(_yaml(entry, margin + "  ")).lstrip("\n ")
            else:
                yield from _yaml_entry(entry, margin + "  ", margin)
    else:
        yield _yaml_flat(value)


def _yaml_entry(value: Any, deeper: str, margin: str) -> Iterator[str]:
    if isinstance(value, dict) and value:
        yield from _yaml(value, deeper)
    elif isinstance(value, list) and value:
        yield from _yaml(value, margin)
    else:
        yield " " + _yaml_flat(value)


def _yaml_flat(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "{}" if isinstance(value, dict) else "[]"
    return _yaml_text(value) if isinstance(value, str) else _scalar(value)


def _yaml_text(text: str) -> str:
    return text if _PLAIN.fullmatch(text) and text.casefold() not in _WORDS else _scalar(text)
