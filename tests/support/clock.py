"""A clock that a test steers."""

from __future__ import annotations

import random

from taskforge.core.clock import uuid7_value


class ManualClock:
    """Stands still until told; the same seed gives the same ids and the same randomness."""

    def __init__(self, start: int = 1_800_000_000_000, seed: int = 0) -> None:
        self._engine = start
        self._wall = start
        self._monotonic = 0.0
        self._random = random.Random(seed)
        self._last_ms = -1
        self._last_value = 0

    def now(self) -> int:
        return self._engine

    def monotonic(self) -> float:
        return self._monotonic

    def wall(self) -> int:
        return self._wall

    def random(self) -> float:
        return self._random.random()

    def new_id(self, prefix: str) -> str:
        if self._engine > self._last_ms:
            self._last_ms = self._engine
            self._last_value = uuid7_value(self._engine, self._random.getrandbits(80))
        else:
            self._last_value += 1
        return f"{prefix}_{self._last_value:032x}"

    def advance(self, ms: int) -> None:
        """Let time pass: all three clocks go on."""
        if ms < 0:
            raise ValueError("time passes forwards; use set_wall() for a clock that was set back")
        self._engine += ms
        self._wall += ms
        self._monotonic += ms / 1000

    def set(self, ms: int) -> None:
        """Go on to this engine time; the wall clock shows it too."""
        self.advance(ms - self._engine)
        self._wall = ms

    def set_wall(self, ms: int) -> None:
        """Someone sets the machine's clock: engine time follows forwards only, as the real clock does."""
        self._wall = ms
        if ms - self._engine > 1000:
            self._engine = ms
