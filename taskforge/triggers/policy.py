"""What becomes of slots: which fire, which are late, which were missed. Pure: cursor and now in, decision out.

The cursor is the last slot that was decided (or when the schedule was made). Only slots after it are decided, and the
cursor never goes back: so no slot is decided twice, whatever the clock does.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from taskforge.core.record import dataclass
from taskforge.triggers.schedule import Schedule

ON_TIME_MS: Final = 10_000
"""A slot that fires at most this much after it was due is on time. Older ones are late, or were missed."""

BATCH: Final = 1_000
"""Slots that one decision fires at most; the rest is for the next."""

COUNTED: Final = 1_000
"""Missed slots are counted up to here; beyond, `at_least` says that there were more."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot that fires. `at` is its time by the plan (the slot's key), `due` with jitter."""

    at: int
    due: int
    late: bool

    @property
    def code(self) -> str:
        return "SLOT_LATE" if self.late else "SLOT_FIRED"


@dataclass(frozen=True, slots=True)
class Missed:
    """Slots that do not fire: from `first` to `last`, both included. `at_least`: there were more than `count`."""

    first: int
    last: int
    count: int
    at_least: bool
    code: str


@dataclass(frozen=True, slots=True)
class SlotDecision:
    """`fire` and `missed` are in the order of time. `cursor` is the new one: the last decided slot, or the old cursor.

    `next_slot` is the first slot not decided yet and `next_at` when to decide again: in the past where `BATCH` left
    some over; None where no slot will ever follow. `behind_ms`: how far the clock, which was set back, is behind the
    cursor; nothing fires until it has caught up.
    """

    fire: tuple[Slot, ...]
    missed: tuple[Missed, ...]
    cursor: int
    next_slot: int | None
    next_at: int | None
    behind_ms: int = 0


def decide_slots(schedule: Schedule, cursor_ms: int, now_ms: int, seed: str, *, batch: int = BATCH) -> SlotDecision:
    """Decide every slot after the cursor that is due by now. `seed` (the schedule's id) gives each slot its jitter."""
    behind = max(cursor_ms - now_ms, 0)
    first = schedule.next_after(cursor_ms)
    if first is None or first > now_ms or schedule.due(first, seed) > now_ms:
        return SlotDecision((), (), cursor_ms, first, _due(schedule, first, seed), behind)
    last = _last_due(schedule, cursor_ms, now_ms, seed)
    if last is None:  # the first is due, so there is a last
        raise AssertionError(f"no due slot of {schedule.text!r} in ({cursor_ms}, {now_ms}]")
    on_time = now_ms - schedule.due(last, seed) <= ON_TIME_MS
    floor = cursor_ms if schedule.window_ms is None else max(cursor_ms, now_ms - schedule.window_ms - 1)
    if schedule.catch_up == "all":
        fire, missed = _all(schedule, cursor_ms, min(floor, last - 1) if on_time else floor, last, now_ms, seed, batch)
    elif on_time or (schedule.catch_up == "latest" and last > floor):
        code = "SLOT_MISSED" if schedule.catch_up == "none" else "SLOT_SUPERSEDED"
        due = schedule.due(last, seed)
        fire = (Slot(last, due, now_ms - due > ON_TIME_MS),)
        missed = _missed(schedule, cursor_ms, last - 1, code)
    else:
        fire = ()
        missed = _missed(schedule, cursor_ms, last, "SLOT_MISSED" if schedule.catch_up == "none" else "SLOT_TOO_OLD")
    cursor = max([cursor_ms, *(slot.at for slot in fire), *(gone.last for gone in missed)])
    following = schedule.next_after(cursor)
    return SlotDecision(fire, missed, cursor, following, _due(schedule, following, seed), behind)


def _all(
    schedule: Schedule, cursor: int, floor: int, last: int, now: int, seed: str, batch: int
) -> tuple[tuple[Slot, ...], tuple[Missed, ...]]:
    """Slots in (floor, last] fire, oldest first; those before it are too old."""
    fire = []
    for at in islice(_up_to(schedule, floor, last), batch):
        due = schedule.due(at, seed)
        fire.append(Slot(at, due, now - due > ON_TIME_MS))
    return tuple(fire), _missed(schedule, cursor, min(floor, last), "SLOT_TOO_OLD")


def _missed(schedule: Schedule, after: int, until: int, code: str) -> tuple[Missed, ...]:
    """The slots in (after, until] as one range; none as an empty one."""
    counted = list(islice(_up_to(schedule, after, until), COUNTED + 1))
    if not counted:
        return ()
    if len(counted) <= COUNTED:
        return (Missed(counted[0], counted[-1], len(counted), False, code),)
    last = schedule.last_within(after, until)
    return (Missed(counted[0], counted[-1] if last is None else last, COUNTED, True, code),)


def _last_due(schedule: Schedule, after: int, now: int, seed: str) -> int | None:
    last = schedule.last_within(after, now)
    if last is not None and schedule.due(last, seed) > now:
        # Jitter stays within the slot's own stretch of time, so the one before is due.
        last = schedule.last_within(after, last - 1)
    return last


def _up_to(schedule: Schedule, after: int, until: int) -> Iterator[int]:
    for at in schedule.after(after):
        if at > until:
            return
        yield at


def _due(schedule: Schedule, at: int | None, seed: str) -> int | None:
    return None if at is None else schedule.due(at, seed)
