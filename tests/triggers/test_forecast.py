"""The forecast is the policy on a clock of its own: the same decisions, and changes of clocks and downtime between."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskforge.core.clock import from_rfc3339
from taskforge.triggers.forecast import Happening, Planned, clock_changes, list_next, simulate
from taskforge.triggers.schedule import parse_schedule
from taskforge.triggers.zones import get_zone
from tests.triggers.wall_clock import ZONES, changes

DAY, HOUR = 86_400_000, 3_600_000


def _planned(name: str, **config: Any) -> Planned:
    return Planned("flow", name, parse_schedule(config), f"flow/{name}")


def _brief(found: list[Happening]) -> list[tuple[str, str, str | None]]:
    return [(one.to_json()["local"][5:16], one.code, one.trigger) for one in found]


def _run(planned: list[Planned], first: str, last: str, *down: tuple[str, str]) -> list[Happening]:
    gaps = [(from_rfc3339(begin), from_rfc3339(end)) for begin, end in down]
    return list(simulate(planned, from_rfc3339(first), from_rfc3339(last), gaps))


def test_a_range_shows_every_firing_and_the_change_of_the_clock() -> None:
    planned = [
        _planned("fixed", cron="30 2 * * *", timezone="Europe/Berlin"),
        _planned("rhythm", cron="*/30 1-3 * * *", timezone="Europe/Berlin"),
    ]
    found = _run(planned, "2026-03-28T23:00:00Z", "2026-03-29T21:59:00Z")
    assert _brief(found) == [
        ("03-29T01:00", "SLOT_FIRED", "rhythm"),
        ("03-29T01:30", "SLOT_FIRED", "rhythm"),
        ("03-29T03:00", "CLOCK_CHANGE", None),
        ("03-29T03:00", "SLOT_FIRED", "fixed"),
        ("03-29T03:00", "SLOT_FIRED", "rhythm"),
        ("03-29T03:30", "SLOT_FIRED", "rhythm"),
    ]
    assert found[2].note == "clocks go forward from 02:00 to 03:00, by 1 h"
    assert found[3].note == "the clock skips its time; this is the first minute after"


def test_hours_that_come_twice_are_marked() -> None:
    planned = [
        _planned("fixed", cron="30 2 * * *", timezone="Europe/Berlin"),
        _planned("rhythm", cron="30 * * * *", timezone="Europe/Berlin"),
    ]
    found = _run(planned, "2026-10-25T00:00:00Z", "2026-10-25T02:00:00Z")
    assert [(one.trigger, one.note) for one in found] == [
        ("fixed", "the clock shows 02:30 twice; this is the first, and the second does not count"),
        ("rhythm", "the clock shows 02:30 twice; this is the first"),
        (None, "clocks go back from 03:00 to 02:00, by 1 h"),
        ("rhythm", "the clock shows 02:30 twice; this is the second"),
    ]


def test_downtime_shows_what_each_policy_makes_of_it() -> None:
    planned = [_planned(policy, cron="0 */6 * * *", catch_up=policy) for policy in ("latest", "all", "none")]
    found = _run(
        planned, "2026-05-01T00:30:00Z", "2026-05-02T00:30:00Z", ("2026-05-01T05:00:00Z", "2026-05-01T19:00:00Z")
    )
    assert _brief(found)[:2] == [("05-01T05:00", "SERVER_DOWN", None), ("05-01T19:00", "SERVER_UP", None)]
    assert sorted(_brief(found)[2:], key=lambda one: (one[0], one[2] or "")) == [
        ("05-01T19:00", "SLOT_LATE", "all"),
        ("05-01T19:00", "SLOT_LATE", "all"),
        ("05-01T19:00", "SLOT_LATE", "all"),
        ("05-01T19:00", "SLOT_SUPERSEDED", "latest"),
        ("05-01T19:00", "SLOT_LATE", "latest"),
        ("05-01T19:00", "SLOT_MISSED", "none"),
        ("05-02T00:00", "SLOT_FIRED", "all"),
        ("05-02T00:00", "SLOT_FIRED", "latest"),
        ("05-02T00:00", "SLOT_FIRED", "none"),
    ]
    missed = next(one for one in found if one.code == "SLOT_MISSED").to_json()
    assert (missed["slot"], missed["until"], missed["slots"], missed["at_least"]) == (
        "2026-05-01T06:00:00.000Z", "2026-05-01T18:00:00.000Z", 3, False,
    )  # fmt: skip


def test_a_period_counts_from_the_beginning_of_the_range_and_a_slot_at_it_counts() -> None:
    found = _run([_planned("tick", cron="@every 10m")], "2026-05-01T00:00:00Z", "2026-05-01T00:30:00Z")
    assert [one.at - from_rfc3339("2026-05-01T00:00:00Z") for one in found] == [600_000, 1_200_000, 1_800_000]
    found = _run([_planned("midnight", cron="@daily")], "2026-05-01T00:00:00Z", "2026-05-02T00:00:00Z")
    assert len(found) == 2


def test_jitter_is_what_the_server_will_do() -> None:
    one = _planned("nightly", cron="0 3 * * *", jitter="1h")
    (found,) = _run([one], "2026-05-01T00:00:00Z", "2026-05-01T12:00:00Z")
    assert found.at == one.schedule.due(from_rfc3339("2026-05-01T03:00:00Z"), "flow/nightly")


@pytest.mark.parametrize("name", ZONES)
def test_changes_of_the_clock_are_found(name: str) -> None:
    zone = get_zone(name)
    first, last = from_rfc3339("2026-01-01T00:00:00Z"), from_rfc3339("2031-01-01T00:00:00Z")
    assert [at for at, _ in clock_changes(zone, first, last)] == changes(zone, 2026, 2030)  # type: ignore[arg-type]
    at = changes(zone, 2026, 2026)[0]  # type: ignore[arg-type]
    assert len(list(clock_changes(zone, at, at))) == 1
    assert list(clock_changes(zone, at + 1000, at + DAY)) == []


def test_lord_howe_changes_by_half_an_hour() -> None:
    zone = get_zone("Australia/Lord_Howe")
    words = [
        words
        for _, words in clock_changes(zone, from_rfc3339("2026-01-01T00:00:00Z"), from_rfc3339("2027-01-01T00:00:00Z"))
    ]
    assert words == [
        "clocks go back from 02:00 to 01:30, by 30 min",
        "clocks go forward from 02:00 to 02:30, by 30 min",
    ]


def test_next_slots_of_a_period_have_no_notes() -> None:
    schedule = parse_schedule({"cron": "@every 90s", "timezone": "Europe/Berlin"}).anchored(0)
    assert list_next(schedule, 0, 1) == [{"at": "1970-01-01T00:01:30.000Z", "local": "1970-01-01T01:01:30+01:00"}]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), max_size=3), st.sampled_from(["latest", "all"]))
def test_time_never_runs_backwards_and_no_slot_comes_twice(gaps: list[tuple[int, int]], policy: str) -> None:
    begin = from_rfc3339("2026-10-24T00:00:00Z")
    planned = [
        _planned("a", cron="*/20 * * * *", timezone="Australia/Lord_Howe", catch_up=policy, jitter="5m"),
        _planned("b", cron="15 2 * * *", timezone="Europe/Berlin", catch_up=policy),
    ]
    downtimes = [(begin + start * HOUR, begin + (start + length) * HOUR) for start, length in gaps]
    found = list(simulate(planned, begin, begin + 4 * DAY, downtimes))
    assert [one.at for one in found] == sorted(one.at for one in found)
    for name in ("a", "b"):
        slots = [one.slot for one in found if one.trigger == name and one.until is None]
        assert len(slots) == len(set(slots))
    assert not [one for one in found if one.trigger and any(down <= one.at < up for down, up in downtimes)], (
        "nobody decides while the server is down"
    )
