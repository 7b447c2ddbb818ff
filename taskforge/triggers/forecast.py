"""What schedules will do: next slots, and a whole range with every decision, the changes of clocks, and downtime.

Pure: the same policy as the server's (`policy.decide_slots`) runs on a clock that only exists here.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from datetime import UTC, timedelta, tzinfo
from itertools import count, islice
from typing import Any, Final

from taskforge.core.clock import to_rfc3339
from taskforge.core.record import dataclass
from taskforge.triggers.policy import decide_slots
from taskforge.triggers.schedule import Schedule
from taskforge.triggers.zones import to_local, to_ms

_DAY_MS = 86_400_000

FORECAST_CODES: Final = {
    "CLOCK_CHANGE": "the zone's clocks are set",
    "SERVER_DOWN": "the server is down from here on",
    "SERVER_UP": "the server is up again",
}
"""Codes of what happens in a forecast beside the decisions on slots (`core.reasons.SLOT_CODES`)."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A schedule with its place. `seed` gives its slots their jitter; the server's own gives the server's times."""

    workflow: str
    trigger: str
    schedule: Schedule
    seed: str


@dataclass(frozen=True, slots=True)
class Happening:
    """Something at an instant. For decisions `slot` is the slot (or the first of `slots`, the last being `until`)."""

    at: int
    code: str
    zone: tzinfo
    timezone: str
    workflow: str | None = None
    trigger: str | None = None
    slot: int | None = None
    until: int | None = None
    slots: int = 1
    at_least: bool = False
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        shape: dict[str, Any] = {"at": to_rfc3339(self.at), "local": local_text(self.at, self.zone)}
        shape |= {"timezone": self.timezone, "code": self.code}
        if self.slot is not None:
            shape |= {"workflow": self.workflow, "trigger": self.trigger, "slot": to_rfc3339(self.slot)}
        if self.until is not None:
            shape |= {"until": to_rfc3339(self.until), "slots": self.slots, "at_least": self.at_least}
        if self.note is not None:
            shape["note"] = self.note
        return shape


def list_next(schedule: Schedule, from_ms: int, count: int) -> list[dict[str, Any]]:
    """The next slots strictly after `from_ms` as `{at, local, latest?, note?}`.

    `latest`, with jitter only, is the time before which the slot fires. `note` marks what a change of the clock does.
    """
    items = []
    for at in islice(schedule.after(from_ms), count):
        item = {"at": to_rfc3339(at), "local": local_text(at, schedule.zone)}
        if schedule.jitter_ms:
            following = schedule.next_after(at)
            room = schedule.jitter_ms if following is None else min(schedule.jitter_ms, following - at)
            item["latest"] = to_rfc3339(at + room)
        note = clock_note(schedule, at)
        items.append(item if note is None else item | {"note": note})
    return items


def clock_note(schedule: Schedule, at: int) -> str | None:
    """What a change of the zone's clock does to this slot, in words; None where it does nothing."""
    local = to_local(at, schedule.zone)
    cron = schedule.cron
    if cron is not None and (local.minute not in cron.fields.minutes or local.hour not in cron.fields.hours):
        return "the clock skips its time; this is the first minute after"
    first, second = to_ms(local.replace(fold=0)), to_ms(local.replace(fold=1))
    if second <= first:
        return None
    if cron is not None and not cron.fields.rhythm:
        return f"the clock shows {local:%H:%M} twice; this is the first, and the second does not count"
    return f"the clock shows {local:%H:%M} twice; this is the {'second' if local.fold else 'first'}"


def local_text(ms: int, zone: tzinfo) -> str:
    """The time on the zone's clocks with its offset, as `2026-03-29T03:00:00+02:00`."""
    return to_local(ms, zone).isoformat(timespec="milliseconds" if ms % 1000 else "seconds")


