"""Rate limits of steps: at most so many attempts in any window of time, for each key. Waiting for one costs no slot.

A sliding log: the times of the last `max` attempts of a key are in memory, so that the limit holds in every window.
Only the newest one is stored, in the transaction that takes the place. After a restart all places count as taken at
that time: a crash can make an attempt wait longer, never too short.

A time that was given may be missed: the server was down, or no slot was free. What was missed must not be made up for
at once, so the times at which attempts do begin are kept as well, and hold them to the limit.
"""

from __future__ import annotations

from collections import deque

from taskforge.core.model import RateLimit

_FORGET_AT = 10_000


class Rates:
    """All rate limits of this process. `reserve` takes a place at once and says from when on it may be used; `enter` is
    asked when it is used."""

    def __init__(self) -> None:
        self._times: dict[str, deque[int]] = {}
        self._stored: dict[str, int] = {}
        self._begun: dict[str, deque[int]] = {}
        self._loaded: dict[str, int] = {}

    def load(self, arrivals: dict[str, int]) -> None:
        """Take over what is stored: key → the newest time."""
        self._stored, self._loaded = dict(arrivals), dict(arrivals)

    def enter(self, key: str, limit: RateLimit, now: int) -> int:
        """An attempt wants to begin, whose time has come: return `now` when it may, which then counts, or a later time
        to ask again at."""
        begun = self._begun.get(key)
        if begun is None or begun.maxlen != limit.max:
            begun = self._begin_log(key, limit, now, begun)
        due = now if len(begun) < limit.max else max(now, begun[0] + limit.per_ms)
        if due == now:
            begun.append(now)
        return due

    def reserve(self, key: str, limit: RateLimit, now: int) -> tuple[int, int]:
        """Return the time at which one more attempt may begin, and the number to store for the key."""
        times = self._times.get(key)
        if times is None or times.maxlen != limit.max:
            times = self._begin(key, limit, times)
        due = now if len(times) < limit.max else max(now, times[0] + limit.per_ms)
        times.append(due)
        return due, due

    def take(self, key: str, limit: RateLimit, now: int) -> int:
        """Take a place if there is one now, and return 0; else return how long it is until there is one, in ms."""
        times = self._times.get(key)
        if times is None or times.maxlen != limit.max:
            times = self._begin(key, limit, times)
        wait = 0 if len(times) < limit.max else times[0] + limit.per_ms - now
        if wait <= 0:
            times.append(now)
        return max(0, wait)

    def _begin(self, key: str, limit: RateLimit, before: deque[int] | None) -> deque[int]:
        if len(self._times) >= _FORGET_AT:
            oldest = next(iter(self._times))
            self._stored[oldest] = self._times.pop(oldest)[-1]
        times: deque[int] = deque(before or (), maxlen=limit.max)
        stored = self._stored.pop(key, None)
        if stored is not None:
            times.extend([stored] * limit.max)
        self._times[key] = times
        return times

    def _begin_log(self, key: str, limit: RateLimit, now: int, before: deque[int] | None) -> deque[int]:
        if len(self._begun) >= _FORGET_AT:
            del self._begun[next(iter(self._begun))]
        begun: deque[int] = deque(before or (), maxlen=limit.max)
        loaded = self._loaded.pop(key, None)
        if loaded is not None:
            # When attempts began before the restart is not known; at the latest it was now.
            begun.extend([min(loaded, now)] * limit.max)
        self._begun[key] = begun
        return begun
