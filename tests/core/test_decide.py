"""What decide does in the cases that people meet: told one by one. `test_decide_any` has all others."""

from __future__ import annotations

from typing import Any

import pytest

from taskforge.core import events as ev
from taskforge.core.decide import decide
from taskforge.core.definition import load_plan
from taskforge.core.errors import Failure
from taskforge.core.model import JSON, SKIPPED, AttemptFailure, Prepared
from taskforge.core.rows import Context
from taskforge.core.snapshot import Changes, RunSnapshot, StepRun
from taskforge.expressions.template import parse_template
from tests.core.stored_run import StoredRun
from tests.core.test_decide_any import KINDS
from tests.support.clock import ManualClock

REFUSED = AttemptFailure(Failure("CONNECT_REFUSED", "refused"), "network")
UNKNOWN_HOST = AttemptFailure(Failure("INVALID_URL", "no"), None)


class Driven:
    """A run that a test drives; every decision is stored and checked."""

    def __init__(self, *steps: dict[str, Any], values: dict[str, Prepared | None] | None = None, **top: Any) -> None:
        named = [{"id": f"s{number}"} | step for number, step in enumerate(steps)]
        self.plan = load_plan({"name": "w", "steps": named, **top}, KINDS, parse_template)
        self.clock = ManualClock()
        self.values = values or {}
        self.slots = 8
        self.stored = StoredRun(self.plan, self.clock.now(), 1_000)
        self.run = RunSnapshot("run_1", "w", 1, self.plan, {}, {}, self.clock.now())
        self.last: Changes = self.decide(ev.Begun())

    def decide(self, *events: ev.Event) -> Changes:
        def prepare(run: RunSnapshot, at: StepRun | None, name: str) -> Prepared | None:
            if at is None:
                return self.values.get("", Prepared("the output"))
            value = None if at.step.kind.name == "switch" else at.step.config
            return self.values.get(at.step.id, Prepared(value))

        context = Context(self.clock.now(), self.clock, "node_1", self.slots, 30_000, 1_000, prepare)
        self.last = decide(self.run, events, context)
        if not self.last.is_empty:
            self.stored.apply(self.last)
            self.run.revision, self.run.key = self.stored.revision, 1
        return self.last

    def token(self, path: str) -> str:
        (found,) = [row.record.id for row in self.stored.running if row.record.path == path]
        return found

    def succeed(self, path: str, output: JSON = None) -> Changes:
        return self.decide(ev.AttemptSucceeded(path, self.token(path), output))

    def fail(self, path: str, result: AttemptFailure = REFUSED) -> Changes:
        return self.decide(ev.AttemptFailed(path, self.token(path), result))

    def die(self) -> None:
        self.stored.die(self.clock.now())
        self.stored.take("node_1")
        self.run = self.stored.load()

    def retry(self) -> Changes:
        self.run = self.stored.load()
        return self.decide(ev.RetryAsked())

    @property
    def state(self) -> str:
        assert self.stored.run is not None
        return self.stored.run.state

    @property
    def error(self) -> str | None:
        return None if self.run.error is None else self.run.error.code

    def states(self) -> dict[str, str]:
        return {path: str(row.state) for path, row in self.stored.steps.items()}


ACT: dict[str, Any] = {"act": 1, "retry": {"jitter": "none"}}
PURE: dict[str, Any] = {"transform": 1}


def test_steps_without_side_effects_are_one_decision() -> None:
    run = Driven(PURE, PURE, {"switch": [{"else": [{"id": "in", **PURE}]}]}, output=1)
    assert run.state == "SUCCEEDED" and run.run.output == "the output"
    assert run.stored.revision == 1
    assert run.states() == {"s0": "SUCCEEDED", "s1": "SUCCEEDED", "s2": "SUCCEEDED", "in": "SUCCEEDED"}


def test_the_attempt_of_the_next_action_begins_in_the_decision_that_made_it_ready() -> None:
    run = Driven(PURE, ACT, PURE, ACT)
    assert [lease.path for lease in run.last.leases] == ["s1"]
    run.succeed("s1", {"a": 1})
    assert [lease.path for lease in run.last.leases] == ["s3"]
    assert run.run.steps["s1"].output == {"a": 1}


