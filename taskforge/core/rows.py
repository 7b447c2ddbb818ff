"""The bookkeeping under a decision: transitions by the table, who holds the run next, and the rows that come of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import field
from typing import Any, Protocol

from taskforge.core.errors import Failure
from taskforge.core.jsontext import JsonError, dumps
from taskforge.core.model import JSON, Prepared, RateLimit
from taskforge.core.record import dataclass
from taskforge.core.snapshot import Changes, Frame, RunRecord, RunSnapshot, StepRecord, StepRun
from taskforge.core.states import RUN_TERMINAL, RUN_TRANSITIONS, STEP_TRANSITIONS, RunState, StepState

CRASH_LIMIT = 3
"""Deaths of the server with the same step in flight after which its run is taken up alone."""

SUSPECT, ALONE, CONVICTED = 1, 2, 3
"""`runs.suspect`: at the crash limit; running alone; the server died while it ran alone."""


IDLE_MS = 86_400_000
"""After how long a run is looked at that waits for nothing but a signal."""


class Ids(Protocol):
    """What `decide` needs of the clock: new ids and random numbers, as arguments."""

    def new_id(self, prefix: str) -> str: ...
    def random(self) -> float: ...


@dataclass(slots=True)
class Context:
    """What is known from outside the run.

    `slots`: attempts that may begin now. `prepare(run, step, name)` makes an evaluation in process, or returns None
    where it needs the jq child; the empty name is the step's turn; without a step it is one of the run itself.
    `reserve(key, limit, now)` gives the time at which a rate limit admits one more attempt, and what to store of it;
    `enter(key, limit, now)` is asked when that time has come, and says `now`, or when to ask again.
    `mask` takes the values of secrets out of what an action was given, before any of it is stored.
    """

    now: int
    ids: Ids
    owner: str
    slots: int
    lease_ms: int
    output_limit: int
    prepare: Callable[[RunSnapshot, StepRun | None, str], Prepared | None]
    reserve: Callable[[str, RateLimit, int], tuple[int, int]] = lambda key, limit, now: (now, now)
    foreach_limit: int = 10_000
    enter: Callable[[str, RateLimit, int], int] = lambda key, limit, now: now
    mask: Callable[[JSON], JSON] = lambda value: value
    turns: int = 2_000
    """Steps whose turn is taken in one decision; with more the run is decided again at once, so that a long loop
    without side effects neither holds up others nor makes one huge transaction."""


class IllegalTransition(AssertionError):
    """A decision tried a transition that the table does not have: a bug, never a person's mistake."""


@dataclass(slots=True)
class _Look:
    """What is to come in a run: the times at which steps begin attempts, for which they need slots; all other times;
    whether something of it is going on here; whether every step that has begun waits."""

    active: bool
    waiting: bool
    slot_times: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)


