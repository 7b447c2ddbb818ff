"""Time goes forwards only, ids are UUIDv7 that rise, and times read back as they were written."""

from __future__ import annotations

import threading
import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskforge.core.clock import MAX_MS, Clock, SystemClock, from_rfc3339, to_rfc3339, uuid7_value
from tests.support.clock import ManualClock

MIN_MS = -62_135_596_800_000
INSTANTS = st.integers(MIN_MS, MAX_MS)


class Machine:
    """Stands for the two clocks of a machine, so that one can be set back or suspended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_ns = 1_800_000_000_000_000_000
        self.monotonic_ns = 5_000_000_000
        monkeypatch.setattr(time, "time_ns", lambda: self.wall_ns)
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.monotonic_ns)

    def pass_time(self, ms: int) -> None:
        self.wall_ns += ms * 1_000_000
        self.monotonic_ns += ms * 1_000_000

    def set_wall(self, by_ms: int) -> None:
        self.wall_ns += by_ms * 1_000_000


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_engine_time_starts_at_the_wall_clock_and_goes_on_with_it(machine: Machine) -> None:
    clock = SystemClock()
    assert clock.now() == clock.wall() == 1_800_000_000_000
    machine.pass_time(1234)
    assert clock.now() == 1_800_000_001_234


@pytest.mark.parametrize("back_ms", [1, 999, 3_600_000, 1_800_000_000_000])
def test_a_wall_clock_set_back_leaves_engine_time_alone(machine: Machine, back_ms: int) -> None:
    clock = SystemClock()
    before = clock.now()
    machine.set_wall(-back_ms)
    assert clock.now() == before
    machine.pass_time(10)
    assert clock.now() == before + 10
    assert clock.wall() == before + 10 - back_ms


@pytest.mark.parametrize("ahead_ms", [1_001, 21_600_000, 31_536_000_000])
def test_engine_time_follows_a_wall_clock_that_jumped_forward(machine: Machine, ahead_ms: int) -> None:
    clock = SystemClock()
    before = clock.now()
    machine.set_wall(ahead_ms)
    assert clock.now() == before + ahead_ms
    machine.set_wall(-ahead_ms)
    assert clock.now() == before + ahead_ms


def test_small_steps_of_the_wall_clock_do_not_move_engine_time(machine: Machine) -> None:
    clock = SystemClock()
    start = clock.now()
    for second in range(1, 200):
        machine.pass_time(1000)
        machine.set_wall(500 if second % 2 else -500)
        assert clock.now() == start + second * 1000


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(-10_000_000, 10_000_000)), max_size=50))
def test_engine_time_and_ids_never_go_backwards_whatever_the_wall_does(steps: list[tuple[int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        machine = Machine(patch)
        clock = SystemClock()
        times = [clock.now()]
        ids = [clock.new_id("run")]
        for passed, moved in steps:
            machine.pass_time(passed)
            machine.set_wall(moved)
            times.append(clock.now())
            ids.append(clock.new_id("run"))
    assert times == sorted(times)
    assert ids == sorted(set(ids))


@pytest.mark.parametrize("clock", [SystemClock(), ManualClock()], ids=["system", "manual"])
def test_an_id_is_a_prefix_and_a_uuid_of_version_7_that_carries_the_time(clock: Clock) -> None:
    before = clock.now()
    made = clock.new_id("run")
    prefix, _, digits = made.partition("_")
    parsed = uuid.UUID(digits)
    assert prefix == "run"
    assert parsed.hex == digits
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert before <= int(digits[:12], 16) <= clock.now()


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**80 - 1))
def test_the_bits_of_an_id_are_a_uuid7_with_room_to_count_up(ms: int, entropy: int) -> None:
    for value in (uuid7_value(ms, entropy), uuid7_value(ms, entropy) + 2**40):
        parsed = uuid.UUID(int=value)
        assert (parsed.version, parsed.variant, parsed.int >> 80) == (7, uuid.RFC_4122, ms)


def test_ids_from_many_threads_are_all_different_and_rise_in_each() -> None:
    clock = SystemClock()
    found: list[list[str]] = [[] for _ in range(8)]

    def make(into: list[str]) -> None:
        into.extend(clock.new_id("att") for _ in range(2_000))

    threads = [threading.Thread(target=make, args=(each,)) for each in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(each == sorted(each) for each in found)
    assert len({made for each in found for made in each}) == 16_000


def test_two_clocks_do_not_make_the_same_ids() -> None:
    first, second = SystemClock(), SystemClock()
    assert not {first.new_id("x") for _ in range(1000)} & {second.new_id("x") for _ in range(1000)}


def test_random_lies_from_0_to_1_and_differs() -> None:
    clock = SystemClock()
    drawn = [clock.random() for _ in range(1000)]
    assert all(0 <= each < 1 for each in drawn)
    assert len(set(drawn)) > 990


def test_the_manual_clock_repeats_itself_for_the_same_seed() -> None:
    first, second = ManualClock(seed=7), ManualClock(seed=7)
    assert [first.new_id("a"), first.random()] == [second.new_id("a"), second.random()]
    assert first.new_id("a") != ManualClock(seed=8).new_id("a")


def test_the_manual_clock_moves_as_told() -> None:
    clock = ManualClock(start=1000)
    clock.advance(500)
    assert (clock.now(), clock.wall(), clock.monotonic()) == (1500, 1500, 0.5)
    clock.set_wall(200)
    assert (clock.now(), clock.wall()) == (1500, 200)
    clock.set_wall(10_000)
    assert clock.now() == 10_000
    with pytest.raises(ValueError, match="forwards"):
        clock.advance(-1)


@given(INSTANTS)
@example(0)
@example(MIN_MS)
@example(MAX_MS)
def test_a_time_reads_back_as_it_was_written(ms: int) -> None:
    text = to_rfc3339(ms)
    assert from_rfc3339(text) == ms
    expected = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    assert text == expected.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.mark.parametrize("ms", [MIN_MS - 1, MAX_MS + 1, 10**18, -(10**18)])
def test_a_time_outside_the_calendar_is_refused(ms: int) -> None:
    with pytest.raises(ValueError, match="years 1 to 9999"):
        to_rfc3339(ms)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2026-11-23T02:37:01.123Z", "2026-11-23T02:37:01.123Z"),
        ("2026-11-23t02:37:01z", "2026-11-23T02:37:01.000Z"),
        ("2026-11-23 02:37:01.1Z", "2026-11-23T02:37:01.100Z"),
        ("2026-11-23T02:37:01.1239999999999Z", "2026-11-23T02:37:01.123Z"),
        ("2026-11-23T02:37:01+05:30", "2026-11-22T21:07:01.000Z"),
        ("2026-11-23T02:37:01-00:00", "2026-11-23T02:37:01.000Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000Z"),
        ("2040-02-29T00:00:00Z", "2040-02-29T00:00:00.000Z"),
    ],
)
def test_every_form_of_rfc_3339_is_read(text: str, written: str) -> None:
    assert to_rfc3339(from_rfc3339(text)) == written


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not an RFC 3339 time"),
        ("2026-11-23", "not an RFC 3339 time"),
        ("2026-11-23T02:37Z", "not an RFC 3339 time"),
        ("2026-11-23T02:37:01", "not an RFC 3339 time"),
        ("2026-11-23T02:37:01Z\n", "not an RFC 3339 time"),
        ("２026-11-23T02:37:01Z", "not an RFC 3339 time"),
        ("2026-W48-1T02:37:01Z", "not an RFC 3339 time"),
        ("2026-02-29T00:00:00Z", "not a time that exists"),
        ("2026-11-23T24:00:00Z", "not a time that exists"),
        ("2026-11-23T23:59:61Z", "not a time that exists"),
        ("2026-11-23T00:00:00+25:00", "not a time that exists"),
        ("0000-01-01T00:00:00Z", "not a time that exists"),
        ("0001-01-01T00:00:00+01:00", "outside the years 1 to 9999"),
        ("9999-12-31T23:59:60Z", "outside the years 1 to 9999"),
        ("x" * 1_000_000, "not an RFC 3339 time"),
    ],
)
def test_what_is_no_time_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        from_rfc3339(text)
    assert len(str(refused.value)) < 300