def test_a_failed_attempt_is_followed_by_another_after_its_pause() -> None:
    run = Driven(ACT)
    run.fail("s0")
    assert run.run.due_at == run.clock.now() + 1_000 and run.run.owner is None
    run.clock.advance(999)
    run.decide(ev.TimePassed())
    assert not run.last.leases
    run.clock.advance(1)
    run.decide(ev.TimePassed())
    assert [lease.number for lease in run.last.leases] == [2]
    run.fail("s0")
    assert run.run.due_at == run.clock.now() + 2_000


def test_retry_after_of_the_server_is_added_to_the_pause() -> None:
    run = Driven(ACT)
    run.fail("s0", AttemptFailure(Failure("STATUS_UNEXPECTED", "busy"), status=503, retry_after_ms=7_000))
    assert run.run.due_at == run.clock.now() + 8_000


def test_when_the_attempts_are_used_up_the_step_is_a_dead_letter_and_the_run_failed() -> None:
    run = Driven({"act": {"to": "x"}, "retry": {"jitter": "none", "max_attempts": 2}})
    run.fail("s0")
    run.clock.advance(1_000)
    run.decide(ev.TimePassed())
    run.fail("s0")
    assert (run.state, run.error) == ("FAILED", "CONNECT_REFUSED")
    (letter,) = run.last.dead_letters
    assert (letter.path, letter.input) == ("s0", '{"to":"x"}')
    assert run.run.error == Failure("CONNECT_REFUSED", "refused", "s0", 2)


def test_an_error_that_is_not_retried_fails_at_once() -> None:
    run = Driven(ACT)
    run.fail("s0", UNKNOWN_HOST)
    assert run.state == "FAILED" and len(run.last.dead_letters) == 1


def test_an_error_of_an_expression_is_never_retried() -> None:
    run = Driven(ACT, values={"s0": Prepared(failure=Failure("EXPRESSION_ERROR", "no"))})
    assert (run.state, run.error) == ("FAILED", "EXPRESSION_ERROR")
    assert not run.stored.attempts


def test_continue_on_error_goes_on_with_null_and_without_a_dead_letter() -> None:
    run = Driven(ACT | {"continue_on_error": True}, PURE)
    run.fail("s0", UNKNOWN_HOST)
    assert run.state == "SUCCEEDED" and run.states()["s0"] == "FAILED"
    assert run.run.steps["s0"].output is None and not run.stored.dead_letters


def test_a_step_whose_if_is_false_is_skipped() -> None:
    run = Driven(ACT, PURE, values={"s0": SKIPPED})
    assert run.states() == {"s0": "SKIPPED", "s1": "SUCCEEDED"}


def test_fail_ends_the_run_without_a_dead_letter_and_succeed_ends_it_at_once() -> None:
    run = Driven({"fail": {"message": "no", "code": "X"}}, ACT)
    assert (run.state, run.error) == ("FAILED", "X") and not run.stored.dead_letters
    run = Driven({"succeed": {"output": 3}}, ACT, output=1)
    assert run.state == "SUCCEEDED" and run.run.output == 3 and list(run.states()) == ["s0"]


def test_succeed_inside_a_switch_ends_the_run_and_cuts_the_switch_off() -> None:
    run = Driven({"switch": [{"else": [{"id": "in", "succeed": {"output": 3}}]}]}, ACT)
    assert run.state == "SUCCEEDED"
    assert run.states() == {"s0": "CANCELLED", "in": "SUCCEEDED"}


def test_the_output_of_a_switch_is_that_of_its_last_step_or_null() -> None:
    branches = [{"when": True, "steps": [{"id": "a", "transform": 1}, {"id": "b", "transform": 2}]}]
    run = Driven({"switch": branches}, values={"s0": Prepared(0)})
    assert run.run.steps["s0"].output == 2 and run.run.steps["s0"].data == {"branch": 0}
    run = Driven({"switch": branches}, values={"s0": Prepared(None)})
    assert run.run.steps["s0"].output is None and run.run.steps["s0"].data == {"branch": None}
    assert run.states() == {"s0": "SUCCEEDED"}


