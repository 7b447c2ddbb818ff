"""What a kind of step is. One module in `steps/` per kind; others come by the entry point group `taskforge.steps`.

A kind is a config model plus one of: `finish` (no side effect: decided in the transaction that made it ready), `run`
(an action: executed under a lease, outside any transaction), `begin` / `ended` / `resume` (control flow over inner
steps).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from taskforge.core.errors import Failure
from taskforge.core.model import JSON, AttemptFailure, Prepared
from taskforge.core.problem import Pointer
from taskforge.core.record import dataclass

if TYPE_CHECKING:
    from pydantic import BaseModel

    from taskforge.core.config_errors import ConfigProblem
    from taskforge.core.progress import Progress
    from taskforge.core.snapshot import Frame, StepRun


@dataclass(frozen=True, slots=True)
class BlockSource:
    """Where a kind keeps inner steps in its config: a name, the pointer to the list, and what is new in its scope.

    `loop`: the inner steps run several times, so that their paths get an index (`foreach`, `repeat`). `together`: they
    run at the same time, ordered only by their `needs` (`parallel`).
    """

    name: str
    pointer: tuple[str | int, ...]
    adds: tuple[str, ...] = ()
    loop: bool = False
    together: bool = False


class Kind:
    """Base of all kinds. Instances are stateless and shared; the name is the key that a step writes (`http:`)."""

    name: ClassVar[str]
    role: ClassVar[Literal["pure", "action", "control"]]
    Config: ClassVar[type[BaseModel] | None] = None
    """Model of the config as written; fields that may hold `${{ }}` are `Templated[...]`. None: any JSON value."""
    summary: ClassVar[str] = ""
    """One line for the documentation and the editor's completion."""
    conditions: ClassVar[tuple[str, ...]] = ()
    """Those of `later` and `further` that are conditions: one whole expression, true or false."""
    optional: ClassVar[bool] = False
    """Whether the config may be left empty (`fail:`), which then stands for `{}`."""

    def check(self, config: JSON) -> Sequence[ConfigProblem]:
        """Return what is wrong in a document's config beyond what `Config` finds in its single fields."""
        return ()

    def evaluated(self, config: JSON) -> JSON:
        """Return the part of the config whose expressions are evaluated when the step's turn comes."""
        return config

    def place(self, pointer: Pointer) -> Pointer:
        """Return where a place in what `evaluated` returned stands in the config."""
        return pointer

    def evaluation_mode(self, config: JSON) -> Literal["all", "first_true"]:
        return "all"

    def later(self, config: JSON) -> Mapping[str, tuple[tuple[str | int, ...], JSON]]:
        """Return templates that the kind evaluates itself while it runs: name → (pointer in the config, value)."""
        return {}

    def further(self, config: JSON) -> Mapping[str, tuple[tuple[str | int, ...], JSON]]:
        """Return templates that the engine evaluates when the kind asks for it with `decision.evaluate(at, name)`:
        name → (pointer in the config, value).

        Each becomes an `Evaluation` without a guard, mode "all", in `Step.evaluations[name]`; what it gives goes to
        `answered`. It sees what the step sees and, where the kind has a loop, also what the block adds (`$index`) and
        the steps of the iteration that has just ended: `at.scope` has their prefixes.
        """
        return {}

    def blocks(self, config: JSON) -> list[BlockSource]:
        """Return the inner lists of steps."""
        return []


class Outcome(NamedTuple):
    """What a pure kind decides. `ends_run`: the run ends at once, SUCCEEDED with `output` or FAILED with `failure`."""

    output: JSON = None
    failure: Failure | None = None
    ends_run: bool = False


class PureKind(Kind):
    """A step without side effects: its outcome follows from its evaluated config alone."""

    role = "pure"

    def finish(self, value: JSON) -> Outcome:
        raise TypeError(f"{type(self).__name__} must define finish()")


