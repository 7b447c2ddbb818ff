"""All that starts runs by itself, as one part: webhooks, schedules, ends of runs; and what people ask of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from taskforge.core.clock import Clock, from_rfc3339, to_rfc3339
from taskforge.core.errors import RespondFailed, Unavailable
from taskforge.core.jsontext import dump_bytes, loads
from taskforge.core.model import JSON, Plan
from taskforge.core.reasons import Reason, meaning
from taskforge.core.record import dataclass
from taskforge.core.snapshot import RunSnapshot
from taskforge.core.states import RunState
from taskforge.engine.drivers import Drivers
from taskforge.engine.evaluation import Expressions
from taskforge.engine.run_ends import RunEnds
from taskforge.engine.schedules import OVERDUE_MS, Schedules, schedule_of
from taskforge.engine.starting import Starts
from taskforge.engine.triggering import TriggerStarts, specs_of
from taskforge.engine.values import StoredValues
from taskforge.engine.webhooks import Arrival, InboxLimits, Received, Webhooks
from taskforge.observe.logs import get_logger
from taskforge.store.protocol import RunRow, Stats, Store
from taskforge.store.triggered import (
    Delivered,
    DeliveryFilter,
    DeliveryPage,
    DeliveryRow,
    ScheduleRow,
    SlotRow,
    TriggerSpec,
)

log = get_logger("triggers")

SHOWN_SLOTS = 5
"""How many of a schedule's decisions its line in the list has."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer that a run makes to its delivery."""

    status: int
    headers: dict[str, str]
    content: bytes
    media: str


class ScheduleView(NamedTuple):
    """A schedule as people see it. `next_slot` is the next time by the plan, `row.next_at` when it fires (jitter)."""

    row: ScheduleRow
    config: dict[str, Any]
    next_slot: int | None
    overdue_ms: int
    slots: list[SlotRow]


class Triggers:
    """Webhooks, schedules and ends of runs."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        drivers: Drivers,
        starts: Starts,
        expressions: Expressions,
        values: StoredValues,
        limits: InboxLimits,
        held: Callable[[], frozenset[str]],
    ) -> None:
        self._store = store
        self._clock = clock
        self._drivers = drivers
        self._expressions = expressions
        prepared = TriggerStarts(starts, expressions, values)
        self.webhooks = Webhooks(store, clock, starts, prepared, expressions, values, limits, drivers.spawn)
        self.schedules = Schedules(store, clock, drivers, starts, prepared, held)
        self.run_ends = RunEnds(store, clock, drivers, starts, prepared)
        self.changing = asyncio.Lock()
        """Held while a definition is changed: its triggers are worked out before, and stored with it."""

    async def start(self) -> None:
        await self.run_ends.start()
        await self.schedules.start()

    async def stop(self) -> None:
        await self.schedules.stop()

    async def prune(self) -> None:
        """Let go of old deliveries and of old decisions on slots."""
        try:
            await self.webhooks.prune()
            await self.schedules.prune()
        except Unavailable as error:
            log.warning("inbox_not_pruned", error=error.message)

    def specs(self, plan: Plan) -> list[TriggerSpec]:
        """The rows of a plan's triggers, if it becomes current now."""
        return specs_of(plan, self._clock.wall())

    async def changed(self) -> None:
        """Definitions or holds have changed."""
        self.schedules.wake()
        await self.run_ends.refresh()

    async def add_stats(self, stats: Stats) -> Stats:
        """Complete the store's counts."""
        wall = self._clock.wall()
        stats.schedules_overdue, earliest = await self._store.count_overdue(wall - OVERDUE_MS)
        stats.schedule_overdue_ms = 0 if earliest is None else wall - earliest
        return stats

    # ---- the answer that a run makes

    async def reply(self, run_key: int, trigger: str) -> Reply | None:
        """What a run answers; None while it goes on, or when its version has no `respond`. Raises RespondFailed."""
        run = await self._drivers.load(run_key)
        name = f"respond {trigger}"
        if not run.ended or name not in run.plan.evaluations:
            return None
        detail: dict[str, Any] = {"id": run.id, "number": run.number, "state": str(run.state)}
        if run.state is not RunState.SUCCEEDED:
            raise RespondFailed(f"the run {run.workflow}#{run.number} {run.state}", detail=detail)
        prepared = self._expressions.prepare(run, None, name)
        if prepared is None:
            prepared = await self._expressions.prepare_in_child(run, None, name)
        if prepared.failure is not None:
            log.warning("respond_failed", run=run.id, error=prepared.failure.message)
            raise RespondFailed("the answer could not be made; the server's log says why", detail=detail)
        return _reply(run, prepared.value, detail)


