"""The store's verbs and what they mean, for every database. Rule 1: these names are the ones of routes, SQL and tests.

Every write verb is one short transaction: durable (fsync) when the call returns, or nothing has changed. A verb that is
refused raises an error of `core.errors` and leaves no trace. `apply` verbs take `Changes` from `core.decide` and are
guarded by the run's revision and, for attempts, by the lease token: `LeaseLost` when either has moved. Every applied
decision counts the revision up by one; a run that was just started has `changes.revision + 1`, that is 1.

**Places in `concurrency`.** A decision with a `claim` asks for a place (while the run is QUEUED; else the claim means
nothing). Places are taken by live runs with `placed` = 1; those that wait for one are QUEUED with `placed` = 0. In the
same transaction as the claim, and as the end of any run that has a place or waits for one, free places go to those that
wait: by priority, then the older run first, each as long as fewer runs than the limit that it asked under hold one;
nobody is overtaken. A run that gets a place has `placed` = 1, no owner, `due_at` = the decision's `now`, and its
revision counts up once more (so a driver that has it in memory gets LeaseLost, and loads it). Who gets none keeps the
`due_at` of the decision when the claim `queues`, else it is due at once. Every verb that applies a decision says when a
place was given: it returns the time since when some run is due through that (the decision's own run or another one),
or None. What the decision itself made due is in `changes.run.due_at`.

**Children.** A child run whose `NewRun.parent` has a `signal` is waited for until it has ended and its parent was told
(`told_child`), or until the parent, or the step of it that waits, ends: then it is an orphan as long as it goes on.

JSON columns come and go as text; times are milliseconds UTC.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from taskforge.core.record import dataclass
from taskforge.core.snapshot import AttemptRecord, Changes, RunRecord, SignalRecord, StepRecord
from taskforge.store.audit import AuditStore
from taskforge.store.triggered import NewRun as NewRun
from taskforge.store.triggered import StartedRun as StartedRun
from taskforge.store.triggered import TriggerSpec, TriggerStore
from taskforge.store.values import ValueStore


class WorkflowRow(NamedTuple):
    name: str
    version: int
    enabled: bool
    deleted: bool
    description: str | None
    created_at: int
    updated_at: int


class VersionRow(NamedTuple):
    """An immutable version. `document` is the canonical JSON text, `source` the text as given, `media` yaml or json."""

    workflow: str
    version: int
    document: str
    source: str
    media: str
    created_at: int


class Published(NamedTuple):
    name: str
    version: int
    changed: bool
    created: bool


class NewVersion(NamedTuple):
    """A document to be stored as `publish_workflow` stores it; the fields are its parameters."""

    name: str
    document: str
    source: str
    media: str
    description: str | None
    triggers: Sequence[TriggerSpec] = ()


class AppliedWorkflows(NamedTuple):
    """The answer of `apply_workflows`: `published` in the order of the versions, `deleted` what was there."""

    published: list[Published]
    deleted: list[str]


class LiveRuns(NamedTuple):
    """How many runs of a version are in a state that is not terminal."""

    workflow: str
    version: int
    state: str
    runs: int


class RunRow(NamedTuple):
    """A run as it is listed."""

    key: int
    id: str
    number: int
    workflow: str
    version: int
    trigger: str
    trigger_type: str
    input: str
    created_at: int
    priority: int
    start_at: int | None
    revision: int
    lineage: str | None
    parent: str | None
    record: RunRecord


class AttemptRow(NamedTuple):
    record: AttemptRecord
    state: str
    finished_at: int | None
    error: str | None


class RunRows(NamedTuple):
    """All rows of one run. `attempts` of all generations, oldest first; `signals` that were sent and not taken."""

    run: RunRow
    steps: list[StepRecord]
    attempts: list[AttemptRow]
    signals: list[SignalRecord] = []  # noqa: RUF012 - read only


class JournalRow(NamedTuple):
    """One decision: its number in the order of commits, its run, its time, and its entries (JSON text of a list)."""

    id: int
    run_id: str
    at: int
    entries: str


class DeadLetterRow(NamedTuple):
    id: str
    state: str
    run_id: str
    run_number: int
    workflow: str
    path: str
    generation: int
    input: str | None
    error: str
    created_at: int
    closed_at: int | None


class Rescued(NamedTuple):
    """What `rescue_leases` did: attempts that became LOST, runs that are free again."""

    attempts: int
    runs: int


@dataclass(frozen=True, slots=True)
class RunFilter:
    """`cursor` is the `key` after which the list goes on (newest first)."""

    workflow: str | None = None
    states: tuple[str, ...] = ()
    trigger_type: str | None = None
    since: int | None = None
    until: int | None = None
    cursor: int | None = None
    limit: int = 50


@dataclass(slots=True)
class Stats:
    """Exact at the time of the call."""

    runs: dict[str, int] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    ready_steps: int = 0
    oldest_ready_ms: int | None = None
    dead_letters: int = 0
    db_bytes: int = 0
    wal_bytes: int = 0
    schedules_overdue: int = 0
    pruned_runs: int = 0
    freed_bytes: int = 0
    swept_at: int | None = None
    """What retention has let go of since the server started, and when it last looked."""
    free_bytes: int = 0
    """What of `db_bytes` is empty: used for new rows, or given back by `free_pages`."""
    schedule_overdue_ms: int = 0
    """How long the schedule has been due that is overdue the most."""


class Store(TriggerStore, ValueStore, AuditStore, Protocol):
    """One database. Methods may be called from one event loop; they never hold a transaction across an await."""

    notices: list[str]
    """What a person should know about the database's past: one line each, found when it was opened."""
    on_failure: Callable[[BaseException], None]
    """Called once, on the event loop, when nothing can be acknowledged any more: a sync failed, the file is damaged,
    the writer ended. Every later write raises Unavailable; the process has to end with an exit code ≠ 0."""

    async def close(self) -> None:
        """Commit what is queued, then end."""
        ...

    # ---- definitions

    async def publish_workflow(
        self,
        name: str,
        document: str,
        source: str,
        media: str,
        description: str | None,
        now: int,
        triggers: Sequence[TriggerSpec] = (),
    ) -> Published:
        """Store a new version of `name`, or nothing when `document` equals the newest version's. A deleted workflow
        comes back, with its numbers going on. A new workflow is enabled.

        `triggers` are all that the version has. A schedule that is new, or whose times have changed, begins where its
        spec says; one that has not changed goes on; one that is gone fires no more."""
        ...

    async def set_enabled(
        self, name: str, enabled: bool, now: int, triggers: Sequence[TriggerSpec] = ()
    ) -> WorkflowRow:
        """Schedules of a disabled workflow fire no more; of one that is enabled, those in `triggers` begin where their
        specs say. Raises NotFound."""
        ...

    async def delete_workflow(self, name: str, now: int) -> None:
        """Hide the workflow; its versions and runs stay readable, its triggers are gone. Raises NotFound."""
        ...

    async def apply_workflows(
        self, versions: Sequence[NewVersion], deleted: Sequence[str], expected: Mapping[str, int], now: int
    ) -> AppliedWorkflows:
        """`publish_workflow` for each of `versions` and `delete_workflow` for each of `deleted`, all in one
        transaction; what is deleted already stays so. `expected` are newest versions by name, 0 for a workflow that is
        not there: raises WorkflowsMoved when one of them is another by now."""
        ...

    async def get_workflow(self, name: str) -> WorkflowRow:
        """Raises NotFound, also for a deleted one."""
        ...

    async def list_workflows(self, cursor: str | None, limit: int) -> list[WorkflowRow]: ...

    async def get_version(self, name: str, version: int) -> VersionRow:
        """Raises NotFound. Versions of deleted workflows are found."""
        ...

    async def list_versions(self, name: str, cursor: int | None, limit: int) -> list[VersionRow]:
        """Newest first; `cursor` is a version number."""
        ...

    async def list_newest_versions(self, cursor: str | None, limit: int) -> list[VersionRow]:
        """The newest version of every workflow that is not deleted, by name after `cursor`."""
        ...

    async def count_live_runs(self) -> list[LiveRuns]:
        """The runs that go on, of all workflows, deleted ones too."""
        ...

    # ---- runs: verbs that apply a decision

    async def start_run(self, new: NewRun, changes: Changes) -> StartedRun:
        """Store a run with its first steps and journal, and give it its number. With an idempotency key that this
        workflow had in the last 7 days: nothing is stored; the first run is returned (`created` False), or
        IdempotencyMismatch when `request_hash` differs. Raises NotFound for an unknown or deleted workflow,
        WorkflowDisabled."""
        ...

    async def find_started(
        self, workflow: str, idempotency_key: str, request_hash: str | None, now: int
    ) -> StartedRun | None:
        """The run that this key started in the 7 days before `now`, also of a disabled or deleted workflow. Raises
        IdempotencyMismatch when the hash is another."""
        ...

    async def start_runs(self, runs: Sequence[tuple[NewRun, Changes]]) -> list[StartedRun]:
        """`start_run` for many, all in one transaction: all or none."""
        ...

    def advance_run(self, changes: Changes) -> Awaitable[int | None]:
        """Apply a decision in which no attempt ended (prepared steps, a run taken up). Raises LeaseLost."""
        ...

    def finish_attempt(self, changes: Changes) -> Awaitable[int | None]:
        """Apply a decision in which attempts ended. Every end is guarded by its token. Raises LeaseLost."""
        ...

    def resume_wait(self, changes: Changes) -> Awaitable[int | None]:
        """Apply a decision made because a time has come. Raises LeaseLost."""
        ...

    def cancel_run(self, changes: Changes) -> Awaitable[int | None]:
        """Apply a cancellation. Raises LeaseLost."""
        ...

    def send_signal(self, changes: Changes) -> Awaitable[int | None]:
        """Apply a decision about a signal: it is kept, or taken at once. With `told_child`, that child run's end counts
        as told. Signals of a run that has ended are not kept. Raises LeaseLost."""
        ...

    def retry_run(self, changes: Changes) -> Awaitable[int | None]:
        """Apply a person's retry: a new generation. Closes the run's open dead letters as RETRIED. Raises LeaseLost."""
        ...

    # ---- runs: ownership and leases

    async def lease_steps(
        self, owner: str, now: int, limit: int, *, suspects: bool = False, slots: bool = True, held: Sequence[str] = ()
    ) -> list[RunRows]:
        """Take at most `limit` runs that nobody holds and in which something is due (`due_at` ≤ now), by priority and
        then by time: `owner` is set, `due_at` cleared, the revision counted up. Runs with `suspect` > 0 are returned
        only with `suspects`, and then only those. Without `slots`, only runs that need none (`needs_slot` = 0, or
        `latest_at` ≤ now) are taken; runs of workflows in `held` never are (`*` stands for all)."""
        ...

    async def release_run(self, key: int, revision: int, due_at: int) -> None:
        """Give back a run that was taken without a decision. Raises LeaseLost."""
        ...

    async def renew_leases(self, owner: str, until: int) -> int:
        """Set the end of all leases of `owner`; returns how many attempts it holds."""
        ...

    async def rescue_leases(self, dead_owners: Sequence[str] | None, now: int, keep: str | None = None) -> Rescued:
        """Free what a dead process held. With `dead_owners`: everything of these (None in the list is not allowed; an
        empty list is every owner but `keep`). With None: attempts of owners other than `keep` whose lease ended before
        `now`, and nothing else.

        Such attempts become LOST (PROCESS_DIED, or LEASE_EXPIRED for lapsed ones), their steps QUEUED and due at `now`;
        the runs lose their owner, are due at `now`, and their revision counts up. For a dead owner the step's `crashes`
        counts up; a run with a step at the crash limit becomes suspect, and one that was ALONE becomes CONVICTED
        (`core.decide`). Runs of a dead owner without an attempt are freed as well."""
        ...

    async def next_due(self, *, suspects: bool = False, slots: bool = True, held: Sequence[str] = ()) -> int | None:
        """The earliest `due_at` of all runs that nobody holds, with the same choice as `lease_steps`; or None."""
        ...

    async def find_oldest_placed(self, place: str) -> int | None:
        """The key of the oldest run that holds this place, or None when it is free."""
        ...

    async def find_replaced(self, place: str) -> int | None:
        """The key of the oldest run that holds this place and is not ending yet, when more runs wait for the place than
        are ending there; else None: the one to go next where `on_limit` is cancel_oldest."""
        ...

    async def list_queued(self, after: str, limit: int) -> list[tuple[str, int]]:
        """The places after this one, in order, for which runs wait, each with the key of the oldest such run."""
        ...

    async def list_children(self, key: int) -> list[int]:
        """The keys of child runs that this run waits for, or waited for when it ended, and that have not ended."""
        ...

    async def list_untold_children(self, limit: int) -> list[int]:
        """The keys of child runs that have ended and whose parent goes on and has not been told (after a crash). They
        are not pruned."""
        ...

    async def list_orphans(self, limit: int) -> list[int]:
        """The keys of waited-for child runs that go on although their parent has ended (after a crash)."""
        ...

    async def list_rates(self) -> dict[str, int]:
        """The state of all rate limits: key → time in milliseconds. `changes.rates` only moves these times forward;
        what has meant nothing for a day is forgotten by `register_node` and `prune_runs`."""
        ...

    async def load_run(self, key: int) -> RunRows:
        """Raises NotFound."""
        ...

    # ---- runs: reads

    async def get_run(self, ref: str) -> RunRow:
        """By `run_…` id or `name#number`. Raises NotFound."""
        ...

    async def get_run_rows(
        self,
        ref: str,
        *,
        steps: Literal["none", "failed", "all"] = "all",
        cursor: str | None = None,
        limit: int = 500,
    ) -> RunRows:
        """With the steps by path after `cursor`, and their attempts. Raises NotFound."""
        ...

    async def count_steps(self, key: int) -> int: ...

    async def list_runs(self, chosen: RunFilter) -> list[RunRow]: ...

    async def list_journal(self, run_key: int | None, after: int, limit: int) -> list[JournalRow]:
        """Decisions of one run or of all, in the order of commits, after the id `after`."""
        ...

    async def last_journal_id(self) -> int:
        """The id of the newest decision of all runs, 0 when there is none: where a follower of new ones begins."""
        ...

    # ---- holding and state

    async def set_hold(self, workflow: str | None, held: bool, now: int) -> None:
        """Hold a workflow (None: everything) back, or let it go on. Both may be done again. Schedules that had a slot
        meanwhile are due at that slot when it goes on. Raises NotFound."""
        ...

    async def list_holds(self) -> list[str]:
        """The held workflows; `*` stands for everything."""
        ...

    async def get_state(self, workflow: str) -> dict[str, str]:
        """The workflow's state: key → JSON text."""
        ...

    async def set_state(
        self, workflow: str, key: str, value: str | None, writer: str, expected: str | None, compare: bool, now: int
    ) -> bool:
        """Write a value (JSON text; None removes it). With `compare`, only where the value is `expected` now (None: not
        there), else False. The same `writer` writing the same value again is True and changes nothing. Raises NotFound
        for an unknown workflow."""
        ...

    # ---- dead letters

    async def get_dead_letter(self, id: str) -> DeadLetterRow:
        """Raises NotFound."""
        ...

    async def list_dead_letters(
        self, state: str | None, cursor: str | None, limit: int, workflow: str | None = None
    ) -> list[DeadLetterRow]:
        """Newest first; `cursor` is an id."""
        ...

    async def discard_dead_letter(self, id: str, now: int) -> DeadLetterRow:
        """OPEN becomes DISCARDED. Raises NotFound, DeadLetterClosed."""
        ...

    # ---- nodes and upkeep

    async def register_node(self, id: str, info: str, now: int) -> list[str]:
        """Store this process and return the owners that still hold runs or attempts and are known to be dead (on
        SQLite: every other one, since the home's lock is ours)."""
        ...

    async def prune_runs(self, ended_before: int, limit: int, keyed_before: int | None = None) -> int:
        """Delete at most `limit` runs that ended before the time, with all their rows. Returns how many.

        Kept are runs with an open dead letter, children whose parent has not been told of their end, and runs with an
        Idempotency-Key created at `keyed_before` (default: the time 7 days before `ended_before`) or later: the key
        must go on naming them."""
        ...

    async def count_ended(self, ended_before: int, keyed_before: int | None = None) -> int:
        """How many runs `prune_runs` would delete."""
        ...

    async def free_pages(self, limit: int, keep: int = 0) -> int:
        """Give at most `limit` free pages of the file back to the disk, as long as more than `keep` are free. Returns
        how many are free after it."""
        ...

    async def back_up(self, target: Path, taken_at: int, key_id: str | None) -> int:
        """Copy the database to a file that is absent or whole, mode 0600, with the fingerprint of the home's key in it.
        What a process that died left beside it is removed. Returns its bytes. StartupError when it cannot be
        written."""
        ...

    async def stats(self, now: int) -> Stats: ...

    async def check(self) -> list[str]:
        """Look for damage: integrity, foreign keys, migrations' checksums, broken invariants. One line per finding."""
        ...

    async def ping(self) -> None:
        """Return when the writer has answered; raises Unavailable otherwise."""
        ...


Info = dict[str, Any]
