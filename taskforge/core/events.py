"""What can happen to a run: the events that `decide` takes."""

from __future__ import annotations

from taskforge.core.kind import Suspended
from taskforge.core.model import JSON, AttemptFailure, Prepared
from taskforge.core.record import dataclass


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
    """The jq child has evaluated a step's expressions (or, with a name, one of its further evaluations). The empty path
    is the run itself; the name then says what (`output`, `concurrency`)."""

    path: str
    prepared: Prepared
    name: str = ""


@dataclass(frozen=True, slots=True)
class AttemptSucceeded:
    path: str
    token: str
    output: JSON


@dataclass(frozen=True, slots=True)
class AttemptSuspended:
    """The attempt succeeded and the step now waits for a signal."""

    path: str
    token: str
    suspended: Suspended


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
    """`code` is that of the run's error: a person's cancel, or one that follows from what another run does."""

    reason: str | None = None
    code: str = "CANCELLED"


@dataclass(frozen=True, slots=True)
class RetryAsked:
    """A person has the run taken up again where it failed, or at `from_step` (a path); what came before is kept."""

    from_step: str | None = None


@dataclass(frozen=True, slots=True)
class SignalSent:
    """A signal for the run. `told_child`: the key of the child run whose end it tells of. `resumes`: it came by the
    one-time link of the step with this path and generation, and only that step takes it."""

    id: str
    name: str
    data: JSON
    told_child: int | None = None
    resumes: tuple[str, int] | None = None


Event = (
    Begun
    | TakenUp
    | TimePassed
    | StepPrepared
    | AttemptSucceeded
    | AttemptSuspended
    | AttemptFailed
    | AttemptReleased
    | Broken
    | CancelAsked
    | RetryAsked
    | SignalSent
)
