"""What decide does with handlers, undo, unknown outcomes, limits and retries, told one by one.

`test_decide_language_any` has all other orders of events.
"""

from __future__ import annotations

from typing import Any

import pytest

from taskforge.core import events as ev
from taskforge.core.errors import Failure
from taskforge.core.model import AttemptFailure
from tests.core.driven import BROKEN, OWNER, REFUSED, WRONG, Driven, act, give

ONCE: dict[str, Any] = {"act": 1, "effect": "once", "retry": {"max_attempts": 2, "jitter": "none", "initial": "1s"}}
TIMED_OUT = AttemptFailure(Failure("ATTEMPT_TIMEOUT", "too long"), "timeout", timed_out=True)


# ---- handlers around a step


def test_catch_takes_the_failure_and_sees_it() -> None:
    run = Driven(act("a", catch=[give("told", "${{ $error.code }}")]), give("after", "${{ [$a, $told] }}"))
    run.fail("a")
    assert run.state == "SUCCEEDED" and run.output_of("after") == [None, "STATUS_UNEXPECTED"]
    assert not run.stored.dead_letters


@pytest.mark.parametrize("succeeds", [True, False])
def test_finally_runs_whatever_came_of_the_step(succeeds: bool) -> None:
    run = Driven(act("a", finally_=[act("tidy")]), act("after"))
    run.succeed("a") if succeeds else run.fail("a")
    assert run.running() == ["tidy"]
    run.die()
    run.succeed("tidy")
    assert (run.running(), run.state) == ((["after"], "RUNNING") if succeeds else ([], "FAILED"))


def test_catch_comes_before_finally_and_a_failing_handler_changes_nothing() -> None:
    run = Driven(act("a", catch=[act("c1"), act("c2")], finally_=[act("f")]), act("after"))
    run.fail("a")
    run.fail("c1")
    assert run.state_of("c2") is None and run.running() == ["f"]
    run.fail("f")
    assert run.running() == ["after"] and set(run.stored.dead_letters) == {("c1", 1), ("f", 1)}


@pytest.mark.parametrize("taken", [{"continue_on_error": True}, {"catch": [give("c")]}])
def test_what_a_block_around_it_takes_is_no_dead_letter(taken: dict[str, Any]) -> None:
    run = Driven({"switch": [{"else": [act("a")]}], **taken}, act("after"))
    run.fail("a")
    assert run.running() == ["after"] and not run.stored.dead_letters


def test_a_retry_runs_the_handlers_of_a_step_again_and_a_crash_does_not_pass_them_over() -> None:
    run = Driven(act("a", finally_=[act("f1"), act("f2")]))
    run.fail("a")
    run.succeed("f1")
    run.succeed("f2")
    run.retry()
    run.succeed("a")
    assert run.running() == ["f1"]
    run.succeed("f1")
    run.die()
    assert run.running() == ["f2"], "that it had run before the retry means nothing"
    assert run.run.steps["f2"].generation == 2
    run.succeed("f2")
    assert run.state == "SUCCEEDED"


def test_a_handler_that_a_cancel_cut_off_goes_on_in_a_retry() -> None:
    run = Driven(act("a", catch=[act("c1"), act("c2")]), act("after"))
    run.fail("a")
    run.succeed("c1")
    run.cancel()
    run.retry()
    assert run.running() == ["c2"] and run.run.steps["a"].generation == 1
    run.succeed("c2")
    assert run.running() == ["after"]


# ---- the end of a run


def test_undo_runs_in_reverse_order_then_the_handlers_of_the_run() -> None:
    run = Driven(
        act("a", undo=[act("undo_a")]),
        act("b", undo=[act("undo_b1"), act("undo_b2")]),
        act("c"),
        on_failure=[act("told")],
        finally_=[act("tidy")],
    )
    run.succeed("a")
    run.succeed("b")
    run.fail("c")
    for path in ("undo_b1", "undo_b2", "undo_a", "told", "tidy"):
        run.die()
        assert run.running() == [path] and run.state == "RUNNING"
        run.succeed(path)
    assert run.state == "FAILED" and run.error is not None and run.error.step == "c" and run.run.undone


