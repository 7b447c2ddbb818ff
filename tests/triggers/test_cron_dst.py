"""Every change of the clock of twelve zones in 2026–2030, against a walk through real time."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from taskforge.triggers.cron import parse_cron
from tests.triggers.wall_clock import DAY, HOUR, MINUTE, ZONES, around, changes, firings, ms, walk, wall

FIRST, LAST = 2026, 2030


def _at(text: str) -> int:
    return ms(datetime.fromisoformat(text).astimezone(UTC))


@pytest.mark.parametrize("name", ZONES)
def test_slots_around_every_change_are_those_of_a_walk_through_real_time(name: str) -> None:
    zone = ZoneInfo(name)
    found = changes(zone, FIRST, LAST)
    assert len(found) >= 10, "each of these zones changes its clocks twice a year"
    for change in found:
        begin, end = change - 26 * HOUR, change + 26 * HOUR
        steps = walk(zone, begin, end)
        for expression in around((wall(change - MINUTE, zone), wall(change, zone))):
            expected = firings(expression, steps)
            slots = parse_cron(expression, name).slots(begin - 1, end - 1, 10_000)
            assert slots == expected, f"{expression} in {name} around {wall(change, zone)}"


@pytest.mark.parametrize("name", ZONES)
def test_from_any_minute_the_next_slot_is_the_walks_next(name: str) -> None:
    zone = ZoneInfo(name)
    for change in changes(zone, FIRST, FIRST):
        begin, end = change - 6 * HOUR, change + 30 * HOUR
        for expression in around((wall(change - MINUTE, zone), wall(change, zone)))[::5]:
            cron = parse_cron(expression, name)
            expected = firings(expression, walk(zone, begin - DAY, end))
            for after in range(begin, change + 4 * HOUR, 7 * MINUTE):
                following = next((at for at in expected if at > after), None)
                if following is not None:
                    assert cron.next_after(after) == following
                    assert cron.next_after(following - 1) == following


TABLE = [
    # Berlin, 2026-03-29: 02:00 becomes 03:00.
    ("30 2 * * *", "Europe/Berlin", "2026-03-29T00:00+01:00", ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]),
    ("0,30 2,3 * * *", "Europe/Berlin", "2026-03-29T00:00+01:00", ["2026-03-29T03:00+02:00", "2026-03-29T03:30+02:00"]),
    ("*/30 2 * * *", "Europe/Berlin", "2026-03-29T00:00+01:00", ["2026-03-30T02:00+02:00", "2026-03-30T02:30+02:00"]),
    ("30 * * * *", "Europe/Berlin", "2026-03-29T01:00+01:00", ["2026-03-29T01:30+01:00", "2026-03-29T03:30+02:00"]),
    # Berlin, 2026-10-25: 03:00 becomes 02:00.
    ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:00+02:00", ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]),
    ("30 * * * *", "Europe/Berlin", "2026-10-25T02:00+02:00", ["2026-10-25T02:30+02:00", "2026-10-25T02:30+01:00"]),
    # New York, 2027-03-14 and 2027-11-07.
    ("15 2 * * *", "America/New_York", "2027-03-14T00:00-05:00", ["2027-03-14T03:00-04:00", "2027-03-15T02:15-04:00"]),
    ("15 1 * * *", "America/New_York", "2027-11-07T00:00-04:00", ["2027-11-07T01:15-04:00", "2027-11-08T01:15-05:00"]),
    # Lord Howe, 2026-10-04: 02:00 becomes 02:30; 2026-04-05: 02:00 becomes 01:30.
    ("15 2 * * *", "Australia/Lord_Howe", "2026-10-04T00:00+10:30",
     ["2026-10-04T02:30+11:00", "2026-10-05T02:15+11:00"]),
    ("*/15 2 * * *", "Australia/Lord_Howe", "2026-10-04T00:00+10:30",
     ["2026-10-04T02:30+11:00", "2026-10-04T02:45+11:00"]),
    ("45 * * * *", "Australia/Lord_Howe", "2026-04-05T01:00+11:00",
     ["2026-04-05T01:45+11:00", "2026-04-05T01:45+10:30"]),
    ("45 1 * * *", "Australia/Lord_Howe", "2026-04-05T00:00+11:00",
     ["2026-04-05T01:45+11:00", "2026-04-06T01:45+10:30"]),
    ("*/10 2 * * *", "Australia/Lord_Howe", "2026-04-05T00:00+11:00",
     ["2026-04-05T02:00+10:30", "2026-04-05T02:10+10:30"]),
    # Nuuk, 2026-03-28: 23:00 becomes 00:00 of the next day. Santiago, 2026-09-06: 00:00 becomes 01:00.
    ("30 23 * * *", "America/Nuuk", "2026-03-28T12:00-02:00", ["2026-03-29T00:00-01:00", "2026-03-29T23:30-01:00"]),
    ("0 0 * * *", "America/Santiago", "2026-09-05T12:00-04:00", ["2026-09-06T01:00-03:00", "2026-09-07T00:00-03:00"]),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "zone", "after", "expected"), TABLE)
def test_the_examples_of_the_documentation(expression: str, zone: str, after: str, expected: list[str]) -> None:
    cron = parse_cron(expression, zone)
    assert cron.slots(_at(after), _at(after) + 3 * DAY, len(expected)) == [_at(text) for text in expected]


def test_a_date_that_was_skipped_whole_fires_once_at_the_next_ones_beginning() -> None:
    # Samoa had no 2011-12-30.
    daily, hourly = parse_cron("30 9 * * *", "Pacific/Apia"), parse_cron("30 */8 * * *", "Pacific/Apia")
    after = _at("2011-12-29T12:00-10:00")
    assert daily.slots(after, after + 2 * DAY, 9) == [
        _at("2011-12-31T00:00+14:00"), _at("2011-12-31T09:30+14:00"), _at("2012-01-01T09:30+14:00"),
    ]  # fmt: skip
    assert hourly.slots(after, after + DAY, 2) == [_at("2011-12-29T16:30-10:00"), _at("2011-12-31T00:30+14:00")]


def test_a_fold_across_midnight_keeps_the_order_of_real_time() -> None:
    # St. John's in 2010: at 00:01 the clock went back to 23:01 of the day before.
    zone = ZoneInfo("America/St_Johns")
    change = next(at for at in changes(zone, 2010, 2010) if wall(at, zone).hour == 23)
    begin, end = change - 26 * HOUR, change + 26 * HOUR
    for expression in around((wall(change - MINUTE, zone), wall(change, zone))):
        slots = parse_cron(expression, "America/St_Johns").slots(begin - 1, end - 1, 10_000)
        assert slots == firings(expression, walk(zone, begin, end)), expression


def test_a_zone_ahead_of_2038_and_a_century_without_its_leap_day() -> None:
    late = parse_cron("30 2 * * *", "Europe/Berlin")
    assert late.next_after(_at("2060-03-28T00:00+01:00")) == _at("2060-03-28T03:00+02:00")
    leap = parse_cron("0 12 29 2 *")
    assert leap.slots(_at("2095-01-01T00:00Z"), _at("2105-01-01T00:00Z"), 9) == [
        _at("2096-02-29T12:00Z"), _at("2104-02-29T12:00Z"),
    ]  # fmt: skip
    daily = parse_cron("0 12 * * *", "Europe/Berlin")
    assert daily.next_after(_at("9998-12-31T23:59:59Z")) is None
