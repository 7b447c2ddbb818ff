"""Wire shapes: from the store's rows to what the API answers. The words are those of the interface, section 5.

JSON that people gave or steps made is kept as text in the store; it goes into the answer as it is (`orjson.Fragment`),
so every digit stays and nothing is decoded only to be encoded again.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import orjson

from taskforge.core.clock import to_rfc3339
from taskforge.core.jsontext import loads
from taskforge.core.model import Plan, Step
from taskforge.core.snapshot import StepRecord
from taskforge.core.states import RUN_TERMINAL, AttemptState, RunState, StepState
from taskforge.store.protocol import (
    AttemptRow,
    DeadLetterRow,
    RunRow,
    StartedRun,
    Stats,
    VersionRow,
    WorkflowRow,
)
from taskforge.store.values import TokenRow

EVERYTHING = "*"
"""Among the names of what is held back, it stands for all workflows."""

PENDING = "PENDING"
"""What the API calls a step whose turn has not come; it has no row."""


def _time(ms: int | None) -> str | None:
    return None if ms is None else to_rfc3339(ms)


def _json(text: str | None) -> orjson.Fragment | None:
    return None if text is None else orjson.Fragment(text)


# ---- runs


def started_shape(started: StartedRun) -> dict[str, Any]:
    """`{id, number, state}`, the answer to a start."""
    return {"id": started.id, "number": started.number, "state": started.state}


def run_shape(row: RunRow) -> dict[str, Any]:
    """A run without its steps, as in lists."""
    record = row.record
    return {
        "id": row.id,
        "number": row.number,
        "workflow": row.workflow,
        "version": row.version,
        "state": record.state,
        "trigger": _json(row.trigger),
        "input": _json(row.input),
        "output": _json(record.output),
        "error": _json(record.error),
        "created_at": to_rfc3339(row.created_at),
        "started_at": _time(record.started_at),
        "finished_at": _time(record.finished_at),
        "generation": record.generation,
        "replay_of": row.lineage,
        "parent": _parent(row.parent),
    }


def _parent(text: str | None) -> dict[str, Any] | None:
    """Which step of which run has started this one."""
    if text is None:
        return None
    parent = loads(text)
    return {"run": parent["run"], "step": parent["path"]}


def steps_shape(steps: Sequence[StepRecord], attempts: Iterable[AttemptRow]) -> list[dict[str, Any]]:
    """Steps by path, each with its attempts, oldest first."""
    tries: dict[str, list[dict[str, Any]]] = {}
    for row in attempts:
        tries.setdefault(row.record.path, []).append(_attempt_shape(row))
    return [_step_shape(step, tries.get(step.path, [])) for step in steps]


def _step_shape(step: StepRecord, attempts: list[dict[str, Any]]) -> dict[str, Any]:
    signal, child = _awaited(step)
    return {
        "path": step.path,
        "id": step.step,
        "kind": step.kind,
        "state": step.state,
        "generation": step.generation,
        "signal": signal,
        "child": child,
        "output": _json(step.output),
        "error": _json(step.error),
        "available_at": _time(step.available_at),
        "started_at": _time(step.started_at),
        "finished_at": _time(step.finished_at),
        "attempts": attempts,
    }


def _awaited(step: StepRecord) -> tuple[str | None, str | None]:
    """The signal that a step waits for, and the id of the child run that it has started."""
    if step.kind == "workflow":
        # A child that is waited for is remembered; one that is not is the output.
        data = loads(step.data or step.output or "null")
        found = data.get("wait", data) if isinstance(data, dict) else None
        return None, found.get("run") if isinstance(found, dict) else None
    if step.state != StepState.WAITING or step.data is None:
        return None, None
    signal: str | None = loads(step.data).get("signal")
    return signal, None


def _attempt_shape(row: AttemptRow) -> dict[str, Any]:
    return {
        "id": row.record.id,
        "generation": row.record.generation,
        "number": row.record.number,
        "state": row.state,
        "started_at": to_rfc3339(row.record.started_at),
        "finished_at": _time(row.finished_at),
        "error": _json(row.error),
    }


def _pending_shape(step: Step) -> dict[str, Any]:
    return {
        "path": step.id,
        "id": step.id,
        "kind": step.kind.name,
        "state": PENDING,
        "generation": 1,
        "signal": None,
        "child": None,
        "output": None,
        "error": None,
        "available_at": None,
        "started_at": None,
        "finished_at": None,
        "attempts": [],
    }


def with_pending(
    steps: list[dict[str, Any]], state: str, plan: Plan, after: str | None, up_to: str | None
) -> list[dict[str, Any]]:
    """The page of steps with the workflow's own steps that have not begun, while the run goes on, by path.

    `after` and `up_to` are the cursors around the page: what lies outside belongs to another page.
    """
    if state in RUN_TERMINAL:
        return steps
    begun = {step["path"] for step in steps}
    missing = [
        _pending_shape(step)
        for step in plan.steps
        if step.id not in begun and (after is None or step.id > after) and (up_to is None or step.id <= up_to)
    ]
    missing.sort(key=_path)
    return list(heapq.merge(steps, missing, key=_path))


def _path(step: dict[str, Any]) -> str:
    path: str = step["path"]
    return path


# ---- workflows


def workflow_shape(row: WorkflowRow, held: Collection[str]) -> dict[str, Any]:
    """`held` are the workflows that are held back."""
    return {
        "name": row.name,
        "version": row.version,
        "enabled": row.enabled,
        "held": row.name in held,
        "description": row.description,
        "created_at": to_rfc3339(row.created_at),
        "updated_at": to_rfc3339(row.updated_at),
    }


def version_shape(row: VersionRow) -> dict[str, Any]:
    """`source` is the text as given, `media` its language: yaml or json."""
    return {
        "workflow": row.workflow,
        "version": row.version,
        "media": row.media,
        "source": row.source,
        "created_at": to_rfc3339(row.created_at),
    }


def hold_shape(held: Collection[str]) -> dict[str, Any]:
    """What is held back: everything, and which workflows by themselves."""
    return {"held": EVERYTHING in held, "workflows": sorted(name for name in held if name != EVERYTHING)}


# ---- the rest


def dead_letter_shape(row: DeadLetterRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "state": row.state,
        "run_id": row.run_id,
        "run_number": row.run_number,
        "workflow": row.workflow,
        "path": row.path,
        "generation": row.generation,
        "input": _json(row.input),
        "error": _json(row.error),
        "created_at": to_rfc3339(row.created_at),
        "closed_at": _time(row.closed_at),
    }


def token_shape(row: TokenRow) -> dict[str, Any]:
    """A token without its value, which nobody has but its owner."""
    return {
        "id": row.id,
        "name": row.name,
        "scopes": _json(row.scopes),
        "created_at": to_rfc3339(row.created_at),
        "expires_at": _time(row.expires_at),
    }


def stats_shape(stats: Stats, held: Collection[str]) -> dict[str, Any]:
    """Every state has its number, also where it is 0. `held` are the workflows that are held back, or `*`."""
    return {
        "runs": {str(state): stats.runs.get(state, 0) for state in RunState},
        "steps": {str(state): stats.steps.get(state, 0) for state in StepState},
        "ready_steps": stats.ready_steps,
        "oldest_ready_s": None if stats.oldest_ready_ms is None else stats.oldest_ready_ms / 1000,
        "dead_letters": stats.dead_letters,
        "schedules_overdue": stats.schedules_overdue,
        "held": EVERYTHING in held,
        "held_workflows": sum(name != EVERYTHING for name in held),
        "db_bytes": stats.db_bytes,
        "wal_bytes": stats.wal_bytes,
        "retention": {
            "runs": stats.pruned_runs,
            "freed_bytes": stats.freed_bytes,
            "last_at": None if stats.swept_at is None else to_rfc3339(stats.swept_at),
        },
    }


STEP_STATES = (PENDING, *StepState)
ATTEMPT_STATES = tuple(AttemptState)
