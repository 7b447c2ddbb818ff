"""How a run moves: frames of steps, single steps, their attempts and handlers. Pure; the upper half is `core.decide`.

A frame is a list of steps that run one after the other. The run has one; control steps open more; so do the handlers
around a step (`catch`, `finally`, `undo`, `probe`), whose frames are named `!catch` and so on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from taskforge.core.errors import Failure
from taskforge.core.jsontext import dumps, loads
from taskforge.core.kind import ActionKind, ControlKind, PureKind
from taskforge.core.model import JSON, Prepared, Step
from taskforge.core.rows import ALONE, CRASH_LIMIT, SUSPECT, Rows, is_inside, placed, step_timeout
from taskforge.core.snapshot import Attempt, AttemptEnd, AttemptRecord, DeadLetterRecord, Frame, SignalRecord, StepRun
from taskforge.core.states import AttemptState, RunState, StepState

HANDLED, UNDONE = "handled", "undone"
"""`StepRun.stage` of an ended step whose handlers, or whose undo steps, have run."""


class Progress(Rows, ABC):
    """Moves steps. Kinds with inner steps call its public methods."""

    @abstractmethod
    def conclude(self, state: RunState, output: JSON, failure: Failure | None) -> None:
        """End the run: first its handlers, then its terminal state."""

    @abstractmethod
    def _run_frame_ended(self, frame: Frame, failure: Failure | None) -> None:
        """A frame of the run itself has ended."""

    # ---- what kinds with inner steps call

    def open(self, at: StepRun, name: str, steps: tuple[Step, ...], prefixes: tuple[str, ...] | None = None) -> None:
        """Begin a list of inner steps of `at`. An empty list ends at once."""
        frame = Frame(at, name, steps, prefixes or at.prefixes)
        at.frames[name] = frame
        self._advance(frame, None)

    def reopen(self, at: StepRun, name: str, steps: tuple[Step, ...], prefixes: tuple[str, ...] | None = None) -> None:
        """Take up a list of inner steps that had begun before the run was loaded; what is missing begins."""
        frame = Frame(at, name, steps, prefixes or at.prefixes)
        at.frames[name] = frame
        self._resume_frame(frame)

    def skip_inner(self, at: StepRun, step: Step, code: str) -> None:
        """Record an inner step that is not to run as SKIPPED; it opens no frame."""
        inner = self._create(Frame(at, step.id, (step,), at.prefixes, position=0, open=False), step)
        self._end(inner, StepState.SKIPPED, code=code)

    def remember(self, at: StepRun, data: JSON) -> None:
        """Store what a block must know after a crash (which branch, how many items)."""
        at.data = data
        self.touch(at)

    def wait(self, at: StepRun, until: int | None, **entry: Any) -> None:
        """Let the step wait until a time, a signal (`data["signal"]`), or both. It holds no slot and no memory."""
        at.available_at = until
        self._move(at, StepState.WAITING, **({} if until is None else {"until": until}), **entry)

    def take_signal(self, at: StepRun, record: SignalRecord) -> None:
        """Give a signal to the step that waits for it; it is used up."""
        self.run.signals.remove(record)
        if record in self.changes.signals:
            self.changes.signals.remove(record)
        else:
            self.changes.signals_taken.append(record.id)
        self.go_on(at)
        kind = at.step.kind
        assert isinstance(kind, ControlKind | ActionKind)
        kind.signalled(self, at, loads(record.data))

    def find_signal(self, name: str) -> SignalRecord | None:
        """Return the first signal of that name that was sent and not taken."""
        return next((record for record in self.run.signals if record.name == name), None)

    def go_on(self, at: StepRun) -> None:
        """End the step's waiting; it is RUNNING again."""
        at.available_at = None
        self._move(at, StepState.RUNNING)
        self._running()

    def evaluate(self, at: StepRun, name: str) -> None:
        """Make one of the step's further evaluations; the kind's `answered` gets it, now or later."""
        prepared = self.context.prepare(self.run, at, name)
        if prepared is None:
            at.preparing = True
            self.changes.needs.append((at.path, name))
        else:
            self._answered(at, name, prepared)

    def cancel_inside(self, at: StepRun) -> None:
        """Cancel everything that runs inside a step."""
        for other in list(self.run.live.values()):
            if other is not at and not other.ended and is_inside(other, at):
                other.parent.open = False
                self._end(other, StepState.CANCELLED, code="PARENT_ENDED")

    def succeed(self, at: StepRun, output: JSON) -> None:
        """End a step with its output. An output above the limit fails it instead."""
        if at.path not in self._texts:
            too_large = self._encode(at, output)
            if too_large is not None:
                self.fail(at, too_large)
                return
        at.output, at.error = output, None
        self._end(at, StepState.SUCCEEDED)
        self._leave(at, None)

    def skip(self, at: StepRun, code: str) -> None:
        """End a step that is not to run; its output is null."""
        self._end(at, StepState.SKIPPED, code=code)
        self._pass_on(at, None)

    def fail(self, at: StepRun, failure: Failure, value: JSON = None, *, output: JSON = None) -> None:
        """End a step FAILED for good. `value` is the evaluated config that a dead letter keeps; `output` is what a
        block with `continue_on_error` still gives."""
        failure = failure if failure.step else placed(failure, at.path, None)
        at.error = failure
        if output is not None and at.step.continue_on_error and self._encode(at, output) is None:
            at.output = output
        self._end(at, StepState.FAILED, code=failure.code)
        if at.step.kind.role == "action" and not self._is_caught(at):
            self._bury(at, failure, value)
        self._leave(at, failure)

    def has_failed(self, at: StepRun) -> bool:
        """Return whether an ended step's failure counts against what is around it."""
        return at.state is StepState.FAILED and not self._is_caught(at)

    @staticmethod
    def _is_caught(at: StepRun) -> bool:
        return at.step.continue_on_error or "catch" in at.step.handlers

    # ---- handlers around a step

    def _leave(self, at: StepRun, failure: Failure | None) -> None:
        """After a step has ended: its `catch`, its `finally`, then what comes after it."""
        handlers = at.step.handlers
        if not handlers or self.run.ended:
            self._pass_on(at, failure)
        elif failure is not None and "catch" in handlers:
            self._handle(at, "catch")
        elif "finally" in handlers:
            self._handle(at, "finally")
        else:
            self._pass_on(at, failure)

    def _handle(self, at: StepRun, handler: str) -> None:
        at.stage = handler
        self.touch(at)
        self.open(at, f"!{handler}", at.step.handlers[handler])

    def _handler_ended(self, at: StepRun, frame: Frame, failure: Failure | None) -> None:
        """A handler that failed is recorded, and changes nothing else."""
        handler = frame.name[1:]
        if handler == "undo":
            at.stage = UNDONE
            self.touch(at)
            self._run_frame_ended(frame, None)
        elif handler == "probe":
            self._probed(at, frame, failure)
        elif handler == "catch" and "finally" in at.step.handlers:
            self._handle(at, "finally")
        else:
            at.stage = HANDLED
            self.touch(at)
            self._pass_on(at, at.error if at.state is StepState.FAILED else None)

    def _pass_on(self, at: StepRun, failure: Failure | None) -> None:
        if failure is None or self._is_caught(at):
            self._advance(at.parent, at)
        elif at.parent.open:
            at.parent.open = False
            self._frame_ended(at.parent, failure)

    # ---- frames

    def _advance(self, frame: Frame, ended: StepRun | None) -> None:
        """Start the step after `ended`, or end the frame."""
        if not frame.open or self.run.ended:
            return
        frame.last = ended
        frame.position += 1
        if frame.position < len(frame.steps):
            self._ready.append(self._create(frame, frame.steps[frame.position]))
        else:
            frame.open = False
            self._frame_ended(frame, None)

    def _create(self, frame: Frame, step: Step) -> StepRun:
        at = StepRun(step, frame.prefixes[-1] + step.id, frame.prefixes, frame, ready_at=self.now)
        at.available_at = self.now
        self.run.steps[at.path] = at
        self.run.live[at.path] = at
        self._origin[at.path] = (at, None)
        self.changes.journal.append({"step": at.path, "to": StepState.QUEUED})
        return at

    def _frame_ended(self, frame: Frame, failure: Failure | None) -> None:
        owner = frame.owner
        if self.run.ended:
            return
        if owner is None:
            self._run_frame_ended(frame, failure)
        elif frame.name.startswith("!"):
            self._handler_ended(owner, frame, failure)
        elif not owner.ended:
            kind = owner.step.kind
            assert isinstance(kind, ControlKind)
            kind.ended(self, owner, frame, failure)

    def _resume_frame(self, frame: Frame) -> None:
        """Find the place in a list of steps from the rows, and go on there."""
        prefix = frame.prefixes[-1]
        for position, step in enumerate(frame.steps):
            at = self.run.steps.get(prefix + step.id)
            frame.position = position
            if at is None:
                frame.position = position - 1
                break
            at.parent = frame
            if self._reopens and (at.state is StepState.CANCELLED or self.has_failed(at)):
                # A retry. What is inside a block that has ended for good is not visited, and stays as it is.
                self._reopen(at)
            if not at.ended:
                self._resume_step(at)
                return
            if at.stage is not None and at.stage in at.step.handlers and at.stage != "undo":
                self.reopen(at, f"!{at.stage}", at.step.handlers[at.stage])
                return
            if self.has_failed(at) or at.state is StepState.CANCELLED:
                frame.open = False
                self._frame_ended(frame, at.error or Failure("CANCELLED", "the step was cancelled", at.path))
                return
            frame.last = at
        self._advance(frame, frame.last)

    def _resume_step(self, at: StepRun) -> None:
        if at.state is StepState.QUEUED:
            if at.stage == "probe":
                self.reopen(at, "!probe", at.step.handlers["probe"])
            else:
                self._ready.append(at)
        elif at.step.kind.role == "control":
            assert isinstance(at.step.kind, ControlKind)
            if at.state is StepState.RUNNING:
                at.step.kind.resume(self, at)
        elif at.state is StepState.RUNNING and at.attempt is None:
            # RUNNING without an attempt that holds a lease: the attempt was lost.
            at.available_at, at.lost = self.now, True
            self._move(at, StepState.QUEUED, code="LOST")
            self._ready.append(at)

    def _reopen(self, at: StepRun) -> None:
        """Let an ended step run again in the new generation; a block keeps what it had begun."""
        if not at.ended:
            return
        begun = at.data is not None and at.step.kind.role == "control"
        at.generation = self.run.generation
        at.attempts = at.failures = at.crashes = 0
        at.output, at.error, at.finished_at, at.started_at, at.stage = None, None, None, None, None
        at.lost = at.reserved = False
        at.available_at = at.ready_at = self.now
        self.run.live[at.path] = at
        self._move(at, StepState.QUEUED, code="RETRY_ASKED", generation=at.generation)
        if begun:
            at.started_at, at.available_at = self.now, None
            self._move(at, StepState.RUNNING)

    # ---- one step

    def _admit(self, at: StepRun) -> None:
        """Take up a step whose turn and time have come."""
        if self.run.ended or at.state is not StepState.QUEUED or at.preparing or at.stage == "probe":
            return
        if at.available_at is not None and at.available_at > self.now:
            return
        if at.lost and at.step.effect == "once":
            self.outcome_unknown(at, Failure("UNKNOWN_OUTCOME", "the attempt was lost; it may have taken effect"), None)
            return
        if at.step.kind.role == "action" and self._slots <= 0:
            self.changes.starved = True
            return
        self._running()
        prepared = self.context.prepare(self.run, at, "")
        if prepared is None:
            at.preparing = True
            self.changes.needs.append((at.path, ""))
        else:
            self._proceed(at, prepared)

    def _answered(self, at: StepRun, name: str, prepared: Prepared) -> None:
        kind = at.step.kind
        assert isinstance(kind, ControlKind)
        kind.answered(self, at, name, prepared)

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
            self._begin_attempt(at, prepared.value)
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
            self.conclude(RunState.SUCCEEDED, outcome.output, None)
        else:
            self.succeed(at, outcome.output)

    # ---- attempts

    def _begin_attempt(self, at: StepRun, value: JSON) -> None:
        """Begin an attempt, when the step's rate limit admits it now."""
        limit = at.step.rate_limit
        if limit is not None:
            key, value = f"{self.run.workflow}/{at.step.id}/{dumps(value['key'])}", value["config"]
            if not at.reserved:
                due, stored = self.context.reserve(key, limit, self.now)
                self.changes.rates[key] = stored
                at.reserved = True
                if due > self.now:
                    at.available_at = due
                    self.touch(at)
                    entry = {"step": at.path, "code": "RATE_LIMITED", "until": due}
                    self.changes.journal.append(entry)
                    return
            at.reserved = False
        if self._slots <= 0:
            self.changes.starved = True
            return
        self._lease(at, value)

    def _lease(self, at: StepRun, value: JSON) -> None:
        """From the commit on, this process alone may carry the attempt out."""
        self._slots -= 1
        at.attempts += 1
        at.attempt = Attempt(self.context.ids.new_id("att"), at.attempts, self.now, value)
        at.available_at, at.lost = None, False
        if at.started_at is None:
            at.started_at = self.now
        if self.run.suspect == SUSPECT:
            self.run.suspect = ALONE
        self._move(at, StepState.RUNNING, attempt=at.attempts)
        until = self.now + self.context.lease_ms
        record = AttemptRecord(at.attempt.id, at.path, at.generation, at.attempts, self.now, self.context.owner, until)
        self.changes.leases.append(record)
        self.changes.starts.append(at)

    def outcome_unknown(self, at: StepRun, failure: Failure, value: JSON) -> None:
        """An `effect: once` step may have taken effect: it is not sent again unless its probe says that it had not."""
        if "probe" in at.step.handlers:
            if at.state is not StepState.QUEUED:
                self._move(at, StepState.QUEUED, code="PROBING")
            at.lost, at.stage, at.available_at, at.error = False, "probe", None, failure
            self.touch(at)
            self._running()
            self.open(at, "!probe", at.step.handlers["probe"])
        else:
            self.fail(at, Failure("UNKNOWN_OUTCOME", failure.message, at.path, at.attempts or None), value)

    def _probed(self, at: StepRun, frame: Frame, failure: Failure | None) -> None:
        answer = None if failure is not None or frame.last is None else frame.last.output
        at.stage = None
        done, output = (answer.get("done"), answer.get("output")) if isinstance(answer, dict) else (answer, None)
        if done is True:
            self.succeed(at, output)
        elif done is False:
            # It had no effect: try again, as a new attempt. The probe's own steps may be needed once more.
            for step in at.step.handlers["probe"]:
                probe = self.run.steps.get(at.prefixes[-1] + step.id)
                if probe is not None:
                    self._forget_outcome(probe)
            at.available_at = self.now
            self.touch(at)
            self._ready.append(at)
        else:
            message = "the attempt may have taken effect, and the probe did not say (true or false)"
            self.fail(at, Failure("UNKNOWN_OUTCOME", message, at.path, at.attempts or None))

    def _forget_outcome(self, at: StepRun) -> None:
        """Make room for a step to run again; its attempts stay."""
        self.run.steps.pop(at.path, None)

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
        self.touch(at)

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
                None if value is None else dumps(value),
                dumps(failure.to_json()),
                self.now,
            )
        )
