"""`repeat`: steps again and again, until a condition is true."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from taskforge.core.durations import parse_duration
from taskforge.core.errors import Failure
from taskforge.core.jsontext import dumps
from taskforge.core.kind import BlockSource, ControlKind
from taskforge.core.model import JSON, Prepared
from taskforge.core.problem import Pointer
from taskforge.core.templated import DURATION_SCHEMA, Condition, Plain, StepConfig, StepList, Templated
from taskforge.steps.resolving import InvalidConfig, resolve_config

if TYPE_CHECKING:
    from taskforge.core.progress import Progress
    from taskforge.core.snapshot import Frame, StepRun

MAX_ITERATIONS = 10_000
DEFAULT_ITERATIONS = 100

_Pause = Annotated[
    Templated[Annotated[int, Plain(parse_duration, DURATION_SCHEMA)]],
    Field(description="The pause between the end of one iteration and the next; default 0."),
]
_Max = Annotated[
    Templated[Annotated[int, Field(ge=1, le=MAX_ITERATIONS)]],
    Field(description=f"How many iterations at most, 1 to {MAX_ITERATIONS}; default {DEFAULT_ITERATIONS}."),
]


class _Evaluated(StepConfig):
    every: _Pause = 0
    max: _Max = DEFAULT_ITERATIONS


class RepeatConfig(_Evaluated):
    until: Condition = Field(description="Ends the loop when true. Sees the iteration's steps and $index.")
    steps: StepList = Field(description="What is repeated; sees $index (from 0).")


class RepeatKind(ControlKind):
    """The output is the last step's output of the last iteration.

    - The steps run, then `until` is evaluated: true ends the loop, false or null goes on. They run at least once. It
      sees the steps of the iteration that has just ended, and its `$index`.
    - `every` is the pause between two iterations, counted from the end of one; the step is WAITING meanwhile. `every`
      and `max` are evaluated once, at the beginning.
    - After `max` iterations without success the step is FAILED (REPEAT_EXHAUSTED).
    - A step that fails inside fails the loop at once. Each iteration's steps have paths such as `poll[2].ask`.
    - A retry of the run goes on in the iteration that failed; after REPEAT_EXHAUSTED it counts from 0 again.

    `data` is `{"iteration": n, "every": ms, "max": n}`; WAITING means that iteration n has ended.
    """

    name = "repeat"
    summary = "Repeat steps until a condition is true, with a pause between and a maximum."
    Config = RepeatConfig
    conditions = ("until",)

    def evaluated(self, config: JSON) -> JSON:
        given = config if isinstance(config, dict) else {}
        return {key: given[key] for key in ("every", "max") if key in given}

    def further(self, config: JSON) -> Mapping[str, tuple[Pointer, JSON]]:
        found = isinstance(config, dict) and "until" in config
        return {"until": (("until",), config["until"])} if found else {}

    def blocks(self, config: JSON) -> list[BlockSource]:
        if not isinstance(config, dict) or "steps" not in config:
            return []
        return [BlockSource("steps", ("steps",), ("index",), loop=True)]

    def begin(self, decision: Progress, at: StepRun, value: JSON) -> None:
        try:
            given = resolve_config(self.name, _Evaluated, value)
        except InvalidConfig as error:
            decision.fail(at, error.failure)
            return
        decision.remember(at, {"iteration": 0, "every": given.every, "max": given.max})
        self._open(decision, at)

    def ended(self, decision: Progress, at: StepRun, frame: Frame, failure: Failure | None) -> None:
        if failure is not None:
            decision.fail(at, failure)
            return
        at.scope = frame.prefixes
        decision.evaluate(at, "until")

    def answered(self, decision: Progress, at: StepRun, name: str, prepared: Prepared) -> None:
        at.scope = None
        done = prepared.value
        if prepared.failure is not None:
            decision.fail(at, prepared.failure)
        elif done is True:
            last = at.frames[_frame(at)].last
            decision.succeed(at, None if last is None else last.output)
        elif done is not False and done is not None:
            message = f"`until` must give true, false or null; it gave {dumps(done)[:80]}"
            decision.fail(at, Failure("EXPRESSION_ERROR", message, detail={"path": "repeat.until"}))
        elif at.data["iteration"] + 1 >= at.data["max"]:
            count = at.data["max"]
            message = f"`until` was not true after {count} iteration{'s' if count > 1 else ''}, which is `max`"
            decision.fail(at, Failure("REPEAT_EXHAUSTED", message, detail={"iterations": count}))
        elif at.data["every"]:
            decision.wait(at, decision.now + at.data["every"])
        else:
            self._next(decision, at)

    def woke(self, decision: Progress, at: StepRun) -> None:
        decision.go_on(at)
        self._next(decision, at)

    def resume(self, decision: Progress, at: StepRun) -> None:
        decision.reopen(at, _frame(at), at.step.blocks[0].steps, _inside(at))

    # ---- when a person has the run taken up again

    def goes_on(self, at: StepRun) -> bool:
        exhausted = at.error is not None and at.error.code == "REPEAT_EXHAUSTED"
        return at.data is not None and not exhausted

    def follows(self, at: StepRun, inner: StepRun, other: StepRun) -> bool:
        return _index(at, other) > _index(at, inner) or super().follows(at, inner, other)

    def rewound(self, at: StepRun, inner: StepRun) -> None:
        at.data = {**at.data, "iteration": _index(at, inner)}

    def _next(self, decision: Progress, at: StepRun) -> None:
        at.frames.pop(_frame(at), None)
        decision.remember(at, {**at.data, "iteration": at.data["iteration"] + 1})
        self._open(decision, at)

    def _open(self, decision: Progress, at: StepRun) -> None:
        decision.open(at, _frame(at), at.step.blocks[0].steps, _inside(at))


def _frame(at: StepRun) -> str:
    return str(at.data["iteration"])


def _inside(at: StepRun) -> tuple[str, ...]:
    return (*at.prefixes, f"{at.path}[{at.data['iteration']}].")


def _index(at: StepRun, inner: StepRun) -> int:
    """The iteration of `at` to which a step of its block belongs."""
    return int(inner.prefixes[len(at.prefixes)][len(at.path) + 1 : -2])
