"""`wait`: for a time, until an instant, for a signal."""

from __future__ import annotations

from typing import Any

import pytest

from taskforge.core.clock import to_rfc3339
from taskforge.core.errors import Failure
from taskforge.core.model import JSON
from taskforge.steps.registry import built_in_kinds
from taskforge.steps.wait import WaitConfig, WaitKind, instant_ms, may_take, signal_schema
from tests.core.driven import Driven, act, give

DAY = 86_400_000


def wait(id: str = "hold", **config: Any) -> dict[str, Any]:
    return {"id": id, "wait": {key.rstrip("_"): value for key, value in config.items()}}


APPROVED = wait(signal="approved", timeout="24h")


# ---- for a time


def test_a_duration_counts_from_the_steps_turn_and_holds_nothing() -> None:
    run = Driven(act("first"), wait(for_="10m"), act("after"))
    run.pass_time(5_000)
    run.succeed("first")
    assert (run.state, run.state_of("hold"), run.run.owner) == ("WAITING", "WAITING", None)
    assert run.run.due_at == run.clock.now() + 600_000
    run.pass_time(600_000)
    assert run.state == "RUNNING" and run.running() == ["after"] and run.output_of("hold") is None


@pytest.mark.parametrize("form", ["text", "seconds", "fraction"])
def test_an_instant_is_text_or_seconds(form: str) -> None:
    at = 1_800_000_000_000 + 90_500
    until: JSON = {"text": to_rfc3339(at), "seconds": at // 1000, "fraction": at / 1000}[form]
    run = Driven(give("when", until), wait(until="${{ $when }}"))
    assert run.run.due_at == (at // 1000 * 1000 if form == "seconds" else at)
    run.pass_until_due()
    assert run.state == "SUCCEEDED"


@pytest.mark.parametrize("until", ["2001-01-01T00:00:00Z", 0, "2027-01-15T08:00:00.000Z"])
def test_an_instant_that_has_come_ends_the_wait_at_once(until: JSON) -> None:
    run = Driven(wait(until=until))
    assert run.state == "SUCCEEDED" and run.stored.revision == 1


@pytest.mark.parametrize("until", [None, True, "tomorrow", [], -1, 1e300, "2027-02-30T00:00:00Z", float("inf")])
def test_what_is_no_instant_fails_the_step(until: JSON) -> None:
    with pytest.raises(ValueError):
        instant_ms(until)
    if until is not None and until != float("inf"):
        run = Driven(give("when", until), wait(until="${{ $when }}"))
        assert run.error is not None and run.error.code == "INVALID_CONFIG"
        assert run.error.detail == {"path": "wait.until"}


def test_a_time_that_comes_while_another_step_ends_is_not_missed() -> None:
    """The timer of the run has not fired yet when the other branch's outcome is decided."""
    run = Driven({"parallel": [{"id": "a", "wait": {"for": "1s"}}, act("b"), act("c")]})
    assert run.last.wake_at == run.clock.now() + 1_000
    run.clock.advance(1_000)
    run.succeed("b")
    assert run.state_of("a") == "SUCCEEDED"


# ---- for a signal


def test_the_output_is_the_signals_data() -> None:
    run = Driven(APPROVED, give("after", "${{ $hold.by }}"))
    assert run.state == "WAITING" and run.run.due_at == run.clock.now() + DAY
    run.signal("other")
    assert run.state == "WAITING"
    run.signal("approved", {"by": "ann"})
    assert run.state == "SUCCEEDED" and run.output_of("after") == "ann"
    assert [sent.name for sent in run.stored.signals.values()] == ["other"]


def test_a_signal_that_came_before_the_wait_is_taken_at_once() -> None:
    run = Driven(act("first"), APPROVED)
    run.signal("approved", 1)
    run.signal("approved", 2)
    run.die()
    run.succeed("first")
    assert run.state == "SUCCEEDED" and run.output_of("hold") == 1
    assert "WAITING" not in [entry.get("to") for entry in run.stored.journal]
    assert [sent.data for sent in run.stored.signals.values()] == ["2"]


def test_a_signal_goes_to_the_step_that_has_waited_longest_whatever_was_loaded_first() -> None:
    names = [wait(id, signal="go") for id in ("z", "a")]
    run = Driven({"parallel": [names[0], {**names[1], "needs": ["first"]}, act("first")]})
    run.pass_time(1_000)
    run.succeed("first")
    run.signal("go", 1)
    assert (run.state_of("z"), run.state_of("a")) == ("SUCCEEDED", "WAITING")
    run.signal("go", 2)
    assert (run.state, run.output_of("z"), run.output_of("a")) == ("SUCCEEDED", 1, 2)


def test_a_name_may_be_made_of_data() -> None:
    items = {"items": ["x", "y"], "max_parallel": 2, "steps": [wait(signal="ok-${{ $item }}")]}
    run = Driven({"id": "each", "foreach": items})
    run.signal("ok-y", 2)
    run.signal("ok-x", 1)
    assert run.output_of("each") == [1, 2]


@pytest.mark.parametrize("name", ["", "!child:a~1", "a b", "a/b", "x" * 129, 7])
def test_what_is_no_name_of_a_signal_fails_the_step(name: JSON) -> None:
    run = Driven(give("name", name), wait(signal="${{ $name }}"))
    assert run.error is not None and run.error.code == "INVALID_CONFIG"


def test_a_signal_that_does_not_come_fails_the_step() -> None:
    run = Driven(APPROVED)
    run.pass_until_due()
    message = "the signal 'approved' did not come within 1d"
    assert run.error == Failure("WAIT_TIMEOUT", message, "hold", None, {"signal": "approved"})


def test_without_a_timeout_it_waits_for_thirty_days() -> None:
    run = Driven(wait(signal="go"))
    assert run.run.due_at == run.clock.now() + 30 * DAY


def test_on_timeout_runs_in_place_of_the_failure() -> None:
    run = Driven(wait(signal="go", timeout="1h", on_timeout=[act("ask"), act("tell")]), give("after", "${{ $hold }}"))
    run.pass_until_due()
    assert run.running() == ["ask"]
    run.succeed("ask")
    run.die()
    run.signal("go", "too late")
    run.succeed("tell", "gave up")
    assert run.state == "SUCCEEDED" and run.output_of("after") == "gave up"


def test_an_empty_on_timeout_only_goes_on() -> None:
    run = Driven(wait(signal="go", timeout="1h", on_timeout=[]))
    run.pass_until_due()
    assert run.state == "SUCCEEDED" and run.output_of("hold") is None


def test_a_signal_that_is_decided_before_the_time_is_looked_at_wins() -> None:
    run = Driven({"parallel": [APPROVED, act("b")]})
    run.clock.advance(DAY)
    run.signal("approved", 1)
    assert run.state_of("hold") == "SUCCEEDED"


def test_a_steps_own_timeout_ends_the_wait() -> None:
    run = Driven({**APPROVED, "timeout": "1m"})
    assert run.run.due_at == run.clock.now() + 60_000
    run.pass_until_due()
    assert run.error is not None and run.error.code == "STEP_TIMEOUT"


# ---- a retry


def test_a_retry_waits_anew() -> None:
    run = Driven(APPROVED)
    run.pass_until_due()
    assert run.state == "FAILED"
    run.clock.advance(5)
    run.retry()
    assert run.state == "WAITING" and run.run.due_at == run.clock.now() + DAY
    run.signal("approved", 1)
    assert run.state == "SUCCEEDED" and run.run.steps["hold"].generation == 2


def test_a_retry_goes_on_in_on_timeout() -> None:
    run = Driven(wait(signal="go", timeout="1h", on_timeout=[act("ask"), act("tell")]))
    run.pass_until_due()
    run.succeed("ask")
    run.fail("tell")
    run.retry()
    assert run.running() == ["tell"] and run.run.steps["ask"].generation == 1


def test_a_cancelled_wait_is_waited_for_again_by_a_retry() -> None:
    run = Driven(wait(for_="1h"), wait("two", signal="go"))
    run.pass_until_due()
    run.cancel()
    run.retry()
    assert run.state_of("two") == "WAITING" and run.run.steps["hold"].generation == 1


# ---- the document, and the schema of a signal


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"for": "1m", "until": 5},
        {"for": "1m", "timeout": "1h"},
        {"until": 5, "schema": {}},
        {"for": "1m", "on_timeout": []},
        {"for": "0s"},
        {"for": "soon"},
        {"until": "soon"},
        {"signal": "a b"},
        {"signal": "go", "timeout": 0},
    ],
)
def test_a_config_that_is_no_wait_is_refused(config: JSON) -> None:
    with pytest.raises(ValueError):
        WaitConfig.model_validate(config)


