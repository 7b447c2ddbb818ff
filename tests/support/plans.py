"""Tiny kinds and plans made by hand, for tests of what stands on `decide`: the store and the engine's parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taskforge.core.kind import ActionKind, Kind, Outcome, PureKind
from taskforge.core.model import JSON, Evaluation, Plan, Retry, Step


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


GIVE, CALL = Give(), Call()


def step(
    id: str, kind: Kind = GIVE, config: JSON = None, *, max_attempts: int = 3, initial_ms: int = 1_000, **fields: Any
) -> Step:
    """One step. Retries wait exactly `initial_ms` the first time, with every error class named `network` admitted."""
    retry = Retry(max_attempts=max_attempts, initial_ms=initial_ms, jitter="none")
    return Step(id, kind, config, Evaluation(None, Literal(config)), retry, **fields)


def plan(*steps: Step, name: str = "flow", timeout_ms: int | None = None) -> Plan:
    """A workflow version of these steps, one after the other."""
    return Plan(
        name=name,
        description=None,
        inputs=None,
        timeout_ms=timeout_ms,
        steps=steps,
        output=None,
        triggers={},
        index={at.id: at for at in steps},
        document={"name": name},
    )


THREE_GIVES = plan(step("fetch", config={"n": 1}), step("shape", config=[1, 2]), step("post", config="done"))
"""Costs one transaction: nothing in it has a side effect."""

ONE_CALL = plan(step("call", CALL, {"url": "x"}))
CALL_THEN_GIVE = plan(step("call", CALL), step("after", config=True))
TWO_CALLS = plan(step("first", CALL, {"a": 1}), step("second", CALL, {"b": 2}))
