"""Triggers of the current versions, schedules and their slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from taskforge.core.errors import ScheduleMoved
from taskforge.core.jsontext import loads
from taskforge.store.sqlite.connection import Session
from taskforge.store.sqlite.large import Encoded
from taskforge.store.sqlite.runs import start_run
from taskforge.store.triggered import TIMES, Firing, ScheduleRow, SlotRow, StartedRun, TriggerSpec

MISSED: Final = ("SLOT_MISSED", "SLOT_SUPERSEDED", "SLOT_TOO_OLD")


def sync_triggers(
    session: Session, workflow: str, triggers: Sequence[TriggerSpec], *, enabled: bool, anew: bool = False
) -> None:
    """Make the rows those of the version that is current now. `anew`: every schedule begins where its spec says."""
    session.sources = None
    session.write("sync_triggers_forget", (workflow,))
    session.insert(
        "sync_triggers_insert", [(workflow, spec.name, spec.kind, spec.source, spec.states) for spec in triggers]
    )
    known = {name: (config, active) for name, config, active in session.rows("sync_schedules_find", (workflow,))}
    for spec in triggers:
        if spec.config is None:
            continue
        config, active = known.pop(spec.name, (None, 0))
        if active and enabled and not anew and config is not None and _times(config) == _times(spec.config):
            if config != spec.config:
                # It is looked at again at once, under its new policy.
                session.write("sync_schedules_keep", (workflow, spec.name, spec.config, spec.cursor))
            continue
        next_at = spec.next_at if enabled else None
        session.write("sync_schedules_begin", (workflow, spec.name, spec.config, enabled, spec.cursor, next_at))
        # A clock that was set forward by mistake had slots left out that are to come now.
        session.write("sync_schedules_void", (workflow, spec.name, spec.cursor))
    for name, (_, active) in known.items():
        if active:
            session.write("sync_schedules_end", (workflow, name))


def _times(config: str) -> dict[str, Any]:
    return {name: value for name, value in loads(config).items() if name in TIMES}


def end_schedules(session: Session, workflow: str) -> None:
    """Fire none of them any more."""
    session.write("sync_schedules_end_all", (workflow,))


def list_due_schedules(session: Session, now: int, limit: int) -> list[ScheduleRow]:
    return [_schedule(row) for row in session.rows("list_due_schedules", (now, limit))]


def next_schedule(session: Session) -> int | None:
    found: int | None = session.rows("next_schedule")[0][0]
    return found


def fire_schedule(session: Session, firing: Firing, larges: Sequence[Encoded | None]) -> list[StartedRun | None]:
    starting = [slot.slot for slot in firing.slots if slot.run is not None]
    missed = sum(slot.covers for slot in firing.slots if slot.code in MISSED)
    moved = session.write(
        "fire_schedule_move",
        (firing.schedule, firing.before, firing.cursor, firing.next_at, max(starting, default=None), missed,
         firing.held_at),
    )  # fmt: skip
    if not moved:
        raise ScheduleMoved(f"schedule {firing.schedule} was decided on by somebody else, or ended")
    written = set()
    for slot in firing.slots:
        if slot.until > slot.slot:
            session.write("fire_schedule_unhold", (firing.schedule, slot.slot, slot.until))
        row = (slot.slot, slot.code, slot.at, slot.until, slot.covers, slot.more, slot.run, slot.error)
        if session.write("fire_schedule_slot", (firing.schedule, *row)):
            written.add(slot.slot)
    started: list[StartedRun | None] = []
    for (slot_at, (new, changes)), large in zip(firing.starts, larges, strict=True):
        started.append(start_run(session, new, changes, large) if slot_at in written else None)
    return started


def list_schedules(session: Session, workflow: str | None, cursor: int, limit: int) -> list[ScheduleRow]:
    return [_schedule(row) for row in session.rows("list_schedules", (workflow, cursor, limit))]


def list_slots(session: Session, schedule: int, limit: int) -> list[SlotRow]:
    return [_slot(row) for row in session.rows("list_slots", (schedule, limit))]


def list_slots_of_run(session: Session, run_id: str, workflow: str, trigger: str, slot: int) -> list[SlotRow]:
    return [_slot(row) for row in session.rows("list_slots_of_run", (run_id, workflow, trigger, slot))]


def count_overdue(session: Session, before: int) -> tuple[int, int | None]:
    count, earliest = session.rows("count_overdue", (before,))[0]
    return count, earliest


def prune_slots(session: Session, before: int, after: int, limit: int) -> int | None:
    ids = [id for (id,) in session.rows("prune_slots_schedules", (after, limit))]
    session.executemany(session.sql["prune_slots"], [(id, before, before) for id in ids])
    return ids[-1] if len(ids) == limit else None


def _schedule(row: tuple[Any, ...]) -> ScheduleRow:
    return ScheduleRow._make(row)._replace(active=bool(row[4]))


def _slot(row: tuple[Any, ...]) -> SlotRow:
    return SlotRow._make(row)._replace(more=bool(row[5]))
