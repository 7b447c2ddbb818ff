"""JSON text to values and back, with one documented reading for every odd case.

The same reading holds in the API, in steps, in the command line and in the database:

- Integers keep every digit, whatever their size, up to `MAX_DIGITS` digits. `-0` reads as `0`.
- A number with a point or an exponent is an IEEE double: `1.0` stays `1.0` and `1e2` reads as `100.0`. One that
  no double can hold (`1e400`) is refused; with `clamp=True` it reads as the largest double, as jq computes with it.
- `NaN` and `Infinity` are no JSON and are refused.
- A lone surrogate (`"\\ud800"`) reads as U+FFFD, as jq reads it.
- Of duplicate keys the last wins, as in jq; with `unique_keys=True` they are refused (what people send to the API).
- At most `MAX_DEPTH` arrays and objects inside one another.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import orjson

JSON = Any
"""A JSON value: None, bool, int (any size), float, str, list or dict with str keys."""

MAX_DEPTH = 254
"""Deepest nesting of arrays and objects; orjson writes no deeper."""

MAX_DIGITS = 1000
"""Most digits of an integer. Python's own limit is 4300, and it would be met with a ValueError far from here."""

_DIGITS_TO_ZERO = bytes(48 if 48 <= code <= 57 else code for code in range(256))
_LONG_INTEGERS = (b"0" * 20, b"-" + b"0" * 19)
"""With every digit read as 0: what may be an integer beyond 64 bits, which orjson would read as a double."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPES = re.compile(
    r"(\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]', re.DOTALL)


class JsonError(Exception):
    """A text that is not JSON as this module reads it.

    `line` and `column` count from 1; 0 where no place is known.
    """

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column

    def __str__(self) -> str:
        return f"{self.message} (line {self.line}, column {self.column})" if self.line else self.message


def loads(text: bytes | bytearray | memoryview | str, *, unique_keys: bool = False, clamp: bool = False) -> JSON:
    """Read one JSON document. Raises JsonError with the place; never anything else."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
    digits = data.translate(_DIGITS_TO_ZERO)
    if clamp or _LONG_INTEGERS[0] in digits or _LONG_INTEGERS[1] in digits:
        return _loads_slowly(data, unique_keys, clamp)
    try:
        value: JSON = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if unique_keys or "surrogate" in error.msg or "UTF-8" in error.msg or "utf-8" in error.msg:
            return _loads_slowly(data, unique_keys, clamp)
        raise _place(error) from None
    # Every key has its colon. More colons than keys: some stand in texts, or a key was lost as a duplicate.
    if unique_keys and data.count(b":") != _count_keys(value):
        return _loads_slowly(data, unique_keys, clamp)
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _is_too_deep(value):
        raise _too_deep()
    return value


def dumps(value: JSON) -> str:
    """Write compact JSON text: no spaces, keys in their order, every digit of an integer. Raises JsonError."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return _dump_slowly(value).decode()


def dump_bytes(value: JSON) -> bytes:
    """The same as UTF-8. Nesting beyond MAX_DEPTH raises JsonError; NaN, which `loads` never gives, becomes null."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return _dump_slowly(value)


