"""Times as people write them: a length of time before or after now, or RFC 3339."""

from __future__ import annotations

import re

from taskforge.cli.failure import CommandError, Exit

NARROW = 90
"""Below so many columns a table shows times short, and leaves out what matters least."""


def is_narrow(columns: int | None) -> bool:
    """Is the terminal too narrow for all that a table could show? None: lines may be of any length."""
    return columns is not None and columns < NARROW


def brief(text: str | None, columns: int | None = None) -> str:
    """An answer's time without fractions of a second, and on a narrow terminal without the year too."""
    if not text:
        return ""
    return text[5:16].replace("T", " ") if is_narrow(columns) else re.sub(r"\.\d+Z$", "Z", text)


def ago(text: str | None) -> str | None:
    """`24h` is so long before now. Raises CommandError."""
    return None if text is None else _moment(text, -1, "write 24h (so long ago) or 2026-11-23T02:37:01Z")


def ahead(text: str | None) -> str | None:
    """`90d` is so long after now. Raises CommandError."""
    return None if text is None else _moment(text, 1, "write 90d (from now) or 2027-01-01T00:00:00Z")


def _moment(text: str, sign: int, hint: str) -> str:
    from taskforge.core.clock import SystemClock, from_rfc3339, to_rfc3339
    from taskforge.core.durations import parse_duration

    try:
        return to_rfc3339(from_rfc3339(text))
    except ValueError:
        pass
    try:
        return to_rfc3339(SystemClock().wall() + sign * parse_duration(text))
    except (ValueError, OverflowError):
        raise CommandError(f"{text!r} is no time", hint=hint, code=Exit.USAGE) from None
