"""Schedules as a trigger writes them: cron, periods and single times, with bounds, jitter and policy."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge.core.clock import from_rfc3339
from taskforge.triggers.cron import LATEST_MS
from taskforge.triggers.cron_fields import CronError
from taskforge.triggers.schedule import ALL_WINDOW_MS, Schedule, parse_schedule, parse_time
from taskforge.triggers.zones import get_zone

MINUTE, DAY = 60_000, 86_400_000
NOW = from_rfc3339("2026-05-04T12:00:00Z")


def _at(text: str) -> int:
    return from_rfc3339(text)


def test_what_is_left_out_has_its_default() -> None:
    schedule = parse_schedule({"cron": "0 9 * * *", "timezone": None, "start": None, "input": {"a": 1}})
    assert (schedule.timezone, schedule.catch_up, schedule.window_ms, schedule.jitter_ms) == ("UTC", "latest", None, 0)
    assert parse_schedule({"cron": "0 9 * * *", "catch_up": "all"}).window_ms == ALL_WINDOW_MS
    assert parse_schedule({"cron": "0 9 * * *", "catch_up": "all", "catch_up_window": "2d"}).window_ms == 2 * DAY
    assert parse_schedule({"cron": "0 9 * * *", "jitter": 90}).jitter_ms == 90_000


@pytest.mark.parametrize("text", ["@every 90s", "@EVERY 90", " @every   1m30s "])
def test_a_period_counts_from_its_anchor_and_not_from_the_wall(text: str) -> None:
    schedule = parse_schedule({"cron": text}).anchored(NOW + 7)
    assert schedule.slots(NOW + 7, NOW + 300_000, 9) == [NOW + 7 + 90_000 * number for number in (1, 2, 3)]
    assert schedule.next_after(NOW - DAY) == NOW + 7
    assert schedule.anchored(NOW) == parse_schedule({"cron": text}).anchored(NOW)
    started = parse_schedule({"cron": text, "start": "2026-05-04T12:00:00Z"})
    assert started.anchored(5) == started and started.next_after(0) == NOW


def test_a_long_period_takes_no_search() -> None:
    schedule = parse_schedule({"cron": "@every 1s"}).anchored(0)
    assert schedule.next_after(LATEST_MS - 5_000) == LATEST_MS - 4_999
    assert schedule.last_within(0, LATEST_MS - 1) == LATEST_MS - 999
    assert schedule.next_after(LATEST_MS) is None


def test_one_time_is_one_slot() -> None:
    schedule = parse_schedule({"at": "2026-10-25T02:30", "timezone": "Europe/Berlin"})
    assert list(schedule.after(0)) == [_at("2026-10-25T00:30:00Z")]
    assert schedule.next_after(_at("2026-10-25T00:30:00Z")) is None


def test_start_and_end_are_both_inside() -> None:
    settings = {"cron": "0 9 * * *", "start": "2026-05-02T09:00:00Z", "end": "2026-05-04T09:00:00Z"}
    schedule = parse_schedule(settings)
    assert list(schedule.after(0)) == [_at(f"2026-05-0{day}T09:00:00Z") for day in (2, 3, 4)]
    assert schedule.last_within(0, LATEST_MS) == _at("2026-05-04T09:00:00Z")
    assert schedule.last_within(_at("2026-05-04T09:00:00Z"), LATEST_MS) is None


def test_an_end_that_is_a_date_holds_the_whole_day_on_the_zones_clocks() -> None:
    settings = {"cron": "30 23 * * *", "timezone": "Asia/Tokyo", "start": "2026-05-30", "end": "2026-05-31"}
    assert list(parse_schedule(settings).after(0)) == [_at("2026-05-30T14:30:00Z"), _at("2026-05-31T14:30:00Z")]


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("2026-05-04T12:00:00Z", "Europe/Berlin", "2026-05-04T12:00:00Z"),
        ("2026-05-04t12:00z", "Europe/Berlin", "2026-05-04T12:00:00Z"),
        ("2026-05-04T12:00:00.250+02:00", "UTC", "2026-05-04T10:00:00.250Z"),
        ("2026-05-04 12:00", "Europe/Berlin", "2026-05-04T10:00:00Z"),
        ("2026-05-04", "Europe/Berlin", "2026-05-03T22:00:00Z"),
        ("2026-03-29T02:30", "Europe/Berlin", "2026-03-29T01:00:00Z"),  # in the gap: its end
        ("2026-10-25T02:30", "Europe/Berlin", "2026-10-25T00:30:00Z"),  # twice: the first
        ("2026-10-25T02:30+01:00", "Europe/Berlin", "2026-10-25T01:30:00Z"),
        ("2026-09-06", "America/Santiago", "2026-09-06T04:00:00Z"),  # no midnight on that day
    ],
)
def test_times_are_with_an_offset_or_on_the_zones_clocks(text: str, zone: str, expected: str) -> None:
    assert parse_time(text, get_zone(zone)) == _at(expected)


@pytest.mark.parametrize(
    ("settings", "key", "words"),
    [
        ({}, "cron", "either"),
        ({"cron": "* * * * *", "at": "2026-05-04"}, "at", "either"),
        ({"cron": 5}, "cron", "text"),
        ({"cron": "@every"}, "cron", "no period"),
        ({"cron": "@every soon"}, "cron", "soon"),
        ({"cron": "@every 500ms"}, "cron", "shorter than a second"),
        ({"cron": "@every 99999d"}, "cron", "too long"),
        ({"cron": "* * * * *", "timezone": "Europe/Berln"}, "timezone", "Berln"),
        ({"cron": "* * * * *", "timezone": 5}, "timezone", "text"),
        ({"cron": "* * * * *", "start": "tomorrow"}, "start", "tomorrow"),
        ({"cron": "* * * * *", "start": "2026-02-30"}, "start", "exists"),
        ({"cron": "* * * * *", "start": "1900-01-01"}, "start", "1970"),
        ({"cron": "* * * * *", "end": "2026-05-04Z"}, "end", "offset but no time"),
        ({"cron": "* * * * *", "start": "2026-05-04", "end": "2026-05-03"}, "end", "before its start"),
        ({"cron": "0 0 1 1 *", "start": "2026-02-01", "end": "2026-03-01"}, "start", "no slot between"),
        ({"cron": "* * * * *", "jitter": "2d"}, "jitter", "a day"),
        ({"cron": "* * * * *", "jitter": "x"}, "jitter", "x"),
        ({"cron": "* * * * *", "catch_up": "some"}, "catch_up", "latest, all, none"),
        ({"cron": "* * * * *", "catch_up_window": "-1s"}, "catch_up_window", "negative"),
        ({"at": "2026-05-04T12:00", "end": "2026-05-01"}, "at", "not between"),
        ({"at": "2026-05-04T12:00", "start": "2026-05-05"}, "at", "not between"),
        ({"at": "12:00"}, "at", "not a time"),
    ],
)
def test_a_refusal_names_the_setting(settings: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(CronError) as caught:
        parse_schedule(settings)
    assert caught.value.key == key and words in str(caught.value)


SCHEDULES = st.sampled_from(
    [
        parse_schedule({"cron": "*/7 * * * *", "timezone": "Australia/Lord_Howe"}),
        parse_schedule({"cron": "0 0 29 2 *"}),
        parse_schedule({"cron": "30 2 * * SUN", "timezone": "Europe/Berlin", "end": "2027-03-28"}),
        parse_schedule({"cron": "@every 1000s", "start": "2026-05-04T00:00:00Z"}),
        parse_schedule({"at": "2026-05-04T00:00:00Z"}),
    ]
)


@given(
    SCHEDULES, st.integers(NOW - 9 * 365 * DAY, NOW + 2 * DAY), st.integers(0, 9 * 365 * DAY), st.integers(0, 40 * DAY)
)
def test_the_last_slot_of_a_range_is_found_without_reading_it_all(
    schedule: Schedule, after: int, long: int, short: int
) -> None:
    for span in (long, short):
        last = schedule.last_within(after, after + span)
        if last is None:
            following = schedule.next_after(after)
            assert following is None or following > after + span
        else:
            assert after < last <= after + span
            following = schedule.next_after(last)
            assert following is None or following > after + span


@given(st.integers(0, 20 * DAY), st.text(max_size=8), st.integers(1, DAY))
def test_jitter_is_the_same_for_the_same_seed_and_keeps_the_order(at: int, seed: str, jitter: int) -> None:
    schedule = parse_schedule({"cron": "17 */3 * * *", "timezone": "Europe/Berlin", "jitter": jitter / 1000})
    slots = schedule.slots(NOW + at, LATEST_MS, 6)
    due = [schedule.due(slot, seed) for slot in slots]
    assert due == [schedule.due(slot, seed) for slot in slots] and due == sorted(set(due))
    assert all(slot <= when < slot + jitter + 1 for slot, when in zip(slots, due, strict=True))
    assert all(when < following for when, following in zip(due, slots[1:], strict=False))
