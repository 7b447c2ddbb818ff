"""How a run moves: frames of steps, and the handlers around a step. Pure; the upper half is `core.decide`.

A frame is a list of steps that run one after the other. The run has one; control steps open more; so do the handlers
around a step (`catch`, `finally`, `undo`, `probe`), whose frames are named `!catch` and so on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

from taskforge.core.attempts import JUDGED, PROBE, Attempts
from taskforge.core.errors import Failure
from taskforge.core.jsontext import loads
from taskforge.core.kind import ActionKind, ControlKind, resume_signal
from taskforge.core.model import JSON, Step
from taskforge.core.rows import is_inside, placed
from taskforge.core.snapshot import Frame, SignalRecord, StepRun
from taskforge.core.states import RUN_TERMINAL, RunState, StepState

HANDLED, UNDONE = "handled", "undone"
"""`StepRun.stage` of an ended step whose handlers, or whose undo steps, have run."""

AGAIN, ASIDE = "again", "aside"
"""`StepRun.stage` of an ended step in a run that a person has had taken up again: it is taken up where it stands when
the run comes to it; or it counts as not having run (`core.retrying`)."""


class Progress(Attempts, ABC):
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
        """Take up a list of inner steps that had begun before the run was loaded; what is missing begins. One that had
        ended calls `ended` at once."""
        frame = Frame(at, name, steps, prefixes or at.prefixes)
        at.frames[name] = frame
        self._resume_frame(frame)

    def find(self, path: str) -> StepRun | None:
        """Return a step that has begun, or None; a step that was set aside has not."""
        at = self.run.steps.get(path)
        return None if at is None or at.stage == ASIDE else at

    def standing(self, steps: tuple[Step, ...], prefix: str) -> Literal["absent", "left", "live", "ended"]:
        """Say how far a list of inner steps has come, from the rows: it has not begun, it has begun and nothing goes on
        in it (a retry is to take it up), something goes on in it, or it has ended."""
        begun = False
        for step in steps:
            at = self.find(prefix + step.id)
            if at is None:
                return "left" if begun else "absent"
            if at.stage == AGAIN:
                return "left"
            if not at.ended or at.stage in at.step.handlers:
                return "live"
            if self.has_failed(at) or at.state is StepState.CANCELLED:
                return "ended"
            begun = True
        return "ended"

    def set_aside(self, at: StepRun) -> None:
        """Have an ended step count as not having run; its row and attempts stay readable until it runs again."""
        if at.stage != ASIDE:
            at.stage = ASIDE
            self.touch(at)

    def skip_inner(self, at: StepRun, step: Step, code: str) -> None:
        """Record an inner step that is not to run as SKIPPED; it opens no frame."""
        inner = self._create(Frame(at, step.id, (step,), at.prefixes, position=0, open=False), step)
        self._end(inner, StepState.SKIPPED, code=code)

    def remember(self, at: StepRun, data: JSON) -> None:
        """Store what a block must know after a crash (which branch, how many items)."""
        at.data = data
        self.touch(at)

    def tell_items(self, at: StepRun, count: int) -> None:
        """Say in the journal over how many items a loop goes: whoever follows the run can tell how far it is."""
        self._entries.append({"step": at.path, "items": count})

    def wait(self, at: StepRun, until: int | None, **entry: Any) -> None:
        """Let the step wait until a time, a signal (`data["signal"]`), or both. It holds no slot and no memory."""
        at.available_at = until
        self._move(at, StepState.WAITING, **({} if until is None else {"until": until}), **entry)
        resumed = self.find_signal(resume_signal(at.path, at.generation))
        if resumed is not None:
            # Its one-time link was used before its turn came.
            self.take_signal(at, resumed)

    def take_signal(self, at: StepRun, record: SignalRecord) -> None:
        """Give a signal to the step that waits for it; it is used up."""
        self.run.signals.remove(record)
        if record in self.changes.signals:
            self.changes.signals.remove(record)
        else:
            self.changes.signals_taken.append(record.id)
        if at.state is StepState.WAITING:
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

    def put_off(self, at: StepRun, until: int) -> None:
        """Let a WAITING step wait on, until another time."""
        at.available_at = until
        self.touch(at)

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

    def succeed(self, at: StepRun, output: JSON, *, droppable: bool = False) -> None:
        """End a step with its output. An output above the limit fails it instead or, where it is `droppable`, becomes
        null."""
        if at.path not in self._texts:
            too_large = self._encode(at, output)
            if too_large is not None and not droppable:
                self.fail(at, too_large)
                return
            if too_large is not None:
                output = None
                self._entries.append({"step": at.path, "code": "OUTPUT_DROPPED", "message": too_large.message})
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
        if at.step.kind.role == "action" and not self._is_taken(at):
            self._bury(at, failure, value)
        self._leave(at, failure)

    @staticmethod
    def has_failed(at: StepRun) -> bool:
        """Return whether an ended step's failure counts against what is around it."""
        return at.state is StepState.FAILED and not is_caught(at)

    def _is_taken(self, at: StepRun) -> bool:
        """Return whether the step, or a block around it, takes its failure, so that the run goes on. What fails inside
        a handler is taken by nothing."""
        while not is_caught(at):
            frame = at.parent
            if frame.owner is None or frame.name.startswith("!"):
                return False
            at = frame.owner
        return True

    # ---- handlers around a step

    def _leave(self, at: StepRun, failure: Failure | None) -> None:
        """After a step has ended: its `catch`, its `finally`, then what comes after it."""
        handlers = at.step.handlers
        if not handlers or self.run.state in RUN_TERMINAL:
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
        if failure is None or is_caught(at):
            self._advance(at.parent, at)
        elif at.parent.open:
            at.parent.open = False
            self._frame_ended(at.parent, failure)

    # ---- frames

    def _advance(self, frame: Frame, ended: StepRun | None) -> None:
        """Start the step after `ended`, or end the frame."""
        if not frame.open or self.run.state in RUN_TERMINAL:
            return
        frame.last = ended
        frame.position += 1
        if frame.position < len(frame.steps):
            self._ready.append(self._create(frame, frame.steps[frame.position]))
        else:
            frame.open = False
            self._frame_ended(frame, None)

    def _create(self, frame: Frame, step: Step) -> StepRun:
        path = frame.prefixes[-1] + step.id
        at = self.run.steps.get(path)
        if at is not None:
            # It ran in an earlier generation, or is a probe that is asked once more: its attempts are kept.
            at.parent = frame
            at.data = None
            self._renew(at)
            return at
        at = StepRun(step, path, frame.prefixes, frame, ready_at=self.now)
        at.available_at = self.now
        self.run.steps[at.path] = at
        self.run.live[at.path] = at
        self._origin[at.path] = (at, None)
        self._entries.append({"step": at.path, "to": StepState.QUEUED})
        return at

    def _frame_ended(self, frame: Frame, failure: Failure | None) -> None:
        owner = frame.owner
        if self.run.state in RUN_TERMINAL:
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
            at = self.find(prefix + step.id)
            frame.position = position
            if at is None:
                frame.position = position - 1
                break
            at.parent = frame
            if at.stage == AGAIN:
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
            if at.stage == PROBE:
                self.reopen(at, "!probe", at.step.handlers["probe"])
            elif at.stage == JUDGED:
                self._judge_retry(at)
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
        """Take up again a step that a retry has marked; a block keeps what it had begun."""
        begun = at.data is not None and at.step.kind.role == "control"
        self._renew(at)
        if begun:
            at.started_at, at.available_at = self.now, None
            self._move(at, StepState.RUNNING)

    def _renew(self, at: StepRun) -> None:
        """Let an ended step run again, in a new generation of its own: an end is final within one."""
        at.generation = max(self.run.generation, at.generation + 1)
        at.attempts = at.failures = at.crashes = 0
        at.output, at.error, at.finished_at, at.started_at, at.stage = None, None, None, None, None
        at.lost, at.scope, at.memory, at.frames = False, None, None, {}
        at.available_at = at.ready_at = self.now
        self._texts.pop(at.path, None)
        self.run.live[at.path] = at
        self._move(at, StepState.QUEUED, code="RETRY_ASKED", generation=at.generation)


def is_caught(at: StepRun) -> bool:
    """Return whether a step takes its own failure, by `continue_on_error` or `catch`."""
    return at.step.continue_on_error or "catch" in at.step.handlers
