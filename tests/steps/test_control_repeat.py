"""`repeat`: until, every, max, and every point at which a crash may fall."""

from __future__ import annotations

from typing import Any

import pytest

from taskforge.core.errors import Failure
from taskforge.core.model import JSON
from tests.core.driven import Driven, act, give


def poll(*steps: dict[str, Any], until: JSON = "${{ $ask.done }}", **config: Any) -> dict[str, Any]:
    inner = steps or (act("ask"),)
    return {"id": "poll", "repeat": {"until": until, "steps": list(inner), **config}}


def test_it_repeats_until_the_condition_is_true_and_gives_the_last_output() -> None:
    run = Driven(poll(), give("after", "${{ $poll }}"))
    run.succeed("poll[0].ask", {"done": False})
    assert run.running() == ["poll[1].ask"]
    run.succeed("poll[1].ask", {"done": None})
    run.succeed("poll[2].ask", {"done": True, "n": 3})
    assert run.state == "SUCCEEDED" and run.output_of("after") == {"done": True, "n": 3}


def test_the_steps_run_at_least_once() -> None:
    run = Driven(poll(until=True))
    assert run.running() == ["poll[0].ask"]
    run.succeed("poll[0].ask", 1)
    assert run.output_of("poll") == 1


def test_steps_and_condition_see_the_iteration() -> None:
    run = Driven(
        poll(give("a", "${{ $index * 10 }}"), give("b", "${{ $a + 1 }}"), until="${{ $index == 3 and $b == 31 }}")
    )
    assert (run.state, run.output_of("poll")) == ("SUCCEEDED", 31)


def test_it_waits_between_iterations_and_holds_nothing_meanwhile() -> None:
    run = Driven(poll(every="30s"))
    run.succeed("poll[0].ask", {})
    assert (run.state, run.state_of("poll"), run.run.owner) == ("WAITING", "WAITING", None)
    assert run.run.due_at == run.clock.now() + 30_000
    run.pass_time(29_999)
    assert run.state_of("poll") == "WAITING"
    run.pass_time(1)
    assert run.running() == ["poll[1].ask"] and run.state == "RUNNING"


def test_at_its_maximum_it_is_exhausted() -> None:
    run = Driven(poll(max="${{ 1 + 1 }}"))
    run.succeed("poll[0].ask", {})
    run.succeed("poll[1].ask", {})
    message = "`until` was not true after 2 iterations, which is `max`"
    assert run.error == Failure("REPEAT_EXHAUSTED", message, "poll", None, {"iterations": 2})
    assert not run.stored.dead_letters


def test_without_a_maximum_it_ends_after_a_hundred() -> None:
    run = Driven(poll(give("a", "${{ $index }}"), until=False))
    assert run.error is not None and run.error.code == "REPEAT_EXHAUSTED"
    assert "poll[99].a" in run.states() and "poll[100].a" not in run.states()


def test_a_failure_inside_fails_the_loop() -> None:
    run = Driven(poll())
    run.fail("poll[0].ask")
    assert run.error is not None and run.error.step == "poll[0].ask" and run.state_of("poll") == "FAILED"


@pytest.mark.parametrize(
    ("until", "code"), [("${{ $ask }}", "EXPRESSION_ERROR"), ("${{ $ask.done + {} }}", "EXPRESSION_ERROR")]
)
def test_a_condition_that_gives_no_answer_fails_the_loop(until: str, code: str) -> None:
    run = Driven(poll(until=until))
    run.succeed("poll[0].ask", {"done": 1})
    assert run.error is not None and (run.error.code, run.error.step) == (code, "poll")


@pytest.mark.parametrize("config", [{"max": "${{ 0 }}"}, {"max": "${{ 10001 }}"}, {"every": "${{ [] }}"}])
def test_settings_that_do_not_fit_fail_the_loop_before_it_begins(config: dict[str, Any]) -> None:
    run = Driven(poll(**config))
    assert run.error is not None and run.error.code == "INVALID_CONFIG" and run.states() == {"poll": "FAILED"}


def test_a_condition_that_needs_the_child_is_answered_later() -> None:
    run = Driven(poll(), in_child=lambda path, name: name == "until")
    run.succeed("poll[0].ask", {"done": False})
    assert run.last.needs == [("poll", "until")] and run.run.owner is not None
    run.answer("poll", "until")
    assert run.running() == ["poll[1].ask"]
    run.succeed("poll[1].ask", {"done": True})
    run.answer("poll", "until")
    assert run.state == "SUCCEEDED"


def test_a_crash_at_any_point_goes_on_in_the_same_iteration() -> None:
    run = Driven(poll(act("ask"), act("tell"), every="10s"), in_child=lambda path, name: name == "until")
    run.die()
    assert run.running() == ["poll[0].ask"]
    run.succeed("poll[0].ask", {})
    run.die()
    run.succeed("poll[0].tell")
    run.die()  # between the end of the iteration and the answer of `until`
    assert run.last.needs == [("poll", "until")] and not run.running()
    run.answer("poll", "until")
    assert run.state_of("poll") == "WAITING"
    run.die()
    assert run.state_of("poll") == "WAITING" and not run.running()
    run.pass_until_due()
    assert run.running() == ["poll[1].ask"]
    run.die()
    run.succeed("poll[1].ask", {"done": True})
    run.succeed("poll[1].tell", "end")
    run.answer("poll", "until")
    assert (run.state, run.output_of("poll")) == ("SUCCEEDED", "end")


def test_a_retry_goes_on_in_the_iteration_that_failed() -> None:
    run = Driven(poll(act("first"), act("ask")))
    run.succeed("poll[0].first")
    run.succeed("poll[0].ask", {})
    run.succeed("poll[1].first")
    run.fail("poll[1].ask")
    run.retry()
    assert run.running() == ["poll[1].ask"]
    run.succeed("poll[1].ask", {"done": True})
    assert run.state == "SUCCEEDED"


def test_a_retry_after_exhaustion_counts_from_the_beginning() -> None:
    run = Driven(poll(act("ask"), give("told"), max=2))
    for index in range(2):
        run.succeed(f"poll[{index}].ask", {})
    assert run.error is not None and run.error.code == "REPEAT_EXHAUSTED"
    run.retry()
    assert run.running() == ["poll[0].ask"]
    run.succeed("poll[0].ask", {})
    run.die()
    assert run.running() == ["poll[1].ask"], "the iterations of the first generation count no more"
    run.succeed("poll[1].ask", {"done": True})
    assert run.state == "SUCCEEDED" and run.run.steps["poll[0].told"].generation == 2


def test_a_retry_from_an_iteration_forgets_the_later_ones() -> None:
    run = Driven(poll(), act("after"))
    for index in range(3):
        run.succeed(f"poll[{index}].ask", {"done": index == 2, "old": True})
    run.fail("after")
    run.retry("poll[1].ask")
    assert run.running() == ["poll[1].ask"]
    run.succeed("poll[1].ask", {})
    run.die()
    assert run.running() == ["poll[2].ask"]
    run.succeed("poll[2].ask", {"done": True, "new": True})
    assert run.output_of("poll") == {"done": True, "new": True} and run.running() == ["after"]


def test_a_cancel_while_it_waits_and_a_retry_go_on_with_the_condition() -> None:
    run = Driven(poll(every="1h"))
    run.succeed("poll[0].ask", {})
    run.cancel()
    assert run.state_of("poll") == "CANCELLED"
    run.retry()
    assert run.state_of("poll") == "WAITING"
    run.pass_until_due()
    assert run.running() == ["poll[1].ask"]