def test_a_schema_that_is_none_is_refused_with_its_place() -> None:
    (problem,) = WaitKind().check({"signal": "go", "schema": {"type": "object", "properties": {"a": {"type": "txt"}}}})
    assert problem.pointer[:3] == ("schema", "properties", "a")
    assert "wait" in built_in_kinds()


def test_the_schema_of_a_signal_is_that_of_the_wait_that_may_take_it() -> None:
    one, two = {"type": "object"}, {"type": "string"}
    run = Driven(
        wait("a", signal="go", schema=one),
        wait("b", signal="item-${{ 1 + 1 }}-ok", schema=two),
        wait("c", signal="both", schema=one),
        wait("d", signal="both", schema=two),
        wait("e", signal="free", schema=one),
        wait("f", signal="free"),
    )
    wanted = {"go": one, "item-7-ok": two, "item--ok": None, "both": {"anyOf": [one, two]}, "free": None, "no": None}
    assert {name: signal_schema(run.plan, name) for name in wanted} == wanted


def test_a_name_with_several_expressions_stands_for_anything_between_its_texts() -> None:
    step = Driven(wait(signal="a${{ 1 }}b${{ 2 }}b"), begin=False).plan.index["hold"]
    taken = {"axbyb": True, "axbb": False, "abbb": False, "axbbb": True, "axb": False, "b": False, "axbybz": False}
    assert {name: may_take(step, name) for name in taken} == taken
