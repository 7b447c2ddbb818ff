"""`foreach`: the same steps for every item of a list, some of them at the same time."""

from __future__ import annotations

from collections import deque
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from taskforge.core.errors import Failure
from taskforge.core.kind import BlockSource, ControlKind
from taskforge.core.model import JSON
from taskforge.core.record import dataclass
from taskforge.core.templated import (
    EXPRESSION_SCHEMA,
    Plain,
    StepConfig,
    StepList,
    Templated,
    describe,
    is_condition,
)
from taskforge.steps.resolving import InvalidConfig, resolve_config

if TYPE_CHECKING:
    from taskforge.core.progress import Progress
    from taskforge.core.snapshot import Frame, StepRun

MAX_PARALLEL = 1_000
"""The largest window. A decision looks at every item that is under way."""


def _check_items(value: Any) -> Any:
    if isinstance(value, list) or (isinstance(value, str) and is_condition(value)):
        return value
    raise ValueError(f"must be a list or one whole ${{{{ … }}}} that gives a list, not {describe(value)}")


def _check_evaluated_items(value: Any) -> Any:
    if isinstance(value, list):
        return value
    raise ValueError(f"must be a list, not {describe(value)}")


_LIST = {"type": "array"}
_Parallel = Annotated[
    Templated[Annotated[int, Field(ge=1, le=MAX_PARALLEL)]],
    Field(description="How many items are under way at the same time; default 1, one after the other."),
]


class _Evaluated(StepConfig):
    items: Annotated[Any, Plain(_check_evaluated_items, _LIST)]
    max_parallel: _Parallel = 1


class ForeachConfig(StepConfig):
    items: Annotated[Any, Plain(_check_items, {"anyOf": [_LIST, EXPRESSION_SCHEMA]})] = Field(
        description="The list: one whole ${{ … }}, or written out."
    )
    max_parallel: _Parallel = 1
    fail_fast: bool = Field(False, description="Cancel the other items as soon as one has failed. Default false.")
    steps: StepList = Field(description="What runs for each item; sees $item and $index (from 0).")


@dataclass(slots=True)
class _Memory:
    """Where a `foreach` is; made anew from the rows when the run is loaded."""

    width: int
    results: list[JSON]
    left: deque[int]
    """Items to begin, or to take up again, in their order."""
    under_way: int = 0
    failures: dict[int, Failure] = field(default_factory=dict)
    is_filling: bool = False


class ForeachKind(ControlKind):
    """The output is the list, in item order, of each item's last output: null where that was skipped or the item
    failed.

    - `items` must give a list (else INVALID_CONFIG) of at most as many items as the limit (10,000 unless configured,
      else TOO_MANY_ITEMS); it is evaluated once and kept with the step. An empty list gives `[]`.
    - `max_parallel` items (1 to 1,000) are under way at once, begun in item order. Each item's steps have paths such as
      `each[3].post` and states of their own.
    - An item fails when one of its steps fails and nothing takes that. The others go on to their ends; then the step
      fails with the code, message and step of the failed item with the lowest index, and
      `detail: {failed: <how many>, index: <which>}`. With `fail_fast` the items under way are cancelled and the rest
      do not begin.
    - With `continue_on_error` the list is kept as the output of the FAILED step.
    - A retry of the run goes on with the same items: those that failed or were cancelled are taken up where they
      stood, those that had not begun begin, the others are kept.
    - A list above the output limit fails the step (OUTPUT_TOO_LARGE), but not where nothing in the workflow reads it:
      then the output is null, and the journal says so (OUTPUT_DROPPED). What the items did is done, after all.

    `data` is `{"items": […], "max_parallel": n}`.
    """

    name = "foreach"
    summary = "Run steps for each item of a list; the output is the list of their last outputs."
    Config = ForeachConfig

    def evaluated(self, config: JSON) -> JSON:
        given = config if isinstance(config, dict) else {}
        return {key: given[key] for key in ("items", "max_parallel") if key in given}

    def blocks(self, config: JSON) -> list[BlockSource]:
        if not isinstance(config, dict) or "steps" not in config:
            return []
        return [BlockSource("steps", ("steps",), ("item", "index"), loop=True)]

    def begin(self, decision: Progress, at: StepRun, value: JSON) -> None:
        try:
            given = resolve_config(self.name, _Evaluated, value)
        except InvalidConfig as error:
            decision.fail(at, error.failure)
            return
        limit = decision.context.foreach_limit
        if len(given.items) > limit:
            message = f"foreach.items has {len(given.items)} items; the limit is {limit}"
            decision.fail(at, Failure("TOO_MANY_ITEMS", message, detail={"path": "foreach.items"}))
            return
        decision.remember(at, {"items": given.items, "max_parallel": given.max_parallel})
        decision.tell_items(at, len(given.items))
        at.memory = _memory_of(at, range(len(given.items)))
        self._fill(decision, at)

    def ended(self, decision: Progress, at: StepRun, frame: Frame, failure: Failure | None) -> None:
        memory: _Memory = at.memory
        index = int(frame.name)
        del at.frames[frame.name]
        memory.under_way -= 1
        if failure is not None:
            memory.failures[index] = failure
            if at.step.config.get("fail_fast", False):
                decision.cancel_inside(at)
                self._finish(decision, at)
                return
        elif frame.last is not None:
            memory.results[index] = frame.last.output
        self._fill(decision, at)

    def resume(self, decision: Progress, at: StepRun) -> None:
        memory = at.memory = _memory_of(at, ())
        memory.is_filling = True
        for index in range(len(memory.results)):
            prefixes = _inside(at, index)
            if decision.standing(at.step.blocks[0].steps, prefixes[-1]) in ("absent", "left"):
                memory.left.append(index)
            elif not at.ended:
                self._go_into(decision, at, index)
        memory.is_filling = False
        self._fill(decision, at)

    def _fill(self, decision: Progress, at: StepRun) -> None:
        """Begin items while there is room, and end the step after the last one."""
        memory: _Memory = at.memory
        if at.ended or memory.is_filling:
            return
        memory.is_filling = True
        while memory.left and memory.under_way < memory.width and not at.ended:
            self._go_into(decision, at, memory.left.popleft())
        memory.is_filling = False
        if not memory.under_way and not memory.left and not at.ended:
            self._finish(decision, at)

    def _go_into(self, decision: Progress, at: StepRun, index: int) -> None:
        at.memory.under_way += 1
        decision.reopen(at, str(index), at.step.blocks[0].steps, _inside(at, index))

    def _finish(self, decision: Progress, at: StepRun) -> None:
        memory: _Memory = at.memory
        if memory.failures:
            index = min(memory.failures)
            first = memory.failures[index]
            detail = {**(first.detail or {}), "failed": len(memory.failures), "index": index}
            failure = Failure(first.code, first.message, first.step, first.attempt, detail)
            decision.fail(at, failure, output=memory.results)
        else:
            decision.succeed(at, memory.results, droppable=not _is_read(decision, at))
        at.memory = None


def _memory_of(at: StepRun, left: range | tuple[int, ...]) -> _Memory:
    return _Memory(at.data["max_parallel"], [None] * len(at.data["items"]), deque(left))


def _inside(at: StepRun, index: int) -> tuple[str, ...]:
    return (*at.prefixes, f"{at.path}[{index}].")


def _is_read(decision: Progress, at: StepRun) -> bool:
    """Whether an expression, or a block whose output is its last step's, may read the step's output."""
    names = decision.run.plan.names_used
    steps = at.parent.steps
    in_block = at.parent.owner is not None and (at.step is steps[-1])
    return in_block or at.step.id in names or "steps" in names