class Rows:
    """Base of a decision: moves states by the table and collects the rows."""

    def __init__(self, run: RunSnapshot, context: Context) -> None:
        self.run = run
        self.context = context
        self.now = context.now
        self._slots = context.slots
        self._ready: deque[StepRun] = deque()
        self._turns = context.turns
        self._is_paused = False
        self._given_back: set[str] = set()
        self._origin: dict[str, tuple[StepRun, str | None]] = {}
        self._texts: dict[str, str] = {}
        self._output_text: tuple[JSON, str] | None = None
        self._run_origin = run.state if run.revision or run.key else None
        self._before = run.written
        if self._before is None and run.key:
            self._before = _run_record(run, None if run.output is None else dumps(run.output))
        self._entries: list[dict[str, Any]] = []
        self.changes = Changes(run.key, run.revision, self.now, _UNDECIDED)

    # ---- transitions

    def touch(self, at: StepRun) -> None:
        """Have the step's row written."""
        if at.path not in self._origin:
            self._origin[at.path] = (at, at.state)

    def _move(self, at: StepRun, state: StepState, **entry: Any) -> None:
        if state not in STEP_TRANSITIONS[at.state]:
            raise IllegalTransition(f"step {at.path}: {at.state} to {state}")
        self.touch(at)
        self._entries.append({"step": at.path, "from": at.state, "to": state, **entry})
        at.state = state

    def _move_run(self, state: RunState, **entry: Any) -> None:
        if state not in RUN_TRANSITIONS[self.run.state]:
            raise IllegalTransition(f"run {self.run.id}: {self.run.state} to {state}")
        self._entries.append({"run": state, "from": self.run.state, **entry})
        self.run.state = state

    def _running(self) -> None:
        if self.run.state is not RunState.RUNNING:
            if self.run.started_at is None:
                self.run.started_at = self.now
            self._move_run(RunState.RUNNING)

    def _encode(self, at: StepRun, output: JSON) -> Failure | None:
        limit = self.context.output_limit
        try:
            text = dumps(output)
        except JsonError as error:
            return Failure("OUTPUT_TOO_LARGE", f"the output cannot be written as JSON: {error.message}", at.path)
        if len(text) > limit or (not text.isascii() and len(text.encode()) > limit):
            size = len(text.encode())
            return Failure("OUTPUT_TOO_LARGE", f"the output has {size} bytes; the limit is {limit}", at.path)
        self._texts[at.path] = text
        return None

    # ---- who holds the run now

    def _settle(self) -> None:
        """Decide whether the run stays in memory, and else when something is due in it."""
        run = self.run
        self.changes.starved = bool(run.hungry)
        run.needs_slot, run.latest_at = False, None
        if run.state in RUN_TERMINAL:
            run.owner = run.due_at = None
            return
        look = self._look_around()
        times = [*look.times, *look.slot_times]
        if look.active:
            run.owner, run.due_at = self.context.owner, None
            self.changes.wake_at = min((time for time in times if time > self.now), default=None)
            if self._is_paused:
                self.changes.wake_at = self.now
        elif run.place is not None and not run.placed:
            # Without a place the run is due when the store gives it one; only its patience ends by itself.
            run.owner = None
            run.due_at = self._queue_deadline()
            if run.plan.concurrency is not None and run.plan.concurrency.on_limit == "skip":
                # When the store has no place for it, its next take-up ends it.
                run.due_at = self.now
        else:
            run.owner = None
            # Without any time only a signal moves the run; it is looked at once a day all the same.
            run.due_at = min(times, default=self.now + IDLE_MS)
            if look.slot_times:
                run.needs_slot, run.latest_at = True, min(look.times, default=None)
        if look.waiting and not look.active and run.state is RunState.RUNNING:
            self._move_run(RunState.WAITING)

    def _is_overdue(self) -> bool:
        """Return whether a time has come that no event has told of: the event of another step came first."""
        now, run = self.now, self.run
        for at in run.live.values():
            if at.deadline_at is not None and at.deadline_at <= now:
                return True
            if at.attempt is not None or at.preparing or at.stage is not None or at.path in self._given_back:
                continue
            if at.available_at is not None and at.available_at <= now and at.path not in run.hungry:
                return True
        return run.deadline_at is not None and run.deadline_at <= now and run.ending is None

    def _look_around(self) -> _Look:
        run = self.run
        look = _Look(active=run.preparing is not None or self._is_paused, waiting=bool(run.live))
        for at in run.live.values():
            if at.attempt is not None or at.preparing:
                look.active = True
            elif at.available_at is not None and at.stage is None:
                needs_slot = at.state is StepState.QUEUED and at.step.kind.role == "action"
                (look.slot_times if needs_slot else look.times).append(at.available_at)
            if at.deadline_at is not None:
                look.times.append(at.deadline_at)
            if at.state is not StepState.WAITING and (
                at.state is not StepState.RUNNING or at.step.kind.role != "control"
            ):
                look.waiting = False
        if run.deadline_at is not None and run.ending is None:
            look.times.append(run.deadline_at)
        if not run.live and not look.active and run.start_at is not None:
            look.times.append(run.start_at)
        deadline = self._queue_deadline()
        if deadline is not None:
            look.times.append(deadline)
        return look

    def _queue_deadline(self) -> int | None:
        run = self.run
        if run.plan.max_queue_ms is None or run.state is not RunState.QUEUED or run.generation > 1:
            return None
        return (run.start_at or run.created_at) + run.plan.max_queue_ms

    # ---- rows

    def _collect(self) -> Changes:
        run, changes = self.run, self.changes
        output = None
        if run.output is not None:
            known = self._output_text
            output = known[1] if known is not None and known[0] is run.output else dumps(run.output)
        changes.run = _run_record(run, output)
        for path, (at, origin) in self._origin.items():
            changes.steps.append(self._record(path, at))
            if origin is not at.state:
                _count(changes, "step", origin, at.state)
        _count(changes, "run", self._run_origin, run.state)
        if self._entries:
            changes.journal = dumps(self._entries)
        changes.is_empty = not (
            changes.steps or changes.journal or changes.signals or changes.signals_taken or changes.told_child
        ) and (changes.run == self._before and changes.claim is None)
        if not changes.is_empty:
            changes.moves_run = changes.run != run.written
            # A claim leaves to the store when the run is due.
            run.written = changes.run if changes.claim is None else None
        return changes

    def _record(self, path: str, at: StepRun) -> StepRecord:
        output = self._texts.get(path)
        if output is None and at.output is not None:
            output = dumps(at.output)
        step = at.step
        return StepRecord(
            path,
            step.id,
            step.kind.name,
            at.state,
            at.generation,
            at.attempts,
            at.failures,
            at.crashes,
            None if output == "null" or at.output is None else output,
            None if at.error is None else dumps(at.error.to_json()),
            None if at.data is None else dumps(at.data),
            at.available_at,
            at.ready_at,
            at.started_at,
            at.finished_at,
            at.stage,
        )