def replace_lone_surrogates(text: str) -> str:
    """The text with every lone surrogate read as U+FFFD, as everywhere in this module."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def _count_keys(value: JSON) -> int:
    count = 0
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            count += len(part)
            left += [inner for inner in part.values() if isinstance(inner, dict | list)]
        elif isinstance(part, list):
            left += [inner for inner in part if isinstance(inner, dict | list)]
    return count


def _loads_slowly(data: bytes, unique_keys: bool, clamp: bool) -> JSON:
    """The way for long digit strings, duplicate keys and lone surrogates: the standard library with strict hooks."""
    try:
        text = data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - (before.rfind(b"\n") + 1) + 1
        raise JsonError("not valid UTF-8", line, column) from None
    text = _LONE_SURROGATE.sub("\ufffd", text)
    if "\\u" in text:
        text = _ESCAPES.sub(lambda match: match[1] or "\\ufffd", text)
    duplicates: list[str] = []

    def pairs(items: list[tuple[str, JSON]]) -> dict[str, JSON]:
        made = dict(items)
        if len(made) != len(items):
            seen: set[str] = set()
            for key, _ in items:
                if key in seen:
                    duplicates.append(key)
                seen.add(key)
        return made

    try:
        value: JSON = json.loads(
            text,
            parse_int=_whole_number,
            parse_float=_clamped if clamp else _double,
            parse_constant=_no_constant,
            object_pairs_hook=pairs if unique_keys else None,
        )
    except json.JSONDecodeError as error:
        raise _place(error) from None
    except _NumberError as error:
        raise JsonError(str(error), *_find_number(text, error.literal)) from None
    except RecursionError:
        raise _too_deep() from None
    if _is_too_deep(value):
        raise _too_deep()
    if duplicates:
        raise JsonError(f"duplicate key {json.dumps(duplicates[0], ensure_ascii=False)}", *_find_duplicate(text))
    return value


class _NumberError(Exception):
    def __init__(self, message: str, literal: str) -> None:
        super().__init__(message)
        self.literal = literal


def _whole_number(literal: str) -> int:
    if len(literal) > MAX_DIGITS:
        raise _NumberError(f"an integer of {len(literal)} digits; at most {MAX_DIGITS} are read", literal)
    return int(literal)


def _double(literal: str) -> float:
    number = float(literal)
    if math.isinf(number):
        raise _NumberError(f"the number {literal[:40]} is too large for a double", literal)
    return number


def _clamped(literal: str) -> float:
    return max(min(float(literal), sys.float_info.max), -sys.float_info.max)


def _no_constant(literal: str) -> NoReturn:
    raise _NumberError(f"{literal} is not JSON", literal)


def _find_number(text: str, literal: str) -> tuple[int, int]:
    masked = re.sub(r'"(?:[^"\\]|\\.)*"', lambda match: " " * len(match[0]), text)
    return _line_column(text, max(masked.find(literal), 0))


def _find_duplicate(text: str) -> tuple[int, int]:
    """Where the first key that is a duplicate starts. The text is known to be well formed."""
    scopes: list[set[str] | None] = []
    last: tuple[str, int] | None = None
    for match in _TOKENS.finditer(text):
        token = match[0]
        if token[0] == '"':
            last = (token, match.start())
        elif token == "{":
            scopes.append(set())
        elif token == "[":
            scopes.append(None)
        elif token in "}]":
            scopes.pop()
        elif token == ":" and last is not None:
            key, scope = json.loads(last[0]), scopes[-1]
            if scope is not None:
                if key in scope:
                    return _line_column(text, last[1])
                scope.add(key)
    return (1, 1)


def _line_column(text: str, offset: int) -> tuple[int, int]:
    return text.count("\n", 0, offset) + 1, offset - (text.rfind("\n", 0, offset) + 1) + 1


def _place(error: json.JSONDecodeError) -> JsonError:
    if "depth" in error.msg or "ecursion" in error.msg:
        return _too_deep()
    if "infinity" in error.msg:
        return JsonError("the number is too large for a double", error.lineno, error.colno)
    message = error.msg[:1].lower() + error.msg[1:] if error.msg[1:2].islower() else error.msg
    return JsonError(message, error.lineno, error.colno)


def _too_deep() -> JsonError:
    return JsonError(f"more than {MAX_DEPTH} arrays and objects inside one another")


def _is_too_deep(value: JSON) -> bool:
    try:
        orjson.dumps(value)
    except TypeError as error:
        if "ecursion" in str(error):
            return True
        return any(depth > MAX_DEPTH for depth, _ in _containers(value))
    return False


def _containers(value: JSON) -> Iterator[tuple[int, list[JSON] | dict[str, JSON]]]:
    """Every array and object within, with its depth (the outermost has 1), without recursion."""
    stack: list[tuple[int, JSON]] = [(1, value)]
    while stack:
        depth, item = stack.pop()
        if isinstance(item, (list, dict)):
            yield depth, item
            if depth <= MAX_DEPTH:
                inner = item.values() if isinstance(item, dict) else item
                stack.extend((depth + 1, child) for child in inner if isinstance(child, (list, dict)))


def _dump_slowly(value: JSON) -> bytes:
    """Integers beyond 64 bits, lone surrogates and what cannot be written. Floats read the same as from orjson."""
    for depth, _ in _containers(value):
        if depth > MAX_DEPTH:
            raise _too_deep()
    try:
        return orjson.dumps(_writable(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise JsonError(f"cannot be written as JSON: {error}") from None


def _writable(value: JSON) -> object:
    if isinstance(value, dict):
        return {replace_lone_surrogates(key): _writable(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_writable(child) for child in value]
    if isinstance(value, str):
        return replace_lone_surrogates(value)
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**64:
        return orjson.Fragment(str(value))
    return value
