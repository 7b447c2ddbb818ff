"""Durations as people write them (`500ms 30s 10m 2h 1d`, or seconds) and as we keep them: int milliseconds."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache

MAX_DURATION_MS = 3650 * 86_400_000
"""Ten years of 365 days. Longer is a mistake, and keeps every sum of times far from overflow."""

_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[dhms])", re.ASCII)
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)
_FORMS = 'write it like "500ms", "30s", "10m", "2h", "1d" or "1h30m", or as a number of seconds'
_LONGEST = 64  # characters; nothing sensible is longer


def parse_duration(value: str | int | float) -> int:
    """Milliseconds, 0 to 10 years, rounded to the nearest. Raises ValueError that says what is accepted.

    Units of a compound value fall (`1h30m`, not `30m1h`). A text of digits alone is seconds, as a number is.
    """
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a duration; {_FORMS}")
    if isinstance(value, int | float):
        return _from_seconds(value)
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        raise ValueError(f"{kind} is not a duration; {_FORMS}")
    return _from_text(value)


def format_duration(ms: int) -> str:
    """Short text for people, at most two units: `850ms`, `12.3s`, `4m10s`, `2h5m`, `3d4h`. Rounds down."""
    if ms < 0:
        return "-" + format_duration(-ms)
    if ms < 1_000:
        return f"{ms}ms"
    if ms < 60_000:
        seconds, tenths = divmod(ms // 100, 10)
        return f"{seconds}.{tenths}s" if tenths else f"{seconds}s"
    for unit, below in (("d", "h"), ("h", "m"), ("m", "s")):
        if ms >= _UNITS[unit]:
            whole, rest = divmod(ms, _UNITS[unit])
            part = rest // _UNITS[below]
            return f"{whole}{unit}{part}{below}" if part else f"{whole}{unit}"
    raise AssertionError("every duration has a unit")


def _from_seconds(value: int | float) -> int:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a duration; {_FORMS}")
    if value < 0:
        raise ValueError("a duration must not be negative; accepted: 0 to 10 years (3650d)")
    if value > MAX_DURATION_MS // 1000:
        raise _out_of_range()
    return round(Fraction(value) * 1000)


@lru_cache(maxsize=256)
def _from_text(text: str) -> int:
    if not text.strip():
        raise ValueError(f"the duration is empty; {_FORMS}")
    shown = f'"{text[:_LONGEST]}"' if text.isprintable() else ascii(text[:_LONGEST])
    body = text.strip(" ")
    if body.startswith("-"):
        raise ValueError(f"{shown}: a duration must not be negative; accepted: 0 to 10 years (3650d)")
    if len(body) > _LONGEST:
        raise ValueError(f"{shown}… is not a duration; {_FORMS}")
    total, last = Fraction(0), math.inf
    if _SECONDS.fullmatch(body):
        total, end = Fraction(body) * 1000, len(body)
    else:
        end = 0
        while (part := _PART.match(body, end)) and _UNITS[part[2]] < last:
            last = _UNITS[part[2]]
            total += Fraction(part[1]) * last
            end = part.end()
    if end != len(body):
        raise ValueError(f"{shown} is not a duration; {_FORMS}")
    if total > MAX_DURATION_MS:
        raise _out_of_range()
    return round(total)


def _out_of_range() -> ValueError:
    return ValueError("the duration is too long; accepted: 0 to 10 years (3650d)")
