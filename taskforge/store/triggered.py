"""What the store keeps for triggers: schedules with their slots, the inbox of deliveries, ends of runs that others wait
for. The verbs and what they mean; `protocol.Store` includes them.

**Schedules.** One row for each trigger that time fires. `cursor` is the last slot that was decided on (or where the
schedule began), `next_at` when it is looked at again; NULL when nothing is to come, or the workflow is disabled or
deleted. Slots are rows, unique by (schedule, slot): one that was decided on (but for one that was only held back) is
never decided on again. Where a schedule begins anew, what was left out after that time is to come again; what has fired
never is. Times of schedules are those of the wall clock.

**Deliveries.** Every delivery that was verified is stored as it came, before it is answered. One that is ACCEPTED has
started its run in the same transaction; another one with its dedupe key is a DUPLICATE of it.

**Ends.** When a run ends, each enabled workflow with a trigger for that gets an entry, in the same transaction. It is
taken away in the transaction that starts that workflow's run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from taskforge.core.record import dataclass
from taskforge.core.snapshot import Changes

TIMES: Final = ("cron", "at", "timezone", "start", "end")
"""The settings that say when a schedule fires: with others, it begins anew."""


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be stored. `input` and `trigger` are JSON text; `request_hash` is the hash of the request's body."""

    id: str
    workflow: str
    version: int
    trigger: str
    trigger_type: str
    input: str
    created_at: int
    priority: int = 0
    start_at: int | None = None
    idempotency_key: str | None = None
    request_hash: str | None = None
    lineage: str | None = None
    """The id of the run that this one replays."""
    parent: str | None = None
    """JSON text of `{"key", "run", "path", "signal"?, "depth", "places"}`: the step that started this child run. With
    `signal` the parent waits, and is told of the end."""
    parent_key: int | None = None


class StartedRun(NamedTuple):
    """The answer of `start_run`. `created` is False when the Idempotency-Key had started `id` before. `due_at` is what
    the verbs that apply a decision return: since when a run is due that was given a place by this."""

    id: str
    key: int
    number: int
    state: str
    created: bool
    due_at: int | None = None


Start = tuple[NewRun, Changes]
"""A run to be stored with its first decision."""


@dataclass(frozen=True, slots=True)
class TriggerSpec:
    """A trigger of the version that becomes current. `config`, `cursor` and `next_at` are for what time fires: its
    settings (JSON text), and where it begins when it is new, or its times have changed. `source` and `states` (JSON
    text of a list) are for the ends of another workflow's runs."""

    name: str
    kind: str
    source: str | None = None
    states: str | None = None
    config: str | None = None
    cursor: int = 0
    next_at: int | None = None


class ScheduleRow(NamedTuple):
    """`held_at`: the first slot that came while the workflow was held. `missed` counts slots since it began."""

    id: int
    workflow: str
    trigger: str
    config: str
    active: bool
    began_at: int
    cursor: int
    next_at: int | None
    held_at: int | None
    last_slot: int | None
    missed: int


