"""What time makes due: waiting runs, leases to renew or to rescue, runs to forget.

There is no polling on the hot path: the due loop sleeps until the earliest `due_at`, until somebody tells it of an
earlier one, or until a slot is free for runs that wait for one. The slow poll is only a net.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from taskforge.core.clock import Clock
from taskforge.core.errors import TaskForgeError, Unavailable
from taskforge.engine.drivers import Drivers
from taskforge.engine.executor import NOBODY, Executor
from taskforge.observe.logs import get_logger
from taskforge.store.protocol import Store

if TYPE_CHECKING:
    from apscheduler.schedulers.asyncio import AsyncIOScheduler

log = get_logger("timers")

SUSPECT_PAUSE_S = 5.0
"""How long the server must have lived before suspects are taken up alone: the others go on first, and deaths in quick
succession, which have another cause, convict nobody."""

_LAST_TURN_S = 2.0
"""How long a shutdown waits for the turn of the due loop that is under way."""

_UPKEEP_PAUSE_S = 1.0
"""Pause between the start and the beginning of the upkeep."""

_BATCH = 64


class Timers:
    """`start` takes up what a dead process left, then keeps time until `stop`."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        drivers: Drivers,
        executor: Executor,
        *,
        node: str,
        lease_ms: int,
        poll_s: float,
        retention_s: float = 600.0,
    ) -> None:
        self._store = store
        self._clock = clock
        self._drivers = drivers
        self._executor = executor
        self._node = node
        self._lease_ms = lease_ms
        self._poll_s = poll_s
        self._retention_s = retention_s
        self._wake = asyncio.Event()
        self._suspects_at: float | None = None
        self._next_due: int | None = None
        self._loop: asyncio.Task[None] | None = None
        self._scheduler: AsyncIOScheduler | None = None
        self._beginning: asyncio.TimerHandle | None = None
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        self.on_upkeep: Callable[[], Awaitable[None]] | None = None
        """What else is looked after now and then: child runs after a crash."""
        self.on_retention: Callable[[], Awaitable[None]] | None = None
        """What else is let go of when it is old."""
        self.turned_at = 0.0
        self._is_ending = False
        """When the due loop last turned (monotonic seconds): it must turn at least once in each poll."""

    async def start(self) -> None:
        """Free what dead processes held, and begin to keep time."""
        dead = await self._store.register_node(self._node, "{}", self._clock.now())
        if dead:
            rescued = await self._store.rescue_leases(dead, self._clock.now(), keep=self._node)
            log.info("runs_rescued", runs=rescued.runs, attempts=rescued.attempts)
        if await self._store.next_due(suspects=True) is not None:
            self._suspects_at = self._clock.monotonic() + SUSPECT_PAUSE_S
        self._executor.held = frozenset(await self._store.list_holds())
        self._drivers.rates.load(await self._store.list_rates())
        self._drivers.on_due = self._note_due
        self._executor.on_free = self._slot_is_free
        self.turned_at = self._clock.monotonic()
        self._loop = asyncio.create_task(self._keep_time(), name="due loop")
        self._loop.add_done_callback(self._loop_ended)
        # Importing the scheduler takes longer than all of this; nothing is due for it yet.
        pause = min(_UPKEEP_PAUSE_S, self._lease_ms / 3000)
        self._beginning = asyncio.get_running_loop().call_later(pause, self._begin_upkeep)

    def _begin_upkeep(self) -> None:
        from apscheduler.schedulers.asyncio import AsyncIOScheduler

        self._scheduler = AsyncIOScheduler(timezone="UTC")
        every = self._lease_ms / 3000
        self._every(every, self._renew_leases)
        self._every(every, self._rescue_leases)
        if self.on_retention is not None:
            self._every(self._retention_s, self.on_retention)
        self._scheduler.start()

    async def stop(self) -> None:
        """Take nothing up any more. Leases are still renewed until `close`."""
        if self._loop is not None:
            # Cancelled in the middle of its turn, it could leave runs leased that nobody drives.
            self._is_ending = True
            self._wake.set()
            await asyncio.wait([self._loop], timeout=_LAST_TURN_S)
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    def set_holds(self, held: Sequence[str]) -> None:
        """These workflows are held back from now on (`*`: everything); others go on at once."""
        self._executor.held = frozenset(held)
        self._note_due(self._clock.now())
        self._executor.offer()

    def stuck(self) -> str | None:
        """Return why time is not kept, or None. The due loop turns at least once in each poll, store willing."""
        if self._loop is None or self._loop.done():
            return "the due loop has ended"
        silent = self._clock.monotonic() - self.turned_at
        if silent > self._poll_s + 3:
            return f"the due loop has not turned for {silent:.0f} s"
        return None

    def close(self) -> None:
        if self._beginning is not None:
            self._beginning.cancel()
        if self._scheduler is not None and self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        async def guarded() -> None:
            # `close` cancels what is under way; the scheduler would log that as an error.
            with contextlib.suppress(asyncio.CancelledError):
                await work()

        assert self._scheduler is not None
        self._scheduler.add_job(
            guarded, "interval", seconds=seconds, coalesce=True, max_instances=1, misfire_grace_time=None
        )

    def _loop_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            log.error("due_loop_failed", exc_info=error)
            assert error is not None
            self.on_failure(error)

    # ---- due runs

    def _note_due(self, due_at: int) -> None:
        if self._next_due is None or due_at < self._next_due:
            self._next_due = due_at
            self._wake.set()

    def _slot_is_free(self) -> None:
        if self._executor.backlog or self._executor.alone is not None:
            self._wake.set()

    async def _keep_time(self) -> None:
        while not self._is_ending:
            self.turned_at = self._clock.monotonic()
            self._wake.clear()
            if self._suspects_at is not None and self._clock.monotonic() >= self._suspects_at:
                self._suspects_at, self._executor.alone = None, NOBODY
            try:
                if self._executor.alone is not None:
                    await self._take_suspect()
                else:
                    await self._take_due()
            except Unavailable as error:
                log.warning("store_unavailable", error=error.message)
                await asyncio.sleep(min(self._poll_s, 1.0))
                continue
            await self._sleep()

    async def _sleep(self) -> None:
        pause = self._poll_s
        if self._next_due is not None:
            pause = min(pause, max(0.0, (self._next_due - self._clock.now()) / 1000))
        if self._suspects_at is not None:
            pause = min(pause, max(0.0, self._suspects_at - self._clock.monotonic()))
        if pause > 0:
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _take_due(self) -> None:
        """Take up due runs, as long as there are slots for those that need one. Writes nothing when nothing is due."""
        held = tuple(self._executor.held)
        if "*" in held:
            # What is due stays so; whoever releases it wakes this loop.
            self._next_due = None
            return
        slots = self._executor.free > 0
        if self._next_due is None or self._next_due > self._clock.now():
            self._next_due = await self._store.next_due(held=held)
            if self._next_due is None or self._next_due > self._clock.now():
                self._executor.backlog = self._executor.backlog and not slots
                return
        if not slots:
            # Who is due now has the next free slot, before new runs. Meanwhile only what needs none is taken up.
            self._executor.backlog = True
            self._next_due = await self._store.next_due(slots=False, held=held)
            if self._next_due is None or self._next_due > self._clock.now():
                return
        limit = min(self._executor.free, _BATCH) or _BATCH
        taken = await self._store.lease_steps(self._node, self._clock.now(), limit, slots=slots, held=held)
        for rows in taken:
            await self._drivers.adopt(rows)
        full = len(taken) == limit
        self._executor.backlog = full or (not slots and self._executor.backlog)
        self._next_due = self._clock.now() if full else await self._store.next_due(held=held)
        if len(taken) == limit:
            # Let what was taken begin before more is taken.
            await asyncio.sleep(0)

    async def _take_suspect(self) -> None:
        """Take up, alone, one run that was in flight at too many deaths of the server; the others wait meanwhile."""
        executor = self._executor
        if executor.alone != NOBODY or executor.in_flight > 0:
            self._next_due = None
            return
        taken = await self._store.lease_steps(self._node, self._clock.now(), 1, suspects=True)
        if not taken:
            executor.alone = None
            if await self._store.next_due(suspects=True) is not None:
                self._suspects_at = self._clock.monotonic() + SUSPECT_PAUSE_S
            self._next_due = self._clock.now()
            executor.offer()
            return
        executor.alone = taken[0].run.key
        log.warning(
            "run_taken_up_alone", run=taken[0].run.id, reason="it was in flight at several deaths of the server"
        )
        await self._drivers.adopt(taken[0])
        self._next_due = None

    # ---- leases

    async def _renew_leases(self) -> None:
        try:
            await self._store.renew_leases(self._node, self._clock.now() + self._lease_ms)
        except Unavailable as error:
            log.warning("leases_not_renewed", error=error.message)

    async def _rescue_leases(self) -> None:
        try:
            rescued = await self._store.rescue_leases(None, self._clock.now(), keep=self._node)
        except Unavailable as error:
            log.warning("leases_not_rescued", error=error.message)
            return
        finally:
            await self._look_after()
        if rescued.runs:
            log.warning("runs_rescued", runs=rescued.runs, attempts=rescued.attempts)
            self._note_due(self._clock.now())

    async def _look_after(self) -> None:
        if self.on_upkeep is not None:
            try:
                await self.on_upkeep()
            except TaskForgeError as error:
                log.warning("upkeep_failed", error=error.message)
