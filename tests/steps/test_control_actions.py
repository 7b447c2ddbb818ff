"""`workflow` and `set_state`: actions that the engine carries out for the step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from taskforge.core.errors import Failure
from taskforge.core.kind import ActionFailed, Suspended, child_signal
from taskforge.core.model import JSON
from taskforge.steps.set_state import SetStateKind
from taskforge.steps.workflow import LOOK_AGAIN_MS, WorkflowKind
from tests.core.driven import Driven, act, give

CHILD: dict[str, Any] = {"id": "child", "workflow": {"name": "other"}, "retry": {"max_attempts": 3, "jitter": "none"}}


class Asked:
    """What an action asks of the engine."""

    path, generation, workflow, idempotency_key = "each[1].child", 2, "w", "run_1/each[1].child~2"
    deadline_ms: int | None = None
    output_limit = 1_000
    depth: int | None = None
    effect = "idempotent"
    resources: Mapping[str, Any] = {}

    def __init__(self, *, written: bool = True) -> None:
        self.calls: list[Any] = []
        self.written = written

    def now(self) -> int:
        return 5_000

    async def start_child(self, workflow: str, input: JSON, *, wait: bool, version: int | None = None) -> str:
        self.calls.append((workflow, input, wait, version))
        return "run_9"

    async def set_state(self, key: str, value: JSON, expected: JSON, *, compare: bool) -> bool:
        self.calls.append((key, value, expected, compare))
        return self.written

    async def evaluate(self, name: str, dot: JSON) -> JSON:
        raise AssertionError("nothing is evaluated later")


# ---- workflow


async def test_a_child_is_started_and_waited_for() -> None:
    asked = Asked()
    answer = await WorkflowKind().run({"name": "other", "input": {"a": 1}, "version": 3}, asked)
    assert asked.calls == [("other", {"a": 1}, True, 3)]
    assert answer == Suspended(child_signal("each[1].child", 2), {"run": "run_9"}, 5_000 + LOOK_AGAIN_MS)


async def test_a_child_that_is_not_waited_for_gives_its_id() -> None:
    asked = Asked()
    assert await WorkflowKind().run({"name": "other", "wait": False}, asked) == {"run": "run_9"}
    assert asked.calls == [("other", {}, False, None)]


@pytest.mark.parametrize(
    "value", [{"name": "No Name"}, {"name": 5}, {"name": "a", "wait": 1}, {"name": "a", "version": 0}]
)
async def test_a_config_that_does_not_fit_starts_nothing(value: JSON) -> None:
    asked = Asked()
    with pytest.raises(ActionFailed) as caught:
        await WorkflowKind().run(value, asked)
    assert caught.value.result.failure.code == "INVALID_CONFIG" and not caught.value.result.sent and not asked.calls


def test_the_step_waits_for_its_child_and_takes_over_its_output() -> None:
    run = Driven(CHILD, give("after", "${{ $child }}"))
    run.suspend("child")
    assert (run.state, run.state_of("child"), run.run.owner) == ("WAITING", "WAITING", None)
    run.child_ended("child", "SUCCEEDED", {"a": 1})
    assert run.state == "SUCCEEDED" and run.output_of("after") == {"a": 1}


def test_a_child_that_ended_before_the_step_waited_is_not_missed() -> None:
    run = Driven(CHILD)
    run.signal(child_signal("child", 1), {"run": "run_9", "state": "SUCCEEDED", "output": 1})
    run.suspend("child")
    assert run.state == "SUCCEEDED" and run.output_of("child") == 1


def test_a_failed_child_fails_the_step_and_is_not_retried() -> None:
    run = Driven(CHILD)
    run.suspend("child")
    error = {"code": "CONNECT_REFUSED", "message": "refused", "step": "ask"}
    run.child_ended("child", "FAILED", error=error)
    detail = {"run": "run_9", "error": error}
    message = "the child run run_9 failed: CONNECT_REFUSED: refused"
    assert run.error == Failure("CHILD_FAILED", message, "child", None, detail)
    assert set(run.stored.dead_letters) == {("child", 1)}


def test_a_cancelled_child_fails_the_step() -> None:
    run = Driven({**CHILD, "continue_on_error": True}, act("after"))
    run.suspend("child")
    run.child_ended("child", "CANCELLED")
    assert run.run.steps["child"].error is not None and run.run.steps["child"].error.code == "CHILD_CANCELLED"
    assert run.running() == ["after"]


def test_a_retry_starts_a_new_child_and_the_old_ones_end_means_nothing() -> None:
    run = Driven(CHILD)
    run.suspend("child")
    run.cancel()
    run.retry()
    assert run.running() == ["child"]
    run.suspend("child")
    run.signal(child_signal("child", 1), {"run": "run_8", "state": "SUCCEEDED", "output": "old"})
    assert run.state == "WAITING"
    run.child_ended("child", "SUCCEEDED", "new")
    assert run.output_of("child") == "new"


def test_a_step_that_waits_for_its_child_is_looked_at_once_a_day() -> None:
    run = Driven(CHILD)
    run.suspend("child")
    run.clock.advance(LOOK_AGAIN_MS)
    run.stored.run = run.stored.run._replace(due_at=run.clock.now()) if run.stored.run else None
    run.take_up()
    assert run.state == "WAITING" and run.run.due_at is not None and run.run.due_at > run.clock.now()


# ---- set_state


async def test_a_value_is_written() -> None:
    asked = Asked()
    assert await SetStateKind().run({"key": "cursor", "value": {"n": 1}}, asked) == {"n": 1}
    assert asked.calls == [("cursor", {"n": 1}, None, False)]


@pytest.mark.parametrize("expected", [None, 5])
async def test_with_expected_the_value_is_compared(expected: JSON) -> None:
    asked = Asked()
    assert await SetStateKind().run({"key": "cursor", "value": None, "expected": expected}, asked) is None
    assert asked.calls == [("cursor", None, expected, True)]


async def test_another_value_than_expected_is_a_conflict_that_is_not_retried() -> None:
    with pytest.raises(ActionFailed) as caught:
        await SetStateKind().run({"key": "cursor", "value": 2, "expected": 1}, Asked(written=False))
    result = caught.value.result
    assert result.failure == Failure("STATE_CONFLICT", "the state of 'cursor' is not 1", detail={"key": "cursor"})
    assert (result.error_class, result.status, result.sent) == (None, None, False)


@pytest.mark.parametrize("value", [{"key": "", "value": 1}, {"key": 5, "value": 1}, {"key": "x" * 201, "value": 1}])
async def test_a_key_that_does_not_fit_writes_nothing(value: JSON) -> None:
    asked = Asked()
    with pytest.raises(ActionFailed):
        await SetStateKind().run(value, asked)
    assert not asked.calls
