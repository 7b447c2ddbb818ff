"""The states of runs, steps and attempts, and the one table of transitions between them.

Everything that names a state or a transition (CHECK constraints, `contracts/states.json`, the diagram in the docs) is
generated from this module or tested against it. Words are those of the interface: upper case in API, CLI and database.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enum import StrEnum as State
else:

    class _States(type):
        """Makes the words of a class its members, as `enum` does, whose classes take ten times as long to look a member
        up (`RunState.QUEUED`, 0.12 µs on Python 3.11): a decision does that dozens of times."""

        def __new__(mcs, name: str, bases: tuple[type, ...], own: dict[str, Any]) -> type:
            words = {key: own.pop(key) for key in list(own) if not key.startswith("_")}
            made = super().__new__(mcs, name, bases, own)
            made._members = {word: str.__new__(made, word) for word in words.values()}
            for key, word in words.items():
                setattr(made, key, made._members[word])
            return made

        def __call__(cls, word: str) -> State:
            try:
                return cls._members[word]
            except KeyError:
                raise ValueError(f"{word!r} is no {cls.__name__}") from None

        def __iter__(cls) -> Iterator[State]:
            return iter(cls._members.values())

        def __len__(cls) -> int:
            return len(cls._members)

    class State(str, metaclass=_States):
        """A state is its word. There is one object of each, so that `is` compares them."""

        __slots__ = ()

        def __deepcopy__(self, memo: object) -> State:
            return self

        def __copy__(self) -> State:
            return self

        def __reduce__(self) -> tuple[Any, ...]:
            return type(self), (str(self),)


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
