"""How a run moves: frames of steps, single steps, attempts, the run itself, and the rows that come of it.

The lower half of `core.decide`, which says what each event means. Pure in the same way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from taskforge.core.errors import Failure
from taskforge.core.jsontext import JsonError, dumps
from taskforge.core.kind import ActionKind, ControlKind, PureKind
from taskforge.core.model import JSON, Prepared, Step
from taskforge.core.snapshot import (
    Attempt,
    AttemptEnd,
    AttemptRecord,
    Changes,
    DeadLetterRecord,
    Frame,
    RunRecord,
    RunSnapshot,
    StepRecord,
    StepRun,
)
from taskforge.core.states import RUN_TRANSITIONS, STEP_TRANSITIONS, AttemptState, RunState, StepState

CRASH_LIMIT = 3
"""Deaths of the server with the same step in flight after which its run is taken up alone."""

SUSPECT, ALONE, CONVICTED = 1, 2, 3
"""`runs.suspect`: at the crash limit; running alone; the server died while it ran alone."""


class Ids(Protocol):
    """What `decide` needs of the clock: new ids and random numbers, as arguments."""

    def new_id(self, prefix: str) -> str: ...
    def random(self) -> float: ...


@dataclass(slots=True)
class Context:
    """What is known from outside the run. `slots`: attempts that may begin now; `prepare` evaluates a step's
    expressions in process, or returns None where they need the jq child (`prepare_output`: the run's output)."""

    now: int
    ids: Ids
    owner: str
    slots: int
    lease_ms: int
    output_limit: int
    prepare: Callable[[RunSnapshot, StepRun], Prepared | None]
    prepare_output: Callable[[RunSnapshot], Prepared | None]


class IllegalTransition(AssertionError):
    """A decision tried a transition that the table does not have: a bug, never a person's mistake."""


class Progress:
    """One decision in the making. Kinds with inner steps call `open`, `reopen`, `succeed`, `fail` and `remember`."""

    def __init__(self, run: RunSnapshot, context: Context) -> None:
        self.run = run
        self.context = context
        self.now = context.now
        self._slots = context.slots
        self._reopens = False
        self._ready: deque[StepRun] = deque()
        self._origin: dict[str, tuple[StepRun, str | None]] = {}
        self._texts: dict[str, str] = {}
        self._run_origin = run.state if run.revision or run.key else None
        self._before = (run.owner, run.due_at, run.suspect, run.state, run.generation)
        self.changes = Changes(run.key, run.revision, self.now, _run_record(run, None))

    # ---- what kinds with inner steps call

    def open(self, at: StepRun, name: str, steps: tuple[Step, ...], prefixes: tuple[str, ...] | None = None) -> None:
        """Begin a list of inner steps of `at`. An empty list ends at once."""
        frame = Frame(at, name, steps, prefixes or at.prefixes)
        at.frames[name] = frame
        self._enter(frame)

    def reopen(self, at: StepRun, name: str, steps: tuple[Step, ...], prefixes: tuple[str, ...] | None = None) -> None:
        """Take up a list of inner steps that had begun before the run was loaded."""
        frame = Frame(at, name, steps, prefixes or at.prefixes)
        at.frames[name] = frame
        self._resume_frame(frame)

    def remember(self, at: StepRun, data: JSON) -> None:
        """Store what a block must know after a crash (which branch, how many items)."""
        at.data = data
        self._touch(at)

    def succeed(self, at: StepRun, output: JSON) -> None:
        """End a step with its output. An output above the limit fails it instead."""
        if at.path not in self._texts:
            too_large = self._encode(at, output)
            if too_large is not None:
                self.fail(at, too_large)
                return
        at.output, at.error = output, None
        self._end(at, StepState.SUCCEEDED)
        self._advance(at.parent, at)

    def skip(self, at: StepRun, code: str) -> None:
        """End a step that is not to run; its output is null."""
        self._end(at, StepState.SKIPPED, code=code)
        self._advance(at.parent, at)

    def fail(self, at: StepRun, failure: Failure, value: JSON = None) -> None:
        """End a step FAILED for good; `value` is the evaluated config that a dead letter keeps."""
        failure = failure if failure.step else placed(failure, at.path, None)
        at.error = failure
        self._end(at, StepState.FAILED, code=failure.code)
        if at.step.continue_on_error:
            self._advance(at.parent, at)
            return
        if at.step.kind.role == "action":
            self._bury(at, failure, value)
        at.parent.open = False
        self._frame_ended(at.parent, failure)

    # ---- frames

    def _enter(self, frame: Frame) -> None:
        self._advance(frame, None)

    def _advance(self, frame: Frame, ended: StepRun | None) -> None:
        """Start the step after `ended`, or end the frame."""
        if not frame.open or self.run.ended:
            return
        frame.last = ended
        frame.position += 1
        if frame.position < len(frame.steps):
            self._start(frame, frame.steps[frame.position])
        else:
            frame.open = False
            self._frame_ended(frame, None)

    def _start(self, frame: Frame, step: Step) -> None:
        at = StepRun(step, frame.prefixes[-1] + step.id, frame.prefixes, frame, ready_at=self.now)
        at.available_at = self.now
        self.run.steps[at.path] = at
        self.run.live[at.path] = at
        self._origin[at.path] = (at, None)
        self.changes.journal.append({"step": at.path, "to": StepState.QUEUED})
        self._ready.append(at)

    def _frame_ended(self, frame: Frame, failure: Failure | None) -> None:
        if self.run.ended:
            return
        if frame.owner is not None:
            kind = frame.owner.step.kind
            assert isinstance(kind, ControlKind)
            kind.ended(self, frame.owner, frame, failure)
        elif failure is not None:
            self._finish(RunState.FAILED, None, failure)
        elif self.run.plan.output is None:
            self._finish(RunState.SUCCEEDED, None, None)
        else:
            prepared = self.context.prepare_output(self.run)
            if prepared is None:
                self.run.preparing_output = True
                self._running()
                self.changes.needs.append("")
            else:
                self._finish_with_output(prepared)

    def _resume_frame(self, frame: Frame) -> None:
        """Find the place in a list of steps from the rows, and go on there."""
        prefix = frame.prefixes[-1]
        if frame.owner is None:
            self.run.root = frame
        for position, step in enumerate(frame.steps):
            at = self.run.steps.get(prefix + step.id)
            frame.position = position
            if at is None:
                frame.position = position - 1
                break
            at.parent = frame
            if self._reopens and _is_unfinished(at):
                self._reopen(at)
            if not at.ended:
                self._resume_step(at)
                return
            frame.last = at
        self._advance(frame, frame.last)

    def _resume_step(self, at: StepRun) -> None:
        if at.state is StepState.QUEUED:
            self._ready.append(at)
        elif at.step.kind.role == "control":
            assert isinstance(at.step.kind, ControlKind)
            at.step.kind.resume(self, at)
        elif at.attempt is None:
            # RUNNING without an attempt that holds a lease: the attempt was lost.
            at.available_at = self.now
            self._move(at, StepState.QUEUED, code="LOST")
            self._ready.append(at)

    def _reopen(self, at: StepRun) -> None:
        begun = at.data is not None
        at.generation = self.run.generation
        at.attempts = at.failures = at.crashes = 0
        at.output, at.error, at.finished_at, at.started_at = None, None, None, None
        at.available_at = at.ready_at = self.now
        self.run.live[at.path] = at
        self._move(at, StepState.QUEUED, code="RETRY_ASKED", generation=at.generation)
        if begun:
            at.started_at, at.available_at = self.now, None
            self._move(at, StepState.RUNNING)

    # ---- one step

    def _admit(self, at: StepRun) -> None:
        """Take up a step whose turn and time have come."""
        if self.run.ended or at.state is not StepState.QUEUED or at.preparing:
            return
        if at.available_at is not None and at.available_at > self.now:
            return
        if at.step.kind.role == "action" and self._slots <= 0:
            self.changes.starved = True
            return
        self._running()
        prepared = self.context.prepare(self.run, at)
        if prepared is None:
            at.preparing = True
            self.changes.needs.append(at.path)
        else:
            self._proceed(at, prepared)

    def _proceed(self, at: StepRun, prepared: Prepared) -> None:
        kind = at.step.kind
        if at.deadline_at is not None and at.deadline_at <= self.now:
            self.fail(at, step_timeout(at))
        elif prepared.failure is not None:
            self.fail(at, prepared.failure)
        elif not prepared.admitted:
            self.skip(at, "IF_FALSE")
        elif isinstance(kind, PureKind):
            self._finish_pure(at, kind, prepared.value)
        elif isinstance(kind, ActionKind):
            self._lease(at, prepared.value)
        else:
            assert isinstance(kind, ControlKind)
            at.started_at, at.available_at = self.now, None
            self._move(at, StepState.RUNNING)
            kind.begin(self, at, prepared.value)

    def _finish_pure(self, at: StepRun, kind: PureKind, value: JSON) -> None:
        outcome = kind.finish(value)
        at.started_at = self.now
        if outcome.failure is not None:
            self.fail(at, outcome.failure)
        elif outcome.ends_run:
            too_large = self._encode(at, outcome.output)
            if too_large is not None:
                self.fail(at, too_large)
                return
            at.output = outcome.output
            self._end(at, StepState.SUCCEEDED)
            self._finish(RunState.SUCCEEDED, outcome.output, None)
        else:
            self.succeed(at, outcome.output)

    def _lease(self, at: StepRun, value: JSON) -> None:
        """Begin an attempt: from the commit on, this process alone may carry it out."""
        self._slots -= 1
        at.attempts += 1
        at.attempt = Attempt(self.context.ids.new_id("att"), at.attempts, self.now, value)
        at.available_at = None
        if at.started_at is None:
            at.started_at = self.now
        if self.run.suspect == SUSPECT:
            self.run.suspect = ALONE
        self._move(at, StepState.RUNNING, attempt=at.attempts)
        until = self.now + self.context.lease_ms
        record = AttemptRecord(at.attempt.id, at.path, at.generation, at.attempts, self.now, self.context.owner, until)
        self.changes.leases.append(record)
        self.changes.starts.append(at)

    def _holder(self, path: str, token: str) -> StepRun | None:
        at = self.run.steps.get(path)
        return at if at is not None and at.attempt is not None and at.attempt.id == token else None

    def _end_attempt(self, at: StepRun, state: AttemptState, failure: Failure | None) -> None:
        attempt = at.attempt
        assert attempt is not None
        at.attempt = None
        if state is not AttemptState.LOST:
            at.crashes = 0
            if self.run.suspect and all(other.crashes < CRASH_LIMIT for other in self.run.live.values()):
                self.run.suspect = 0
        error = None if failure is None else dumps(failure.to_json())
        self.changes.ends.append(AttemptEnd(attempt.id, at.path, at.generation, attempt.number, state, self.now, error))
        entry = {"step": at.path, "attempt": attempt.number, "ended": state}
        if failure is not None:
            entry |= {"error": failure.code, "message": failure.message}
        self.changes.journal.append(entry)
        self._touch(at)

    def _end(self, at: StepRun, state: StepState, **entry: Any) -> None:
        if at.attempt is not None:
            self.changes.aborts.append(at.attempt.id)
            self._end_attempt(at, AttemptState.CANCELLED, None)
        at.finished_at, at.available_at, at.preparing = self.now, None, False
        self._move(at, state, **entry)
        self.run.live.pop(at.path, None)

    def _bury(self, at: StepRun, failure: Failure, value: JSON) -> None:
        self.changes.dead_letters.append(
            DeadLetterRecord(
                self.context.ids.new_id("dead"),
                at.path,
                at.generation,
                _text(value),
                dumps(failure.to_json()),
                self.now,
            )
        )

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

    # ---- the run

    def _running(self) -> None:
        if self.run.state is not RunState.RUNNING:
            if self.run.started_at is None:
                self.run.started_at = self.now
            self._move_run(RunState.RUNNING)

    def _finish_with_output(self, prepared: Prepared) -> None:
        if prepared.failure is not None:
            self._finish(RunState.FAILED, None, prepared.failure)
        else:
            self._finish(RunState.SUCCEEDED, prepared.value, None)

    def _finish(self, state: RunState, output: JSON, failure: Failure | None) -> None:
        run = self.run
        problem = self._output_problem(output)
        if problem is not None:
            state, output, failure = RunState.FAILED, None, Failure("OUTPUT_TOO_LARGE", problem)
        if state is RunState.SUCCEEDED:
            self._running()
        for at in list(run.live.values()):
            at.parent.open = False
            self._end(at, StepState.CANCELLED, code="RUN_ENDED")
        if state is RunState.FAILED and run.state is RunState.QUEUED:
            self._running()
        run.output, run.error, run.finished_at = output, failure, self.now
        run.preparing_output = False
        entry = {} if failure is None else {"error": failure.code, "message": failure.message}
        self._move_run(state, **entry)

    def _output_problem(self, output: JSON) -> str | None:
        limit = self.context.output_limit
        try:
            size = 0 if output is None else len(dumps(output).encode())
        except JsonError as error:
            return f"the run's output cannot be written as JSON: {error.message}"
        return None if size <= limit else f"the run's output has {size} bytes; the limit is {limit}"

    def _settle(self) -> None:
        """Decide who holds the run now, and when something is due in it."""
        run, context = self.run, self.context
        if run.ended:
            run.owner = run.due_at = None
            return
        active = run.preparing_output
        times: list[int] = []
        for at in run.live.values():
            if at.attempt is not None or at.preparing:
                active = True
            elif at.available_at is not None:
                times.append(at.available_at)
            if at.deadline_at is not None:
                times.append(at.deadline_at)
        if run.deadline_at is not None:
            times.append(run.deadline_at)
        if not run.live and not active and run.start_at is not None:
            times.append(run.start_at)
        if active:
            run.owner, run.due_at = context.owner, None
            later = [time for time in times if time > self.now]
            self.changes.wake_at = min(later) if later else None
        else:
            run.owner, run.due_at = None, min(times, default=self.now)

    # ---- rows

    def _touch(self, at: StepRun) -> None:
        if at.path not in self._origin:
            self._origin[at.path] = (at, at.state)

    def _move(self, at: StepRun, state: StepState, **entry: Any) -> None:
        if state not in STEP_TRANSITIONS[at.state]:
            raise IllegalTransition(f"step {at.path}: {at.state} to {state}")
        self._touch(at)
        self.changes.journal.append({"step": at.path, "from": at.state, "to": state, **entry})
        at.state = state

    def _move_run(self, state: RunState, **entry: Any) -> None:
        if state not in RUN_TRANSITIONS[self.run.state]:
            raise IllegalTransition(f"run {self.run.id}: {self.run.state} to {state}")
        self.changes.journal.append({"run": state, "from": self.run.state, **entry})
        self.run.state = state

    def _collect(self) -> Changes:
        run, changes = self.run, self.changes
        changes.run = _run_record(run, dumps(run.output) if run.output is not None else None)
        for path, (at, origin) in self._origin.items():
            changes.steps.append(self._record(path, at))
            if origin is not at.state:
                _count(changes, "step", origin, at.state)
        _count(changes, "run", self._run_origin, run.state)
        after = (run.owner, run.due_at, run.suspect, run.state, run.generation)
        changes.is_empty = not changes.steps and not changes.journal and after == self._before
        return changes

    def _record(self, path: str, at: StepRun) -> StepRecord:
        output = self._texts.get(path)
        if output is None and at.output is not None:
            output = dumps(at.output)
        return StepRecord(
            path,
            at.step.id,
            at.step.kind.name,
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
        )


def _is_unfinished(at: StepRun) -> bool:
    """Whether a retry has the step run again: it failed and nothing took that, or it was cut off.

    Asked only of steps whose blocks go on: what is inside a block that has ended for good stays as it is.
    """
    return at.state is StepState.CANCELLED or (at.state is StepState.FAILED and not at.step.continue_on_error)


def _text(value: JSON) -> str | None:
    """Return a value for a dead letter; one that cannot be written as JSON is left out."""
    try:
        return None if value is None else dumps(value)
    except JsonError:
        return None


def _run_record(run: RunSnapshot, output: str | None) -> RunRecord:
    error = None if run.error is None else dumps(run.error.to_json())
    return RunRecord(
        run.state, run.generation, run.owner, run.due_at, run.suspect, output, error, run.started_at, run.finished_at
    )


def _count(changes: Changes, kind: str, source: str | None, target: str) -> None:
    if source == target:
        return
    if source is not None:
        changes.counts[kind, source] = changes.counts.get((kind, source), 0) - 1
    changes.counts[kind, target] = changes.counts.get((kind, target), 0) + 1


def placed(failure: Failure, path: str, attempt: int | None) -> Failure:
    return Failure(failure.code, failure.message, path, attempt, failure.detail)


def step_timeout(at: StepRun) -> Failure:
    limit = (at.step.timeout_ms or 0) / 1000
    return Failure("STEP_TIMEOUT", f"the step took longer than its time limit of {limit:g} s", at.path)
