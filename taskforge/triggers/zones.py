"""Time zones by their IANA names, and what people write instead of them."""

from __future__ import annotations

import difflib
import re
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from importlib.resources import files
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import tzdata

from taskforge.core.problem import quoted
from taskforge.triggers.cron_fields import CronError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FORM = re.compile(r"[A-Za-z][A-Za-z0-9_+\-]*(/[A-Za-z0-9_+\-]+){0,2}", re.ASCII)
_OFFSET = re.compile(r"(?:UTC|GMT|Z)?([+-])(\d{1,2})(?::?(\d\d))?", re.ASCII | re.IGNORECASE)
_NOT_ZONES = frozenset({"localtime", "posixrules", "Factory", "leapseconds"})
_ABBREVIATIONS = {
    "BST": "Europe/London", "CEST": "Europe/Berlin", "EDT": "America/New_York", "CST": "America/Chicago",
    "CDT": "America/Chicago", "MDT": "America/Denver", "PST": "America/Los_Angeles", "PDT": "America/Los_Angeles",
    "IST": "Asia/Kolkata", "JST": "Asia/Tokyo", "AEST": "Australia/Sydney", "AEDT": "Australia/Sydney",
    "Z": "UTC",
}  # fmt: skip


def get_zone(name: str) -> tzinfo:
    """The time zone of an IANA name. CronError for any other, with the nearest name."""
    if name == "UTC":
        return UTC
    zone = _find(name)
    if zone is None:
        raise CronError(
            f"there is no time zone {quoted(name)}" if name else "the time zone is empty",
            "timezone",
            1,
            key="timezone",
            hint=_nearest(name),
        )
    return zone


def to_local(ms: int, zone: tzinfo) -> datetime:
    """Milliseconds UTC as the zone's own time. OverflowError outside the years 1 to 9999."""
    return (_EPOCH + timedelta(milliseconds=ms)).astimezone(zone)


def to_ms(moment: datetime) -> int:
    """An aware datetime as milliseconds UTC; its `fold` counts."""
    # The difference of two aware datetimes of one zone would be that of the walls' clocks.
    return (moment.astimezone(UTC) - _EPOCH) // timedelta(milliseconds=1)


def is_dst(ms: int, zone: tzinfo) -> bool:
    """Whether the zone calls this time daylight saving time."""
    return bool(to_local(ms, zone).dst())


@lru_cache(maxsize=1)
def zone_names() -> tuple[str, ...]:
    """Every name that the `tzdata` package knows. The machine's own data comes first when a zone is loaded."""
    return tuple((files(tzdata) / "zones").read_text(encoding="ascii").split())


@lru_cache(maxsize=1024)
def _find(name: str) -> ZoneInfo | None:
    if len(name) > 64 or _FORM.fullmatch(name) is None or name in _NOT_ZONES or name.startswith(("posix/", "right/")):
        return None
    known = _folded().get(name.casefold())
    if known is not None and known != name:
        return None  # A file system that ignores case would find it here, and not on the next machine.
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


@lru_cache(maxsize=1)
def _folded() -> dict[str, str]:
    return {name.casefold(): name for name in zone_names()}


def _nearest(name: str) -> str:
    offset = _OFFSET.fullmatch(name.strip())
    if offset is not None:
        sign, hours, minutes = offset.groups()
        if minutes in (None, "00") and int(hours) <= 12:
            turned = "UTC" if int(hours) == 0 else f"Etc/GMT{'-' if sign == '+' else '+'}{int(hours)}"
            turned = f'"{turned}"' + ("" if turned == "UTC" else " (its sign is the other way round)")
            return f'use a place, such as "Europe/Berlin", which follows its daylight saving time, or {turned}'
        return 'use a place, such as "Europe/Berlin" or "Asia/Kolkata"'
    if name.upper() in _ABBREVIATIONS:
        place = _ABBREVIATIONS[name.upper()]
        return f'did you mean "{place}"?'
    folded = _folded()
    wanted = name[:64].strip().replace(" ", "_").casefold()
    exact = folded.get(wanted) or next((full for key, full in folded.items() if key.endswith(f"/{wanted}")), None)
    if exact is None:
        near = difflib.get_close_matches(wanted, list(folded), n=1, cutoff=0.6)
        by_city = {key.rsplit("/", 1)[-1]: full for key, full in folded.items() if "/" in key}
        city = difflib.get_close_matches(wanted.rsplit("/", 1)[-1], list(by_city), n=1, cutoff=0.75)
        exact = folded[near[0]] if near else by_city[city[0]] if city else None
    if exact is None:
        return 'use an IANA name such as "Europe/Berlin", "America/New_York" or "UTC"'
    return f"did you mean {quoted(exact)}?"
