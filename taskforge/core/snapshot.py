"""A run as the engine holds it while it is active, and the plain rows that are read from and written to the store.

The snapshot belongs to one driver. `decide` advances it and returns `Changes`; when a change cannot be applied the
snapshot is thrown away and loaded again.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, NamedTuple

from taskforge.core.errors import Failure
from taskforge.core.model import JSON, Plan, Step
from taskforge.core.record import dataclass
from taskforge.core.states import RUN_TERMINAL, STEP_TERMINAL, RunState, StepState


class StepRecord(NamedTuple):
    """A row of `step_runs`. `output`, `error` and `data` are JSON text or None; times are milliseconds UTC."""

    path: str
    step: str
    kind: str
    state: str
    generation: int
    attempts: int
    failures: int
    crashes: int
    output: str | None
    error: str | None
    data: str | None
    available_at: int | None
    ready_at: int
    started_at: int | None
    finished_at: int | None
    stage: str | None = None


class AttemptRecord(NamedTuple):
    """A row of `attempts` that begins: state RUNNING. `id` is the lease token."""

    id: str
    path: str
    generation: int
    number: int
    started_at: int
    lease_owner: str
    lease_expires_at: int


class AttemptEnd(NamedTuple):
    """The end of an attempt; applied only where `id` still holds the lease."""

    id: str
    path: str
    generation: int
    number: int
    state: str
    finished_at: int
    error: str | None


class DeadLetterRecord(NamedTuple):
    """A row of `dead_letters` that begins: state OPEN. `input` and `error` are JSON text."""

    id: str
    path: str
    generation: int
    input: str | None
    error: str
    created_at: int


class RunRecord(NamedTuple):
    """The part of a `runs` row that changes."""

    state: str
    generation: int
    owner: str | None
    due_at: int | None
    suspect: int
    output: str | None
    error: str | None
    started_at: int | None
    finished_at: int | None
    needs_slot: int = 0
    ending: str | None = None
    place: str | None = None
    placed: int = 0
    undone: int = 0
    latest_at: int | None = None


class SignalRecord(NamedTuple):
    """A row of `signals`: sent to the run and not taken yet. `data` is JSON text."""

    id: str
    name: str
    data: str
    sent_at: int


class PlaceClaim(NamedTuple):
    """Asks the store for one of `limit` places of `key`, in the transaction that stores the decision. When there is
    none: `queues` waits for one, else the run is due at once to decide what its `on_limit` says."""

    key: str
    limit: int
    queues: bool


@dataclass(slots=True)
class Ending:
    """How a run is going to end once its handlers have run. `phase`: undo, on_failure, finally."""

    state: RunState
    output: JSON
    error: Failure | None
    phase: str = "undo"


@dataclass(slots=True)
class Attempt:
    """The running attempt of a step. `value` is the evaluated config, or None when it was loaded from the store."""

    id: str
    number: int
    started_at: int
    value: JSON = None


@dataclass(slots=True, eq=False)
class StepRun:
    """The execution of a step in a run. `prefixes[n]` is the path prefix inside the n-th loop around the step."""

    step: Step
    path: str
    prefixes: tuple[str, ...]
    parent: Frame
    ready_at: int
    state: StepState = StepState.QUEUED
    generation: int = 1
    attempts: int = 0
    failures: int = 0
    crashes: int = 0
    output: JSON = None
    error: Failure | None = None
    data: JSON = None
    available_at: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    attempt: Attempt | None = None
    preparing: bool = False
    frames: dict[str, Frame] = field(default_factory=dict)
    memory: Any = None
    """What a block keeps beside its frames (how many are open, results); `resume` makes it anew from the rows."""
    stage: str | None = None
    """Of an ended step: which handler is running (catch, finally, undo), then `handled` or `undone`; `again` or `aside`
    after a retry (`core.retrying`). Of a QUEUED one: `probe` or `judged` (`core.attempts`)."""
    lost: bool = False
    """The last attempt was LOST, so that its outcome is unknown."""
    scope: tuple[str, ...] | None = None
    """Prefixes that a further evaluation (`until`) sees, where they are not those of the step."""

    @property
    def ended(self) -> bool:
        return self.state in STEP_TERMINAL

    @property
    def deadline_at(self) -> int | None:
        if self.step.timeout_ms is None or self.stage == "probe":
            return None  # what the time limit cut off, the probe still has to find out about
        return self.ready_at + self.step.timeout_ms

    @property
    def idempotency_suffix(self) -> str:
        """The path, and the generation when a person had it run again (interface, section 2)."""
        return self.path if self.generation == 1 else f"{self.path}~{self.generation}"


@dataclass(slots=True, eq=False)
class Frame:
    """A list of steps that run one after the other: the run's own, or a block opened by a control step."""

    owner: StepRun | None
    name: str
    steps: tuple[Step, ...]
    prefixes: tuple[str, ...]
    position: int = -1
    last: StepRun | None = None
    open: bool = True


