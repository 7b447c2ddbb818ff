"""Time, ids and randomness, as one object that everything else takes as an argument.

The only module that asks the machine for the time or for random bytes (ruff enforces it).
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, Protocol

MAX_MS: Final = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z, the last instant that RFC 3339 can name; milliseconds since 1970."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MIN_MS = -62_135_596_800_000
_FORWARD_JUMP_NS = 1_000_000_000
_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}):([0-9]{2})(?:\.([0-9]+))?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


class Clock(Protocol):
    """What code may know of time and chance. Tests pass one that they steer."""

    def now(self) -> int:
        """Engine time in milliseconds UTC: never goes backwards in a process. For leases, timeouts and records."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start: for measuring how long something took."""

    def wall(self) -> int:
        """The machine's clock in milliseconds UTC, which people and NTP may set back."""

    def new_id(self, prefix: str) -> str:
        """A new id such as `run_0199…`: a UUIDv7 as 32 hex digits, rising within the process."""

    def random(self) -> float:
        """A float in [0, 1), for jitter. Not for secrets."""


_ENTROPY_BYTES = 10


class SystemClock:
    """The real clock. Safe to use from several threads.

    Engine time is anchored on the monotonic clock. When the wall clock is more than a second ahead (the machine was
    suspended, or the clock was set forward), it follows; when the wall clock is set back, it does not, so that no lease
    is lengthened and no timeout is put off.
    """

    __slots__ = ("_entropy", "_last_ms", "_last_value", "_lock", "_offset_ns", "random")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._last_ms = -1
        self._last_value = 0
        self._entropy = b""
        self.random = random.Random(os.urandom(32)).random

    def now(self) -> int:
        engine = time.monotonic_ns() + self._offset_ns
        if time.time_ns() - engine > _FORWARD_JUMP_NS:
            engine = self._follow_wall()
        return engine // 1_000_000

    def _follow_wall(self) -> int:
        with self._lock:
            monotonic = time.monotonic_ns()
            self._offset_ns = max(self._offset_ns, time.time_ns() - monotonic)
            return monotonic + self._offset_ns

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> int:
        return time.time_ns() // 1_000_000

    def new_id(self, prefix: str) -> str:
        now = self.now()
        with self._lock:
            if now > self._last_ms:
                self._last_ms = now
                self._last_value = uuid7_value(now, self._draw())
            else:
                self._last_value += 1
            value = self._last_value
        return f"{prefix}_{value:032x}"

    def _draw(self) -> int:
        """80 random bits. The kernel is asked for many at once: each call lets go of the interpreter."""
        if not self._entropy:
            self._entropy = os.urandom(80 * _ENTROPY_BYTES)
        drawn, self._entropy = self._entropy[:_ENTROPY_BYTES], self._entropy[_ENTROPY_BYTES:]
        return int.from_bytes(drawn, "big")


def uuid7_value(ms: int, entropy: int) -> int:
    """The 128 bits of a UUIDv7 (RFC 9562, 5.7) for a time and 73 bits of randomness.

    The top bit of `rand_b` stays 0, so that adding 1 for the next id of the same millisecond cannot reach the variant.
    """
    rand_a = entropy & 0xFFF
    rand_b = (entropy >> 12) & 0x1FFF_FFFF_FFFF_FFFF
    return (max(ms, 0) & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | rand_a << 64 | 0b10 << 62 | rand_b


@lru_cache(maxsize=1024)  # much happens in the same millisecond
def to_rfc3339(ms: int) -> str:
    """Milliseconds UTC as `2026-11-23T02:37:01.123Z`. ValueError outside the years 1 to 9999."""
    seconds, rest = divmod(ms, 1000)
    return f"{_to_second(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=512)
def _to_second(seconds: int) -> str:
    try:
        return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    except OverflowError:
        raise ValueError(f"{seconds} seconds since 1970 is outside the years 1 to 9999") from None


def from_rfc3339(text: str) -> int:
    """RFC 3339 text as milliseconds UTC; digits beyond milliseconds are cut off.

    The leap second `:60` is read as the second that follows. ValueError says what was expected.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:80]!r} is not an RFC 3339 time such as 2026-11-23T02:37:01.123Z")
    date, minute, second, fraction, zone = match.groups()
    leap = second == "60"
    offset = "+00:00" if zone in "Zz" else zone
    try:
        moment = datetime.fromisoformat(f"{date}T{minute}:{'59' if leap else second}{offset}")
        whole = (moment - _EPOCH) // timedelta(seconds=1) + leap
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text[:80]!r} is not a time that exists: {error}") from None
    ms = whole * 1000 + int(((fraction or "") + "000")[:3])
    if not _MIN_MS <= ms <= MAX_MS:
        raise ValueError(f"{text[:80]!r} is outside the years 1 to 9999")
    return ms
