"""Builds a run's snapshot from its rows."""

from __future__ import annotations

import re

from taskforge.core.errors import Failure
from taskforge.core.jsontext import loads
from taskforge.core.model import JSON, Plan
from taskforge.core.snapshot import Attempt, Ending, RunSnapshot, StepRecord, StepRun
from taskforge.core.states import STEP_TERMINAL, AttemptState, RunState, StepState
from taskforge.store.protocol import RunRows

_INDEX = re.compile(r"\[\d+\]\.")


def to_snapshot(rows: RunRows, plan: Plan) -> RunSnapshot:
    """Return the run as `decide` takes it. Its frames are opened by the event `TakenUp` or `RetryAsked`."""
    row, record = rows.run, rows.run.record
    run = RunSnapshot(
        id=row.id,
        workflow=row.workflow,
        version=row.version,
        plan=plan,
        trigger=loads(row.trigger),
        input=loads(row.input),
        created_at=row.created_at,
        key=row.key,
        number=row.number,
        state=RunState(record.state),
        generation=record.generation,
        revision=row.revision,
        owner=record.owner,
        due_at=record.due_at,
        suspect=record.suspect,
        output=_value(record.output),
        error=_failure(record.error),
        started_at=record.started_at,
        finished_at=record.finished_at,
        priority=row.priority,
        start_at=row.start_at,
        is_fresh=True,
        ending=_ending(record.ending),
        place=record.place,
        placed=bool(record.placed),
        undone=bool(record.undone),
        needs_slot=bool(record.needs_slot),
        latest_at=record.latest_at,
        parent=_value(row.parent),
        signals=list(rows.signals),
    )
    for step in rows.steps:
        at = _step_run(run, step)
        run.steps[at.path] = at
        if at.state not in STEP_TERMINAL:
            run.live[at.path] = at
    for attempt in rows.attempts:
        begun = attempt.record
        holder = run.steps.get(begun.path)
        if holder is None or holder.generation != begun.generation or holder.attempts != begun.number:
            continue
        if attempt.state == AttemptState.RUNNING:
            holder.attempt = Attempt(begun.id, begun.number, begun.started_at)
        else:
            holder.lost = attempt.state == AttemptState.LOST
    return run


def prefixes_of(path: str) -> tuple[str, ...]:
    """Return the path prefix inside each loop around a step: `a[1].b[0].c` → ("", "a[1].", "a[1].b[0].")."""
    return ("", *(path[: match.end()] for match in _INDEX.finditer(path)))


def _step_run(run: RunSnapshot, record: StepRecord) -> StepRun:
    return StepRun(
        step=run.plan.index[record.step],
        path=record.path,
        prefixes=prefixes_of(record.path),
        parent=run.root,
        ready_at=record.ready_at,
        state=StepState(record.state),
        generation=record.generation,
        attempts=record.attempts,
        failures=record.failures,
        crashes=record.crashes,
        output=_value(record.output),
        error=_failure(record.error),
        data=_value(record.data),
        available_at=record.available_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        stage=record.stage,
    )


def _ending(text: str | None) -> Ending | None:
    if text is None:
        return None
    value = loads(text)
    error = None if value["error"] is None else Failure.from_json(value["error"])
    return Ending(RunState(value["state"]), value["output"], error, value["phase"])


def _value(text: str | None) -> JSON:
    return None if text is None else loads(text)


def _failure(text: str | None) -> Failure | None:
    return None if text is None else Failure.from_json(loads(text))