class SlotRow(NamedTuple):
    """A decision on a slot, or on all `covers` slots from `slot` to `until` (`more`: there were more than counted).
    `code` is a code of `core.reasons.SLOT_CODES`; SLOT_FIRED and SLOT_LATE have a run.
    `error` is JSON text of `{code, message}`."""

    slot: int
    code: str
    at: int
    until: int
    covers: int = 1
    more: bool = False
    run: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Firing:
    """What was decided for a schedule whose cursor was `before`: its slots, and the runs of those that fire."""

    schedule: int
    before: int
    cursor: int
    next_at: int | None
    slots: Sequence[SlotRow] = ()
    starts: Sequence[tuple[int, Start]] = ()
    """Slot and run."""
    held_at: int | None = None


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A verified request. `query` and `headers` are JSON text, with what is secret left out; `body` the bytes as they
    came. `dedupe` is the sender's id of it. `debounce`: later deliveries with this key replace a run that has not
    begun. `error` is JSON text of `{code, message}`."""

    id: str
    workflow: str
    trigger: str
    version: int
    state: str
    received_at: int
    method: str
    query: str
    headers: str
    body: bytes
    dedupe: str | None = None
    debounce: str | None = None
    replay_of: str | None = None
    error: str | None = None


class Delivered(NamedTuple):
    """The answer of `accept_delivery`. `run` is the one that was started, replaced, or started before (`run.created`
    False)."""

    id: str
    state: str
    run: StartedRun | None


class DeliveryRow(NamedTuple):
    key: int
    id: str
    workflow: str
    trigger: str
    version: int
    state: str
    received_at: int
    method: str
    query: str
    headers: str
    body_bytes: int
    has_body: bool
    dedupe: str | None
    run_id: str | None
    run_number: int | None
    earlier: str | None
    """The id of the delivery that this one is a duplicate of."""
    replay_of: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """`cursor` is the `key` after which the list goes on (newest first); `text` is looked for in headers and body."""

    workflow: str | None = None
    trigger: str | None = None
    state: str | None = None
    text: str | None = None
    cursor: int | None = None
    limit: int = 50


class DeliveryPage(NamedTuple):
    """`following` is where the list goes on, or None. A search may give fewer than asked for, and still go on."""

    items: list[DeliveryRow]
    following: int | None


class EndRow(NamedTuple):
    """The end of run `run`, for which trigger `trigger` of `workflow` has not started a run yet."""

    run: int
    workflow: str
    trigger: str
    generation: int


class TriggerStore(Protocol):
    """The verbs for triggers."""

    # ---- schedules

    async def list_due_schedules(self, now: int, limit: int) -> list[ScheduleRow]:
        """Those with `next_at` ≤ now, the earliest first."""
        ...

    async def next_schedule(self) -> int | None:
        """The earliest `next_at`, or None."""
        ...

    async def fire_schedule(self, firing: Firing) -> list[StartedRun | None]:
        """Write the decisions on slots, start the runs, move the schedule on: one transaction. A slot that fired before
        starts no run: None stands in its place. Raises ScheduleMoved when the schedule has another cursor by now or is
        not active; NotFound, WorkflowDisabled as `start_run` does."""
        ...

    async def list_schedules(self, workflow: str | None, cursor: int, limit: int) -> list[ScheduleRow]:
        """Those of workflows that are not deleted, also of disabled ones; by id, after `cursor`."""
        ...

    async def list_slots(self, schedule: int, limit: int) -> list[SlotRow]:
        """The newest decisions of a schedule, newest first."""
        ...

    async def list_slots_of_run(self, run_id: str, workflow: str, trigger: str, slot: int) -> list[SlotRow]:
        """The decision that started a run, and before it those on slots that were left out in the same transaction; in
        the order of slots."""
        ...

    async def count_overdue(self, before: int) -> tuple[int, int | None]:
        """How many schedules have `next_at` < before, and the earliest of these."""
        ...

    async def prune_slots(self, before: int, after: int, limit: int) -> int | None:
        """Delete the decisions made before the time, of `limit` schedules after the id `after`. Returns the id after
        which there are more."""
        ...

    # ---- deliveries

    async def accept_delivery(self, new: NewDelivery, start: Start | None) -> Delivered:
        """Store a delivery and start its run (`start` is given when `new.state` is ACCEPTED): one transaction. When one
        with the same dedupe key was ACCEPTED before, it is stored as DUPLICATE, and nothing is started. With a
        `debounce` key that a run has which has not begun, that run gets the new one's input, trigger, version and time
        instead. Raises as `start_run` does."""
        ...

    async def find_delivery(self, workflow: str, trigger: str, dedupe: str) -> DeliveryRow | None:
        """The ACCEPTED delivery with this dedupe key."""
        ...

    async def get_delivery(self, id: str) -> DeliveryRow:
        """Raises NotFound."""
        ...

    async def find_delivery_body(self, id: str) -> bytes | None:
        """The body as it came; None when it is not kept any more."""
        ...

    async def list_deliveries(self, chosen: DeliveryFilter) -> DeliveryPage: ...

    async def prune_deliveries(self, before: int, keep_bytes: int, limit: int) -> int:
        """Delete at most `limit` deliveries that came before the time; while all bodies together are larger than
        `keep_bytes`, let go of the oldest bodies. Returns how many rows it changed."""
        ...

    async def count_queued(self) -> int:
        """How many runs are QUEUED now."""
        ...

    # ---- ends of runs

    async def list_sources(self) -> set[str]:
        """The workflows whose ends a trigger waits for."""
        ...

    async def list_ends(self, run: int | None, limit: int) -> list[EndRow]:
        """Ends of this run, or of all, that have not started their runs yet."""
        ...

    async def start_on_end(self, end: EndRow, start: Start | None) -> StartedRun | None:
        """Take the end away and start the run: one transaction. None when it was taken away before, or without a
        run."""
        ...
