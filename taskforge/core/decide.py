"""The one place where it is decided what happens next in a run: pure, for every database.

`decide(run, events, context)` advances the snapshot and returns the `Changes`. No I/O, no clock and no randomness of
its own: time, ids, random numbers and the in-process evaluation of expressions come with the context. The store applies
the changes in one transaction, guarded by the run's revision and the lease tokens; if that is refused, the snapshot is
thrown away, loaded again, and the events are decided again (ADR 0003).

Here is what each event means; `core.ending` has how a run ends, `core.progress` how steps move, `core.rows` the rows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Any

from taskforge.core import events as ev
from taskforge.core.ending import RunEnding
from taskforge.core.errors import Failure
from taskforge.core.jsontext import dumps
from taskforge.core.kind import ActionKind, ControlKind, resume_signal
from taskforge.core.model import AttemptFailure, Prepared
from taskforge.core.rows import (
    ALONE,
    CONVICTED,
    CRASH_LIMIT,
    SUSPECT,
    Context,
    Ids,
    IllegalTransition,
    step_timeout,
)
from taskforge.core.snapshot import Changes, Frame, PlaceClaim, RunSnapshot, SignalRecord, StepRun
from taskforge.core.states import RUN_TERMINAL, AttemptState, RunState, StepState

__all__ = ["ALONE", "CONVICTED", "CRASH_LIMIT", "SUSPECT", "Context", "Decision", "Ids", "IllegalTransition", "decide"]

_INDEX = re.compile(r"\[(\d+)\]")


def decide(run: RunSnapshot, events: Iterable[ev.Event], context: Context) -> Changes:
    """Advance `run` by `events` and return what changes. Unknown or stale tokens change nothing."""
    return Decision(run, context).take(events)


class Decision(RunEnding):
    """A decision about events."""

    def take(self, events: Iterable[ev.Event]) -> Changes:
        for event in events:
            if self.run.is_fresh:
                self.run.is_fresh = False
                if not isinstance(event, _NEED_NO_FRAMES):
                    self._taken_up(ev.TakenUp())
                    self._admit_ready()
            _HANDLERS[type(event)](self, event)
            self._admit_ready()
        if self.run.state not in RUN_TERMINAL and not self._is_paused and self._is_overdue():
            self._check_time()
            self._admit_ready()
        self._settle()
        return self._collect()

    # ---- the run begins, or is taken up

    def _begun(self, event: ev.Begun) -> None:
        self._entries.append({"run": RunState.QUEUED})
        self._enter_when_due()

    def _taken_up(self, event: ev.TakenUp) -> None:
        run = self.run
        if run.state in RUN_TERMINAL:
            return
        run.preparing = None
        if run.suspect == CONVICTED:
            self._convict()
        elif run.ending is not None:
            self._resume_ending()
        else:
            self._enter()
        if run.state not in RUN_TERMINAL:
            self._take_signals()
            self._check_time()

    def _enter(self) -> None:
        """Go on from the rows where the run has begun and has its place, else begin it."""
        run = self.run
        if run.steps and (run.plan.concurrency is None or run.placed):
            self._resume_frame(Frame(None, "", run.plan.steps, ("",)))
        else:
            self._enter_when_due()

    def _enter_when_due(self) -> None:
        """Enter the first step, unless the run is delayed or has no place yet."""
        run = self.run
        if run.start_at is not None and run.start_at > self.now:
            return
        if run.plan.concurrency is not None and not run.placed:
            self._claim_place()
            return
        self._advance(Frame(None, "", run.plan.steps, ("",)), None)

    def _claim_place(self) -> None:
        run, concurrency = self.run, self.run.plan.concurrency
        assert concurrency is not None
        if run.place is None:
            if "concurrency" not in run.plan.evaluations:
                self._place_known(Prepared(None))
                return
            prepared = self.context.prepare(run, None, "concurrency")
            if prepared is None:
                run.preparing = "concurrency"
                self.changes.needs.append(("", "concurrency"))
            else:
                self._place_known(prepared)
        elif concurrency.on_limit == "skip":
            many = "1 run with this key is" if concurrency.limit == 1 else f"{concurrency.limit} runs with this key are"
            message = f"{many} in progress, and `on_limit` is skip"
            self.end_at_once(RunState.CANCELLED, Failure("CONCURRENCY_SKIPPED", message))
        else:
            self._claim()

    def _place_known(self, prepared: Prepared) -> None:
        if prepared.failure is not None:
            self.conclude(RunState.FAILED, None, prepared.failure)
            return
        key = prepared.value if isinstance(prepared.value, str) else dumps(prepared.value)
        if len(key) > _LONGEST_KEY:
            # Keys stand in two indexes; a hash keeps them apart as well.
            key = hashlib.sha256(key.encode()).hexdigest()
        self.run.place = f"{self.run.workflow}:{key}"
        if self.run.parent is not None and self.run.place in self.run.parent.get("places", ()):
            message = "a run that waits for this one holds the place in `concurrency` that this one needs"
            self.conclude(RunState.FAILED, None, Failure("CONCURRENCY_DEADLOCK", message))
            return
        self._claim()

    def _claim(self) -> None:
        concurrency = self.run.plan.concurrency
        assert concurrency is not None and self.run.place is not None
        self.changes.claim = PlaceClaim(self.run.place, concurrency.limit, concurrency.on_limit != "skip")

    # ---- evaluations

    def _step_prepared(self, event: ev.StepPrepared) -> None:
        run, prepared = self.run, event.prepared
        if run.state in RUN_TERMINAL:
            return
        if event.path == "":
            if run.preparing == event.name:
                run.preparing = None
                if event.name == "output":
                    self._conclude_with(prepared)
                else:
                    self._place_known(prepared)
            return
        at = run.steps.get(event.path)
        if at is None or not at.preparing or at.ended:
            return
        at.preparing = False
        if event.name == "retry":
            self._retry_judged(at, prepared)
        elif event.name:
            self._answered(at, event.name, prepared)
        elif at.step.kind.role == "action" and self._slots <= 0 and prepared.admitted and not prepared.failure:
            self._starve(at)
        else:
            self._proceed(at, prepared)

    # ---- attempts

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

    def _attempt_suspended(self, event: ev.AttemptSuspended) -> None:
        at = self._holder(event.path, event.token)
        if at is not None:
            self._end_attempt(at, AttemptState.SUCCEEDED, None)
            self.remember(at, {"signal": event.suspended.signal, "wait": event.suspended.data})
            self.wait(at, event.suspended.until, signal=event.suspended.signal)
            self._take_signals()

    def _attempt_failed(self, event: ev.AttemptFailed) -> None:
        at = self._holder(event.path, event.token)
        if at is not None:
            self.attempt_failed(at, event.result)

    def _attempt_released(self, event: ev.AttemptReleased) -> None:
        at = self._holder(event.path, event.token)
        if at is not None:
            self._end_attempt(at, AttemptState.LOST, Failure("RELEASED", "the server shut down", at.path))
            at.available_at, at.lost = self.now, True
            self._move(at, StepState.QUEUED, code="RELEASED")
            self._given_back.add(at.path)

    # ---- what people ask for

    def _broken(self, event: ev.Broken) -> None:
        if self.run.state not in RUN_TERMINAL:
            self.run.ending = None
            self.end_at_once(RunState.FAILED, Failure("INTERNAL", event.message))

    def _cancel_asked(self, event: ev.CancelAsked) -> None:
        run = self.run
        if run.state in RUN_TERMINAL:
            return
        failure = Failure(event.code, event.reason or "the run was cancelled")
        if run.ending is not None:
            # Asked again while the handlers run: they stop as well.
            state, error = run.ending.state, run.ending.error
            output = run.ending.output
            self._stop_steps()
            self._finish(state, output, error)
        else:
            self.conclude(RunState.CANCELLED, None, failure)

    def _retry_asked(self, event: ev.RetryAsked) -> None:
        run = self.run
        run.generation += 1
        run.output, run.error, run.finished_at, run.started_at = None, None, None, None
        run.suspect, run.ending, run.place, run.placed = 0, None, None, False
        run.start_at = None
        self._move_run(RunState.QUEUED, code="RETRY_ASKED", generation=run.generation)
        self.mark_for_retry(event.from_step)
        self.changes.dead_letters_to = "RETRIED"
        self._enter()

    def _signal_sent(self, event: ev.SignalSent) -> None:
        self.changes.told_child = event.told_child
        if self.run.state in RUN_TERMINAL or (event.told_child is not None and not self._waits_for_child(event.name)):
            return
        record = SignalRecord(event.id, event.name, dumps(event.data), self.now)
        self._entries.append({"signal": event.name})
        self.run.signals.append(record)
        self.changes.signals.append(record)
        self._take_signals()

    def _waits_for_child(self, signal: str) -> bool:
        """Return whether the step that started the child still goes on, in the same generation, and was not told."""
        path, _, generation = signal.partition(":")[2].rpartition("~")
        at = self.run.steps.get(path)
        told = any(record.name == signal for record in self.run.signals)
        return at is not None and not at.ended and str(at.generation) == generation and not told

    def _take_signals(self) -> None:
        """Hand signals that were sent to the steps that wait for them, in the order in which they came."""
        run = self.run
        for record in list(run.signals):
            waiting = [at for at in run.live.values() if _waits_for(at, record.name)]
            if waiting and run.state not in RUN_TERMINAL and record in run.signals:
                self.take_signal(min(waiting, key=_turn), record)

    def _time_passed(self, event: ev.TimePassed) -> None:
        if self.run.state not in RUN_TERMINAL:
            self._check_time()

    # ---- time

    def _check_time(self) -> None:
        run = self.run
        if run.deadline_at is not None and run.deadline_at <= self.now and run.ending is None:
            message = f"the run took longer than its time limit of {(run.plan.timeout_ms or 0) / 1000:g} s"
            self.conclude(RunState.FAILED, None, Failure("RUN_TIMEOUT", message))
            return
        queue_deadline = self._queue_deadline()
        if queue_deadline is not None and queue_deadline <= self.now:
            message = f"the run was not begun within {(run.plan.max_queue_ms or 0) / 1000:g} s"
            self.end_at_once(RunState.CANCELLED, Failure("QUEUE_TIMEOUT", message))
            return
        if not run.steps and run.preparing is None and run.ending is None and run.state is RunState.QUEUED:
            if run.start_at is not None and self.changes.claim is None:
                self._enter_when_due()
            return
        for at in list(run.live.values()):
            if at.ended or run.state in RUN_TERMINAL:
                continue
            if at.deadline_at is not None and at.deadline_at <= self.now:
                self._time_out(at)
            elif at.state is StepState.QUEUED:
                if at.path not in run.hungry:
                    self._ready.append(at)
            elif at.state is StepState.WAITING and at.available_at is not None and at.available_at <= self.now:
                kind = at.step.kind
                assert isinstance(kind, ControlKind | ActionKind)
                kind.woke(self, at)

    def _time_out(self, at: StepRun) -> None:
        failure = step_timeout(at)
        value = None
        if at.attempt is not None:
            value = at.attempt.value
            self.changes.aborts.append(at.attempt.id)
            self._end_attempt(at, AttemptState.TIMED_OUT, failure)
            at.failures += 1
            if at.step.effect == "once":
                self.outcome_unknown(at, failure, value)
                return
        self.cancel_inside(at)
        self.fail(at, failure, value)


def _waits_for(at: StepRun, signal: str) -> bool:
    if at.state is not StepState.WAITING or not isinstance(at.data, dict) or at.data.get("signal") is None:
        return False
    return signal in (at.data["signal"], resume_signal(at.path, at.generation))


def _turn(at: StepRun) -> tuple[object, ...]:
    """Who has waited longest; where that is the same, by place in the document and item."""
    return (at.started_at or at.ready_at, at.step.order, [int(part) for part in _INDEX.findall(at.path)])


_LONGEST_KEY = 200
"""Characters of a `concurrency` key that are kept as they are."""

_NEED_NO_FRAMES = (ev.TakenUp, ev.RetryAsked, ev.CancelAsked, ev.Broken)
"""What can be decided on a run that was just loaded; anything else takes it up first."""

_HANDLERS: dict[type, Callable[[Decision, Any], None]] = {
    ev.Begun: Decision._begun,
    ev.TakenUp: Decision._taken_up,
    ev.TimePassed: Decision._time_passed,
    ev.StepPrepared: Decision._step_prepared,
    ev.AttemptSucceeded: Decision._attempt_succeeded,
    ev.AttemptSuspended: Decision._attempt_suspended,
    ev.AttemptFailed: Decision._attempt_failed,
    ev.AttemptReleased: Decision._attempt_released,
    ev.Broken: Decision._broken,
    ev.CancelAsked: Decision._cancel_asked,
    ev.RetryAsked: Decision._retry_asked,
    ev.SignalSent: Decision._signal_sent,
}
