"""Why a run does not go on at this moment: what it waits for, until when, and which limit holds it."""

from __future__ import annotations

from collections.abc import Iterator

from taskforge.core.attempts import JUDGED, PROBE
from taskforge.core.reasons import Reason, waiting_reason
from taskforge.core.record import dataclass
from taskforge.core.rows import ALONE
from taskforge.core.snapshot import RunSnapshot, StepRun
from taskforge.core.states import RunState, StepState
from taskforge.engine.executor import Executor


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What of the server matters for one run. `holder` is `name#number` of the oldest run that has its place."""

    now: int
    executor: Executor
    holder: str | None = None


def present_reasons(run: RunSnapshot, around: Surroundings) -> Iterator[Reason]:
    """Yield what holds the run, or its steps, now; nothing for a run that has ended."""
    if run.ended:
        return
    yield from _of_the_run(run, around)
    for path in sorted(run.live):
        reason = _of_a_step(run, run.live[path], around)
        if reason is not None:
            yield reason


def missing_reason(run: RunSnapshot, path: str) -> Reason:
    """Why a step of the workflow has not begun."""
    if run.ended:
        since = run.finished_at or run.created_at
        return Reason("NOT_REACHED", since, path, False, f"the run ended ({run.state}) before the step's turn came")
    message = "the step's turn has not come: what stands before it has not ended, or its branch is not taken"
    return Reason("NOT_REACHED", run.created_at, path, True, message)


def _of_the_run(run: RunSnapshot, around: Surroundings) -> Iterator[Reason]:
    executor, since = around.executor, run.started_at or run.created_at
    if executor.holds(run.workflow):
        what = "everything" if "*" in executor.held else "the workflow"
        yield Reason("HELD", since, None, True, f"{what} is held back: no attempt begins until it is released")
    if executor.alone is not None and executor.alone != run.key:
        yield Reason("TAKEN_UP_ALONE", since, None, True)
    elif run.suspect and run.suspect != ALONE:
        words = "the run was in flight at several deaths of the server; it waits until it can be carried out alone"
        yield Reason("TAKEN_UP_ALONE", since, None, True, words)
    if run.state is not RunState.QUEUED or run.steps:
        return
    if run.start_at is not None and run.start_at > around.now:
        yield Reason("DELAYED", run.created_at, None, True, until=run.start_at)
    elif run.place is not None and not run.placed:
        yield _place(run, around)


def _place(run: RunSnapshot, around: Surroundings) -> Reason:
    concurrency = run.plan.concurrency
    limit = 1 if concurrency is None else concurrency.limit
    words = f"the run waits for a place: {limit} of its `concurrency` key may go on at once"
    if around.holder is not None:
        words += f", and {around.holder} has {'the' if limit == 1 else 'one'}"
    patience = run.plan.max_queue_ms
    until = None if patience is None or run.generation > 1 else (run.start_at or run.created_at) + patience
    return Reason("CONCURRENCY", run.created_at, None, True, words, until=until, holder=around.holder)


def _of_a_step(run: RunSnapshot, at: StepRun, around: Surroundings) -> Reason | None:
    since = at.started_at or at.ready_at
    if at.state is StepState.WAITING:
        signal = at.data.get("signal") if isinstance(at.data, dict) else None
        return waiting_reason(since, at.path, signal, at.available_at, current=True)
    if at.attempt is not None:
        words = f"attempt {at.attempt.number} is being carried out"
        begun = at.attempt.started_at
        return Reason("RUNNING", begun, at.path, True, words, attempt=at.attempt.number, generation=at.generation)
    if at.preparing:
        code = "RETRY_ASKED_OF_EXPRESSION" if at.stage == JUDGED else "EVALUATING"
        return Reason(code, since, at.path, True)
    if at.state is not StepState.QUEUED:
        return None  # a block: its inner steps tell
    return _of_a_queued_step(run, at, around)


def _of_a_queued_step(run: RunSnapshot, at: StepRun, around: Surroundings) -> Reason | None:
    if at.stage == PROBE:
        return Reason("PROBING", at.ready_at, at.path, True)
    due = at.available_at
    if due is not None and due > around.now:
        if at.error is not None and not (isinstance(at.data, dict) and "admitted_at" in at.data):
            words = f"the last attempt failed ({at.error.code}), and there is another one later"
            return Reason("RETRY_SCHEDULED", at.ready_at, at.path, True, words, due, error=at.error.code)
        return Reason("RATE_LIMITED", at.ready_at, at.path, True, until=due)
    if around.executor.holds(run.workflow):
        return None
    if at.step.kind.role == "action" and around.executor.slots_for(run) <= 0:
        return Reason("NO_SLOT", at.ready_at, at.path, True)
    return Reason("DUE", at.ready_at, at.path, True)
