"""What Debian's cron would do, found by walking real time minute by minute: the independent witness of the tests.

Nothing here is shared with the program: fields are expanded anew, and a zone is only ever asked what its clocks show at
an instant, never the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

ZONES = (
    "Europe/Berlin",
    "Europe/Dublin",  # its winter is the "daylight saving" time
    "America/New_York",
    "America/St_Johns",  # UTC-3:30
    "America/Havana",  # midnight is skipped
    "America/Santiago",  # midnight is skipped, the hour before midnight comes twice
    "America/Nuuk",  # the hour before midnight is skipped
    "Africa/Casablanca",  # back for Ramadan, on dates of the moon
    "Asia/Beirut",
    "Australia/Lord_Howe",  # half an hour
    "Australia/Sydney",
    "Pacific/Chatham",  # at 2:45, UTC+12:45
)

Parts = tuple[int, int, int, int, int]
"""Minute, hour, day, month and weekday."""

Walk = list[tuple[int, Parts, list[Parts]]]
"""Instants, each with what the wall shows, and the wall minutes that are new."""


def ms(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)


def wall(at: int, zone: ZoneInfo) -> datetime:
    """What the zone's clocks show, as a naive time."""
    return (EPOCH + timedelta(milliseconds=at)).astimezone(zone).replace(tzinfo=None, fold=0)


def changes(zone: ZoneInfo, first: int, last: int) -> list[int]:
    """The instants, to the minute, from which on the zone's clocks show another difference to UTC."""
    found, begin, end = [], ms(datetime(first, 1, 1, tzinfo=UTC)), ms(datetime(last + 1, 1, 1, tzinfo=UTC))
    before = wall(begin, zone) - wall(begin, ZoneInfo("UTC"))
    for hour in range(begin, end, HOUR):
        if _offset(hour + HOUR, zone) != before:
            at = next(at for at in range(hour, hour + HOUR + 1, MINUTE) if _offset(at, zone) != before)
            found.append(at)
            before = _offset(hour + HOUR, zone)
    return found


def _offset(at: int, zone: ZoneInfo) -> timedelta:
    return wall(at, zone) - (EPOCH + timedelta(milliseconds=at)).replace(tzinfo=None)


def walk(zone: ZoneInfo, begin: int, end: int) -> Walk:
    """Every minute in [begin, end) with what the clocks show, and the wall minutes that are new then: shown or skipped.

    The clock may jump over wall minutes, and show some a second time: these are not new.
    """
    steps: Walk = []
    shown = wall(begin, zone)
    seen = shown - timedelta(minutes=1)
    for at in range(begin, end, MINUTE):
        shown = wall(at, zone)
        ahead = (shown - seen) // timedelta(minutes=1)
        new = [_parts(seen + timedelta(minutes=count)) for count in range(1, ahead + 1)]
        steps.append((at, _parts(shown), new))
        seen = max(seen, shown)
    return steps


def _parts(shown: datetime) -> Parts:
    return shown.minute, shown.hour, shown.day, shown.month, shown.isoweekday() % 7


def expand(field: str, low: int, high: int) -> set[int]:
    found = set()
    for item in field.split(","):
        base, _, step = item.partition("/")
        first, _, last = base.partition("-")
        ends = (low, high) if base == "*" else (int(first), int(last or first))
        found |= set(range(ends[0], ends[1] + 1, int(step or 1)))
    return found


def firings(expression: str, steps: Walk) -> list[int]:
    """When Debian's cron runs the job, as it walks: each minute it looks at the clock on the wall.

    A job whose minute or hour begins with `*` runs whenever the wall shows its time. Another one runs for every wall
    minute that is new: those that the clock has jumped over count at the minute it jumped to, and those that the wall
    has shown before do not count again.
    """
    minute, hour, day, month, weekday = expression.split()
    minutes, hours = expand(minute, 0, 59), expand(hour, 0, 23)
    days, months = expand(day, 1, 31), expand(month, 1, 12)
    weekdays = {number % 7 for number in expand(weekday, 0, 7)}
    both = day.startswith("*") or weekday.startswith("*")

    def matches(parts: Parts) -> bool:
        if parts[0] not in minutes or parts[1] not in hours or parts[3] not in months:
            return False
        by_day, by_weekday = parts[2] in days, parts[4] in weekdays
        return (by_day and by_weekday) if both else (by_day or by_weekday)

    if minute.startswith("*") or hour.startswith("*"):
        return [at for at, shown, _ in steps if matches(shown)]
    return [at for at, _, new in steps if any(matches(parts) for parts in new)]


def around(shown: Sequence[datetime]) -> list[str]:
    """Expressions that a change between these two wall times (the last before, the first after) may disturb."""
    before, after = shown
    early, late = sorted((before.hour, after.hour))
    hours = sorted({(early - 1) % 24, early, late, (late + 1) % 24, (early + 1) % 24})
    listed = ",".join(map(str, hours))
    date = f"{after.day} {after.month}"
    return [
        "* * * * *", "*/15 * * * *", "0 * * * *", "30 * * * *", "45 * * * *", "7 */2 * * *", "0-59 0-23 * * *",
        "0,15,30,45 0-23 * * *", "0 0 * * *", "30 0 * * *", "59 23 * * *", "30 23 * * *", "*/10 0 * * *",
        f"*/10 {listed} * * *", f"10 {listed} * * *", f"50,20 {listed} * * *", f"0 {listed} * * 0",
        f"30 {listed} {date} *", f"*/20 {listed} {date} *", f"15 {listed} {date} 6", f"40 {listed} */2 * 0,6",
        *(f"{minute} {hour} * * *" for hour in hours for minute in ("0", "30", "*/15", "44,46")),
    ]  # fmt: skip
