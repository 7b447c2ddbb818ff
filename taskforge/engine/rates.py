"""Rate limits of steps: how many attempts per time, for each key. Waiting for one costs no slot.

The generic cell rate algorithm (ITU-T I.371): one number a key, the theoretical arrival time, in milliseconds. It is
stored in the transaction that takes the place, so that a crash neither forgets nor repeats what was used.
"""

from __future__ import annotations

from taskforge.core.model import RateLimit

_FORGET_AT = 10_000


class Rates:
    """All rate limits of this process. `reserve` takes a place at once and says from when on it may be used."""

    def __init__(self) -> None:
        self._arrivals: dict[str, int] = {}

    def load(self, arrivals: dict[str, int]) -> None:
        """Take over what is stored."""
        self._arrivals = dict(arrivals)

    def reserve(self, key: str, limit: RateLimit, now: int) -> tuple[int, int]:
        """Return the time at which one more attempt may begin, and the number to store for the key.

        Up to `max` attempts may begin at once; then they are spread evenly, one each `per / max`.
        """
        spacing = limit.per_ms / limit.max
        arrival = max(self._arrivals.get(key, 0), now)
        due = max(now, round(arrival - limit.per_ms + spacing))
        following = round(arrival + spacing)
        if len(self._arrivals) >= _FORGET_AT:
            self._arrivals = {name: time for name, time in self._arrivals.items() if time > now}
        self._arrivals[key] = following
        return due, following

    def take(self, key: str, limit: RateLimit, now: int) -> int:
        """Take a place if there is one now, and return 0; else return how long it is until there is one, in ms."""
        spacing = limit.per_ms / limit.max
        arrival = max(self._arrivals.get(key, 0), now)
        due = round(arrival - limit.per_ms + spacing)
        if due > now:
            return due - now
        self.reserve(key, limit, now)
        return 0
