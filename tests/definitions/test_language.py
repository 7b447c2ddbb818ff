"""What the constructs of the whole language become in a plan."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft7Validator

from taskforge.core.definition import load_plan
from taskforge.core.model import Concurrency, Plan, RateLimit, Step
from taskforge.core.workflow_schema import workflow_schema
from taskforge.expressions.template import parse_template
from tests.definitions.reading import KINDS, lines_of, read
from tests.definitions.whole import WHOLE


@pytest.fixture(scope="module")
def plan() -> Plan:
    found = read(WHOLE)
    assert found.warnings == []
    return found.plan


def ids(steps: tuple[Step, ...]) -> list[str]:
    return [step.id for step in steps]


def sources(template: Any) -> list[str]:
    return [expression.source for expression in template.expressions]


def test_the_plan_has_what_the_document_says_of_the_run(plan: Plan) -> None:
    assert plan.concurrency == Concurrency(2, "cancel_oldest")
    assert sources(plan.evaluations["concurrency"].template) == ["$input.key"]
    assert sorted(plan.evaluations) == ["concurrency", "output"]
    assert (plan.timeout_ms, plan.max_queue_ms, plan.priority) == (86_400_000, 600_000, -5)
    assert (ids(plan.on_failure), ids(plan.finally_)) == (["told"], ["tidied"])
    assert (plan.has_undo, plan.has_children) == (True, True)


def test_the_index_has_every_step_wherever_it_stands(plan: Plan) -> None:
    inner = ["looked", "release", "both", "left", "right", "poll", "look", "caught", "cleaned", "late"]
    outer = ["reserve", "each", "approved", "pause", "child", "keep", "told", "tidied"]
    messages = ["notify_1", "notify_2_succeeded", "notify_2_cancelled", "notify_3"]
    assert sorted(plan.index) == sorted([*inner, *outer, *messages])


def test_the_order_is_that_of_the_document_with_handlers_behind_their_step(plan: Plan) -> None:
    expected = ["reserve", "looked", "release", "each", "both", "left", "right", "poll", "look", "caught", "cleaned"]
    expected += ["approved", "late", "pause", "child", "keep", "told", "tidied"]
    expected += ["notify_1", "notify_2_succeeded", "notify_2_cancelled", "notify_3"]
    assert [step.id for step in sorted(plan.index.values(), key=lambda step: step.order)] == expected
    assert len({step.order for step in plan.index.values()}) == len(plan.index)


def test_steps_know_the_loops_around_them_in_handlers_too(plan: Plan) -> None:
    loops = {id: step.loops for id, step in plan.index.items() if step.loops}
    assert loops == {
        "both": ("each",),
        "left": ("each",),
        "right": ("each",),
        "poll": ("each",),
        "look": ("each", "poll"),
    }
    inside = "name: w\nsteps:\n  - id: e\n    foreach:\n      items: [1]\n      steps:\n        - id: a\n"
    inside += "          transform: 1\n          catch: [{id: b, transform: '${{ $item }}'}]\n"
    assert read(inside).plan.index["b"].loops == ("e",)


def test_handlers_and_blocks_are_lists_of_steps_by_name(plan: Plan) -> None:
    assert {name: ids(steps) for name, steps in plan.index["reserve"].handlers.items()} == {
        "probe": ["looked"],
        "undo": ["release"],
    }
    assert {name: ids(steps) for name, steps in plan.index["each"].handlers.items()} == {
        "catch": ["caught"],
        "finally": ["cleaned"],
    }
    assert [(block.name, ids(block.steps)) for block in plan.index["approved"].blocks] == [("on_timeout", ["late"])]
    assert [(block.name, ids(block.steps)) for block in plan.index["both"].blocks] == [("steps", ["left", "right"])]
    assert plan.index["right"].needs == ("left",)


def test_a_rate_limits_key_is_evaluated_with_the_config(plan: Plan) -> None:
    reserve = plan.index["reserve"]
    assert reserve.rate_limit == RateLimit(10, 60_000)
    assert reserve.effect == "once"
    value = reserve.evaluation.template.render(["k1"])
    assert value == {"key": "k1", "config": {"method": "POST", "url": "https://x.example/reserve"}}
    plain = read("name: w\nsteps: [{id: a, rate_limit: {max: 1, per: 1}, http: {url: 'https://x.example'}}]").plan
    assert plain.index["a"].evaluation.template.render(()) == {"key": None, "config": {"url": "https://x.example"}}


def test_a_condition_of_retry_is_the_steps_own_or_the_default_and_gives_way_to_on(plan: Plan) -> None:
    conditions = {
        id: sources(step.evaluations["retry"].guard) for id, step in plan.index.items() if "retry" in step.evaluations
    }
    default = ["$error.code == $vars.CODE"]
    assert conditions == {
        "reserve": default,
        "release": default,
        "child": ['$error.code == "CHILD_NOT_STARTED" and $approved.ok'],
        "keep": default,
        "told": default,
    }
    assert plan.index["look"].retry.on == ("network",)
    assert plan.index["child"].retry.max_attempts == 5
    assert plan.index["notify_1"].retry.max_attempts == 2


def test_until_is_an_evaluation_of_its_own(plan: Plan) -> None:
    until = plan.index["poll"].evaluations["until"]
    assert (until.guard, until.mode) == (None, "all")
    assert sources(until.template) == ["$look.body.done and $item and $right"]


def test_messages_are_http_steps_with_the_states_in_which_they_are_sent(plan: Plan) -> None:
    assert [(sorted(states), step.id, step.kind.name) for states, step in plan.notify] == [
        (["FAILED"], "notify_1", "http"),
        (["SUCCEEDED"], "notify_2_succeeded", "http"),
        (["CANCELLED"], "notify_2_cancelled", "http"),
        (["FAILED"], "notify_3", "http"),
    ]
    slack, discord, _, webhook = (step for _, step in plan.notify)
    assert slack.config["url"] == "${{ $secrets.SLACK_URL }}"
    assert list(slack.config["json"]) == ["text"]
    assert discord.config["json"]["content"] == '${{ $run.workflow }}: ${{ $keep // "nothing" }}'
    assert discord.config["json"]["allowed_mentions"] == {"parse": []}
    assert webhook.config == {
        "method": "POST",
        "url": "${{ $secrets.HOOK }}",
        "headers": {"X-Run": "${{ $run.id }}"},
        "json": {"why": "${{ $error }}"},
    }


def test_the_steps_of_messages_take_no_id_that_is_taken() -> None:
    text = "name: w\nsteps: [{id: notify_1, transform: 1}]\nnotify: [{webhook: {url: 'https://x.example'}}]\n"
    assert sorted(read(text).plan.index) == ["notify_1", "notify_1_"]


def test_a_message_says_by_itself_which_run_and_how_it_ended() -> None:
    text = "name: w\nsteps: [{id: a, transform: 1}]\n"
    text += "notify: [{on: [FAILED, SUCCEEDED, CANCELLED], webhook: {url: 'https://x.example'}}]\n"
    bodies = {next(iter(states)): step.config["json"] for states, step in read(text).plan.notify}
    assert {state: body["state"] for state, body in bodies.items()} == {state: state for state in bodies}
    assert set(bodies["FAILED"]) == {"workflow", "version", "run", "number", "state", "error", "text"}


def test_a_stored_document_gives_the_same_plan(plan: Plan) -> None:
    again = load_plan(json.loads(json.dumps(plan.document)), KINDS, parse_template)
    assert [(id, step.order, step.loops, step.needs) for id, step in again.index.items()] == [
        (id, step.order, step.loops, step.needs) for id, step in plan.index.items()
    ]
    assert again.names_used == plan.names_used
    assert sorted(again.evaluations) == sorted(plan.evaluations)


def test_the_whole_language_fits_the_schema_for_editors(plan: Plan) -> None:
    found = Draft7Validator(workflow_schema(KINDS)).iter_errors(plan.document)
    assert [error.message for error in found] == []


@pytest.mark.parametrize(
    "step",
    [
        {"needs": "a"},
        {"effect": "twice"},
        {"rate_limit": {"max": 1}},
        {"rate_limit": {"max": 0, "per": "1s"}},
        {"retry": {"on": [], "when": True}},
        {"catch": []},
        {"undo": {"id": "b"}},
    ],
    ids=str,
)
def test_the_schema_for_editors_finds_wrong_settings_of_a_step(step: dict[str, Any]) -> None:
    document = {"name": "w", "steps": [{"id": "a", "http": {"url": "https://x.example"}, **step}]}
    assert list(Draft7Validator(workflow_schema(KINDS)).iter_errors(document))
    assert lines_of(json.dumps(document), "json")


@pytest.mark.parametrize(
    "change",
    [
        {"concurrency": {"limit": 0}},
        {"concurrency": {"on_limit": "wait"}},
        {"priority": 1.5},
        {"max_queue_time": "soon"},
        {"on_failure": []},
        {"notify": [{"slack": {}}]},
        {"notify": [{"on": [], "slack": {"url_secret": "A"}}]},
        {"notify": [{"on": ["RUNNING"], "slack": {"url_secret": "A"}}]},
        {"steps": [{"id": "a", "foreach": {"items": 3, "steps": []}}]},
        {"steps": [{"id": "a", "parallel": 3}]},
        {"steps": [{"id": "a", "repeat": {"steps": []}}]},
        {"steps": [{"id": "a", "wait": {}}]},
        {"steps": [{"id": "a", "workflow": {}}]},
        {"steps": [{"id": "a", "set_state": {"key": "a"}}]},
    ],
    ids=str,
)
def test_the_schema_for_editors_finds_wrong_settings_of_a_run(change: dict[str, Any]) -> None:
    document = {"name": "w", "steps": [{"id": "a", "transform": 1}]} | change
    assert list(Draft7Validator(workflow_schema(KINDS)).iter_errors(document))
    assert lines_of(json.dumps(document), "json")


@pytest.mark.parametrize(
    ("handler", "expected"),
    [("catch", True), ("finally", True), ("probe", False), ("undo", True)],
)
def test_handlers_of_a_step_see_its_error_but_a_probe_does_not(handler: str, expected: bool) -> None:
    step: dict[str, Any] = {"id": "a", "effect": "once", "http": {"url": "https://x.example"}}
    step[handler] = [{"id": "b", "transform": "${{ $error }}"}]
    assert (lines_of(json.dumps({"name": "w", "steps": [step]}), "json") == []) is expected


def test_what_a_parallel_needs_it_sees_through_others_too() -> None:
    needs = [f"{{id: s{n}, needs: [s{n - 1}], transform: '${{{{ [$s0, $s{n - 1}] }}}}'}}" for n in range(1, 60)]
    text = f"name: w\nsteps: [{{id: p, parallel: [{{id: s0, transform: 1}}, {', '.join(needs)}]}}]"
    assert lines_of(text) == []


@pytest.mark.timeout(20)
def test_hundreds_of_steps_that_all_need_the_ones_before_are_read_quickly() -> None:
    steps: list[Any] = [{"id": "s0", "transform": 1}]
    steps += [{"id": f"s{n}", "needs": [f"s{m}" for m in range(n)], "transform": "${{ $s0 }}"} for n in range(1, 250)]
    assert len(read(json.dumps({"name": "w", "steps": [{"id": "p", "parallel": steps}]}), "json").plan.index) == 251


@pytest.mark.timeout(20)
def test_long_circles_of_needs_are_found_quickly() -> None:
    steps = [{"id": f"s{n}", "needs": [f"s{(n + 1) % 400}"], "transform": 1} for n in range(400)]
    found = lines_of(json.dumps({"name": "w", "steps": [{"id": "p", "parallel": steps}]}), "json")
    assert len(found) == 1
    assert found[0].endswith("needs go round in a circle: s0 → s1 → s2 → s3 → … → s399 → s0")