class AttemptContext(Protocol):
    """What an action may use while it runs."""

    @property
    def idempotency_key(self) -> str: ...
    @property
    def deadline_ms(self) -> int | None:
        """Milliseconds left for the step as a whole, or None."""
        ...

    @property
    def effect(self) -> str:
        """`idempotent`, or `once`: what the step says of being sent twice."""
        ...

    @property
    def depth(self) -> int | None:
        """What a request says of how many runs led to it; None: the run was begun by nobody but a person or time."""
        ...

    @property
    def output_limit(self) -> int: ...
    @property
    def workflow(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def generation(self) -> int: ...
    @property
    def resources(self) -> Mapping[str, Any]:
        """Shared things that `app` made, by name: `http` is the pooled HTTP client."""
        ...

    def now(self) -> int: ...

    async def start_child(self, workflow: str, input: JSON, *, wait: bool, version: int | None = None) -> str:
        """Start a child run once for all attempts of the step, and return its id. With `wait`, its end sends the signal
        `child_signal(path, generation)` to this run, and it is cancelled when this run ends. Without `version`, the
        newest one is started. Raises ActionFailed."""
        ...

    async def set_state(self, key: str, value: JSON, expected: JSON, *, compare: bool) -> bool:
        """Write to the workflow's state, once for all attempts of the step; False when `compare` finds another value
        than `expected`."""
        ...

    async def evaluate(self, name: str, dot: JSON) -> JSON:
        """Evaluate one of the templates named by `Kind.later`, with `dot` as `.`; raises ActionFailed."""
        ...


def child_signal(path: str, generation: int) -> str:
    """Return the name of the signal by which a child run tells its end; people cannot send it."""
    return f"!child:{path}~{generation}"


def resume_signal(path: str, generation: int) -> str:
    """Return the name of the signal that a one-time link sends to the step for which it was made."""
    return f"!resume:{path}~{generation}"


@dataclass(frozen=True, slots=True)
class Suspended:
    """Returned by `ActionKind.run` in place of an output: the attempt succeeded, and the step waits for a signal."""

    signal: str
    data: JSON = None
    until: int | None = None


class ActionFailed(Exception):
    """Raised by `ActionKind.run`: the attempt did not succeed."""

    def __init__(self, result: AttemptFailure) -> None:
        super().__init__(result.failure.message)
        self.result = result


class ActionKind(Kind):
    """A step with a side effect. `run` is cancelled at the attempt's time limit, on cancel and at shutdown."""

    role = "action"

    def attempt_timeout_ms(self, value: JSON) -> int | None:
        """Return the bound of one attempt for this evaluated config, or None for the configured default."""
        return None

    def keeps_time(self, value: JSON) -> bool:
        """Return whether `run` ends by itself at that bound, with an error of its own."""
        return False

    async def run(self, value: JSON, context: AttemptContext) -> JSON | Suspended:
        """Carry out one attempt with the evaluated config; return the output or raise ActionFailed."""
        raise TypeError(f"{type(self).__name__} must define run()")

    def signalled(self, decision: Progress, at: StepRun, data: JSON) -> None:
        """The signal of a Suspended step has come. By default its data is the output."""
        decision.succeed(at, data)

    def woke(self, decision: Progress, at: StepRun) -> None:
        """The time until which a Suspended step waited has come."""
        decision.fail(at, Failure("WAIT_TIMEOUT", "what the step waited for did not come in time"))


class ControlKind(Kind):
    """A step that runs inner steps, or waits. All methods are pure: they only call methods of `decision`."""

    role = "control"

    def begin(self, decision: Progress, at: StepRun, value: JSON) -> None:
        """The step's turn has come and `value` is its evaluated config: open frames, wait, or end the step."""
        raise TypeError(f"{type(self).__name__} must define begin()")

    def ended(self, decision: Progress, at: StepRun, frame: Frame, failure: Failure | None) -> None:
        """A frame that this step opened has ended, with a failure that nothing caught or without one."""
        raise TypeError(f"{type(self).__name__} must define ended()")

    def resume(self, decision: Progress, at: StepRun) -> None:
        """The run was loaded from the store and the step is RUNNING: open again the frames that had begun."""
        raise TypeError(f"{type(self).__name__} must define resume()")

    def woke(self, decision: Progress, at: StepRun) -> None:
        """The time until which the step was WAITING has come."""
        raise TypeError(f"{type(self).__name__} must define woke()")

    def signalled(self, decision: Progress, at: StepRun, data: JSON) -> None:
        """The signal that the step was WAITING for (`data["signal"]` of the step) has come."""
        raise TypeError(f"{type(self).__name__} must define signalled()")

    def answered(self, decision: Progress, at: StepRun, name: str, prepared: Prepared) -> None:
        """The evaluation that the step asked for with `decision.evaluate` has been made."""
        raise TypeError(f"{type(self).__name__} must define answered()")

    # ---- when a person has the run taken up again

    def goes_on(self, at: StepRun) -> bool:
        """Return whether a retry of the step, which has not succeeded, goes on with the blocks that it had begun
        (`resume`) or begins anew, with its config evaluated again."""
        return at.data is not None

    def follows(self, at: StepRun, inner: StepRun, other: StepRun) -> bool:
        """Return whether `other` came after `inner` and has to run again with it. Both are steps of `at`'s own blocks,
        not of blocks further in. By default: a later step of the same list, in the same item."""
        return other.prefixes == inner.prefixes and other.step.order > inner.step.order

    def rewound(self, at: StepRun, inner: StepRun) -> None:
        """A retry begins at `inner`, or further in: put `at.data` back to where that stood."""


Kinds = Mapping[str, Kind]
KindFactory = Callable[[], Kind]
