"""Rate limits: in any window no more than the limit, and never a wait that is longer than it must be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from taskforge.core.model import RateLimit
from taskforge.engine.rates import Rates

LIMITS = st.builds(RateLimit, max=st.integers(1, 8), per_ms=st.integers(1, 5_000))


@given(LIMITS, st.lists(st.integers(0, 2_000), max_size=60))
def test_no_window_holds_more_than_the_limit(limit: RateLimit, pauses: list[int]) -> None:
    rates, now, times = Rates(), 0, []
    for pause in pauses:
        now += pause
        due, stored = rates.reserve("key", limit, now)
        assert due >= now
        assert stored == due
        times.append(due)
    assert times == sorted(times)
    for first, later in zip(times, times[limit.max :], strict=False):
        assert later - first >= limit.per_ms


@given(LIMITS)
def test_the_first_ones_begin_at_once_and_the_next_as_soon_as_it_may(limit: RateLimit) -> None:
    rates = Rates()
    dues = [rates.reserve("key", limit, 100)[0] for _ in range(limit.max + 1)]
    assert dues == [100] * limit.max + [100 + limit.per_ms]


@given(LIMITS, st.lists(st.integers(0, 6_000), min_size=1, max_size=40))
def test_attempts_that_missed_their_time_are_held_to_the_limit_and_all_begin(
    limit: RateLimit, lates: list[int]
) -> None:
    rates = Rates()
    waiting = sorted(rates.reserve("key", limit, 0)[0] + late for late in lates)
    began: list[int] = []
    while waiting:
        now = waiting.pop(0)
        due = rates.enter("key", limit, now)
        if due == now:
            began.append(now)
        else:
            assert due > now
            waiting = sorted([*waiting, due])
    assert len(began) == len(lates)
    for first, later in zip(began, began[limit.max :], strict=False):
        assert later - first >= limit.per_ms


@given(LIMITS)
def test_who_comes_at_the_given_time_begins_then(limit: RateLimit) -> None:
    rates = Rates()
    for due in [rates.reserve("key", limit, 7)[0] for _ in range(30)]:
        assert rates.enter("key", limit, due) == due


@given(LIMITS, st.integers(0, 10_000))
def test_after_a_restart_what_was_missed_is_not_made_up_for_at_once(limit: RateLimit, later: int) -> None:
    rates = Rates()
    stored = [rates.reserve("key", limit, 0)[1] for _ in range(3 * limit.max)][-1]
    again = Rates()
    again.load({"key": stored})
    began = min(stored, later) + limit.per_ms
    assert again.enter("key", limit, later) == (later if later >= began else began)


@given(LIMITS, st.integers(0, 10_000))
def test_after_a_restart_no_window_holds_more_either(limit: RateLimit, later: int) -> None:
    rates = Rates()
    stored = [rates.reserve("key", limit, 0)[1] for _ in range(limit.max)][-1]
    again = Rates()
    again.load({"key": stored})
    assert again.reserve("key", limit, later)[0] == max(later, stored + limit.per_ms)
