"""croniter as a second opinion. Wherever it differs, the difference is in a table here, with its reason.

`docs/schedules.md` tells people the same. croniter runs with `implement_cron_bug`, which is Debian's rule for the two
day fields; without it, day fields that begin with * are one more difference (`AND`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from croniter import CroniterBadDateError, CroniterError, croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from taskforge.triggers.cron import parse_cron
from taskforge.triggers.cron_fields import CronError
from tests.triggers.wall_clock import DAY, HOUR, MINUTE, ZONES, around, changes, ms, wall

Outcome = list[str] | None
"""The next three slots in UTC, as `01-05 09:00`; None: refused."""

# Each from 2026-01-01T00:00Z, in UTC: expression, what TaskForge does, what croniter does.
DIFFERENCES: dict[str, list[tuple[str, Outcome, Outcome]]] = {
    "a range of one value is that value; croniter takes it for *": [
        ("0 9 5-5 * *", ["01-05 09:00", "02-05 09:00", "03-05 09:00"], ["01-01 09:00", "01-02 09:00", "01-03 09:00"]),
        ("0 9 * * 3-3", ["01-07 09:00", "01-14 09:00", "01-21 09:00"], ["01-01 09:00", "01-02 09:00", "01-03 09:00"]),
    ],
    "the last weekday of a month is 5L or FRIL; croniter writes L5": [
        ("0 9 * * 5L", ["01-30 09:00", "02-27 09:00", "03-27 09:00"], None),
        ("0 9 * * FRIL", ["01-30 09:00", "02-27 09:00", "03-27 09:00"], None),
        ("0 9 * * L5", None, ["01-30 09:00", "02-27 09:00", "03-27 09:00"]),
    ],
    "LW is the last Monday to Friday of a month; croniter knows only 15W": [
        ("0 9 LW * *", ["01-30 09:00", "02-27 09:00", "03-31 09:00"], None),
        ("0 9 15W * *", None, ["01-15 09:00", "02-16 09:00", "03-16 09:00"]),
    ],
    "a list means any of its items, also beside #; croniter lets the # restrict the day": [
        ("0 9 * * 1,MON#2", ["01-05 09:00", "01-12 09:00", "01-19 09:00"],
         ["01-12 09:00", "02-09 09:00", "03-09 09:00"]),
    ],
    "# belongs to one day; croniter takes a range before it, and drops the #": [
        ("0 9 * * MON-FRI#1", None, ["01-01 09:00", "01-02 09:00", "01-05 09:00"]),
    ],
    "a step follows * or a range, as in Debian's cron; croniter lets 5/15 run to the end": [
        ("5/15 * * * *", None, ["01-01 00:05", "01-01 00:20", "01-01 00:35"]),
    ],
    "a range does not run backwards, as in Debian's cron; croniter goes around": [
        ("0 22-2 * * *", None, ["01-01 01:00", "01-01 02:00", "01-01 22:00"]),
        ("0 9 * * SAT-SUN", None, ["01-03 09:00", "01-04 09:00", "01-10 09:00"]),
    ],
    "there are five fields; croniter takes seconds and years": [
        ("0 0 9 * * *", None, ["01-09 00:00", "01-09 00:00", "01-09 00:00"]),
    ],
    "? and R are not known; croniter takes ? for *, and R for a random value": [
        ("0 9 ? * MON", None, ["01-05 09:00", "01-12 09:00", "01-19 09:00"]),
    ],
}  # fmt: skip


def _ours(expression: str, zone: str, after: int, count: int) -> list[int]:
    return parse_cron(expression, zone).slots(after, after + 400 * 366 * DAY, count)


def _theirs(expression: str, zone: str, after: int, count: int) -> list[int]:
    found: Any = croniter(expression, datetime.fromtimestamp(after / 1000, ZoneInfo(zone)), implement_cron_bug=True)
    return [ms(found.get_next(datetime).astimezone(UTC)) for _ in range(count)]


def _shown(slots: list[int]) -> list[str]:
    return [datetime.fromtimestamp(at / 1000, UTC).strftime("%m-%d %H:%M") for at in slots]


def _outcome(of: Any, expression: str) -> Outcome:
    try:
        return _shown(of(expression, "UTC", ms(datetime(2026, 1, 1, tzinfo=UTC)), 3))
    except (CronError, CroniterError):
        return None


CASES = [(reason, *case) for reason, cases in DIFFERENCES.items() for case in cases]


@pytest.mark.parametrize(("reason", "expression", "ours", "theirs"), CASES, ids=[case[1] for case in CASES])
def test_a_known_difference_is_as_the_table_says(reason: str, expression: str, ours: Outcome, theirs: Outcome) -> None:
    assert _outcome(_ours, expression) == ours, reason
    assert _outcome(_theirs, expression) == theirs, reason
    assert ours != theirs


def test_without_debians_rule_a_day_field_that_begins_with_a_star_is_the_and_difference() -> None:
    begin = ms(datetime(2026, 1, 1, tzinfo=UTC))
    assert _shown(_ours("0 9 */2 * MON", "UTC", begin, 3)) == ["01-05 09:00", "01-19 09:00", "02-09 09:00"]
    other = croniter("0 9 */2 * MON", datetime(2026, 1, 1, tzinfo=UTC))
    assert [other.get_next(datetime).day for _ in range(3)] == [1, 3, 5]
    assert _theirs("0 9 */2 * MON", "UTC", begin, 9) == _ours("0 9 */2 * MON", "UTC", begin, 9)


REFUSED = ["@reboot", "60 * * * *", "0 24 * * *", "0 9 0 * *", "0 9 32 * *", "0 9 * 13 *", "0 9 * * 8", "0 9 * * 1#6",
           "0 9 * * monday", "0 9 L-3 * *", "1,,2 * * * *", "-1 * * * *", "1- * * * *", "*/0 * * * *", "H * * * *",
           "", "* * * *", "0 0 30 2 *", "0 0 31 2,4,6,9,11 *"]  # fmt: skip


@pytest.mark.parametrize("expression", REFUSED)
def test_both_refuse(expression: str) -> None:
    assert _outcome(_ours, expression) is None
    assert _outcome(_theirs, expression) is None


def _field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    pair = st.tuples(number, number).filter(lambda ends: ends[0] < ends[1]).map(lambda ends: f"{ends[0]}-{ends[1]}")
    step = st.integers(1, high).map(lambda size: f"/{size}")
    item = st.one_of(number.map(str), pair, st.builds(str.__add__, pair, step))
    return st.one_of(
        st.just("*"), st.just("*"), step.map("*".__add__), item, st.lists(item, min_size=2, max_size=4).map(",".join)
    )


EXPRESSIONS = st.tuples(_field(0, 59), _field(0, 23), _field(1, 31), _field(1, 12), _field(0, 7)).map(" ".join)
BEGINNINGS = st.integers(ms(datetime(2026, 1, 1, tzinfo=UTC)), ms(datetime(2034, 1, 1, tzinfo=UTC)))


@settings(max_examples=250, deadline=None)
@given(EXPRESSIONS, st.sampled_from(ZONES), BEGINNINGS)
def test_away_from_changes_of_the_clock_croniter_agrees(expression: str, zone: str, after: int) -> None:
    after -= after % 1000
    try:
        ours = _ours(expression, zone, after, 6)
    except CronError as error:
        assert "never fires" in str(error)
        with pytest.raises(CroniterBadDateError):
            _theirs(expression, zone, after, 1)
        return
    theirs = _theirs(expression, zone, after, 6)
    edge = min(ours[-1], theirs[-1])
    place = ZoneInfo(zone)

    def calm(at: int) -> bool:
        around = (at - DAY, at, at + DAY)
        return at <= edge and len({wall(near, place).hour * 60 + wall(near, place).minute for near in around}) == 1

    assert [at for at in ours if calm(at)] == [at for at in theirs if calm(at)]


@pytest.mark.parametrize("name", ZONES)
def test_at_a_change_of_the_clock_croniter_differs_in_three_ways_only(name: str) -> None:
    """
    | what | TaskForge, as Debian's cron | croniter |
    | --- | --- | --- |
    | a fixed time in an hour that comes twice | fires once, the first time | fires both times |
    | a time with a rhythm in a gap | is skipped with the gap | is put at the end of some gaps |
    | a time with a rhythm in an hour that comes twice | fires both times | loses the second of some |
    """
    zone = ZoneInfo(name)
    for change in changes(zone, 2026, 2026):
        shown = (wall(change - MINUTE, zone), wall(change, zone))
        forward = shown[1] > shown[0]
        begin, end = change - 6 * HOUR, change + 20 * HOUR
        for expression in around(shown)[7:]:
            minute, hour = expression.split()[:2]
            rhythm = minute.startswith("*") or hour.startswith("*")
            ours = set(parse_cron(expression, name).slots(begin, end, 10_000))
            theirs = {at for at in _theirs(expression, name, begin, len(ours) + 12) if at <= end}
            second = {at for at in ours | theirs if datetime.fromtimestamp(at / 1000, zone).fold == 1}
            put_at_the_end = {change} if rhythm and forward else set()
            assert theirs - ours <= (put_at_the_end if rhythm else second), expression
            assert ours - theirs <= (second if rhythm else set()), expression