def _reply(run: RunSnapshot, value: JSON, detail: dict[str, Any]) -> Reply:
    status = value.get("status", 200)
    if isinstance(status, float) and status.is_integer():
        status = int(status)
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise RespondFailed("`respond.status` gave no status from 200 to 599", detail=detail)
    headers = {str(name).lower(): text for name, text in (value.get("headers") or {}).items()}
    for name, text in headers.items():
        if not isinstance(text, str) or not _is_header(name, text):
            raise RespondFailed("`respond.headers` gave a header that cannot be sent", detail=detail)
    body = value.get("body", run.output)
    media = headers.pop("content-type", None)
    if isinstance(body, str):
        return Reply(status, headers, body.encode("utf-8", "replace"), media or "text/plain; charset=utf-8")
    return Reply(status, headers, dump_bytes(body), media or "application/json")


def _is_header(name: str, text: str) -> bool:
    good = name.isascii() and all(char.isalnum() or char in "-_" for char in name) and bool(name)
    return good and name not in _OWN_HEADERS and text.isprintable() and text.isascii()


_OWN_HEADERS = frozenset({"content-length", "transfer-encoding", "connection", "date", "server", "upgrade"})


def _slot_reason(slot: SlotRow, trigger: str) -> Reason:
    if slot.covers == 1:
        what = f"slot {to_rfc3339(slot.slot)} of {trigger!r}"
    else:
        count = f"{slot.covers} or more" if slot.more else str(slot.covers)
        what = f"{count} slots of {trigger!r} from {to_rfc3339(slot.slot)} to {to_rfc3339(slot.until)}"
    return Reason(slot.code, slot.at, message=f"{what}: {meaning(slot.code)}")


class TriggerCalls:
    """What people and senders ask for of triggers: part of `engine.service.Service`."""

    _store: Store
    _clock: Clock
    _triggers: Triggers

    async def receive_delivery(self, workflow: str, trigger: str, arrival: Arrival) -> Received:
        """Take a delivery (`engine.webhooks`)."""
        return await self._triggers.webhooks.receive(workflow, trigger, arrival)

    async def send_delivery(self, workflow: str, trigger: str, arrival: Arrival, delivery_id: str | None) -> Received:
        """Take a delivery that is signed here (`engine.webhooks`)."""
        return await self._triggers.webhooks.send(workflow, trigger, arrival, delivery_id)

    async def find_reply(self, run_key: int, trigger: str) -> Reply | None:
        """What a run answers to its delivery; None while it goes on. Raises RespondFailed."""
        return await self._triggers.reply(run_key, trigger)

    async def replay_delivery(self, id: str, version: int | None) -> Delivered:
        """Take a stored delivery again. Raises NotFound, DeliveryGone, WorkflowDisabled, DeliveryRefused."""
        return await self._triggers.webhooks.replay(id, version)

    async def list_deliveries(self, chosen: DeliveryFilter) -> DeliveryPage:
        return await self._store.list_deliveries(chosen)

    async def get_delivery(self, id: str) -> tuple[DeliveryRow, bytes | None]:
        """Return a delivery and its body, or None when that is not kept any more. Raises NotFound."""
        row = await self._store.get_delivery(id)
        return row, await self._triggers.webhooks.shown_body(row)

    async def list_schedules(self, workflow: str | None, cursor: int, limit: int) -> list[ScheduleView]:
        rows = await self._store.list_schedules(workflow, cursor, limit)
        return [await self._view(row) for row in rows]

    async def explain_slot(self, row: RunRow) -> list[Reason]:
        """What was decided on the slot that started this run, and on those that were left out just before it."""
        if row.trigger_type != "cron":
            return []
        seen = loads(row.trigger)
        slot = from_rfc3339(seen["scheduled_at"])
        slots = await self._store.list_slots_of_run(row.id, row.workflow, seen["name"], slot)
        return [_slot_reason(found, seen["name"]) for found in slots]

    async def _view(self, row: ScheduleRow) -> ScheduleView:
        next_slot = schedule_of(row).next_after(row.cursor) if row.active else None
        overdue = 0 if row.next_at is None else max(0, self._clock.wall() - row.next_at)
        slots = await self._store.list_slots(row.id, SHOWN_SLOTS)
        return ScheduleView(row, loads(row.config), next_slot, overdue if overdue > OVERDUE_MS else 0, slots)
