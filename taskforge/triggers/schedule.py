"""Schedules: when a cron trigger's slots are. A slot is a time at which one run is to start, by the plan.

A schedule is a cron expression, a period (`@every 90s`), or one time (`at`), with bounds, jitter and what to do about
slots that nobody was there for. All times are int milliseconds UTC. Nothing here knows the time of day.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from hashlib import blake2b
from itertools import islice, takewhile
from typing import Any, Final, Literal, cast

from taskforge.core.durations import parse_duration
from taskforge.core.problem import quoted
from taskforge.core.record import dataclass
from taskforge.triggers.cron import LATEST_MS, Cron, parse_cron, place_local
from taskforge.triggers.cron_fields import CronError
from taskforge.triggers.zones import get_zone, to_ms

CatchUp = Literal["latest", "all", "none"]
CATCH_UPS: Final = ("latest", "all", "none")
KEYS: Final = ("cron", "at", "timezone", "start", "end", "jitter", "catch_up", "catch_up_window")
"""The settings of a cron trigger that `parse_schedule` reads."""

MIN_PERIOD_MS: Final = 1_000
MAX_JITTER_MS: Final = 86_400_000
ALL_WINDOW_MS: Final = 30 * 86_400_000
"""The window of `catch_up: all` where none is set. `latest` has none: its one slot counts however old it is."""

_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
_LOOK_BACK = (2 * _HOUR_MS, 2 * _DAY_MS, 62 * _DAY_MS, 800 * _DAY_MS, 4_000 * _DAY_MS)
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d)(:\d\d(?:\.\d{1,9})?)?)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)
_TIME_FORMS = 'write it like "2027-03-01", "2027-03-01T09:00" (in the schedule\'s time zone) or "2027-03-01T09:00:00Z"'


@dataclass(frozen=True, slots=True)
class Schedule:
    """One of `cron`, `every_ms` and `at_ms` is set. Make one with `parse_schedule`.

    `start_ms` and `end_ms` are both inclusive. Slots of a period are `anchor_ms` + n × `every_ms`. `window_ms` None:
    any age. `text` is the expression as written.
    """

    text: str
    timezone: str
    zone: tzinfo = field(repr=False)
    cron: Cron | None = None
    every_ms: int | None = None
    at_ms: int | None = None
    anchor_ms: int = 0
    start_ms: int | None = None
    end_ms: int | None = None
    jitter_ms: int = 0
    catch_up: CatchUp = "latest"
    window_ms: int | None = None

    @property
    def remarks(self) -> tuple[str, ...]:
        """Warnings in words."""
        return () if self.cron is None else self.cron.remarks

    def anchored(self, created_ms: int) -> Schedule:
        """The schedule whose period counts from its creation; a `start` of its own goes before."""
        return self if self.every_ms is None or self.start_ms is not None else replace(self, anchor_ms=created_ms)

    def after(self, ms: int) -> Iterator[int]:
        """All slots strictly after `ms`, rising."""
        low = ms if self.start_ms is None else max(ms, self.start_ms - 1)
        end = LATEST_MS if self.end_ms is None else self.end_ms
        if self.cron is not None:
            found = self.cron.after(low)
        elif self.every_ms is not None:
            number = max((low - self.anchor_ms) // self.every_ms + 1, 0)
            found = iter(range(self.anchor_ms + number * self.every_ms, end + 1, self.every_ms))
        else:
            found = iter(() if self.at_ms is None or self.at_ms <= low else (self.at_ms,))
        return takewhile(lambda at: at <= end, found)

    def next_after(self, ms: int) -> int | None:
        """The first slot strictly after `ms`, or None."""
        return next(self.after(ms), None)

    def slots(self, after_ms: int, until_ms: int, limit: int) -> list[int]:
        """At most `limit` slots in (after, until], rising."""
        return list(islice(takewhile(lambda at: at <= until_ms, self.after(after_ms)), limit))

    def last_within(self, after_ms: int, until_ms: int) -> int | None:
        """The last slot in (after, until], or None. Looks back in growing strides, so that a long range is cheap."""
        for stride in (*_LOOK_BACK, until_ms - after_ms):
            low = max(after_ms, until_ms - stride)
            last = None
            for at in self.after(low):
                if at > until_ms:
                    break
                last = at
            if last is not None or low == after_ms:
                return last
        return None

    def due(self, at: int, seed: str) -> int:
        """When the slot is to fire: the same for the same seed, less than `jitter_ms` later, before the next slot."""
        if self.jitter_ms <= 0:
            return at
        following = self.next_after(at)
        room = self.jitter_ms if following is None else min(self.jitter_ms, following - at)
        digest = blake2b(f"{seed}\0{at}".encode(), digest_size=8).digest()
        return at + int.from_bytes(digest, "big") % room

    def next_due(self, after: int, seed: str) -> int | None:
        """When the first slot after this time is to fire, with its jitter; None: there is none."""
        slot = self.next_after(after)
        return None if slot is None else self.due(slot, seed)


def parse_schedule(value: Mapping[str, Any]) -> Schedule:
    """Read a trigger's settings (see `KEYS`; others are not looked at). CronError says which is wrong.

    `cron` is five fields, `@hourly` … `@yearly`, or `@every 90s`; `at` is one time instead of it.
    """
    if ("cron" in value) == ("at" in value):
        key = "at" if "at" in value else "cron"
        raise CronError("a schedule has either `cron` or `at`", key, key=key)
    timezone = _text(value, "timezone", "UTC")
    zone = get_zone(timezone)
    start = _bound(value, "start", zone)
    end = _bound(value, "end", zone, to_end_of_day=True)
    if start is not None and end is not None and end < start:
        raise CronError("the schedule's end is before its start", "end", key="end")
    jitter = _duration(value, "jitter") or 0
    if jitter > MAX_JITTER_MS:
        raise CronError("the jitter is longer than a day; accepted: 0 to 1d", "jitter", 1, key="jitter")
    catch_up = value.get("catch_up") or "latest"
    if catch_up not in CATCH_UPS:
        message = f"catch_up is {quoted(str(catch_up))}; accepted: latest, all, none"
        raise CronError(message, "catch_up", 1, key="catch_up")
    window = _duration(value, "catch_up_window")
    common = Schedule(
        text=_text(value, "cron" if "cron" in value else "at", ""),
        timezone=timezone,
        zone=zone,
        anchor_ms=start or 0,
        start_ms=start,
        end_ms=end,
        jitter_ms=jitter,
        catch_up=cast("CatchUp", catch_up),
        window_ms=ALL_WINDOW_MS if window is None and catch_up == "all" else window,
    )
    schedule = _with_times(common, "at" in value)
    if start is not None and schedule.next_after(start - 1) is None:
        raise CronError("it never fires: there is no slot between `start` and `end`", "start", 1, key="start")
    return schedule


def _with_times(common: Schedule, once: bool) -> Schedule:
    text = common.text
    if once:
        at = _time(text, "at", common.zone)
        if not (common.start_ms or at) <= at <= (at if common.end_ms is None else common.end_ms):
            raise CronError("it never fires: `at` is not between `start` and `end`", "at", 1, key="at")
        return replace(common, at_ms=at)
    word, _, rest = text.strip(" \t").partition(" ")
    if word.lower() == "@every":
        return replace(common, every_ms=_period(text, rest))
    return replace(common, cron=parse_cron(text, common.timezone))


def _period(text: str, rest: str) -> int:
    column = text.index(rest) + 1 + len(rest) - len(rest.lstrip()) if rest.strip() else len(text.rstrip()) + 1
    if not rest.strip():
        raise CronError("@every has no period", "cron", column, hint='write it like "@every 90s" or "@every 1h30m"')
    try:
        period = parse_duration(rest.strip())
    except ValueError as error:
        raise CronError(f"the period of @every: {error}", "cron", column) from None
    if period < MIN_PERIOD_MS:
        raise CronError("the period of @every is shorter than a second; accepted: 1s to 3650d", "cron", column)
    return period


def parse_time(text: str, zone: tzinfo) -> int:
    """A time with an offset, or one on the zone's own clocks (a date alone is its midnight), as milliseconds UTC.

    A wall time in a gap is the first minute after it; of the two in a fold, the first. ValueError says what is taken.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{quoted(text)} is not a time; {_TIME_FORMS}")
    day, minute, second, offset = match.groups()
    if minute is None and offset is not None:
        raise ValueError(f"{quoted(text)} has an offset but no time; {_TIME_FORMS}")
    try:
        moment = datetime.fromisoformat(f"{day}T{minute or '00:00'}{(second or ':00')[:7]}")
        moment = moment if offset is None else datetime.fromisoformat(f"{moment.isoformat()}{offset.upper()}")
        found = place_local(moment, zone) if offset is None else to_ms(moment)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{quoted(text)} is not a time that exists: {error}") from None
    if not 0 <= found <= LATEST_MS:
        raise ValueError(f"{quoted(text)} is outside the years 1970 to 9998")
    return found


