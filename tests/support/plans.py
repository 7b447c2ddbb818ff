"""Tiny kinds and plans made by hand, for tests of what stands on `decide`: the store and the engine's parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taskforge.core.kind import ActionKind, ControlKind, Kind, Outcome, PureKind
from taskforge.core.model import JSON, Evaluation, Plan, Retry, Step
from taskforge.core.progress import Progress
from taskforge.core.snapshot import StepRun


@dataclass(frozen=True)
class Literal:
    """A template without expressions."""

    value: JSON
    expressions: Sequence[Any] = ()
    is_literal: bool = True

    def render(self, results: Sequence[JSON]) -> JSON:
        return self.value


class Give(PureKind):
    """Its config is its output."""

    name = "give"

    def finish(self, value: JSON) -> Outcome:
        return Outcome(output=value)


class Call(ActionKind):
    """Stands for a request to somebody else; the test says how it ends."""

    name = "call"


class Wait(ControlKind):
    """Waits for the signal of the name in its config, and `for_ms` at most where that says so; gives what was sent."""

    name = "wait"

    def begin(self, decision: Progress, at: StepRun, value: JSON) -> None:
        decision.remember(at, {"signal": value["signal"]})
        self.resume(decision, at)

    def resume(self, decision: Progress, at: StepRun) -> None:
        config = at.step.config
        sent = decision.find_signal(config["signal"])
        decision.wait(at, decision.now + config["for_ms"] if "for_ms" in config else None)
        if sent is not None:
            decision.take_signal(at, sent)

    def signalled(self, decision: Progress, at: StepRun, data: JSON) -> None:
        decision.succeed(at, data)

    def woke(self, decision: Progress, at: StepRun) -> None:
        decision.go_on(at)
        decision.succeed(at, None)


GIVE, CALL, WAIT = Give(), Call(), Wait()


def step(
    id: str, kind: Kind = GIVE, config: JSON = None, *, max_attempts: int = 3, initial_ms: int = 1_000, **fields: Any
) -> Step:
    """One step. Retries wait exactly `initial_ms` the first time, with every error class named `network` admitted."""
    retry = Retry(max_attempts=max_attempts, initial_ms=initial_ms, jitter="none")
    return Step(id, kind, config, Evaluation(None, Literal(config)), retry, **fields)


def plan(*steps: Step, name: str = "flow", timeout_ms: int | None = None, **fields: Any) -> Plan:
    """A workflow version of these steps, one after the other. With `concurrency`, the place is `key` of the input."""
    evaluations = {"concurrency": Evaluation(None, Literal(None))} if "concurrency" in fields else {}
    return Plan(
        name=name,
        description=None,
        inputs=None,
        timeout_ms=timeout_ms,
        steps=steps,
        evaluations=evaluations,
        triggers={},
        index={at.id: at for at in (*steps, *fields.get("finally_", ()))},
        document={"name": name},
        **fields,
    )


THREE_GIVES = plan(step("fetch", config={"n": 1}), step("shape", config=[1, 2]), step("post", config="done"))
"""Costs one transaction: nothing in it has a side effect."""

ONE_CALL = plan(step("call", CALL, {"url": "x"}))
CALL_THEN_GIVE = plan(step("call", CALL), step("after", config=True))
WAITING = plan(step("wait", WAIT, {"signal": "go"}), step("after", config=True))
TWO_CALLS = plan(step("first", CALL, {"a": 1}), step("second", CALL, {"b": 2}))
