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


@given(LIMITS, st.integers(0, 10_000))
def test_after_a_restart_no_window_holds_more_either(limit: RateLimit, later: int) -> None:
    rates = Rates()
    stored = [rates.reserve("key", limit, 0)[1] for _ in range(limit.max)][-1]
    again = Rates()
    again.load({"key": stored})
    assert again.reserve("key", limit, later)[0] == max(later, stored + limit.per_ms)
