"""Definitions: what a workflow version is once its document has been read. Immutable; shared by all its runs.

A `Plan` is made by `core.definition` from a document and holds everything the engine needs. A `Step` knows its kind (a
module of `steps/`), its checked config and the expressions to evaluate when its turn comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from taskforge.core.errors import Failure
from taskforge.core.record import dataclass
from taskforge.core.verify_config import VerifyConfig

if TYPE_CHECKING:
    from taskforge.core.kind import Kind

JSON = Any
"""A JSON value: None, bool, int (any size), float, str, list or dict with str keys."""


class Name(Protocol):
    """A free `$name` in an expression."""

    @property
    def root(self) -> str: ...
    @property
    def field(self) -> str | None: ...


class Expression(Protocol):
    """One jq program; `names` are its free variables."""

    @property
    def source(self) -> str: ...
    @property
    def names(self) -> Sequence[Name]: ...


class Template(Protocol):
    """A JSON value with expressions in it (`expressions.template.Template`)."""

    @property
    def expressions(self) -> Sequence[Any]: ...
    @property
    def is_literal(self) -> bool: ...
    def render(self, results: Sequence[JSON]) -> JSON: ...


@dataclass(slots=True, eq=False)
class Evaluation:
    """What is evaluated for a step in one round trip: its `if`, then its config.

    `mode` "all": every expression of `template`, rendered; "first_true": `template` is a list of conditions, the value
    is the index of the first true one or None, and later ones are not evaluated.
    """

    guard: Template | None
    template: Template
    mode: Literal["all", "first_true"] = "all"
    compiled: Any = None
    """What the engine made of it on first use; not part of the definition."""


@dataclass(frozen=True, slots=True)
class Retry:
    """When and how often an attempt that failed is followed by another. Times in milliseconds."""

    max_attempts: int = 3
    initial_ms: int = 1_000
    factor: float = 2.0
    max_ms: int = 60_000
    jitter: Literal["full", "none"] = "full"
    on: tuple[str, ...] = ("network", "timeout", "408", "429", "5xx")

    def admits(self, error_class: str | None, status: int | None) -> bool:
        """Return whether an error of this class (`network`, `timeout`, …) or HTTP status is retried."""
        if status is not None:
            return str(status) in self.on or f"{status // 100}xx" in self.on
        return error_class is not None and error_class in self.on

    def delay_ms(self, failures: int, random: float) -> int:
        """Return the pause after the given number of failed attempts (≥ 1); `random` is in [0, 1).

        Exponential with full jitter: uniform between 0 and `initial * factor^(failures-1)`, at most `max`.
        """
        # The exponent is bounded so that a large factor cannot overflow a float.
        ceiling = min(float(self.max_ms), self.initial_ms * self.factor ** min(failures - 1, 64))
        return round(ceiling * random) if self.jitter == "full" else round(ceiling)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `max` attempts per `per_ms` for each value of the key. With it, a step's evaluated value is
    `{"key": …, "config": …}`."""

    max: int
    per_ms: int


@dataclass(frozen=True, slots=True, eq=False)
class Trigger:
    """What starts runs. `input` is evaluated to the run's input; None: the defaults."""

    name: str
    input: Evaluation | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TimeTrigger(Trigger):
    """Fires at times. `config` are its settings as written; `schedule` what `triggers.schedule` made of them."""

    config: JSON = None
    schedule: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class WebhookTrigger(Trigger):
    """Fires at requests. Every method is taken without `methods`. `dedupe` gives the delivery's id, `condition` null
    where it is filtered out, `debounce` the key of a burst, of which one run is made `debounce_ms` after its last."""

    verify: VerifyConfig = field(default_factory=lambda: VerifyConfig("none"))
    methods: frozenset[str] = frozenset()
    dedupe: Evaluation | None = None
    condition: Evaluation | None = None
    respond: Evaluation | None = None
    """Of the run: `{status, headers, body}`; also in `Plan.evaluations`, as `respond NAME`."""
    respond_ms: int = 0
    rate_limit: RateLimit | None = None
    debounce: Evaluation | None = None
    debounce_ms: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class RunTrigger(Trigger):
    """Fires when a run of another workflow ends in one of the states."""

    workflow: str = ""
    states: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How many runs of a workflow, and key, are between start and end at once. The key is the run's evaluation
    `concurrency`; without one all runs share a place."""

    limit: int = 1
    on_limit: Literal["queue", "skip", "cancel_oldest"] = "queue"


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A named list of steps inside a step: a branch of a `switch`, the body of a `foreach`."""

    name: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One node of the workflow.

    `loops` are the ids of the `foreach` and `repeat` steps around it, outermost first: they decide its path.
    `position` is `(line, column)` in the document.
    """

    id: str
    kind: Kind
    config: JSON
    evaluation: Evaluation
    retry: Retry
    timeout_ms: int | None = None
    continue_on_error: bool = False
    description: str | None = None
    loops: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    needs: tuple[str, ...] = ()
    later: dict[str, Template] = field(default_factory=dict)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    """Further evaluations by name: `until` of a `repeat`, `retry` (its condition)."""
    handlers: dict[str, tuple[Step, ...]] = field(default_factory=dict)
    """Lists of steps around this one: `catch`, `finally`, `undo`, `probe`."""
    effect: Literal["idempotent", "once"] = "idempotent"
    rate_limit: RateLimit | None = None
    order: int = 0
    """Place in the document."""
    position: tuple[int, int] = (1, 1)


def inner_steps(step: Step) -> Iterator[Step]:
    """Yield the steps of the blocks inside a step, at every depth."""
    for block in step.blocks:
        for inner in block.steps:
            yield inner
            yield from inner_steps(inner)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A workflow version, ready to run."""

    name: str
    description: str | None
    inputs: JSON | None
    timeout_ms: int | None
    steps: tuple[Step, ...]
    evaluations: dict[str, Evaluation]
    """Of the run itself, by name: `output`, `concurrency`."""
    triggers: dict[str, Trigger]
    index: dict[str, Step]
    document: JSON
    uses_run_number: bool = False
    names_used: frozenset[str] = frozenset()
    on_failure: tuple[Step, ...] = ()
    finally_: tuple[Step, ...] = ()
    has_undo: bool = False
    concurrency: Concurrency | None = None
    max_queue_ms: int | None = None
    priority: int = 0
    notify: tuple[tuple[frozenset[str], Step], ...] = ()
    """Messages as steps, each with the states of the run in which it is sent."""
    has_children: bool = False
    uses_raw_body: bool = False
    """Whether an expression may look at `$trigger.raw_body`."""


class Prepared(NamedTuple):
    """The answer of an `Evaluation`: `admitted` is False when `if` was false; `failure` when an expression failed."""

    value: JSON = None
    admitted: bool = True
    failure: Failure | None = None


SKIPPED = Prepared(admitted=False)


@dataclass(frozen=True, slots=True)
class AttemptFailure:
    """How an attempt ended that did not succeed. `error_class` and `status` are what `retry.on` chooses by.

    `sent`: the request may have reached the other side, so the outcome is unknown there.
    """

    failure: Failure
    error_class: str | None = None
    status: int | None = None
    retry_after_ms: int | None = None
    timed_out: bool = False
    sent: bool = True
