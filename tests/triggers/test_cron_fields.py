"""What an expression may say, and what is said about one that cannot be taken: field, column, words and fix."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskforge.triggers.cron import LATEST_MS, parse_cron
from taskforge.triggers.cron_fields import ALIASES, MAX_TEXT, CronError
from taskforge.triggers.zones import get_zone, zone_names
from tests.triggers.wall_clock import DAY, ZONES, firings, ms, walk

JANUARY = ms(datetime(2026, 1, 1, tzinfo=UTC))


def _days(expression: str, count: int) -> list[str]:
    slots = parse_cron(expression).slots(JANUARY, LATEST_MS, count)
    return [datetime.fromtimestamp(at / 1000, UTC).strftime("%m-%d") for at in slots]


# ---- what is taken


@pytest.mark.parametrize(
    ("expression", "same"),
    [
        ("0 9 * * sun", "0 9 * * 0"),
        ("0 9 * * 7", "0 9 * * 0"),
        ("0 9 * jan-Mar *", "0 9 * 1-3 *"),
        ("0 9 * * MON-FRI", "0 9 * * 1-5"),
        ("0 9 * * 5-7", "0 9 * * 0,5,6"),
        ("0 9 * * */7", "0 9 * * 0"),
        ("  0\t9  * * *  ", "0 9 * * *"),
        ("00 009 * * *", "0 9 * * *"),
        ("0-59/20 * * * *", "0,20,40 * * * *"),
        ("*/60 * * * *", "0 * * * *"),
        ("0 9 1-31 * *", "0 9 * * 0-6"),
        ("0 9 3-3/2 * *", "0 9 3 * *"),
        ("0 9 * * 0-0/1", "0 9 * * 0"),
        ("0 9 * * frIL", "0 9 * * 5L"),
        ("0 9 * * MON#1", "0 9 * * 1#1"),
        ("0 9 * * SUN#2", "0 9 * * 7#2"),
        *ALIASES.items(),
        ("@Daily", "0 0 * * *"),
    ],
)
def test_two_ways_to_write_the_same(expression: str, same: str) -> None:
    first, second = (parse_cron(text).slots(JANUARY, LATEST_MS, 20) for text in (expression, same))
    assert first == second and len(first) == 20


@pytest.mark.parametrize(
    ("expression", "days"),
    [
        ("0 0 L * *", ["01-31", "02-28", "03-31"]),
        ("0 0 LW * *", ["01-30", "02-27", "03-31"]),
        ("0 0 1,L * *", ["01-31", "02-01", "02-28"]),
        ("0 0 * * 5L", ["01-30", "02-27", "03-27"]),
        ("0 0 * * MON#2", ["01-12", "02-09", "03-09"]),
        ("0 0 * * MON#5", ["03-30", "06-29", "08-31"]),
        ("0 0 * * MON#1,FRI#3", ["01-05", "01-16", "02-02"]),
        ("0 0 L * MON", ["01-05", "01-12", "01-19"]),
        ("0 0 13 * FRI", ["01-02", "01-09", "01-13"]),  # either
        ("0 0 */13 * FRI", ["02-27", "03-27", "05-01"]),  # begins with *: both
        ("0 0 1-7 * */7", ["01-04", "02-01", "03-01"]),  # the first Sunday, as cron's users write it
        ("0 0 29 2 *", ["02-29", "02-29", "02-29"]),
        ("0 0 31 2,5 *", ["05-31", "05-31", "05-31"]),
        ("0 0 30 2 MON", ["02-02", "02-09", "02-16"]),
    ],
)
def test_days(expression: str, days: list[str]) -> None:
    assert _days(expression, 3) == days


def test_remarks_are_for_steps_that_reach_only_the_first_value() -> None:
    assert parse_cron("*/15 */6 */2 * *").remarks == ()
    (remark,) = parse_cron("*/90 * * * *").remarks
    assert "@every 90m" in remark
    assert "@every 36h" in parse_cron("0 */36 * * *").remarks[0]


# ---- what is refused

WRONG = [
    ("", "cron", 1, "empty", "minute hour day"),
    ("   ", "cron", 1, "empty", "minute hour day"),
    ("0 9 * *", "weekday", 8, "4 fields", "minute hour day"),
    ("9", "hour", 2, "1 field;", "minute hour day"),
    ("0 0 9 * * *", "cron", 11, "6 fields", '"0 9 * * *"'),
    ("0 9 * * * /usr/bin/true;", "cron", 11, "6 fields", "five"),
    ("0 0 9 * * * 2026", "cron", 11, "7 fields", "five"),
    ("@reboot", "cron", 1, "@reboot", "@every 10m"),
    ("@dayly", "cron", 1, "@dayly", '"@daily"'),
    ("@daily 5", "cron", 8, "follow", '"@daily"'),
    ("CRON_TZ=Europe/Berlin 0 9 * * *", "cron", 1, "CRON_TZ", "timezone:"),
    ("60 * * * *", "minute", 1, "60 is out of range; accepted: 0 to 59", ""),
    ("0 24 * * *", "hour", 3, "24 is out of range; accepted: 0 to 23", "midnight is the hour 0"),
    ("0 9 0 * *", "day", 5, "0 is out of range; accepted: 1 to 31", ""),
    ("0 9 * 13 *", "month", 7, "13 is out of range; accepted: 1 to 12", ""),
    ("0 9 * * 8", "weekday", 9, "8 is out of range; accepted: 0 to 7", ""),
    ("0 9 * * 1,2,9", "weekday", 13, "9 is out of range", ""),
    ("0 9 * * monday", "weekday", 9, "monday", '"MON"'),
    ("0 9 * JUNE-JULY *", "month", 7, "JUNE", '"JUN"'),
    ("0 9 * * MNO", "weekday", 9, "MNO", '"MON"'),
    ("x * * * *", "minute", 1, '"x" is not known', ""),
    ("0 9 ? * MON", "day", 5, '"?"', '"*"'),
    ("H * * * *", "minute", 1, '"H"', "jitter"),
    ("5/15 * * * *", "minute", 1, "step after a single number", '"5-59/15"'),
    ("/5 * * * *", "minute", 1, "nothing before the /", '"*/5"'),
    ("*/0 * * * *", "minute", 3, "no step", "from 1"),
    ("*/x * * * *", "minute", 3, "no step", "from 1"),
    ("*/ * * * *", "minute", 3, "no step", "from 1"),
    ("0 22-2 * * *", "hour", 3, "backwards", '"22-23,0-2"'),
    ("0 9 * * FRI-MON", "weekday", 9, "backwards", '"5-6,0-1"'),
    ("0 9 * * FRI-SUN", "weekday", 9, "backwards", '"5-7"'),
    ("50-10 * * * *", "minute", 1, "backwards", '"50-59,0-10"'),
    ("1- * * * *", "minute", 1, "not complete", '"0-59"'),
    ("-1 * * * *", "minute", 1, "not complete", '"0-59"'),
    ("1-5-7 * * * *", "minute", 3, '"5-7"', ""),
    ("1,,2 * * * *", "minute", 3, "empty place", '"1,2"'),
    (", * * * *", "minute", 1, "empty place", '"*"'),
    ("0 9 15W * *", "day", 5, "15W", "LW"),
    ("0 9 L-3 * *", "day", 5, "L-3", "LW"),
    ("0 9 * * L", "weekday", 9, "no day", "FRIL"),
    ("0 9 * * 9L", "weekday", 9, "9 is out of range", ""),
    ("0 9 * * MON#6", "weekday", 13, "1 to 5", "MON#1"),
    ("0 9 * * MON#", "weekday", 13, "1 to 5", "MON#1"),
    ("0 9 * * MON-FRI#1", "weekday", 9, "one day", "MON#1"),
    ("0 9 1#1 * *", "day", 6, "no meaning", "MON#1"),
    ("0 L * * *", "hour", 3, '"L" is not known', ""),
    ("0 9 * * *\n", "cron", 10, "no place", ""),
    ("0 9 * * \u0661", "cron", 9, "no place", ""),
    ("99999999999 * * * *", "minute", 1, "is not known", ""),
    ("0 0 30 2 *", "day", 5, 'no day "30" in February', '"L"'),
    ("0 0 31 4,6,9,11 *", "day", 5, "never fires", '"L"'),
    ("0 0 31 2 */2", "day", 5, "never fires", "begins with *"),
    ("0 0 */31 * MON#2", "day", 5, "never fires", "begins with *"),
    ("* " * 200, "cron", MAX_TEXT + 1, "longer than", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("expression", "field", "column", "words", "fix"), WRONG, ids=[repr(row[0][:30]) for row in WRONG]
)
def test_a_refusal_names_field_column_and_fix_within_a_tenth_of_a_second(
    expression: str, field: str, column: int, words: str, fix: str
) -> None:
    begun = time.process_time()
    with pytest.raises(CronError) as caught:
        parse_cron(expression, "Europe/Berlin")
    assert time.process_time() - begun < 0.1
    error = caught.value
    assert (error.key, error.field, error.column) == ("cron", field, column)
    assert words in str(error) and fix in (error.hint or "")
    assert "\n" not in str(error)


def test_a_time_that_the_clock_always_skips_is_refused() -> None:
    begun = time.process_time()
    with pytest.raises(CronError, match="the clock skips") as caught:
        parse_cron("*/10 2 * 3 SUN#2", "America/New_York")
    assert time.process_time() - begun < 0.1
    assert caught.value.field == "hour"
    assert parse_cron("*/10 2 * 3 SUN#2", "UTC").next_after(JANUARY) is not None
    assert parse_cron("30 2 * 3 SUN#2", "America/New_York").next_after(JANUARY) is not None


# ---- zones


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("Europe/Berln", '"Europe/Berlin"'),
        ("europe/berlin", '"Europe/Berlin"'),
        ("Berlin", '"Europe/Berlin"'),
        ("New York", '"America/New_York"'),
        ("Kolkatta", '"Asia/Kolkata"'),
        ("PST", '"America/Los_Angeles"'),
        ("CEST", '"Europe/Berlin"'),
        ("Z", '"UTC"'),
        ("utc", '"UTC"'),
        ("+02:00", '"Etc/GMT-2"'),
        ("UTC+2", '"Etc/GMT-2"'),
        ("GMT-5", '"Etc/GMT+5"'),
        ("UTC+0", '"UTC"'),
        ("+05:30", '"Asia/Kolkata"'),
        ("Mars/Phobos", "IANA"),
        ("", "IANA"),
        ("../../etc/passwd", "IANA"),
        ("/etc/localtime", "IANA"),
        ("localtime", "IANA"),
        ("posixrules", "IANA"),
        ("Europe/", ""),
        ("Europe", ""),
        ("a\x00b", "IANA"),
        ("Europe/Berlin\n", '"Europe/Berlin"'),
        ("x" * 5000, "IANA"),
    ],
)
def test_an_unknown_zone_is_refused_with_the_nearest_name(name: str, fix: str) -> None:
    begun = time.process_time()
    with pytest.raises(CronError) as caught:
        parse_cron("0 9 * * *", name)
    assert time.process_time() - begun < 0.1
    error = caught.value
    assert (error.key, error.field, error.column) == ("timezone", "timezone", 1)
    assert fix in (error.hint or "")


def test_every_zone_of_the_database_has_times() -> None:
    assert len(zone_names()) > 500
    for name in zone_names():
        if name not in ("Factory", "localtime"):
            assert get_zone(name).utcoffset(datetime(2026, 7, 1)) is not None


# ---- any expression


def _field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    pair = st.tuples(number, number).map(lambda ends: f"{min(ends)}-{max(ends)}")
    item = st.one_of(number.map(str), pair, st.builds("{}/{}".format, pair, st.integers(1, high)))
    return st.one_of(
        st.just("*"),
        st.integers(1, high).map("*/{}".format),
        item,
        st.lists(item, min_size=2, max_size=3).map(",".join),
    )


EXPRESSIONS = st.tuples(_field(0, 59), _field(0, 23), _field(1, 31), _field(1, 12), _field(0, 7)).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(EXPRESSIONS, st.sampled_from(ZONES), st.integers(0, 4_000_000_000_000))
def test_times_rise_strictly_and_lie_within_what_was_asked(expression: str, zone: str, after: int) -> None:
    try:
        cron = parse_cron(expression, zone)
    except CronError as error:
        assert "never fires" in str(error)
        return
    until = after + 900 * DAY
    slots = cron.slots(after, until, 30)
    assert all(after < at <= until for at in slots)
    assert slots == sorted(set(slots))
    assert all(at % 60_000 == 0 for at in slots), "zones of our days differ by whole minutes"
    last = after
    for at in slots:
        assert cron.next_after(last) == at
        assert cron.next_after(at - 1) == at
        last = at


@settings(max_examples=40, deadline=None)
@given(EXPRESSIONS, st.sampled_from(ZONES), st.integers(0, 5 * 365))
def test_any_day_is_that_of_a_walk_through_real_time(expression: str, zone: str, day: int) -> None:
    try:
        cron = parse_cron(expression, zone)
    except CronError:
        return
    begin = JANUARY + day * DAY
    zone_info = get_zone(zone)
    steps = walk(zone_info, begin, begin + 2 * DAY)  # type: ignore[arg-type]
    assert cron.slots(begin + DAY - 1, begin + 2 * DAY - 1, 5000) == [
        at for at in firings(expression, steps) if at >= begin + DAY
    ]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=40), st.text("0123456789*/,-#LWMONFRI@ ?", max_size=40)))
def test_any_text_is_taken_or_refused_with_a_place(text: str) -> None:
    try:
        cron = parse_cron(text)
    except CronError as error:
        assert error.column is not None and 1 <= error.column <= len(text) + 1
        assert len(str(error).splitlines()) == 1
    else:
        assert cron.next_after(JANUARY) is not None
