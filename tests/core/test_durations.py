from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskforge.core.durations import MAX_DURATION_MS, format_duration, parse_duration

FACTORS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        ("500ms", 500),
        ("30s", 30_000),
        ("10m", 600_000),
        ("2h", 7_200_000),
        ("1d", 86_400_000),
        ("1h30m", 5_400_000),
        ("1d2h3m4s5ms", 93_784_005),
        ("1.5s", 1_500),
        ("0.5h", 1_800_000),
        ("0s", 0),
        ("0", 0),
        ("90", 90_000),
        ("1.25", 1_250),
        (" 30s ", 30_000),
        ("0.0004s", 0),
        (0, 0),
        (30, 30_000),
        (0.25, 250),
        (0.1, 100),
        (-0.0, 0),
        ("3650d", MAX_DURATION_MS),
        (315_360_000, MAX_DURATION_MS),
    ],
)
def test_a_duration_becomes_milliseconds(value: Any, ms: int) -> None:
    parsed = parse_duration(value)
    assert parsed == ms
    assert type(parsed) is int


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("-5s", "negative"),
        (-1, "negative"),
        (-0.001, "negative"),
        (float("nan"), "not a duration"),
        (float("inf"), "not a duration"),
        (float("-inf"), "not a duration"),
        (True, "true is not a duration"),
        (False, "false is not a duration"),
        (None, "null is not a duration"),
        ([1], "list is not a duration"),
        ("3651d", "0 to 10 years"),
        ("3650d1ms", "0 to 10 years"),
        (315_360_001, "0 to 10 years"),
        (10**400, "0 to 10 years"),
        (1e300, "0 to 10 years"),
        ("9" * 60 + "s", "0 to 10 years"),
        ("9" * 5000 + "s", "not a duration"),
        ("30 s", "not a duration"),
        ("30S", "not a duration"),
        ("10 minutes", "not a duration"),
        ("1w", "not a duration"),
        ("30m1h", "not a duration"),
        ("1s1s", "not a duration"),
        ("1e3s", "not a duration"),
        ("+5s", "not a duration"),
        (".5s", "not a duration"),
        ("5.s", "not a duration"),
        ("s", "not a duration"),
        ("1_000s", "not a duration"),
        ("٣s", "not a duration"),
        ("5s\n", "not a duration"),
        ("5s\n6s", "not a duration"),
        ("5s\x00", "not a duration"),
        ("PT5S", "not a duration"),
        ("nan", "not a duration"),
    ],
)
def test_what_is_no_duration_is_refused_with_the_accepted_forms(value: Any, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as refused:
        parse_duration(value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0ms"),
        (850, "850ms"),
        (999, "999ms"),
        (1_000, "1s"),
        (12_345, "12.3s"),
        (59_999, "59.9s"),
        (60_000, "1m"),
        (250_000, "4m10s"),
        (3_599_999, "59m59s"),
        (3_600_000, "1h"),
        (7_500_000, "2h5m"),
        (86_399_999, "23h59m"),
        (86_400_000, "1d"),
        (273_600_000, "3d4h"),
        (-850, "-850ms"),
    ],
)
def test_a_duration_is_shown_short(ms: int, text: str) -> None:
    assert format_duration(ms) == text


@given(st.integers(0, MAX_DURATION_MS))
@example(MAX_DURATION_MS)
def test_what_is_shown_reads_back_to_within_the_smaller_unit_shown(ms: int) -> None:
    read = parse_duration(format_duration(ms))
    slack = 1 if ms < 1_000 else 100 if ms < 60_000 else 1_000 if ms < 3_600_000 else 60_000
    assert read <= ms < read + (slack if ms < 86_400_000 else 3_600_000)
    assert format_duration(read) == format_duration(ms)


@given(st.integers(0, MAX_DURATION_MS))
def test_every_millisecond_can_be_written_with_all_units(ms: int) -> None:
    text, rest = "", ms
    for unit, factor in FACTORS.items():
        count, rest = divmod(rest, factor)
        text += f"{count}{unit}"
    assert parse_duration(text) == ms


@given(st.floats(0, MAX_DURATION_MS / 1000))
def test_seconds_round_to_the_nearest_millisecond(seconds: float) -> None:
    assert abs(parse_duration(seconds) - seconds * 1000) <= 0.5 + seconds * 1e-12


@given(st.text(max_size=200) | st.integers() | st.floats() | st.none() | st.booleans())
def test_any_value_is_a_duration_in_range_or_a_value_error(value: Any) -> None:
    try:
        ms = parse_duration(value)
    except ValueError:
        return
    assert 0 <= ms <= MAX_DURATION_MS
