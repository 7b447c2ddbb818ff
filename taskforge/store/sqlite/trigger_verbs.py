"""Verbs of what starts runs by itself: schedules, deliveries, ends of runs."""

from __future__ import annotations

from taskforge.store.protocol import (
    StartedRun,
)
from taskforge.store.sqlite import (
    deliveries,
    schedules,
)
from taskforge.store.sqlite.large import find_large
from taskforge.store.sqlite.verbs import Verbs
from taskforge.store.triggered import (
    Delivered,
    DeliveryFilter,
    DeliveryPage,
    DeliveryRow,
    EndRow,
    Firing,
    NewDelivery,
    ScheduleRow,
    SlotRow,
    Start,
)


class TriggerVerbs(Verbs):
    """Part of `SqliteStore`: triggers."""

    # ---- schedules

    async def list_due_schedules(self, now: int, limit: int) -> list[ScheduleRow]:
        return await self._readers.submit(schedules.list_due_schedules, now, limit)

    async def next_schedule(self) -> int | None:
        return await self._readers.submit(schedules.next_schedule)

    async def fire_schedule(self, firing: Firing) -> list[StartedRun | None]:
        large = [await self._encode(find_large(changes, new)) for _, (new, changes) in firing.starts]
        return await self._writer.enqueue(schedules.fire_schedule, firing, large)

    async def list_schedules(self, workflow: str | None, cursor: int, limit: int) -> list[ScheduleRow]:
        return await self._readers.submit(schedules.list_schedules, workflow, cursor, limit)

    async def list_slots(self, schedule: int, limit: int) -> list[SlotRow]:
        return await self._readers.submit(schedules.list_slots, schedule, limit)

    async def list_slots_of_run(self, run_id: str, workflow: str, trigger: str, slot: int) -> list[SlotRow]:
        return await self._readers.submit(schedules.list_slots_of_run, run_id, workflow, trigger, slot)

    async def count_overdue(self, before: int) -> tuple[int, int | None]:
        return await self._readers.submit(schedules.count_overdue, before)

    async def prune_slots(self, before: int, after: int, limit: int) -> int | None:
        return await self._writer.submit(schedules.prune_slots, before, after, limit)

    # ---- deliveries, and the ends of runs

    async def accept_delivery(self, new: NewDelivery, start: Start | None) -> Delivered:
        large = None if start is None else await self._encode(find_large(start[1], start[0]))
        return await self._writer.enqueue(deliveries.accept_delivery, new, start, large, is_short=large is None)

    async def find_delivery(self, workflow: str, trigger: str, dedupe: str) -> DeliveryRow | None:
        return await self._readers.submit(deliveries.find_delivery, workflow, trigger, dedupe)

    async def get_delivery(self, id: str) -> DeliveryRow:
        return await self._readers.submit(deliveries.get_delivery, id)

    async def find_delivery_body(self, id: str) -> bytes | None:
        return await self._readers.submit(deliveries.find_delivery_body, id)

    async def list_deliveries(self, chosen: DeliveryFilter) -> DeliveryPage:
        return await self._readers.submit(deliveries.list_deliveries, chosen)

    async def prune_deliveries(self, before: int, keep_bytes: int, limit: int) -> int:
        return await self._writer.submit(deliveries.prune_deliveries, before, keep_bytes, limit)

    async def count_queued(self) -> int:
        return await self._readers.submit(deliveries.count_queued)

    async def list_sources(self) -> set[str]:
        return await self._readers.submit(deliveries.list_sources)

    async def list_ends(self, run: int | None, limit: int) -> list[EndRow]:
        return await self._readers.submit(deliveries.list_ends, run, limit)

    async def start_on_end(self, end: EndRow, start: Start | None) -> StartedRun | None:
        large = None if start is None else await self._encode(find_large(start[1], start[0]))
        return await self._writer.enqueue(deliveries.start_on_end, end, start, large, is_short=large is None)
