"""Time limits for many attempts and requests with one timer.

`asyncio.timeout` arms and disarms a timer for every request, which costs a tenth of a request's CPU. Requests mostly
have the same limit and mostly keep it, so here one timer stands at the earliest deadline that was known when it was
armed; when it rings, it cancels what is overdue and is armed again for what is left.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self


class Deadline:
    """One limit, as a context: TimeoutError leaves it when the time is over, as with `asyncio.timeout`."""

    __slots__ = ("_cancelling", "_deadlines", "_expired", "task", "when")

    def __init__(self, deadlines: Deadlines, when: float, task: asyncio.Task[Any]) -> None:
        self._deadlines = deadlines
        self._cancelling = task.cancelling()
        self._expired = False
        self.task = task
        self.when = when

    @property
    def expired(self) -> bool:
        """Whether the time was over before the context was left."""
        return self._expired

    def expire(self) -> None:
        self._expired = True
        self.task.cancel()

    def __enter__(self) -> Self:
        self._deadlines.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._deadlines.discard(self)
        # A cancellation from elsewhere at the same time wins: then the count does not return to what it was.
        if self._expired and self.task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from None


class Deadlines:
    """The limits under way in one event loop."""

    def __init__(self) -> None:
        self._open: set[Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = 0.0

    def after(self, seconds: float) -> Deadline:
        """Return a limit that ends `seconds` from now, for the current task."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a deadline needs a task")
        return Deadline(self, loop.time() + seconds, task)

    def add(self, deadline: Deadline) -> None:
        self._open.add(deadline)
        if self._timer is None:
            self._arm(deadline.when)
        elif deadline.when < self._armed_for:
            self._timer.cancel()
            self._arm(deadline.when)

    def discard(self, deadline: Deadline) -> None:
        """Forget a limit. The timer stays where it is: moving it would cost more than one idle ring."""
        self._open.discard(deadline)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, when: float) -> None:
        self._armed_for = when
        self._timer = asyncio.get_running_loop().call_at(when, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        overdue = [deadline for deadline in self._open if deadline.when <= now]
        for deadline in overdue:
            self._open.discard(deadline)
            deadline.expire()
        if self._open:
            self._arm(min(deadline.when for deadline in self._open))