def test_a_failing_inner_step_fails_the_switch_with_the_same_error() -> None:
    run = Driven({"switch": [{"else": [{"id": "in", **ACT}]}]})
    run.fail("in", UNKNOWN_HOST)
    assert run.states() == {"s0": "FAILED", "in": "FAILED"}
    assert run.run.error == Failure("INVALID_URL", "no", "in", 1)
    assert run.run.steps["s0"].error == run.run.error


def test_an_output_above_the_limit_fails_the_step() -> None:
    run = Driven(ACT)
    run.succeed("s0", "x" * 2_000)
    assert run.error == "OUTPUT_TOO_LARGE"
    assert Driven({"transform": "x" * 2_000}).error == "OUTPUT_TOO_LARGE"
    assert Driven({"succeed": {"output": "x" * 2_000}}).error == "OUTPUT_TOO_LARGE"
    assert Driven(PURE, output=1, values={"": Prepared("x" * 2_000)}).error == "OUTPUT_TOO_LARGE"


def test_a_steps_time_limit_counts_all_attempts_and_pauses() -> None:
    run = Driven(ACT | {"timeout": 5})
    run.clock.advance(4_500)
    run.fail("s0")
    assert (run.state, run.error) == ("FAILED", "STEP_TIMEOUT"), "the next attempt would begin too late"
    run = Driven(ACT | {"timeout": 5})
    token = run.token("s0")
    run.clock.advance(5_000)
    run.decide(ev.TimePassed())
    assert run.error == "STEP_TIMEOUT" and run.last.aborts == [token] and len(run.last.dead_letters) == 1


def test_the_runs_time_limit_cancels_what_is_under_way() -> None:
    run = Driven(ACT, timeout=2)
    token = run.token("s0")
    run.clock.advance(2_000)
    run.decide(ev.TimePassed())
    assert (run.state, run.error) == ("FAILED", "RUN_TIMEOUT")
    assert run.last.aborts == [token] and run.states() == {"s0": "CANCELLED"} and not run.stored.dead_letters


def test_cancel_ends_everything_and_a_late_outcome_changes_nothing() -> None:
    run = Driven(ACT, ACT)
    token = run.token("s0")
    run.decide(ev.CancelAsked())
    assert (run.state, run.error) == ("CANCELLED", "CANCELLED") and run.last.aborts == [token]
    assert run.decide(ev.AttemptSucceeded("s0", token, 1)).is_empty
    assert run.decide(ev.CancelAsked()).is_empty


def test_a_released_attempt_is_lost_and_does_not_count() -> None:
    run = Driven(ACT)
    run.decide(ev.AttemptReleased("s0", run.token("s0")))
    assert run.run.owner is None and run.run.due_at == run.clock.now()
    run.decide(ev.TimePassed())
    assert [lease.number for lease in run.last.leases] == [2]
    assert run.run.steps["s0"].failures == 0


def test_without_a_slot_an_action_waits_and_the_run_is_free_for_others() -> None:
    run = Driven(ACT)
    run.slots = 0
    run.fail("s0")
    run.clock.advance(1_000)
    run.decide(ev.TimePassed())
    assert run.last.starved and not run.last.leases
    assert run.run.owner is None and run.run.due_at is not None and run.run.due_at <= run.clock.now()


def test_what_needs_the_jq_child_is_asked_for_and_taken_up_when_it_comes() -> None:
    run = Driven(ACT, output=1, values={"s0": None, "": None})
    assert run.last.needs == [("s0", "")] and run.run.owner == "node_1"
    run.decide(ev.StepPrepared("s0", Prepared({"a": 1})))
    assert len(run.last.leases) == 1
    run.succeed("s0")
    assert run.last.needs == [("", "output")] and run.state == "RUNNING"
    run.decide(ev.StepPrepared("", Prepared(5), "output"))
    assert run.state == "SUCCEEDED" and run.run.output == 5