def test_what_ends_in_the_same_moment_is_undone_in_reverse_too() -> None:
    """A block ends after what is inside it, the tenth item after the ninth."""
    items = {"items": list(range(11)), "steps": [give("i", undo=[give("undo_i")], continue_on_error=True)]}
    block = {"id": "block", "switch": [{"else": [give("x", undo=[give("undo_x")])]}], "undo": [give("undo_block")]}
    run = Driven(block, {"id": "each", "foreach": items}, act("last"))
    run.fail("last")
    undone = [
        entry["step"] for entry in run.stored.journal if "undo" in entry.get("step", "") and entry["to"] == "QUEUED"
    ]
    assert undone == [*(f"each[{at}].undo_i" for at in range(10, -1, -1)), "undo_block", "undo_x"]


def test_a_failing_undo_does_not_stop_the_others() -> None:
    run = Driven(act("a", undo=[act("undo_a")]), act("b", undo=[act("undo_b")]), act("c"))
    run.succeed("a")
    run.succeed("b")
    run.fail("c")
    run.fail("undo_b")
    assert run.running() == ["undo_a"]


def test_nothing_is_undone_after_a_cancel_or_success() -> None:
    run = Driven(act("a", undo=[act("undo_a")]), act("b"))
    run.succeed("a")
    run.cancel()
    assert run.state == "CANCELLED" and run.state_of("undo_a") is None


def test_finally_runs_after_a_cancel_and_a_second_cancel_stops_it() -> None:
    run = Driven(act("a"), finally_=[act("tidy")])
    run.cancel()
    assert run.running() == ["tidy"] and run.state == "RUNNING"
    run.cancel()
    assert run.state == "CANCELLED" and run.state_of("tidy") == "CANCELLED"


def test_a_cancel_during_finally_keeps_the_output_that_the_run_had() -> None:
    run = Driven(give("a", 5), output="${{ $a }}", finally_=[act("tidy")])
    run.cancel()
    assert (run.state, run.run.output) == ("SUCCEEDED", 5)


def test_a_retry_runs_the_handlers_of_the_run_again() -> None:
    run = Driven(act("a"), on_failure=[act("told"), act("twice")])
    run.fail("a")
    run.succeed("told")
    run.succeed("twice")
    assert run.state == "FAILED"
    run.retry()
    run.fail("a")
    run.succeed("told")
    run.die()
    assert run.running() == ["twice"]
    run.succeed("twice")
    assert run.state == "FAILED" and run.run.steps["twice"].generation == 2


# ---- effect: once


@pytest.mark.parametrize("result", [BROKEN, TIMED_OUT])
def test_an_unknown_outcome_is_not_sent_again(result: AttemptFailure) -> None:
    run = Driven({"id": "pay", **ONCE})
    run.fail("pay", result)
    assert run.error is not None and run.error.code == "UNKNOWN_OUTCOME"
    assert set(run.stored.dead_letters) == {("pay", 1)}


def test_a_lost_attempt_is_not_sent_again() -> None:
    run = Driven({"id": "pay", **ONCE})
    run.die()
    assert run.error is not None and run.error.code == "UNKNOWN_OUTCOME"


@pytest.mark.parametrize("result", [REFUSED, AttemptFailure(Failure("STATUS_UNEXPECTED", "busy"), status=503)])
def test_a_known_outcome_is_retried(result: AttemptFailure) -> None:
    run = Driven({"id": "pay", **ONCE})
    run.fail("pay", result)
    run.pass_until_due()
    assert run.running() == ["pay"]


