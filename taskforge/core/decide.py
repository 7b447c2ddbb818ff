"""The one place where it is decided what happens next in a run: pure, for every database.

`decide(run, events, context)` advances the snapshot and returns the `Changes`. No I/O, no clock and no randomness of
its own: time, ids, random numbers and the in-process evaluation of expressions come with the context. The store applies
the changes in one transaction, guarded by the run's revision and the lease tokens; if that is refused, the snapshot is
thrown away, loaded again, and the events are decided again (ADR 0003).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from taskforge.core import events as ev
from taskforge.core.errors import Failure
from taskforge.core.model import AttemptFailure
from taskforge.core.progress import (
    ALONE,
    CONVICTED,
    CRASH_LIMIT,
    SUSPECT,
    Context,
    Ids,
    IllegalTransition,
    Progress,
    placed,
    step_timeout,
)
from taskforge.core.snapshot import Changes, Frame, RunSnapshot, StepRun
from taskforge.core.states import AttemptState, RunState, StepState

__all__ = ["ALONE", "CONVICTED", "CRASH_LIMIT", "SUSPECT", "Context", "Decision", "Ids", "IllegalTransition", "decide"]


def decide(run: RunSnapshot, events: Iterable[ev.Event], context: Context) -> Changes:
    """Advance `run` by `events` and return what changes. Unknown or stale tokens change nothing."""
    return Decision(run, context).take(events)


class Decision(Progress):
    """A decision about events. What it is made of is in `core.progress`."""

    def take(self, events: Iterable[ev.Event]) -> Changes:
        for event in events:
            _HANDLERS[type(event)](self, event)
            self._drain()
        self._settle()
        return self._collect()

    def _drain(self) -> None:
        while self._ready:
            self._admit(self._ready.popleft())

    def _begun(self, event: ev.Begun) -> None:
        self.changes.journal.append({"run": RunState.QUEUED})
        if self.run.start_at is None or self.run.start_at <= self.now:
            self._enter(self.run.root)

    def _taken_up(self, event: ev.TakenUp) -> None:
        run = self.run
        if run.ended:
            return
        if run.suspect == CONVICTED:
            self._convict()
        elif run.steps:
            self._resume_frame(Frame(None, "", run.plan.steps, ("",)))
            self._check_time()
        elif run.start_at is None or run.start_at <= self.now:
            self._enter(run.root)

    def _time_passed(self, event: ev.TimePassed) -> None:
        if not self.run.ended:
            self._check_time()

    def _step_prepared(self, event: ev.StepPrepared) -> None:
        if self.run.ended:
            return
        if event.path == "":
            if self.run.preparing_output:
                self.run.preparing_output = False
                self._finish_with_output(event.prepared)
            return
        at = self.run.steps.get(event.path)
        if at is None or not at.preparing or at.state is not StepState.QUEUED:
            return
        at.preparing = False
        prepared = event.prepared
        if at.step.kind.role == "action" and self._slots <= 0 and prepared.admitted and not prepared.failure:
            self.changes.starved = True
            return
        self._proceed(at, prepared)

    def _attempt_succeeded(self, event: ev.AttemptSucceeded) -> None:
        at = self._holder(event.path, event.token)
        if at is None:
            return
        too_large = self._encode(at, event.output)
        if too_large is not None:
            self._attempt_failed(ev.AttemptFailed(event.path, event.token, AttemptFailure(too_large)))
            return
        self._end_attempt(at, AttemptState.SUCCEEDED, None)
        self.succeed(at, event.output)

    def _attempt_failed(self, event: ev.AttemptFailed) -> None:
        at = self._holder(event.path, event.token)
        if at is None or at.attempt is None:
            return
        result, value, number = event.result, at.attempt.value, at.attempt.number
        failure = placed(result.failure, at.path, number)
        self._end_attempt(at, AttemptState.TIMED_OUT if result.timed_out else AttemptState.FAILED, failure)
        at.failures += 1
        policy = at.step.retry
        if at.failures >= policy.max_attempts or not policy.admits(result.error_class, result.status):
            self.fail(at, failure, value)
            return
        pause = policy.delay_ms(at.failures, self.context.ids.random()) + (result.retry_after_ms or 0)
        due = self.now + pause
        if at.deadline_at is not None and due >= at.deadline_at:
            message = f"the next attempt would begin after the step's time limit; the last error was: {failure.message}"
            late = Failure("STEP_TIMEOUT", message, at.path, number, {"last_error": failure.code})
            self.fail(at, late, value)
            return
        at.error, at.available_at = failure, due
        self._move(at, StepState.QUEUED, code="RETRY_SCHEDULED", until=due, error=failure.code)
        if due <= self.now:
            self._ready.append(at)

    def _attempt_released(self, event: ev.AttemptReleased) -> None:
        at = self._holder(event.path, event.token)
        if at is not None:
            self._end_attempt(at, AttemptState.LOST, Failure("RELEASED", "the server shut down", at.path))
            at.available_at = self.now
            self._move(at, StepState.QUEUED, code="RELEASED")

    def _broken(self, event: ev.Broken) -> None:
        if not self.run.ended:
            self._finish(RunState.FAILED, None, Failure("INTERNAL", event.message))

    def _cancel_asked(self, event: ev.CancelAsked) -> None:
        if not self.run.ended:
            message = event.reason or "the run was cancelled"
            self._finish(RunState.CANCELLED, None, Failure("CANCELLED", message))

    def _retry_asked(self, event: ev.RetryAsked) -> None:
        run = self.run
        run.generation += 1
        run.output, run.error, run.finished_at, run.started_at = None, None, None, None
        run.suspect = 0
        self._move_run(RunState.QUEUED, code="RETRY_ASKED", generation=run.generation)
        self._reopens = True
        self.changes.dead_letters_to = "RETRIED"
        run.root = Frame(None, "", run.plan.steps, ("",))
        if run.steps:
            self._resume_frame(run.root)
        else:
            self._enter(run.root)

    # ---- time

    def _check_time(self) -> None:
        run = self.run
        if run.deadline_at is not None and run.deadline_at <= self.now:
            message = f"the run took longer than its time limit of {(run.plan.timeout_ms or 0) / 1000:g} s"
            self._finish(RunState.FAILED, None, Failure("RUN_TIMEOUT", message))
            return
        for at in list(run.live.values()):
            if at.ended or run.ended:
                continue
            if at.deadline_at is not None and at.deadline_at <= self.now:
                self._time_out(at)
            elif at.state is StepState.QUEUED:
                self._ready.append(at)

    def _time_out(self, at: StepRun) -> None:
        failure = step_timeout(at)
        value = None
        if at.attempt is not None:
            value = at.attempt.value
            self.changes.aborts.append(at.attempt.id)
            self._end_attempt(at, AttemptState.TIMED_OUT, failure)
            at.failures += 1
        self._cancel_inside(at)
        self.fail(at, failure, value)

    def _cancel_inside(self, at: StepRun) -> None:
        for other in list(self.run.live.values()):
            if other is not at and _is_inside(other, at):
                other.parent.open = False
                self._end(other, StepState.CANCELLED, code="PARENT_ENDED")

    def _convict(self) -> None:
        """The server died while this run was alone: the step that was in flight is FAILED, and the run with it."""
        suspects = [at for at in self.run.live.values() if at.crashes >= CRASH_LIMIT]
        message = "the server died each time it ran this step, the last time while nothing else ran"
        first: Failure | None = None
        for at in suspects:
            failure = Failure("CRASH_LOOP", message, at.path, at.attempts, {"deaths": at.crashes})
            at.error = failure
            self._end(at, StepState.FAILED, code=failure.code)
            if at.step.kind.role == "action" and not at.step.continue_on_error:
                self._bury(at, failure, None)
            first = first or failure
        self.run.suspect = 0
        self._finish(RunState.FAILED, None, first or Failure("CRASH_LOOP", message))


_HANDLERS: dict[type, Callable[[Decision, Any], None]] = {
    ev.Begun: Decision._begun,
    ev.TakenUp: Decision._taken_up,
    ev.TimePassed: Decision._time_passed,
    ev.StepPrepared: Decision._step_prepared,
    ev.AttemptSucceeded: Decision._attempt_succeeded,
    ev.AttemptFailed: Decision._attempt_failed,
    ev.AttemptReleased: Decision._attempt_released,
    ev.Broken: Decision._broken,
    ev.CancelAsked: Decision._cancel_asked,
    ev.RetryAsked: Decision._retry_asked,
}


def _is_inside(inner: StepRun, outer: StepRun) -> bool:
    frame: Frame | None = inner.parent
    while frame is not None and frame.owner is not None:
        if frame.owner is outer:
            return True
        frame = frame.owner.parent
    return False
