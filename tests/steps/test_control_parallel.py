"""`parallel`: the graph of needs, failures, output, crashes and retries."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.driven import Driven, act, give


def both(*steps: dict[str, Any], fail_fast: bool | None = None, **own: Any) -> dict[str, Any]:
    config: Any = list(steps) if fail_fast is None else {"steps": list(steps), "fail_fast": fail_fast}
    return {"id": "both", "parallel": config, **own}


def test_steps_run_together_and_the_output_is_an_object_by_id() -> None:
    run = Driven(both(act("a"), act("b"), give("c", 3)))
    assert run.running() == ["a", "b"]
    run.succeed("b", 2)
    assert run.state == "RUNNING"
    run.succeed("a", 1)
    assert run.state == "SUCCEEDED" and run.output_of("both") == {"a": 1, "b": 2, "c": 3}
    assert list(run.output_of("both")) == ["a", "b", "c"]


def test_a_step_begins_when_all_that_it_needs_have_ended() -> None:
    run = Driven(both(act("last", needs=["a", "b"]), act("a"), act("b", needs=["a"]), act("free")))
    assert run.running() == ["a", "free"]
    run.succeed("a")
    assert run.running() == ["free", "b"]
    run.succeed("free")
    assert run.running() == ["b"]
    run.succeed("b")
    assert run.running() == ["last"]
    run.succeed("last", "x")
    assert run.output_of("both") == {"last": "x", "a": None, "b": None, "free": None}


def test_a_skipped_need_counts_as_met() -> None:
    run = Driven(both(give("a", if_=False), act("b", needs=["a"])))
    assert run.state_of("a") == "SKIPPED" and run.running() == ["b"]


@pytest.mark.parametrize(
    "taken", [{"continue_on_error": True}, {"catch": [give("caught")]}], ids=["continue_on_error", "catch"]
)
def test_a_failed_need_that_is_taken_counts_as_met(taken: dict[str, Any]) -> None:
    run = Driven(both(act("a", **taken), act("b", needs=["a"])))
    run.fail("a")
    assert run.running() == ["b"]
    run.succeed("b", 1)
    assert run.state == "SUCCEEDED" and run.output_of("both") == {"a": None, "b": 1}


def test_after_a_failed_need_the_step_is_skipped_and_what_needs_it_in_turn() -> None:
    run = Driven(both(act("a"), act("d", needs=["c"]), act("b", needs=["a"]), act("c", needs=["b"]), act("free")))
    run.fail("a")
    assert [run.state_of(id) for id in "bcd"] == ["SKIPPED"] * 3
    assert [run.codes(id)[-1] for id in "bcd"] == ["NEED_FAILED"] * 3
    assert run.state == "RUNNING" and run.running() == ["free"], "the others go on to their ends"
    run.succeed("free")
    assert run.state == "FAILED" and run.error is not None and run.error.step == "a"


def test_the_failure_is_that_of_the_first_failed_step_of_the_document() -> None:
    run = Driven(both(act("a"), act("b")))
    run.fail("b")
    run.fail("a")
    assert run.error is not None and run.error.step == "a"


def test_with_fail_fast_the_others_are_cancelled_and_the_rest_do_not_begin() -> None:
    run = Driven(both(act("a"), act("b"), act("c", needs=["b"]), fail_fast=True))
    run.fail("a")
    assert run.state == "FAILED"
    assert run.states() == {"both": "FAILED", "a": "FAILED", "b": "CANCELLED"}


def test_continue_on_error_keeps_the_object() -> None:
    run = Driven(both(act("a"), act("b"), continue_on_error=True), give("after", "${{ [$both, $a, $b] }}"))
    run.fail("a")
    run.succeed("b", 2)
    assert run.state == "SUCCEEDED"
    assert run.output_of("after") == [{"a": None, "b": 2}, None, 2]


def test_after_a_crash_a_skipped_need_still_stands_for_the_failure_behind_it() -> None:
    run = Driven(both(act("a"), act("b", needs=["a"]), act("c"), act("d", needs=["b", "c"])))
    run.fail("a")
    run.die()
    run.succeed("c")
    assert run.state_of("d") == "SKIPPED" and run.state == "FAILED"


def test_with_fail_fast_nothing_goes_on_inside_where_the_failure_is_taken() -> None:
    inner = {"id": "inner", "foreach": {"items": [1, 2], "max_parallel": 2, "steps": [act("x")]}}
    run = Driven(both(act("a"), inner, fail_fast=True, continue_on_error=True), act("after"))
    run.fail("a")
    assert run.running() == ["after"]
    assert [run.state_of(path) for path in ("inner", "inner[0].x", "inner[1].x")] == ["CANCELLED"] * 3


def test_a_crash_changes_nothing() -> None:
    run = Driven(both(act("a"), act("b", needs=["a"]), act("c"), act("d", needs=["c"]), give("e", if_=False)))
    run.fail("a")
    run.die()
    assert run.running() == ["c"] and run.state_of("b") == "SKIPPED"
    run.succeed("c", 3)
    run.die()
    assert run.running() == ["d"]
    run.succeed("d", 4)
    assert run.state == "FAILED" and run.error is not None and run.error.step == "a"


def test_a_retry_runs_what_failed_and_what_was_skipped_because_of_it() -> None:
    run = Driven(both(act("a"), act("b", needs=["a"]), act("c", needs=["b"]), act("d"), give("e", if_=False)))
    run.succeed("d", 4)
    run.fail("a")
    assert run.state == "FAILED"
    run.retry()
    assert run.running() == ["a"]
    run.die()
    assert run.running() == ["a"]
    run.succeed("a", 1)
    assert run.running() == ["b"], "it was skipped because of the failure"
    run.die()
    run.succeed("b", 2)
    run.succeed("c", 3)
    assert run.state == "SUCCEEDED" and run.output_of("both") == {"a": 1, "b": 2, "c": 3, "d": 4, "e": None}
    assert run.run.steps["d"].generation == 1


def test_a_retry_that_fails_again_skips_again() -> None:
    run = Driven(both(act("a"), act("b", needs=["a"])))
    run.fail("a")
    run.retry()
    run.fail("a")
    assert (run.state, run.state_of("b"), run.run.steps["b"].generation) == ("FAILED", "SKIPPED", 2)


def test_a_retry_from_a_step_runs_what_needs_it_and_leaves_its_siblings() -> None:
    run = Driven(both(act("a"), act("b", needs=["a"]), act("c")), act("after"))
    run.succeed("a", "old")
    run.succeed("c", "kept")
    run.succeed("b", "old")
    run.fail("after")
    run.retry("a")
    assert run.running() == ["a"]
    run.succeed("a", "new")
    run.die()
    run.succeed("b", "new")
    assert run.output_of("both") == {"a": "new", "b": "new", "c": "kept"}
    assert run.running() == ["after"]


def test_steps_see_what_they_need() -> None:
    run = Driven(both(give("a", 1), give("b", "${{ $a + 1 }}", needs=["a"])))
    assert run.output_of("both") == {"a": 1, "b": 2}


def test_many_skipped_in_a_chain_need_no_deep_stack() -> None:
    chain = [act("n0"), *(act(f"n{at}", needs=[f"n{at - 1}"]) for at in range(1, 450))]
    run = Driven(both(*reversed(chain)))
    run.fail("n0")
    assert run.state == "FAILED" and run.state_of("n449") == "SKIPPED"
