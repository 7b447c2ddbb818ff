"""The states of runs, steps and attempts, and the one table of transitions between them.

Everything that names a state or a transition (CHECK constraints, `contracts/states.json`, the diagram in the docs) is
generated from this module or tested against it. Words are those of the interface: upper case in API, CLI and database.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """A state is its word. States are looked up in tables very often, and `Enum` hashes in Python."""

    __hash__ = str.__hash__


class RunState(State):
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class StepState(State):
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"
    CANCELLED = "CANCELLED"


class AttemptState(State):
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    LOST = "LOST"
    CANCELLED = "CANCELLED"


class DeadLetterState(State):
    OPEN = "OPEN"
    RETRIED = "RETRIED"
    DISCARDED = "DISCARDED"


NEW = "NEW"
"""The start of every table: the row does not exist yet."""

RUN_TRANSITIONS: dict[str, frozenset[str]] = {
    NEW: frozenset({"QUEUED"}),
    "QUEUED": frozenset({"RUNNING", "CANCELLED", "FAILED"}),
    "RUNNING": frozenset({"WAITING", "SUCCEEDED", "FAILED", "CANCELLED"}),
    "WAITING": frozenset({"RUNNING", "FAILED", "CANCELLED"}),
    # Only an explicit retry leaves a terminal state; it starts a new generation.
    "SUCCEEDED": frozenset({"QUEUED"}),
    "FAILED": frozenset({"QUEUED"}),
    "CANCELLED": frozenset({"QUEUED"}),
}

STEP_TRANSITIONS: dict[str, frozenset[str]] = {
    NEW: frozenset({"QUEUED"}),
    "QUEUED": frozenset({"RUNNING", "WAITING", "SUCCEEDED", "FAILED", "SKIPPED", "CANCELLED"}),
    # RUNNING to QUEUED: the attempt failed and another is due, or it was lost.
    "RUNNING": frozenset({"QUEUED", "WAITING", "SUCCEEDED", "FAILED", "CANCELLED"}),
    "WAITING": frozenset({"QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"}),
    "SUCCEEDED": frozenset({"QUEUED"}),
    "FAILED": frozenset({"QUEUED"}),
    "SKIPPED": frozenset({"QUEUED"}),
    "CANCELLED": frozenset({"QUEUED"}),
}

ATTEMPT_TRANSITIONS: dict[str, frozenset[str]] = {
    NEW: frozenset({"RUNNING"}),
    "RUNNING": frozenset({"SUCCEEDED", "FAILED", "TIMED_OUT", "LOST", "CANCELLED"}),
    "SUCCEEDED": frozenset(),
    "FAILED": frozenset(),
    "TIMED_OUT": frozenset(),
    "LOST": frozenset(),
    "CANCELLED": frozenset(),
}

DEAD_LETTER_TRANSITIONS: dict[str, frozenset[str]] = {
    NEW: frozenset({"OPEN"}),
    "OPEN": frozenset({"RETRIED", "DISCARDED"}),
    "RETRIED": frozenset(),
    "DISCARDED": frozenset(),
}

RUN_TERMINAL = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})
STEP_TERMINAL = frozenset({StepState.SUCCEEDED, StepState.FAILED, StepState.SKIPPED, StepState.CANCELLED})


def table() -> dict[str, dict[str, list[str]]]:
    """Return all transitions as plain data, for `contracts/states.json` and the docs."""
    tables = {
        "run": RUN_TRANSITIONS,
        "step": STEP_TRANSITIONS,
        "attempt": ATTEMPT_TRANSITIONS,
        "dead_letter": DEAD_LETTER_TRANSITIONS,
    }
    return {entity: {source: sorted(targets) for source, targets in rows.items()} for entity, rows in tables.items()}
