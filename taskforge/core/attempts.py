"""One step at a time: its turn, its attempts, and what follows when one fails. Pure.

The layer between the rows and the frames: `core.progress` says where a step stands and what comes after it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, cast

from taskforge.core.errors import Failure
from taskforge.core.jsontext import JsonError, dumps
from taskforge.core.kind import ActionKind, ControlKind, PureKind
from taskforge.core.model import JSON, AttemptFailure, Prepared, Step
from taskforge.core.rows import ALONE, CRASH_LIMIT, SUSPECT, Rows, placed, step_timeout
from taskforge.core.snapshot import Attempt, AttemptEnd, AttemptRecord, DeadLetterRecord, Frame, StepRun
from taskforge.core.states import RUN_TERMINAL, AttemptState, RunState, StepState

if TYPE_CHECKING:
    from taskforge.core.progress import Progress

PROBE, JUDGED = "probe", "judged"
"""`StepRun.stage` of a QUEUED step: its probe runs; or its own `retry` condition is being evaluated."""


class Attempts(Rows, ABC):
    """Takes up steps, begins their attempts and ends them."""

    @abstractmethod
    def succeed(self, at: StepRun, output: JSON) -> None: ...

    @abstractmethod
    def skip(self, at: StepRun, code: str) -> None: ...

    @abstractmethod
    def fail(self, at: StepRun, failure: Failure, value: JSON = None, *, output: JSON = None) -> None: ...

    @abstractmethod
    def open(
        self, at: StepRun, name: str, steps: tuple[Step, ...], prefixes: tuple[str, ...] | None = None
    ) -> None: ...

    @abstractmethod
    def conclude(self, state: RunState, output: JSON, failure: Failure | None) -> None: ...

    # ---- a step's turn

    def _admit_ready(self) -> None:
        """Take up the steps whose turn has come. Those that found no free slot before go first."""
        hungry = self.run.hungry
        while True:
            if self._turns <= 0:
                self._is_paused = bool(self._ready) or (bool(hungry) and self._slots > 0)
                return
            if hungry and self._slots > 0:
                self._admit(hungry.pop(next(iter(hungry))))
            elif self._ready:
                self._admit(self._ready.popleft())
            else:
                return

    def _admit(self, at: StepRun) -> None:
        """Take up a step whose turn and time have come."""
        if self.run.state in RUN_TERMINAL or at.state is not StepState.QUEUED or at.preparing or at.stage is not None:
            return
        if at.available_at is not None and at.available_at > self.now:
            return
        if at.lost and at.step.effect == "once":
            failure = Failure("UNKNOWN_OUTCOME", "the attempt was lost; it may have taken effect")
            self.outcome_unknown(at, failure, None)
            return
        if at.step.kind.role == "action" and self._slots <= 0:
            self._starve(at)
            return
        self._turns -= 1
        if self.run.state is not RunState.RUNNING:
            self._running()
        prepared = self.context.prepare(self.run, at, "")
        if prepared is None:
            at.preparing = True
            self.changes.needs.append((at.path, ""))
        else:
            self._proceed(at, prepared)

    def _starve(self, at: StepRun) -> None:
        """There is no free slot: the step goes first when there is one."""
        self.run.hungry.setdefault(at.path, at)

    def _answered(self, at: StepRun, name: str, prepared: Prepared) -> None:
        kind = at.step.kind
        assert isinstance(kind, ControlKind)
        kind.answered(cast("Progress", self), at, name, prepared)

    def _proceed(self, at: StepRun, prepared: Prepared) -> None:
        kind = at.step.kind
        deadline_at = at.deadline_at
        if deadline_at is not None and deadline_at <= self.now:
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
            kind.begin(cast("Progress", self), at, prepared.value)

    def _finish_pure(self, at: StepRun, kind: PureKind, value: JSON) -> None:
        outcome = kind.finish(value)
        at.started_at = self.now
        if outcome.failure is not None:
            self.fail(at, outcome.failure)
        elif outcome.ends_run and self.run.ending is None:
            too_large = self._encode(at, outcome.output)
            if too_large is not None:
                self.fail(at, too_large)
                return
            at.output = outcome.output
            self._end(at, StepState.SUCCEEDED)
            self.conclude(RunState.SUCCEEDED, outcome.output, None)
        else:
            # In a handler of the run, which ends anyway, there is nothing more to end.
            self.succeed(at, outcome.output)

    # ---- an attempt begins

    def _begin_attempt(self, at: StepRun, value: JSON) -> None:
        """Begin an attempt, when the step's rate limit admits it now. The time that the limit gave is kept in the row:
        asked again after every load, it would always give a later one."""
        limit = at.step.rate_limit
        if limit is not None:
            key, value = f"{self.run.workflow}/{at.step.id}/{dumps(self.context.mask(value['key']))}", value["config"]
            if not (isinstance(at.data, dict) and "admitted_at" in at.data):
                due, stored = self.context.reserve(key, limit, self.now)
                self.changes.rates[key] = stored
                at.data = {"admitted_at": due}
                self.touch(at)
                if due > self.now:
                    self._wait_for_rate(at, due)
                    return
        if self._slots <= 0:
            self._starve(at)
            return
        if limit is not None:
            due = self.context.enter(key, limit, self.now)
            if due > self.now:
                self._wait_for_rate(at, due)
                return
        self._lease(at, value)

    def _wait_for_rate(self, at: StepRun, due: int) -> None:
        at.available_at = due
        self.touch(at)
        self._entries.append({"step": at.path, "code": "RATE_LIMITED", "until": due})

    def _lease(self, at: StepRun, value: JSON) -> None:
        """From the commit on, this process alone may carry the attempt out."""
        self._slots -= 1
        at.attempts += 1
        at.attempt = Attempt(self.context.ids.new_id("att"), at.attempts, self.now, value)
        at.available_at, at.lost, at.data = None, False, None
        if at.started_at is None:
            at.started_at = self.now
        if self.run.suspect == SUSPECT:
            self.run.suspect = ALONE
        self._move(at, StepState.RUNNING, attempt=at.attempts)
        until = self.now + self.context.lease_ms
        record = AttemptRecord(at.attempt.id, at.path, at.generation, at.attempts, self.now, self.context.owner, until)
        self.changes.leases.append(record)
        self.changes.starts.append(at)

    # ---- an attempt failed

    def attempt_failed(self, at: StepRun, result: AttemptFailure) -> None:
        """End the running attempt, then retry or fail the step."""
        assert at.attempt is not None
        value, number = at.attempt.value, at.attempt.number
        failure = placed(result.failure, at.path, number)
        self._end_attempt(at, AttemptState.TIMED_OUT if result.timed_out else AttemptState.FAILED, failure)
        at.failures += 1
        is_unknown = result.timed_out or result.error_class in ("network", "timeout")
        if at.step.effect == "once" and result.sent and is_unknown:
            self.outcome_unknown(at, failure, value)
            return
        policy = at.step.retry
        if at.failures >= policy.max_attempts:
            self.fail(at, failure, value)
        elif "retry" in at.step.evaluations:
            at.error, at.available_at, at.stage = failure, self.now, JUDGED
            self._move(at, StepState.QUEUED, code="RETRY_ASKED_OF_EXPRESSION", error=failure.code)
            self._judge_retry(at)
        elif policy.admits(result.error_class, result.status):
            self._retry_later(at, failure, value, result.retry_after_ms)
        else:
            self.fail(at, failure, value)

    def _judge_retry(self, at: StepRun) -> None:
        """Ask the step's own condition whether its error is retried."""
        prepared = self.context.prepare(self.run, at, "retry")
        if prepared is None:
            at.preparing = True
            self.changes.needs.append((at.path, "retry"))
        else:
            self._retry_judged(at, prepared)

    def _retry_judged(self, at: StepRun, prepared: Prepared) -> None:
        failure = at.error
        at.stage = None
        assert failure is not None
        if prepared.failure is not None:
            self.fail(at, prepared.failure)
        elif prepared.value is True:
            self._retry_later(at, failure, None, (failure.detail or {}).get("retry_after_ms"))
        else:
            self.fail(at, failure)

    def _retry_later(self, at: StepRun, failure: Failure, value: Any, retry_after_ms: int | None) -> None:
        pause = at.step.retry.delay_ms(at.failures, self.context.ids.random()) + (retry_after_ms or 0)
        due = self.now + pause
        if at.deadline_at is not None and due >= at.deadline_at:
            message = f"the next attempt would begin after the step's time limit; the last error was: {failure.message}"
            self.fail(at, Failure("STEP_TIMEOUT", message, at.path, at.attempts, {"last_error": failure.code}), value)
            return
        at.error, at.available_at = failure, due
        entry = {"code": "RETRY_SCHEDULED", "until": due, "error": failure.code}
        if at.state is StepState.QUEUED:
            self.touch(at)
            self._entries.append({"step": at.path, **entry})
        else:
            self._move(at, StepState.QUEUED, **entry)
        if due <= self.now:
            self._ready.append(at)

    # ---- effect: once

    def outcome_unknown(self, at: StepRun, failure: Failure, value: JSON) -> None:
        """An `effect: once` step may have taken effect: it is not sent again unless its probe says that it had not."""
        if "probe" in at.step.handlers:
            if at.state is not StepState.QUEUED:
                self._move(at, StepState.QUEUED, code="PROBING")
            at.lost, at.stage, at.available_at, at.error = False, PROBE, self.now, failure
            self.touch(at)
            self._running()
            self.open(at, "!probe", at.step.handlers["probe"])
        else:
            self.fail(at, Failure("UNKNOWN_OUTCOME", failure.message, at.path, at.attempts or None), value)

    def _probed(self, at: StepRun, frame: Frame, failure: Failure | None) -> None:
        """The probe has said whether the attempt took effect: true or false, or `{done, output}`."""
        answer = None if failure is not None or frame.last is None else frame.last.output
        at.stage = None
        done, output = (answer.get("done"), answer.get("output")) if isinstance(answer, dict) else (answer, None)
        if done is True:
            self.succeed(at, output)
        elif done is not False:
            message = "the attempt may have taken effect, and the probe did not say (true or false)"
            self.fail(at, Failure("UNKNOWN_OUTCOME", message, at.path, at.attempts or None))
        elif at.failures >= at.step.retry.max_attempts and at.error is not None:
            # It had no effect, but the attempts are used up; lost ones do not count.
            self.fail(at, at.error)
        elif at.failures:
            assert at.error is not None
            self._retry_later(at, at.error, None, None)
        else:
            at.available_at = self.now
            self.touch(at)
            self._ready.append(at)

    # ---- rows

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
        self._entries.append(entry)
        self.touch(at)

    def _withdraw(self, at: StepRun) -> bool:
        """Take back an attempt that this very decision has begun: it is not stored, so it has not been."""
        if at not in self.changes.starts:
            return False
        self.changes.starts.remove(at)
        self.changes.leases = [lease for lease in self.changes.leases if lease.path != at.path]
        at.attempt = None
        at.attempts -= 1
        self._slots += 1
        return True

    def _end(self, at: StepRun, state: StepState, **entry: Any) -> None:
        if at.attempt is not None and not self._withdraw(at):
            self.changes.aborts.append(at.attempt.id)
            self._end_attempt(at, AttemptState.CANCELLED, None)
        at.finished_at, at.available_at, at.preparing = self.now, None, False
        at.stage = None
        self._move(at, state, **entry)
        self.run.live.pop(at.path, None)
        self.run.hungry.pop(at.path, None)

    def _bury(self, at: StepRun, failure: Failure, value: JSON) -> None:
        self.changes.dead_letters.append(
            DeadLetterRecord(
                self.context.ids.new_id("dead"),
                at.path,
                at.generation,
                _text(self.context.mask(value)),
                dumps(failure.to_json()),
                self.now,
            )
        )


def _text(value: JSON) -> str | None:
    """Return a value for a dead letter; one that cannot be written as JSON is left out."""
    try:
        return None if value is None else dumps(value)
    except JsonError:
        return None