def test_a_probe_that_says_done_gives_the_output() -> None:
    run = Driven({"id": "pay", **ONCE, "probe": [act("look")]})
    run.fail("pay", BROKEN)
    assert run.running() == ["look"] and run.state_of("pay") == "QUEUED"
    run.die()
    assert run.running() == ["look"] and run.stored.steps["pay"].available_at is not None
    run.succeed("look", {"done": True, "output": 7})
    assert run.state == "SUCCEEDED" and run.output_of("pay") == 7


def test_a_probe_that_says_not_done_leads_to_a_retry_that_counts() -> None:
    run = Driven({"id": "pay", **ONCE, "probe": [act("look")]})
    run.fail("pay", BROKEN)
    run.succeed("look", False)
    assert not run.running() and run.run.due_at == run.clock.now() + 1_000
    run.pass_until_due()
    run.fail("pay", BROKEN)
    assert run.running() == ["look"] and run.run.steps["look"].generation == 2
    run.succeed("look", {"done": False})
    assert run.error == Failure("CONNECTION_RESET", "broken", "pay", 2), "the two attempts are used up"


def test_a_probe_after_a_lost_attempt_leads_to_another_at_once() -> None:
    run = Driven({"id": "pay", **ONCE, "probe": [act("look")]})
    run.die()
    run.succeed("look", False)
    assert run.running() == ["pay"]


@pytest.mark.parametrize("answer", [None, "yes", {"done": "maybe"}, []])
def test_a_probe_without_an_answer_leaves_the_outcome_unknown(answer: Any) -> None:
    run = Driven({"id": "pay", **ONCE, "probe": [act("look")]})
    run.fail("pay", BROKEN)
    run.succeed("look", answer)
    assert run.error is not None and run.error.code == "UNKNOWN_OUTCOME"


def test_a_probe_still_runs_when_the_steps_time_limit_cut_the_attempt_off() -> None:
    run = Driven({"id": "pay", **ONCE, "timeout": "10s", "probe": [act("look")]})
    run.pass_time(10_000)
    assert run.running() == ["look"]
    run.pass_time(60_000)
    assert run.running() == ["look"]
    run.succeed("look", True)
    assert run.state == "SUCCEEDED"


def test_a_probe_that_says_not_done_after_the_time_limit_fails_the_step() -> None:
    run = Driven({"id": "pay", **ONCE, "timeout": "10s", "probe": [act("look")]})
    run.pass_time(10_000)
    run.succeed("look", False)
    assert run.error is not None and run.error.code == "STEP_TIMEOUT"


# ---- limits


def test_a_rate_limit_gives_a_time_that_a_load_does_not_put_off() -> None:
    limited = {"act": 1, "rate_limit": {"key": "k", "max": 1, "per": "1s"}}
    run = Driven({"id": "each", "foreach": {"items": [1, 2, 3], "steps": [{"id": "a", **limited}]}})
    begun = run.clock.now()
    for index in range(3):
        path = f"each[{index}].a"
        while not run.running():
            run.pass_until_due()
        assert run.running() == [path] and run.clock.now() == begun + 1_000 * index
        run.succeed(path)
    assert run.state == "SUCCEEDED"


def test_a_retry_of_a_run_with_a_place_asks_for_one_again_and_keeps_what_to_retry() -> None:
    run = Driven(act("a"), act("b"), concurrency={"key": "k", "on_limit": "skip"})
    assert run.last.claim is not None
    run.stored.grant(run.clock.now())
    run.take_up()
    run.succeed("a")
    run.fail("b")
    assert run.state == "FAILED"
    run.retry()
    assert run.state == "QUEUED" and not run.running()
    run.stored.grant(run.clock.now())
    run.take_up()
    assert run.running() == ["b"] and run.run.steps["a"].generation == 1
    run.succeed("b")
    assert run.state == "SUCCEEDED"


def test_a_run_that_waits_for_nothing_but_a_child_is_looked_at_once_a_day() -> None:
    run = Driven({"id": "child", "workflow": {"name": "other"}})
    run.suspend("child")
    assert run.run.owner is None and run.run.due_at == run.clock.now() + 86_400_000


