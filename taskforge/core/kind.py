"""What a kind of step is. One module in `steps/` per kind; others come by the entry point group `taskforge.steps`.

A kind is a config model plus one of: `finish` (no side effect: decided in the transaction that made it ready), `run`
(an action: executed under a lease, outside any transaction), `begin` / `ended` / `resume` (control flow over inner
steps).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel

from taskforge.core.errors import Failure
from taskforge.core.model import JSON, AttemptFailure
from taskforge.core.problem import Pointer

if TYPE_CHECKING:
    from taskforge.core.config_errors import ConfigProblem
    from taskforge.core.progress import Progress
    from taskforge.core.snapshot import Frame, StepRun


@dataclass(frozen=True, slots=True)
class BlockSource:
    """Where a kind keeps inner steps in its config: a name, the pointer to the list, and what is new in its scope.

    `loop`: the inner steps run several times, so that their paths get an index (`foreach`, `repeat`).
    """

    name: str
    pointer: tuple[str | int, ...]
    adds: tuple[str, ...] = ()
    loop: bool = False


class Kind:
    """Base of all kinds. Instances are stateless and shared; the name is the key that a step writes (`http:`)."""

    name: ClassVar[str]
    role: ClassVar[Literal["pure", "action", "control"]]
    Config: ClassVar[type[BaseModel] | None] = None
    """Model of the config as written; fields that may hold `${{ }}` are `Templated[...]`. None: any JSON value."""
    summary: ClassVar[str] = ""
    """One line for the documentation and the editor's completion."""
    conditions: ClassVar[tuple[str, ...]] = ()
    """Those of `later` that are conditions: one whole expression, true or false."""
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

    def blocks(self, config: JSON) -> list[BlockSource]:
        """Return the inner lists of steps."""
        return []


@dataclass(frozen=True, slots=True)
class Outcome:
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
    def output_limit(self) -> int: ...
    @property
    def resources(self) -> Mapping[str, Any]:
        """Shared things that `app` made, by name: `http` is the pooled HTTP client."""
        ...

    def now(self) -> int: ...

    async def evaluate(self, name: str, dot: JSON) -> JSON:
        """Evaluate one of the templates named by `Kind.later`, with `dot` as `.`; raises ActionFailed."""
        ...


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

    async def run(self, value: JSON, context: AttemptContext) -> JSON:
        """Carry out one attempt with the evaluated config; return the output or raise ActionFailed."""
        raise TypeError(f"{type(self).__name__} must define run()")


class ControlKind(Kind):
    """A step that runs inner steps. All three are pure: they only call methods of `decision`."""

    role = "control"

    def begin(self, decision: Progress, at: StepRun, value: JSON) -> None:
        """The step's turn has come and `value` is its evaluated config: open frames, or end the step."""
        raise TypeError(f"{type(self).__name__} must define begin()")

    def ended(self, decision: Progress, at: StepRun, frame: Frame, failure: Failure | None) -> None:
        """A frame that this step opened has ended, with a failure that nothing caught or without one."""
        raise TypeError(f"{type(self).__name__} must define ended()")

    def resume(self, decision: Progress, at: StepRun) -> None:
        """The run was loaded from the store: open again the frames that had begun."""
        raise TypeError(f"{type(self).__name__} must define resume()")


Kinds = Mapping[str, Kind]
KindFactory = Callable[[], Kind]
