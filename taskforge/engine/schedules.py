"""The scheduler: starts the runs of slots, by the wall clock, once each, whatever clock and process do.

What is decided about slots is pure (`triggers.policy`); the store moves the schedule on in the transaction that starts
the runs. In memory there is only the time of the earliest schedule: the loop sleeps until then, and looks at the wall
clock once a second, so that a clock that is set, or a machine that slept, is noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from taskforge.core.clock import Clock, to_rfc3339
from taskforge.core.errors import NotFound, ScheduleMoved, TaskForgeError, Unavailable, WorkflowDisabled
from taskforge.core.jsontext import dumps, loads
from taskforge.core.model import TimeTrigger
from taskforge.engine.drivers import Drivers
from taskforge.engine.starting import Pending, Starts
from taskforge.engine.triggering import TriggerStarts
from taskforge.expressions.errors import EvaluationFailed
from taskforge.observe.logs import get_logger
from taskforge.store.protocol import Store
from taskforge.store.triggered import Firing, ScheduleRow, SlotRow
from taskforge.triggers.policy import Slot, SlotDecision, decide_slots
from taskforge.triggers.schedule import Schedule, parse_schedule, seed_of

log = get_logger("schedules")

OVERDUE_MS: Final = 5_000
"""A schedule that has been due for longer is overdue."""

SLOTS_KEPT_MS: Final = 90 * 86_400_000
"""How long decisions on slots are kept."""

_LOOK_S = 1.0
_NET_S = 30.0
_BATCH = 256
_SLOTS_AT_ONCE = 100
_LATER_MS = 30_000
_SOON_MS = 1_000


class Schedules:
    """Fires schedules. `held` are the workflows that are held back; `*` is everything."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        drivers: Drivers,
        starts: Starts,
        trigger_starts: TriggerStarts,
        held: Callable[[], frozenset[str]],
    ) -> None:
        self._store = store
        self._clock = clock
        self._drivers = drivers
        self._starts = starts
        self._trigger_starts = trigger_starts
        self._held = held
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        self.turned_at = 0.0

    async def start(self) -> None:
        """Compute anew when each schedule is next looked at (the rules of zones may have changed), and keep time."""
        self.turned_at = self._clock.monotonic()
        self._loop = asyncio.create_task(self._live(), name="schedules")
        self._loop.add_done_callback(self._ended)

    async def stop(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    def wake(self) -> None:
        """Schedules have changed."""
        self._wake.set()

    def stuck(self) -> str | None:
        """Return why schedules are not looked at, or None."""
        if self._loop is None or self._loop.done():
            return "the scheduler has ended"
        silent = self._clock.monotonic() - self.turned_at
        return f"the scheduler has not turned for {silent:.0f} s" if silent > _NET_S else None

    async def prune(self) -> None:
        """Delete old decisions on slots."""
        after: int | None = 0
        while after is not None:
            after = await self._store.prune_slots(self._clock.wall() - SLOTS_KEPT_MS, after, _BATCH)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("scheduler_failed", exc_info=error)
            self.on_failure(error)

    # ---- keeping time

    async def _live(self) -> None:
        fresh = False
        while True:
            self.turned_at = self._clock.monotonic()
            self._wake.clear()
            try:
                if not fresh:
                    await self._recompute()
                    fresh = True
                await self.fire_due()
                next_at = await self._store.next_schedule()
            except Unavailable as error:
                log.warning("store_unavailable", error=error.message)
                await asyncio.sleep(_LOOK_S)
                continue
            await self._sleep(next_at)

    async def _sleep(self, next_at: int | None) -> None:
        """Return when the schedule is due, somebody has changed one, or it is time to look for others' changes."""
        until = self._clock.monotonic() + _NET_S
        while not self._wake.is_set():
            self.turned_at = self._clock.monotonic()
            left = until - self.turned_at
            if next_at is not None:
                left = min(left, (next_at - self._clock.wall()) / 1000)
            if left <= 0:
                return
            try:
                async with asyncio.timeout(min(left, _LOOK_S)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _recompute(self) -> None:
        """Find the next slot of every schedule again."""
        cursor = 0
        while rows := await self._store.list_schedules(None, cursor, _BATCH):
            cursor = rows[-1].id
            for row in rows:
                self.turned_at = self._clock.monotonic()
                if row.active and row.held_at is None:
                    await self._correct(row)

    async def _correct(self, row: ScheduleRow) -> None:
        next_at = next_firing(row)
        if next_at != row.next_at:
            with contextlib.suppress(ScheduleMoved):
                await self._store.fire_schedule(Firing(row.id, row.cursor, row.cursor, next_at))

    async def fire_due(self) -> None:
        """Decide on every schedule that is due now, until none is."""
        while due := await self._store.list_due_schedules(self._clock.wall(), _BATCH):
            self.turned_at = self._clock.monotonic()
            results = await asyncio.gather(*(self._fire(row) for row in due), return_exceptions=True)
            for row, result in zip(due, results, strict=True):
                if isinstance(result, Unavailable):
                    raise result
                if isinstance(result, Exception):
                    await self._put_off(row, result)
                elif result is not None:
                    raise result

    async def _put_off(self, row: ScheduleRow, error: Exception) -> None:
        """A schedule cannot be decided on: look at it again later, and let the others go on."""
        later = _LATER_MS
        if isinstance(error, ScheduleMoved | NotFound | WorkflowDisabled):
            # It has just changed, and what is known here of its workflow is old.
            self._starts.forget_workflow(row.workflow)
            later = _SOON_MS
        else:
            log.error("schedule_failed", workflow=row.workflow, trigger=row.trigger, exc_info=error)
        with contextlib.suppress(ScheduleMoved):
            next_at = self._clock.wall() + later
            await self._store.fire_schedule(Firing(row.id, row.cursor, row.cursor, next_at, held_at=row.held_at))

    # ---- one schedule

    async def _fire(self, row: ScheduleRow) -> None:
        now = self._clock.wall()
        decision = decide_slots(
            schedule_of(row), row.cursor, now, seed_of(row.workflow, row.trigger), batch=_SLOTS_AT_ONCE
        )
        held = self._held()
        if (decision.fire or decision.missed) and (row.workflow in held or "*" in held):
            await self._hold(row, decision, now)
            return
        slots = [SlotRow(gone.first, gone.code, now, gone.last, gone.count, gone.at_least) for gone in decision.missed]
        pending: list[tuple[int, Pending]] = []
        try:
            for slot in decision.fire:
                made = await self._prepare(row, slot)
                if isinstance(made, Pending):
                    pending.append((slot.at, made))
                    slots.append(SlotRow(slot.at, slot.code, now, slot.at, run=made.new.id))
                else:
                    slots.append(SlotRow(slot.at, "SLOT_FAILED", now, slot.at, error=made))
            started = await self._store.fire_schedule(
                Firing(
                    row.id,
                    row.cursor,
                    decision.cursor,
                    decision.next_at,
                    slots,
                    [(slot_at, made.start) for slot_at, made in pending],
                )
            )
        except BaseException as error:
            for _, made in pending:
                self._starts.not_stored(made, error)
            raise
        for (_, made), one in zip(pending, started, strict=True):
            self._starts.stored(made, one)
        if decision.missed:
            missed = sum(gone.count for gone in decision.missed)
            log.warning("slots_missed", workflow=row.workflow, trigger=row.trigger, slots=missed)

    async def _hold(self, row: ScheduleRow, decision: SlotDecision, now: int) -> None:
        """The workflow is held: note the slot, and decide when it goes on, by the policy."""
        first = decision.missed[0].first if decision.missed else decision.fire[0].at
        slots = [SlotRow(slot.at, "SLOT_HELD", now, slot.at) for slot in decision.fire]
        await self._store.fire_schedule(
            Firing(row.id, row.cursor, row.cursor, decision.next_at, slots, held_at=row.held_at or first)
        )

    async def _prepare(self, row: ScheduleRow, slot: Slot) -> Pending | str:
        """A run for a slot, or why there can be none (JSON text of `{code, message}`)."""
        version, plan = await self._starts.resolve(row.workflow)
        trigger = plan.triggers.get(row.trigger)
        if not isinstance(trigger, TimeTrigger):
            raise ScheduleMoved(f"the workflow has no schedule {row.trigger!r} any more")
        seen: dict[str, Any] = {
            "type": "cron",
            "name": row.trigger,
            "scheduled_at": to_rfc3339(slot.at),
            "late": slot.late,
        }
        try:
            return await self._trigger_starts.prepare(row.workflow, version, trigger, "cron", seen, self._clock.now())
        except (Unavailable, NotFound, WorkflowDisabled):
            raise
        except (EvaluationFailed, TaskForgeError) as error:
            log.error("slot_failed", workflow=row.workflow, trigger=row.trigger, error=error.message)
            return dumps({"code": error.code, "message": error.message})


def schedule_of(row: ScheduleRow) -> Schedule:
    """The schedule of a row; its period counts from where the row began."""
    return _schedule(row.config, row.began_at)


def next_firing(row: ScheduleRow) -> int | None:
    """When the first slot that is not decided on fires. `row.next_at` is only when the row is looked at again."""
    return schedule_of(row).next_due(row.cursor, seed_of(row.workflow, row.trigger))


def coming_firing(row: ScheduleRow, now: int) -> int | None:
    """When a slot fires next that is not decided on, not before `now`: slots that passed while the workflow was held
    wait for somebody to release it."""
    schedule, seed = schedule_of(row), seed_of(row.workflow, row.trigger)
    passed = schedule.last_within(row.cursor, now) if row.cursor < now else None
    if passed is not None and (at := schedule.due(passed, seed)) >= now:
        return at
    return schedule.next_due(max(row.cursor, now), seed)


@lru_cache(maxsize=16_384)
def _schedule(config: str, began_at: int) -> Schedule:
    return parse_schedule(loads(config)).anchored(began_at)