# ---- the retry condition


JUDGED: dict[str, Any] = {"retry": {"when": '${{ $error.code == "STATUS_UNEXPECTED" }}', "jitter": "none"}}


def test_the_retry_condition_decides_and_sees_the_error() -> None:
    run = Driven(act("a", **JUDGED))
    run.fail("a", WRONG)
    run.pass_until_due()
    assert run.running() == ["a"]
    run.fail("a", REFUSED)
    assert run.error is not None and run.error.code == "CONNECT_REFUSED"


def test_a_crash_while_the_retry_condition_is_evaluated_asks_it_again() -> None:
    run = Driven(act("a", **JUDGED), in_child=lambda path, name: name == "retry")
    run.fail("a", REFUSED)
    assert run.last.needs == [("a", "retry")]
    run.die()
    assert run.last.needs == [("a", "retry")] and not run.running()
    run.answer("a", "retry")
    assert run.error is not None and run.error.code == "CONNECT_REFUSED"


# ---- time


def test_a_retry_that_comes_due_while_another_step_ends_is_not_missed() -> None:
    run = Driven({"parallel": [act("a", retry={"jitter": "none"}), act("b"), act("c")]})
    run.fail("a", REFUSED)
    assert run.last.wake_at == run.clock.now() + 1_000
    run.clock.advance(1_000)
    run.succeed("b")
    assert run.running() == ["c", "a"]


def test_the_run_s_time_limit_is_not_missed_when_an_event_comes_first() -> None:
    run = Driven(act("a"), act("b"), timeout="10s")
    run.clock.advance(10_000)
    run.succeed("a")
    assert run.error is not None and run.error.code == "RUN_TIMEOUT"


def test_an_attempt_that_ends_in_the_decision_that_began_it_has_not_been() -> None:
    """It is not stored: an end of it would be refused, again and again."""
    run = Driven({"parallel": {"steps": [act("a"), {"id": "b", "fail": {}}], "fail_fast": True}})
    assert run.state == "FAILED" and run.state_of("a") == "CANCELLED"
    assert not run.stored.attempts and not run.last.starts and not run.last.aborts
    assert run.stored.steps["a"].attempts == 0


# ---- a retry from a step


def test_a_retry_from_a_step_runs_it_and_all_that_came_after_in_their_order() -> None:
    run = Driven(act("a"), act("b"), act("c"), act("d"))
    for path in "abc":
        run.succeed(path, f"old {path}")
    run.fail("d")
    run.retry("b")
    assert run.running() == ["b"]
    run.pass_time(1_000)
    assert run.running() == ["b"], "nothing after it begins before it has ended"
    run.die()
    run.succeed("b")
    assert run.running() == ["c"] and run.run.steps["c"].generation == 2 and run.run.steps["a"].generation == 1
    run.succeed("c")
    run.succeed("d")
    assert run.state == "SUCCEEDED"


def test_blocks_after_the_step_are_decided_anew() -> None:
    branches = [{"when": "${{ $a }}", "steps": [act("yes")]}, {"else": [act("no")]}]
    items = {"items": "${{ $list }}", "steps": [act("x")], "max_parallel": 9}
    run = Driven(act("a"), {"id": "which", "switch": branches}, act("list"), {"id": "each", "foreach": items}, act("z"))
    run.succeed("a", True)
    run.succeed("yes", "old")
    run.succeed("list", [1, 2])
    run.succeed("each[0].x")
    run.succeed("each[1].x")
    run.fail("z")
    run.retry("a")
    run.succeed("a", False)
    assert run.running() == ["no"]
    run.succeed("no")
    run.succeed("list", [1])
    assert run.running() == ["each[0].x"]
    run.succeed("each[0].x", "new")
    assert run.output_of("each") == ["new"] and run.running() == ["z"]
    run.succeed("z")
    assert run.state == "SUCCEEDED"
    assert run.stored.steps["yes"].stage == "aside", "what the branch gave before is history"


