"""What becomes of slots, by each policy: after downtime, suspend, and clocks that are set forward and back."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskforge.core.clock import from_rfc3339
from taskforge.core.reasons import SLOT_CODES
from taskforge.triggers.policy import BATCH, COUNTED, ON_TIME_MS, SlotDecision, decide_slots
from taskforge.triggers.schedule import Schedule, parse_schedule

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
NOON = from_rfc3339("2026-05-04T12:00:00Z")


def _hourly(**more: Any) -> Schedule:
    return parse_schedule({"cron": "0 * * * *", **more})


def _fired(decision: SlotDecision) -> list[int]:
    return [slot.at for slot in decision.fire]


# ---- each policy


@pytest.mark.parametrize("catch_up", ["latest", "all", "none"])
def test_a_slot_fires_on_time_under_every_policy(catch_up: str) -> None:
    schedule = _hourly(catch_up=catch_up)
    before = decide_slots(schedule, NOON - 1, NOON - 1, "s")
    assert (before.fire, before.missed, before.cursor, before.next_at) == ((), (), NOON - 1, NOON)
    for lag in (0, 1, ON_TIME_MS):
        decision = decide_slots(schedule, NOON - 1, NOON + lag, "s")
        assert [(slot.at, slot.late, slot.code) for slot in decision.fire] == [(NOON, False, "SLOT_FIRED")]
        assert (decision.missed, decision.cursor, decision.next_slot) == ((), NOON, NOON + HOUR)


def test_down_over_three_slots_each_policy_does_as_it_says() -> None:
    """Stopped at 9:30, started at 12:30: the slots of 10, 11 and 12 had nobody."""
    cursor, now = NOON - 3 * HOUR, NOON + 30 * MINUTE
    slots = [NOON - 2 * HOUR, NOON - HOUR, NOON]
    decided = {policy: decide_slots(_hourly(catch_up=policy), cursor, now, "s") for policy in ("latest", "all", "none")}
    assert _fired(decided["latest"]) == slots[2:]
    (gone,) = decided["latest"].missed
    assert (gone.first, gone.last, gone.count, gone.code) == (slots[0], slots[1], 2, "SLOT_SUPERSEDED")
    assert _fired(decided["all"]) == slots and decided["all"].missed == ()
    assert _fired(decided["none"]) == []
    (gone,) = decided["none"].missed
    assert (gone.first, gone.last, gone.count, gone.at_least, gone.code) == (
        slots[0], slots[2], 3, False, "SLOT_MISSED",
    )  # fmt: skip
    for decision in decided.values():
        assert all(slot.late and slot.code == "SLOT_LATE" for slot in decision.fire)
        assert (decision.cursor, decision.next_slot, decision.next_at) == (NOON, NOON + HOUR, NOON + HOUR)


def test_up_again_just_in_time_the_last_slot_is_on_time_also_without_catching_up() -> None:
    decision = decide_slots(_hourly(catch_up="none"), NOON - 3 * HOUR, NOON + ON_TIME_MS, "s")
    assert [(slot.at, slot.late) for slot in decision.fire] == [(NOON, False)]
    assert [(gone.count, gone.code) for gone in decision.missed] == [(2, "SLOT_MISSED")]


def test_what_is_older_than_the_window_is_left_out() -> None:
    now = NOON + 30 * MINUTE
    latest = decide_slots(_hourly(catch_up="latest", catch_up_window="20m"), NOON - 3 * HOUR, now, "s")
    assert latest.fire == () and [(gone.count, gone.code) for gone in latest.missed] == [(3, "SLOT_TOO_OLD")]
    every = decide_slots(_hourly(catch_up="all", catch_up_window="90m"), NOON - 3 * HOUR, now, "s")
    assert _fired(every) == [NOON - HOUR, NOON]
    assert [(gone.first, gone.count, gone.code) for gone in every.missed] == [(NOON - 2 * HOUR, 1, "SLOT_TOO_OLD")]
    nothing = decide_slots(_hourly(catch_up="all", catch_up_window="0s"), NOON - 3 * HOUR, now, "s")
    assert nothing.fire == () and nothing.cursor == NOON
    on_time = decide_slots(_hourly(catch_up="all", catch_up_window="0s"), NOON - 3 * HOUR, NOON + 5, "s")
    assert _fired(on_time) == [NOON]


def test_all_goes_in_batches_and_the_next_is_due_at_once() -> None:
    schedule = parse_schedule({"cron": "* * * * *", "catch_up": "all"})
    cursor, now, fired = NOON - 2 * DAY, NOON + 1, []
    batches = 0
    while True:
        decision = decide_slots(schedule, cursor, now, "s")
        if not decision.fire:
            break
        assert len(decision.fire) <= BATCH and decision.next_at is not None
        fired += _fired(decision)
        cursor, batches = decision.cursor, batches + 1
        assert (decision.next_at <= now) == (cursor < NOON)
    assert fired == schedule.slots(NOON - 2 * DAY, now, 10_000) and len(fired) == 2880 and batches == 3
    assert len(decide_slots(schedule, NOON - DAY, now, "s", batch=7).fire) == 7


@pytest.mark.parametrize("jump", [6 * HOUR, 365 * DAY, 56 * 365 * DAY])
@pytest.mark.parametrize("catch_up", ["latest", "all", "none"])
def test_a_clock_set_far_forward_is_bounded(catch_up: str, jump: int) -> None:
    schedule = parse_schedule({"cron": "* * * * *", "catch_up": catch_up})
    decision = decide_slots(schedule, NOON, NOON + jump + 30_000, "s")
    assert len(decision.fire) <= {"latest": 1, "all": BATCH, "none": 0}[catch_up]
    for gone in decision.missed:
        assert gone.count <= COUNTED and (gone.at_least or gone.count < COUNTED)
        assert NOON < gone.first <= gone.last <= NOON + jump
    if catch_up != "all":
        assert decision.cursor == NOON + jump
        assert decision.next_slot == NOON + jump + MINUTE
    else:
        window = 30 * DAY
        assert decision.fire[0].at >= NOON + jump + 30_000 - window


def test_a_clock_set_back_fires_nothing_until_it_has_caught_up() -> None:
    schedule = _hourly()
    for back in (1, HOUR, 56 * 365 * DAY):
        decision = decide_slots(schedule, NOON, NOON - back, "s")
        assert (decision.fire, decision.missed, decision.cursor) == ((), (), NOON)
        assert (decision.next_at, decision.behind_ms) == (NOON + HOUR, back)
    assert _fired(decide_slots(schedule, NOON, NOON + HOUR, "s")) == [NOON + HOUR]
    assert decide_slots(schedule, NOON, NOON, "s").behind_ms == 0


def test_an_hour_of_half_second_steps_loses_and_doubles_no_tick() -> None:
    schedule = parse_schedule({"cron": "@every 1s"}).anchored(NOON)
    cursor, fired = NOON, []
    for second in range(3600):
        for now in (NOON + second * 1000, NOON + second * 1000 + 500, NOON + second * 1000 - 500):
            decision = decide_slots(schedule, cursor, now, "s")
            fired += _fired(decision)
            assert decision.missed == ()
            cursor = decision.cursor
    assert fired == [NOON + second * 1000 for second in range(1, 3600)]


def test_one_time_fires_once_and_is_over() -> None:
    schedule = parse_schedule({"at": "2026-05-04T12:00:00Z"})
    decision = decide_slots(schedule, NOON - DAY, NOON, "s")
    assert _fired(decision) == [NOON] and (decision.next_slot, decision.next_at) == (None, None)
    assert decide_slots(schedule, NOON, NOON + DAY, "s").fire == ()
    late = decide_slots(schedule, NOON - DAY, NOON + DAY, "s")
    assert [slot.code for slot in late.fire] == ["SLOT_LATE"]
    missed = decide_slots(
        parse_schedule({"at": "2026-05-04T12:00:00Z", "catch_up": "none"}), NOON - DAY, NOON + DAY, "s"
    )
    assert [gone.code for gone in missed.missed] == ["SLOT_MISSED"] and missed.next_at is None


def test_jitter_puts_a_slot_off_by_the_same_time_always() -> None:
    schedule = _hourly(jitter="10m")
    due = schedule.due(NOON, "flow/nightly")
    assert NOON <= due < NOON + 10 * MINUTE and due == schedule.due(NOON, "flow/nightly")
    assert len({schedule.due(NOON, f"flow/{name}") for name in range(50)}) > 40
    assert len({schedule.due(NOON + hour * HOUR, "s") - hour * HOUR for hour in range(50)}) > 40
    waiting = decide_slots(schedule, NOON - 1, due - 1, "flow/nightly")
    assert (waiting.fire, waiting.next_slot, waiting.next_at) == ((), NOON, due)
    decision = decide_slots(schedule, NOON - 1, due, "flow/nightly")
    assert [(slot.at, slot.due, slot.late) for slot in decision.fire] == [(NOON, due, False)]
    assert decision.next_at == schedule.due(NOON + HOUR, "flow/nightly")


def test_jitter_longer_than_the_rhythm_never_reaches_the_next_slot() -> None:
    schedule = parse_schedule({"cron": "* * * * *", "jitter": "1h"})
    slots = schedule.slots(NOON, NOON + HOUR, 100)
    assert all(at <= schedule.due(at, "s") < at + MINUTE for at in slots)


def test_every_code_of_a_decision_has_its_words() -> None:
    assert set(SLOT_CODES) == {
        "SLOT_FIRED", "SLOT_LATE", "SLOT_MISSED", "SLOT_SUPERSEDED", "SLOT_TOO_OLD", "SLOT_HELD", "SLOT_FAILED"
    }  # fmt: skip


# ---- any clock


@dataclass
class _Book:
    """What the store would keep: the cursor, and every slot with what became of it."""

    cursor: int
    fired: list[int]
    missed: list[tuple[int, int]]


SCHEDULES = st.sampled_from(
    [
        {"cron": "*/7 * * * *"},
        {"cron": "30 2 * * *", "timezone": "Europe/Berlin"},
        {"cron": "*/20 1-3 * * *", "timezone": "Australia/Lord_Howe"},
        {"cron": "0 9 1,15 * MON", "timezone": "America/New_York"},
        {"cron": "@every 11m"},
        {"cron": "@every 37s", "start": "2026-10-24T22:00:00Z", "end": "2026-10-25T06:00:00Z"},
        {"cron": "15 * * * *", "timezone": "America/Santiago", "jitter": "10m"},
        {"cron": "* * * * *", "timezone": "Europe/Berlin", "jitter": "50s"},
        {"at": "2026-10-25T01:30:00Z"},
    ]
)
JUMPS = st.one_of(
    st.integers(0, 90_000),
    st.integers(0, 2 * HOUR),
    st.integers(-2 * HOUR, 0),
    st.integers(-400 * DAY, 400 * DAY),
    st.sampled_from([HOUR, -HOUR, 6 * HOUR, 3 * DAY, 0, -1, 1]),
)
BEGIN = from_rfc3339("2026-10-24T18:00:00Z")


def _play(schedule: Schedule, begin: int, jumps: list[int], *, batch: int) -> tuple[_Book, list[int]]:
    """A server that looks at its clock after each jump, and again as long as something is due."""
    book, now, seen = _Book(begin, [], []), begin, []
    for jump in jumps:
        now = max(now + jump, 0)
        seen.append(now)
        for _ in range(40):
            decision = decide_slots(schedule, book.cursor, now, "seed", batch=batch)
            assert decision.cursor >= book.cursor
            book.cursor = decision.cursor
            book.fired += _fired(decision)
            book.missed += [(gone.first, gone.last) for gone in decision.missed]
            if decision.next_at is None or decision.next_at > now:
                break
            assert decision.fire, "what is due is decided on, and the cursor moves"
    return book, seen


@settings(max_examples=150, deadline=None)
@given(SCHEDULES, st.sampled_from(["latest", "all", "none"]), st.lists(JUMPS, max_size=25), st.sampled_from([3, 1000]))
def test_no_clock_makes_a_slot_fire_twice_or_vanish(
    config: dict[str, Any], catch_up: str, jumps: list[int], batch: int
) -> None:
    schedule = parse_schedule({**config, "catch_up": catch_up}).anchored(BEGIN)
    book, seen = _play(schedule, BEGIN, jumps, batch=batch)
    assert book.fired == sorted(set(book.fired)), "rising: none twice"
    assert all(BEGIN < at <= max(seen, default=BEGIN) for at in book.fired)
    ranges = sorted([(at, at) for at in book.fired] + book.missed)
    assert all(one[1] < other[0] for one, other in pairwise(ranges)), "each slot is decided once"
    # Every slot up to the cursor was decided on, and all that was decided on is a slot.
    edge = BEGIN
    for first, last in ranges:
        assert schedule.next_after(edge) == first
        edge = last
    assert edge == book.cursor or (book.cursor == BEGIN and not ranges)


@settings(max_examples=60, deadline=None)
@given(SCHEDULES, st.lists(st.integers(-3 * HOUR, 5 * HOUR), max_size=15))
def test_catch_up_all_loses_no_slot_of_its_window(config: dict[str, Any], jumps: list[int]) -> None:
    schedule = parse_schedule({**config, "catch_up": "all"}).anchored(BEGIN)
    book, seen = _play(schedule, BEGIN, jumps, batch=1000)
    latest = max(seen, default=BEGIN)
    due = [at for at in schedule.slots(BEGIN, latest, 100_000) if schedule.due(at, "seed") <= latest]
    assert book.fired == due and book.missed == []


@settings(max_examples=60, deadline=None)
@given(SCHEDULES, st.integers(0, 40 * DAY), st.integers(0, 3))
def test_latest_makes_up_for_exactly_one(config: dict[str, Any], down: int, seed: int) -> None:
    schedule = parse_schedule(config).anchored(BEGIN)
    decision = decide_slots(schedule, BEGIN, BEGIN + down, f"{seed}")
    due = [at for at in schedule.slots(BEGIN, BEGIN + down, 100_000) if schedule.due(at, f"{seed}") <= BEGIN + down]
    assert _fired(decision) == due[-1:]
    assert sum(gone.count for gone in decision.missed) == min(max(len(due) - 1, 0), COUNTED)
