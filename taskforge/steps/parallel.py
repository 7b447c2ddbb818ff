"""`parallel`: steps that run together, ordered by what each `needs`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from taskforge.core.errors import Failure
from taskforge.core.kind import BlockSource, ControlKind
from taskforge.core.model import JSON, Step
from taskforge.core.record import dataclass
from taskforge.core.states import StepState
from taskforge.core.templated import StepConfig, StepList, describe

if TYPE_CHECKING:
    from taskforge.core.progress import Progress
    from taskforge.core.snapshot import Frame, StepRun

_Met = Literal["met", "failed"]


class ParallelConfig(StepConfig):
    """A list of steps, or `{steps, fail_fast}`."""

    steps: StepList = Field(description="Steps that run together; `needs` names those that a step waits for.")
    fail_fast: bool = Field(False, description="Cancel the other steps as soon as one has failed. Default false.")

    @model_validator(mode="before")
    @classmethod
    def _take_list(cls, value: Any) -> Any:
        if isinstance(value, list):
            return {"steps": value}
        if not isinstance(value, dict):
            message = f"must be a list of steps, or {{steps: […], fail_fast: true}}, not {describe(value)}"
            raise PydanticCustomError("plain", "{message}", {"message": message})
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"x-ref": "steps"}, handler.resolve_ref_schema(handler(schema))]}


@dataclass(slots=True)
class _Memory:
    """Which steps have ended and what the others wait for; made anew from the rows when the run is loaded."""

    steps: dict[str, Step]
    missing: dict[str, set[str]]
    """The needs of each step that have not ended."""
    dependents: dict[str, list[str]]
    answers: dict[str, _Met] = field(default_factory=dict)
    """What each ended step means for those that need it."""
    results: dict[str, JSON] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    under_way: int = 0
    is_starting: bool = False


class ParallelKind(ControlKind):
    """The output is an object: each step's output by its id, in the order of the document; null where it did not
    succeed.

    - A step begins when all that it `needs` have ended. A SKIPPED need counts as met, and so does a failure that
      `continue_on_error` or `catch` takes. After a failure that nothing takes the step is SKIPPED (NEED_FAILED), and
      so is what needs that one in turn.
    - When a step fails, the others go on to their ends; then the `parallel` fails with the failure of the first failed
      step in the order of the document. With `fail_fast` those under way are cancelled and the rest do not begin.
    - With `continue_on_error` the object is kept as the output of the FAILED step.
    - A retry of the run takes up what failed or was cancelled, and what was SKIPPED because of it; the rest is kept.

    `data` is `{}`: it has begun.
    """

    name = "parallel"
    summary = "Run steps together, in the order that their `needs` say."
    Config = ParallelConfig

    def evaluated(self, config: JSON) -> JSON:
        return None

    def blocks(self, config: JSON) -> list[BlockSource]:
        if isinstance(config, list):
            return [BlockSource("steps", (), together=True)]
        found = isinstance(config, dict) and "steps" in config
        return [BlockSource("steps", ("steps",), together=True)] if found else []

    def begin(self, decision: Progress, at: StepRun, value: JSON) -> None:
        decision.remember(at, {})
        memory = at.memory = _memory_of(at)
        self._start(decision, at, memory.steps)

    def ended(self, decision: Progress, at: StepRun, frame: Frame, failure: Failure | None) -> None:
        memory: _Memory = at.memory
        id = frame.name
        del at.frames[id]
        memory.under_way -= 1
        if failure is None:
            memory.results[id] = None if frame.last is None else frame.last.output
        else:
            memory.failures[id] = failure
            if _is_fail_fast(at):
                decision.cancel_inside(at)
                self._finish(decision, at)
                return
        self._start(decision, at, _answer(memory, id, "met" if failure is None else "failed"))

    def resume(self, decision: Progress, at: StepRun) -> None:
        from taskforge.core.progress import AGAIN

        memory = at.memory = _memory_of(at)
        prefix = at.prefixes[-1]
        rows = {id: row for id in memory.steps if (row := decision.find(prefix + id)) is not None}
        for id in _after(memory, (id for id, row in rows.items() if row.stage == AGAIN)):
            if id in rows and rows[id].state is StepState.SKIPPED:
                decision.set_aside(rows.pop(id))
        memory.is_starting = True
        for id in _in_order(memory):
            if id not in rows or at.ended:
                continue
            if rows[id].state is StepState.SKIPPED and _need_failed(memory, id):
                _answer(memory, id, "failed")
            else:
                self._go_into(decision, at, id)
        memory.is_starting = False
        self._start(decision, at, [id for id in memory.steps if id not in rows])

    def follows(self, at: StepRun, inner: StepRun, other: StepRun) -> bool:
        return other.step.id in _after(_memory_of(at), (inner.step.id,))

    def _start(self, decision: Progress, at: StepRun, candidates: Iterable[str]) -> None:
        """Begin, or skip, those of the candidates whose needs have ended, and end the step after the last one."""
        if at.ended or at.memory.is_starting:
            return
        memory: _Memory = at.memory
        pending = deque(candidates)
        while pending and not at.ended:
            id = pending.popleft()
            if memory.missing[id] or id in memory.answers or id in at.frames:
                continue
            if _need_failed(memory, id):
                decision.skip_inner(at, memory.steps[id], "NEED_FAILED")
                pending.extend(_answer(memory, id, "failed"))
            else:
                self._go_into(decision, at, id)
        if not memory.under_way and not at.ended:
            self._finish(decision, at)

    def _go_into(self, decision: Progress, at: StepRun, id: str) -> None:
        at.memory.under_way += 1
        decision.reopen(at, id, (at.memory.steps[id],), at.prefixes)

    def _finish(self, decision: Progress, at: StepRun) -> None:
        memory: _Memory = at.memory
        output = {id: memory.results.get(id) for id in memory.steps}
        if memory.failures:
            decision.fail(at, next(memory.failures[id] for id in memory.steps if id in memory.failures), output=output)
        else:
            decision.succeed(at, output)
        at.memory = None


def _is_fail_fast(at: StepRun) -> bool:
    return isinstance(at.step.config, dict) and bool(at.step.config.get("fail_fast", False))


def _memory_of(at: StepRun) -> _Memory:
    steps = {step.id: step for step in at.step.blocks[0].steps} if at.step.blocks else {}
    dependents: dict[str, list[str]] = {id: [] for id in steps}
    missing = {id: {need for need in step.needs if need in steps} for id, step in steps.items()}
    for id, needs in missing.items():
        for need in needs:
            dependents[need].append(id)
    return _Memory(steps, missing, dependents)


def _need_failed(memory: _Memory, id: str) -> bool:
    return any(memory.answers.get(need) == "failed" for need in memory.steps[id].needs)


def _answer(memory: _Memory, id: str, answer: _Met) -> list[str]:
    """Note that a step has ended; return those that may begin now."""
    memory.answers[id] = answer
    for dependent in memory.dependents[id]:
        memory.missing[dependent].discard(id)
    return [dependent for dependent in memory.dependents[id] if not memory.missing[dependent]]


def _after(memory: _Memory, ids: Iterable[str]) -> set[str]:
    """Return all that need one of these steps, directly or through others."""
    found: set[str] = set()
    pending = list(ids)
    while pending:
        for dependent in memory.dependents[pending.pop()]:
            if dependent not in found:
                found.add(dependent)
                pending.append(dependent)
    return found


def _in_order(memory: _Memory) -> list[str]:
    """Return the ids, each after those that it needs."""
    missing = {id: len(needs) for id, needs in memory.missing.items()}
    pending = deque(id for id, count in missing.items() if not count)
    found: list[str] = []
    while pending:
        id = pending.popleft()
        found.append(id)
        for dependent in memory.dependents[id]:
            missing[dependent] -= 1
            if not missing[dependent]:
                pending.append(dependent)
    return found
