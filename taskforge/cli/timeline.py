"""What happened in a run, in the order of time, from the API's shape of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from taskforge.core.clock import from_rfc3339

TERMINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})


class Moment(NamedTuple):
    """One event. `at` in milliseconds UTC; `key` tells it apart; `path` is "" for the run itself."""

    at: int
    rank: int
    key: str
    path: str
    state: str
    words: str


def moments(run: dict[str, Any]) -> list[Moment]:
    """Everything that the rows of a run tell, oldest first. A run that goes on has more of them later."""
    return sorted(_moments(run))


def span(item: dict[str, Any], now: int | None = None) -> int | None:
    """How long a run, step or attempt took, or has taken until `now`; milliseconds."""
    start = item.get("started_at") or (item.get("created_at") if item.get("state") in TERMINAL else None)
    if not start:
        return None
    end = from_rfc3339(item["finished_at"]) if item.get("finished_at") else now
    return None if end is None else max(end - from_rfc3339(start), 0)


def failure(error: Any) -> str:
    """An error in one line: its code and its message."""
    if not isinstance(error, dict):
        return ""
    return f"{error.get('code')}: {error.get('message')}" if error.get("message") else str(error.get("code"))


def _moments(run: dict[str, Any]) -> Iterator[Moment]:
    generation = run.get("generation") or 1
    if run.get("created_at"):
        trigger = run.get("trigger")
        kind = trigger.get("type") if isinstance(trigger, dict) else trigger
        yield Moment(from_rfc3339(run["created_at"]), 0, "run created", "", "QUEUED", f"accepted ({kind or 'manual'})")
    for step in run.get("steps") or []:
        yield from _of_step(step)
    if run.get("finished_at"):
        at = from_rfc3339(run["finished_at"])
        yield Moment(at, 9, f"run ended {generation}", "", run["state"], failure(run.get("error")))


def _of_step(step: dict[str, Any]) -> Iterator[Moment]:
    path, attempts = step["path"], step.get("attempts") or []
    for attempt in attempts:
        label = f"attempt {attempt['number']}"
        if attempt.get("started_at"):
            at = from_rfc3339(attempt["started_at"])
            yield Moment(at, 5, f"{attempt['id']} began", path, "RUNNING", label)
        if attempt.get("finished_at"):
            at = from_rfc3339(attempt["finished_at"])
            words = ", ".join(part for part in (label, failure(attempt.get("error"))) if part)
            yield Moment(at, 4, f"{attempt['id']} ended", path, attempt["state"], words)
    if not attempts and step.get("finished_at"):
        at = from_rfc3339(step["finished_at"])
        key = f"{path} ended {step['finished_at']}"
        yield Moment(at, 6, key, path, step["state"], step.get("kind") or failure(step.get("error")))
