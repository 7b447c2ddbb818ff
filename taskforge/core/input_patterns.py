"""Which regular expressions an `inputs` schema may have: Python's `re` cannot be stopped once it runs."""

from __future__ import annotations

import re
import warnings
from typing import Any

MATCHED_LENGTH = 4_096
"""Characters; a longer text does not fit any pattern."""

_PATTERN_LENGTH = 1_000
_LARGE = 1_000


def pattern_problem(pattern: str) -> str | None:
    """Say why a pattern is refused, or None. A repetition inside a repetition can take for ever on a wrong text."""
    if len(pattern) > _PATTERN_LENGTH:
        return f"the pattern has more than {_PATTERN_LENGTH} characters"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(pattern)
            parsed = _parse(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"not a valid regular expression: {error}"
    if _depth(parsed) > 1:
        return "a repetition inside a repetition, such as (a+)+, can run for ever; write the pattern without it"
    if _count(parsed) > 4:
        return "more than 4 unbounded repetitions in a pattern can run for very long; write it simpler"
    return None


def _parse(pattern: str) -> Any:
    from re import _parser  # type: ignore[attr-defined]

    return _parser.parse(pattern)


def _inner(item: Any) -> list[Any]:
    """The patterns inside one parsed item (operator, argument)."""
    _, argument = item
    found: list[Any] = []
    pending = [argument]
    while pending:
        part = pending.pop()
        if hasattr(part, "data"):
            found.append(part)
        elif isinstance(part, tuple | list):
            pending.extend(part)
    return found


def _is_repeat(item: Any) -> bool:
    operator, argument = item
    return str(operator) in ("MAX_REPEAT", "MIN_REPEAT") and int(argument[1]) >= _LARGE


def _depth(parsed: Any) -> int:
    """How deep unbounded repetitions stand inside one another."""
    deepest = 0
    for item in parsed:
        below = max((_depth(inner) for inner in _inner(item)), default=0)
        deepest = max(deepest, below + _is_repeat(item))
    return deepest


def _count(parsed: Any) -> int:
    return sum(_is_repeat(item) + sum(_count(inner) for inner in _inner(item)) for item in parsed)