def test_what_was_set_aside_is_null_to_the_handlers_until_it_runs_again() -> None:
    run = Driven(act("a"), act("b"), act("c"), on_failure=[give("told", "${{ [$a, $b] }}")])
    run.succeed("a", 1)
    run.succeed("b", 2)
    run.fail("c")
    run.retry("a")
    run.fail("a")
    assert run.output_of("told") == [None, None]


def test_what_was_set_aside_inside_a_block_is_null_as_well() -> None:
    branch = {"id": "which", "switch": [{"else": [act("x"), act("y")]}]}
    run = Driven(branch, act("z"), on_failure=[give("told", "${{ [$x, $y] }}")])
    run.succeed("x", 1)
    run.succeed("y", 2)
    run.fail("z")
    run.retry("x")
    run.fail("x")
    assert run.output_of("told") == [None, None]


def test_a_retry_from_a_step_of_a_branch_goes_on_in_that_branch() -> None:
    run = Driven({"id": "which", "switch": [{"else": [act("x"), act("y")]}]}, act("z"))
    run.succeed("x")
    run.succeed("y", "old")
    run.fail("z")
    run.retry("y")
    assert run.running() == ["y"]
    run.succeed("y", "new")
    assert run.output_of("which") == "new" and run.running() == ["z"]


def test_a_retry_from_a_step_of_a_handler_runs_the_handled_step_again() -> None:
    run = Driven(act("a", catch=[act("c")]), act("z"))
    run.fail("a")
    run.succeed("c")
    run.fail("z")
    run.retry("c")
    assert run.running() == ["a"]


def test_a_retry_from_a_handler_of_the_run_is_a_plain_retry() -> None:
    run = Driven(act("a"), act("z"), on_failure=[act("told")])
    run.succeed("a")
    run.fail("z")
    run.succeed("told")
    run.retry("told")
    assert run.running() == ["z"]


# ---- others


def test_who_lacks_a_slot_goes_before_who_comes_later() -> None:
    run = Driven({"parallel": [act("a"), act("b"), act("c"), act("d", needs=["a"])]}, slots=1)
    assert run.running() == ["a"] and run.last.starved
    run.succeed("a")
    assert run.running() == ["b"]
    run.succeed("b")
    run.succeed("c")
    assert run.running() == ["d"] and not run.last.starved


def test_a_long_loop_without_side_effects_is_decided_in_pieces() -> None:
    items = {"items": list(range(100)), "max_parallel": 100, "steps": [give("y", "${{ $item }}")]}
    run = Driven({"id": "each", "foreach": items}, turns=30)
    pieces = 1
    while run.state != "SUCCEEDED":
        assert run.run.owner == OWNER and run.last.wake_at == run.clock.now()
        run.die() if pieces == 2 else run.decide(ev.TimePassed())
        pieces += 1
    assert run.output_of("each") == list(range(100)) and pieces == 4


def test_a_run_is_held_by_who_decides_while_something_is_under_way() -> None:
    run = Driven({"parallel": [act("a"), {"id": "w", "wait": {"for": "1h"}}]})
    assert run.run.owner == OWNER and run.state == "RUNNING"
    run.succeed("a")
    assert run.stored.run is not None and (run.stored.run.owner, run.state) == (None, "WAITING")
    run.decide(ev.CancelAsked("no more"))
    assert run.error == Failure("CANCELLED", "no more")


def test_a_step_timeout_that_the_attempt_itself_tells_leaves_the_outcome_unknown_too() -> None:
    run = Driven({"id": "pay", **ONCE, "timeout": "10s"})
    run.fail("pay", AttemptFailure(Failure("STEP_TIMEOUT", "too long"), timed_out=True))
    assert run.error is not None and run.error.code == "UNKNOWN_OUTCOME"