@dataclass(slots=True, eq=False)
class RunSnapshot:
    """A run in memory. `key` is the store's integer key (0 before it is stored), `number` is None until then."""

    id: str
    workflow: str
    version: int
    plan: Plan
    trigger: JSON
    input: JSON
    created_at: int
    key: int = 0
    number: int | None = None
    state: RunState = RunState.QUEUED
    generation: int = 1
    revision: int = 0
    owner: str | None = None
    due_at: int | None = None
    suspect: int = 0
    output: JSON = None
    error: Failure | None = None
    started_at: int | None = None
    finished_at: int | None = None
    priority: int = 0
    start_at: int | None = None
    is_fresh: bool = False
    """Loaded from the store, and its frames not opened again yet: that takes the event `TakenUp`."""
    preparing: str | None = None
    """Which evaluation of the run itself is under way in the jq child."""
    ending: Ending | None = None
    place: str | None = None
    placed: bool = False
    undone: bool = False
    needs_slot: bool = False
    """What is due at `due_at` needs a slot; without one the run is looked at at `latest_at`, if that is not None."""
    latest_at: int | None = None
    parent: JSON = None
    """For a child run: `{"key", "run", "path", "signal"}` of the step that started it."""
    written: RunRecord | None = None
    """The run's row as the last decision has left it; None where the store may have written it since."""
    signals: list[SignalRecord] = field(default_factory=list)
    steps: dict[str, StepRun] = field(default_factory=dict)
    live: dict[str, StepRun] = field(default_factory=dict)
    """The steps that have begun and not ended: what a decision may have to look at, however long the run is."""
    hungry: dict[str, StepRun] = field(default_factory=dict)
    """The steps that found no free slot, in the order in which they asked."""
    to_undo: list[StepRun] | None = None
    """What is still to be undone, the next one last; None before it was looked for."""
    root: Frame = field(init=False)

    def __post_init__(self) -> None:
        self.root = Frame(None, "", self.plan.steps, ("",))

    @property
    def ended(self) -> bool:
        return self.state in RUN_TERMINAL

    @property
    def deadline_at(self) -> int | None:
        if self.plan.timeout_ms is None or self.started_at is None:
            return None
        return self.started_at + self.plan.timeout_ms

    def let_go(self) -> None:
        """Break the circles between steps and frames, so that the memory is free at once and not when garbage is
        collected next. Nothing is decided on this snapshot any more."""
        for at in self.steps.values():
            at.parent.last = None
            if at.frames:
                at.frames.clear()


@dataclass(slots=True)
class Changes:
    """What one decision changes: rows for the store, and what the driver does after the commit.

    For the store: `run` (guarded by `revision`; without `moves_run` it is as it was), `steps`, `leases`, `ends`,
    `dead_letters`, `dead_letters_to`, `signals` (kept) and `signals_taken`, `told_child`, `claim`, `rates` (key → time,
    of rate limits), `journal` (JSON text of its entries), `counts` (kind, state → difference, for the statistics).

    For the driver: `starts` (steps whose new attempt begins), `aborts` (tokens of attempts to stop), `needs` ((path,
    name) of evaluations for the jq child; the empty path is the run itself), `wake_at` (when to decide again while the
    run stays in memory), `starved` (a step is due that found no free slot).
    """

    key: int
    revision: int
    now: int
    run: RunRecord
    steps: list[StepRecord] = field(default_factory=list)
    leases: list[AttemptRecord] = field(default_factory=list)
    ends: list[AttemptEnd] = field(default_factory=list)
    dead_letters: list[DeadLetterRecord] = field(default_factory=list)
    dead_letters_to: str | None = None
    signals: list[SignalRecord] = field(default_factory=list)
    signals_taken: list[str] = field(default_factory=list)
    told_child: int | None = None
    claim: PlaceClaim | None = None
    rates: dict[str, int] = field(default_factory=dict)
    journal: str | None = None
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    moves_run: bool = True
    starts: list[StepRun] = field(default_factory=list)
    aborts: list[str] = field(default_factory=list)
    needs: list[tuple[str, str]] = field(default_factory=list)
    wake_at: int | None = None
    starved: bool = False
    is_empty: bool = True


def depth_of(trigger: JSON) -> int:
    """How many runs led to the run with this `$trigger`, by webhooks and ends of runs."""
    depth = trigger.get("depth", 0) if isinstance(trigger, dict) else 0
    return depth if isinstance(depth, int) else 0