def _time(text: str, key: str, zone: tzinfo) -> int:
    try:
        return parse_time(text, zone)
    except ValueError as error:
        raise CronError(str(error), key, 1, key=key) from None


def _bound(value: Mapping[str, Any], key: str, zone: tzinfo, *, to_end_of_day: bool = False) -> int | None:
    if value.get(key) is None:
        return None
    text = _text(value, key, "")
    found = _time(text, key, zone)
    if to_end_of_day and len(text.strip()) == len("2027-03-01"):
        following = datetime.fromisoformat(text.strip()) + timedelta(days=1)
        found = place_local(following, zone) - 1
    return found


def _duration(value: Mapping[str, Any], key: str) -> int | None:
    if value.get(key) is None:
        return None
    try:
        return parse_duration(value[key])
    except ValueError as error:
        raise CronError(f"{key}: {error}", key, 1, key=key) from None


def _text(value: Mapping[str, Any], key: str, default: str) -> str:
    found = value.get(key)
    if found is None:
        found = default
    if not isinstance(found, str):
        raise CronError(f"`{key}` is a text in quotes", key, 1, key=key)
    return found


__all__ = [
    "ALL_WINDOW_MS", "CATCH_UPS", "KEYS", "MAX_JITTER_MS", "MIN_PERIOD_MS", "UTC", "CatchUp", "CronError", "Schedule",
    "parse_schedule", "parse_time",
]  # fmt: skip


def seed_of(workflow: str, trigger: str) -> str:
    """What gives a schedule's slots their jitter: the same wherever and whenever it is asked."""
    return f"{workflow}/{trigger}"
