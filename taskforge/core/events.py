"""What can happen to a run: the events that `decide` takes."""

from __future__ import annotations

from dataclasses import dataclass

from taskforge.core.model import JSON, AttemptFailure, Prepared


@dataclass(frozen=True, slots=True)
class Begun:
    """The run was asked for. It is not stored yet."""


@dataclass(frozen=True, slots=True)
class TakenUp:
    """The run was loaded from the store, after a pause, a crash or a refused change."""


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Something may be due: a retry, a wait, a time limit; or a slot has become free."""


@dataclass(frozen=True, slots=True)
class StepPrepared:
    """The jq child has evaluated a step's expressions. The empty path is the run's output."""

    path: str
    prepared: Prepared


@dataclass(frozen=True, slots=True)
class AttemptSucceeded:
    path: str
    token: str
    output: JSON


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    path: str
    token: str
    result: AttemptFailure


@dataclass(frozen=True, slots=True)
class AttemptReleased:
    """The process shuts down and gives the attempt back: it is LOST and the step is due at once."""

    path: str
    token: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The engine met a fault of its own in this run: it is FAILED, so that it cannot take the server with it."""

    message: str


@dataclass(frozen=True, slots=True)
class CancelAsked:
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RetryAsked:
    """A person has the run taken up again where it failed; what had succeeded is kept."""


Event = (
    Begun
    | TakenUp
    | TimePassed
    | StepPrepared
    | AttemptSucceeded
    | AttemptFailed
    | AttemptReleased
    | Broken
    | CancelAsked
    | RetryAsked
)