def test_a_retry_takes_up_at_the_failed_step_and_keeps_what_had_succeeded() -> None:
    run = Driven(ACT, ACT)
    run.succeed("s0", 1)
    run.fail("s1", UNKNOWN_HOST)
    run.clock.advance(60_000)
    run.retry()
    assert (run.run.generation, [lease.path for lease in run.last.leases]) == (2, ["s1"])
    assert run.run.steps["s1"].idempotency_suffix == "s1~2" and run.run.steps["s0"].idempotency_suffix == "s0"
    assert run.stored.dead_letters == {("s1", 1): "RETRIED"}
    run.succeed("s1", 2)
    assert run.state == "SUCCEEDED"


def test_a_retry_goes_on_inside_the_branch_that_had_been_taken() -> None:
    steps = [{"id": "a", **ACT}, {"id": "b", **ACT}]
    run = Driven({"switch": [{"when": True, "steps": steps}, {"else": []}]}, values={"s0": Prepared(0)})
    run.succeed("a", 1)
    run.fail("b", UNKNOWN_HOST)
    run.values["s0"] = Prepared(None)
    run.retry()
    assert run.states() == {"s0": "RUNNING", "a": "SUCCEEDED", "b": "RUNNING"}
    run.succeed("b", 2)
    assert run.state == "SUCCEEDED" and run.run.steps["s0"].output == 2


def test_a_retry_after_a_cancel_runs_what_was_cut_off_even_if_its_errors_are_continued() -> None:
    run = Driven(ACT | {"continue_on_error": True}, PURE)
    run.decide(ev.CancelAsked())
    run.retry()
    assert run.states() == {"s0": "RUNNING"}


def test_a_retry_leaves_alone_what_is_inside_a_block_that_failed_and_was_continued() -> None:
    run = Driven({"switch": [{"else": [{"id": "in", **ACT}]}], "continue_on_error": True}, ACT)
    run.fail("in", UNKNOWN_HOST)
    run.fail("s1", UNKNOWN_HOST)
    run.retry()
    assert run.states() == {"s0": "FAILED", "in": "FAILED", "s1": "RUNNING"}
    run.succeed("s1")
    assert run.state == "SUCCEEDED"


def test_a_run_that_is_put_off_begins_when_its_time_comes() -> None:
    run = Driven(PURE)
    later = RunSnapshot("run_2", "w", 1, run.plan, {}, {}, run.clock.now(), start_at=run.clock.now() + 5_000)
    run.run, run.stored = later, StoredRun(run.plan, run.clock.now(), 1_000)
    run.decide(ev.Begun())
    assert run.state == "QUEUED" and run.run.due_at == run.clock.now() + 5_000 and not run.stored.steps
    run.clock.advance(5_000)
    run.stored.take("node_1")
    run.run = run.stored.load()
    run.run.start_at = run.clock.now()
    run.decide(ev.TakenUp())
    assert run.state == "SUCCEEDED"


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_death_of_the_server_costs_no_attempt(deaths: int) -> None:
    run = Driven(ACT)
    for _ in range(deaths):
        run.die()
        run.decide(ev.TakenUp())
    assert [row.state for row in run.stored.attempts.values()] == ["LOST"] * deaths + ["RUNNING"]
    run.succeed("s0")
    assert run.state == "SUCCEEDED" and run.run.steps["s0"].crashes == 0


def test_a_step_that_kills_the_server_is_failed_only_when_it_kills_it_alone() -> None:
    run = Driven(ACT)
    for _ in range(3):
        run.die()
        run.decide(ev.TakenUp())
    assert run.run.suspect == 2 and run.state == "RUNNING", "taken up alone"
    run.die()
    run.decide(ev.TakenUp())
    assert (run.state, run.error) == ("FAILED", "CRASH_LOOP")
    assert len(run.stored.dead_letters) == 1
    run.retry()
    assert run.run.suspect == 0 and run.run.steps["s0"].crashes == 0


def test_a_suspect_that_ends_an_attempt_is_no_suspect_any_more() -> None:
    run = Driven(ACT, ACT)
    for _ in range(3):
        run.die()
        run.decide(ev.TakenUp())
    run.succeed("s0")
    assert run.run.suspect == 0 and run.state == "RUNNING"
