"""Cron expressions as instants: which dates match is cronsim's to say, and where they lie in real time is ours.

Rules are those of Debian's cron. cronsim also knows them, but walks its clock in whole hours, which goes wrong where
the clock changes by half an hour (Lord Howe Island); so it is asked about dates alone, and each wall time of a date is
placed by the zone's own rules.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import field
from datetime import MAXYEAR, UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import islice, takewhile
from typing import Final

from cronsim import CronSim, CronSimError

from taskforge.core.record import dataclass
from taskforge.triggers.cron_fields import CronError, Fields, read_fields
from taskforge.triggers.zones import get_zone, to_local, to_ms

LATEST_MS: Final = 253_370_764_799_999
"""9998-12-31T23:59:59.999Z: no slot is later, so that no sum of times leaves the calendar."""

_REFERENCE_MS: Final = 1_767_225_600_000  # 2026-01-01: from here on an expression must have a time at all
_YEARS_WITHOUT = 50  # Feb 29 on one weekday is at most 40 years away, over a century that has none
_DAY_MS = 86_400_000
_MINUTE_MS = 60_000
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_MONTH_NAMES = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression in a time zone. Times are int milliseconds UTC. Make one with `parse_cron`."""

    text: str
    timezone: str
    fields: Fields
    zone: tzinfo = field(repr=False)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Warnings in words: what is valid, but perhaps not what was meant."""
        return self.fields.remarks

    def next_after(self, ms: int) -> int | None:
        """The first time strictly after `ms`; None when there is none within the calendar."""
        return next(self.after(ms), None)

    def slots(self, after_ms: int, until_ms: int, limit: int) -> list[int]:
        """At most `limit` times in (after, until], rising."""
        return list(islice(takewhile(lambda at: at <= until_ms, self.after(after_ms)), limit))

    def after(self, ms: int) -> Iterator[int]:
        """All times strictly after `ms`, rising, none twice; ends where none follows for 50 years."""
        last = max(ms, -1)
        if last >= LATEST_MS:
            return
        # Wall times of a date can lie up to a day beside it, where a change of the clock crosses midnight.
        first = to_local(last, self.zone).date() - timedelta(days=1)
        held: list[int] = []
        held_day = first
        offsets = _offsets(self.fields.hours, self.fields.minutes)
        barren = first.year
        for day in _dates(self.fields.days, first):
            if held and (day - held_day).days > 1:
                yield from (at for at in held if at > last)
                last, held, barren = max(last, held[-1]), [], day.year
            if day.year - barren > _YEARS_WITHOUT:
                return
            base = _plain_base(self.zone, day)
            if base is None:
                # The clock changes: times of two neighbouring dates may interleave, so they are sorted together.
                held = sorted({*held, *_changed_day(self.zone, day, offsets, self.fields.rhythm)})
                held_day = day
                continue
            if held:
                yield from (at for at in held if at > last)
                last, held = max(last, held[-1]), []
            barren = day.year
            for index in range(bisect_right(offsets, last - base), len(offsets)):
                yield base + offsets[index]
        yield from (at for at in held if at > last)


def parse_cron(text: str, timezone: str = "UTC") -> Cron:
    """Read five fields or an alias such as `@daily`. CronError names the field and the column, and what to write.

    `@every` is no cron: see `schedule.parse_schedule`.
    """
    fields = read_fields(text)
    cron = Cron(text, timezone, fields, get_zone(timezone))
    if cron.next_after(_REFERENCE_MS) is None:
        raise _never(cron)
    return cron


def place_local(naive: datetime, zone: tzinfo) -> int:
    """A wall time as an instant: the first minute after the gap it falls into, the first of the two in a fold."""
    early, late = to_ms(naive.replace(tzinfo=zone)), to_ms(naive.replace(tzinfo=zone, fold=1))
    return early if early <= late else _gap_end(zone, late, early)


def _never(cron: Cron) -> CronError:
    day, month, weekday = cron.fields.days
    column = cron.fields.columns[2]
    try:
        if next(_dates(cron.fields.days, date(2026, 1, 1)), None) is not None:
            message = f"it never fires: in {cron.timezone} the clock skips these times whenever the date matches"
            hint = "a time with no * in minute and hour fires at the first minute after the gap"
            return CronError(message, "hour", cron.fields.columns[1], hint=hint)
    except CronSimError:
        pass
    if day == "*" or weekday != "*":
        message = f'it never fires: no date matches the day "{day}", the month and the weekday "{weekday}" together'
        hint = "a day field that begins with * makes both count; without it either is enough"
        return CronError(message, "day", column, hint=hint)
    names = _MONTH_NAMES[int(month) - 1] if month.isdigit() else "these months"
    message = f'it never fires: there is no day "{day}" in {names}'
    return CronError(message, "day", column, hint='"L" is the last day of any month')


# ---- dates


@lru_cache(maxsize=512)
def _matcher(days: tuple[str, str, str]) -> CronSim:
    return CronSim(f"0 0 {' '.join(days)}", datetime(2026, 1, 1))


def _dates(days: tuple[str, str, str], first: date) -> Iterator[date]:
    """Matching dates from `first`, rising; ends after 50 years without one, or with the calendar."""
    try:
        matcher = _matcher(days)
    except CronSimError:  # cronsim's word for a day that none of the months has
        return
    months, every = matcher.months, days[0] == "*" and days[2] == "*"
    day, latest, one = first, first.year + _YEARS_WITHOUT, timedelta(days=1)
    while day.year < MAXYEAR and day.year <= latest:
        if day.month not in months:
            day = date(day.year + day.month // 12, day.month % 12 + 1, 1)
            continue
        if every or matcher.match_day(day):
            yield day
            latest = day.year + _YEARS_WITHOUT
        day += one


# ---- times of a date


@lru_cache(maxsize=512)
def _offsets(hours: tuple[int, ...], minutes: tuple[int, ...]) -> tuple[int, ...]:
    """The wall times of a date, in milliseconds from its midnight."""
    return tuple((hour * 60 + minute) * _MINUTE_MS for hour in hours for minute in minutes)


def _plain_base(zone: tzinfo, day: date) -> int | None:
    """The instant of the date's midnight where no change of the clock touches the date; else None."""
    base = (day.toordinal() - _EPOCH_DAY) * _DAY_MS
    if zone is UTC:
        return base
    start = datetime(day.year, day.month, day.day, tzinfo=zone)
    end = start + timedelta(days=1)
    offset = start.utcoffset()
    for other in (start.replace(fold=1), end, end.replace(fold=1)):
        if other.utcoffset() != offset:
            return None
    return base - (offset or timedelta()) // timedelta(milliseconds=1)


@lru_cache(maxsize=256)
def _changed_day(zone: tzinfo, day: date, offsets: tuple[int, ...], rhythm: bool) -> tuple[int, ...]:
    """Instants of a date on which the clock changes. `rhythm` skips a gap and counts both times of a fold."""
    midnight = datetime(day.year, day.month, day.day)
    found: set[int] = set()
    for offset in offsets:
        naive = midnight + timedelta(milliseconds=offset)
        early, late = to_ms(naive.replace(tzinfo=zone)), to_ms(naive.replace(tzinfo=zone, fold=1))
        if early <= late:
            found |= {early, late} if rhythm else {early}
        elif not rhythm:
            found.add(_gap_end(zone, late, early))
    return tuple(sorted(found))


def _gap_end(zone: tzinfo, before_ms: int, after_ms: int) -> int:
    """The first whole wall minute after the change of the clock that lies in (before, after]."""
    target = to_local(after_ms, zone).utcoffset()
    low, high = before_ms // 1000, after_ms // 1000
    while high - low > 1:
        middle = (low + high) // 2
        if to_local(middle * 1000, zone).utcoffset() == target:
            high = middle
        else:
            low = middle
    second = to_local(high * 1000, zone).second
    return (high + (60 - second) % 60) * 1000