def _run_record(run: RunSnapshot, output: str | None) -> RunRecord:
    ending = None
    if run.ending is not None:
        error = None if run.ending.error is None else run.ending.error.to_json()
        value = {"state": run.ending.state, "output": run.ending.output, "error": error, "phase": run.ending.phase}
        ending = dumps(value)
    return RunRecord(
        run.state,
        run.generation,
        run.owner,
        run.due_at,
        run.suspect,
        output,
        None if run.error is None else dumps(run.error.to_json()),
        run.started_at,
        run.finished_at,
        int(run.needs_slot),
        ending,
        run.place,
        int(run.placed),
        int(run.undone),
        run.latest_at,
    )


_UNDECIDED = RunRecord(RunState.QUEUED, 1, None, None, 0, None, None, None, None)
"""Stands in a decision's changes until it has been made."""


def _count(changes: Changes, kind: str, source: str | None, target: str) -> None:
    if source == target:
        return
    if source is not None:
        changes.counts[kind, source] = changes.counts.get((kind, source), 0) - 1
    changes.counts[kind, target] = changes.counts.get((kind, target), 0) + 1


def placed(failure: Failure, path: str, attempt: int | None) -> Failure:
    """Return the failure with the step and attempt that it belongs to."""
    return Failure(failure.code, failure.message, path, attempt, failure.detail)


def step_timeout(at: StepRun) -> Failure:
    limit = (at.step.timeout_ms or 0) / 1000
    return Failure("STEP_TIMEOUT", f"the step took longer than its time limit of {limit:g} s", at.path)


def is_inside(inner: StepRun, outer: StepRun) -> bool:
    """Return whether a step run belongs to a block that `outer` opened."""
    frame: Frame | None = inner.parent
    while frame is not None and frame.owner is not None:
        if frame.owner is outer:
            return True
        frame = frame.owner.parent
    return False