def clock_changes(zone: tzinfo, from_ms: int, to_ms: int) -> Iterator[tuple[int, str]]:
    """The instants in [from, to] at which the zone's offset changes, each with what the clocks do."""
    low = from_ms - 1000
    while low < to_ms:
        high = min(low + _DAY_MS, to_ms)
        if _offset(low, zone) != _offset(high, zone):
            at = _change_within(zone, low, high)
            before, after = to_local(at - 1000, zone), to_local(at, zone)
            was = (before + timedelta(seconds=1)).strftime("%H:%M")  # wall arithmetic: what they would have shown
            by = _offset(at, zone) - _offset(at - 1000, zone)
            way = "forward" if by > timedelta() else "back"
            yield at, f"clocks go {way} from {was} to {after:%H:%M}, by {_minutes(abs(by))}"
        low = high


def simulate(
    planned: Sequence[Planned], from_ms: int, to_ms: int, downtimes: Sequence[tuple[int, int]] = ()
) -> Iterator[Happening]:
    """Everything that happens in [from, to], in the order of time, as if every schedule began at `from`.

    In a downtime [a, b) nobody is there; at b the server decides what becomes of the slots in between. A period without
    a `start` counts from `from`.
    """
    numbers = count()
    queue: list[tuple[int, int, Happening | int]] = []
    for happening in _circumstances(planned, from_ms, to_ms, downtimes):
        heapq.heappush(queue, (happening.at, next(numbers), happening))
    schedules = [one.schedule.anchored(from_ms) for one in planned]
    cursors = [from_ms if one.every_ms and one.start_ms is None else from_ms - 1 for one in schedules]
    for index, schedule in enumerate(schedules):
        first = schedule.next_after(cursors[index])
        if first is not None:
            due = schedule.due(first, planned[index].seed)
            heapq.heappush(queue, (_awake(due, downtimes), next(numbers), index))
    while queue and queue[0][0] <= to_ms:
        now, _, entry = heapq.heappop(queue)
        if isinstance(entry, Happening):
            yield entry
            continue
        decision = decide_slots(schedules[entry], cursors[entry], now, planned[entry].seed)
        cursors[entry] = decision.cursor
        one, schedule = planned[entry], schedules[entry]
        zone, place = schedule.zone, (one.workflow, one.trigger)
        for gone in decision.missed:
            yield Happening(
                now, gone.code, zone, schedule.timezone, *place, gone.first, gone.last, gone.count, gone.at_least
            )
        for slot in decision.fire:
            note = clock_note(schedule, slot.at)
            yield Happening(now, slot.code, zone, schedule.timezone, *place, slot.at, note=note)
        if decision.next_at is not None:
            heapq.heappush(queue, (_awake(max(decision.next_at, now), downtimes), next(numbers), entry))


def _circumstances(
    planned: Sequence[Planned], from_ms: int, to_ms: int, downtimes: Sequence[tuple[int, int]]
) -> Iterator[Happening]:
    zones = {one.schedule.timezone: one.schedule.zone for one in planned}
    for name, zone in zones.items():
        for at, words in clock_changes(zone, from_ms, to_ms):
            yield Happening(at, "CLOCK_CHANGE", zone, name, note=words)
    name, zone = next(iter(zones.items())) if len(zones) == 1 else ("UTC", UTC)
    for down, up in downtimes:
        for at, code in ((down, "SERVER_DOWN"), (up, "SERVER_UP")):
            yield Happening(at, code, zone, name, note=FORECAST_CODES[code])


def _awake(at: int, downtimes: Sequence[tuple[int, int]]) -> int:
    """The first instant from `at` on at which the server is up."""
    for down, up in sorted(downtimes):
        if down <= at < up:
            at = up
    return at


def _offset(ms: int, zone: tzinfo) -> timedelta:
    return to_local(ms, zone).utcoffset() or timedelta()


def _change_within(zone: tzinfo, low: int, high: int) -> int:
    before = _offset(low, zone)
    first, last = low // 1000, high // 1000
    while last - first > 1:
        middle = (first + last) // 2
        if _offset(middle * 1000, zone) == before:
            first = middle
        else:
            last = middle
    return last * 1000


def _minutes(span: timedelta) -> str:
    minutes = int(span.total_seconds()) // 60
    return f"{minutes // 60} h" if minutes % 60 == 0 else f"{minutes} min"
