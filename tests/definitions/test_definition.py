"""What a valid document becomes, and that nothing but a refusal comes of any other."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskforge.core.definition import in_order, load_plan
from taskforge.core.errors import InvalidDefinition
from taskforge.core.model import Plan, Step
from taskforge.expressions.template import parse_template
from tests.definitions.reading import KINDS, lines_of, problems_of, read
from tests.definitions.whole import WHOLE

MEDIA: tuple[Literal["yaml", "json"], ...] = ("yaml", "json")

FULL = """
# yaml-language-server: $schema=../../contracts/workflow.schema.json
name: issue-digest
description: Tell the channel about new bugs
triggers:
  by_hand: {manual: {}}
inputs:
  type: object
  properties: {repo: {type: string, default: "acme/api"}}
timeout: 2d
defaults: {retry: {max_attempts: 7, initial: 2s}}
steps:
  - id: fetch
    description: All open issues
    http:
      method: GET
      url: https://api.example.com/repos/${{ $input.repo }}/issues
      query: {state: open, labels: [a, b], page: 1, skip: null}
      headers: {Authorization: "Bearer ${{ $secrets.GITHUB_TOKEN }}", X-Run: "${{ $run.id }}"}
      timeout: 10s
      expect: {status: ["2xx", 304], body: '${{ type == "array" }}'}
    timeout: 1h
    retry: {max_attempts: 5, initial: 1s, factor: 2, max: 1m, jitter: none, on: [network, timeout, 429, 5xx]}
  - id: shape
    transform: '${{ [$fetch.body[] | select(.labels | index("bug")) | {id, title}] }}'
  - id: route
    continue_on_error: true
    switch:
      - when: ${{ $shape | length > 10 }}
        steps: [{id: page, http: {method: POST, url: "https://x.example", json: {text: "${{ $run.number }}"}}}]
      - when: true
        steps: [{id: log, transform: {quiet: true}}]
      - else: []
  - id: after
    transform: ["${{ $page.status }}", "${{ $log }}", "${{ $steps.route.state }}", "${{ $now }}"]
  - id: stop
    if: ${{ $shape == [] }}
    fail: {message: "nothing to do in ${{ $input.repo }}", code: NOTHING}
  - {id: halt, if: false, fail: }
  - {id: done, if: true, succeed: {output: 1}}
output: ${{ $shape }}
"""


def all_steps(plan: Plan) -> list[Step]:
    return list(plan.index.values())


def shape_of(plan: Plan) -> Any:
    """Everything of a plan that does not depend on where its text stood."""

    def step(found: Step) -> Any:
        sources = [expression.source for expression in found.evaluation.template.expressions]
        guard = found.evaluation.guard
        return (
            found.id, found.kind.name, found.config, found.evaluation.mode, sources,
            None if guard is None else [expression.source for expression in guard.expressions],
            found.retry, found.timeout_ms, found.continue_on_error, found.loops, sorted(found.later),
            found.needs, found.effect, found.rate_limit, found.order, sorted(found.evaluations),
            [(block.name, [step(inner) for inner in block.steps]) for block in found.blocks],
            {name: [step(inner) for inner in steps] for name, steps in found.handlers.items()},
        )  # fmt: skip

    return (
        plan.name, plan.description, plan.inputs, plan.timeout_ms, [step(found) for found in plan.steps],
        [(type(found).__name__, found.name) for found in plan.triggers.values()], sorted(plan.index), plan.document,
        plan.uses_run_number, plan.names_used,
        [step(found) for found in (*plan.on_failure, *plan.finally_)], sorted(plan.evaluations), plan.concurrency,
        [(states, step(found)) for states, found in plan.notify], plan.has_undo, plan.has_children,
        plan.max_queue_ms, plan.priority,
    )  # fmt: skip


def test_a_full_document_is_valid_without_a_warning() -> None:
    found = read(FULL)
    assert found.warnings == []
    assert found.plan.name == "issue-digest"
    assert found.plan.timeout_ms == 2 * 86_400_000
    assert sorted(found.plan.index) == sorted(
        ["fetch", "shape", "route", "page", "log", "after", "stop", "halt", "done"]
    )
    assert found.source.startswith("\n# yaml-language-server")


def test_a_step_keeps_its_settings_and_takes_the_defaults_where_it_has_none() -> None:
    index = read(FULL).plan.index
    fetch, page = index["fetch"], index["page"]
    assert (fetch.timeout_ms, fetch.retry.max_attempts, fetch.retry.initial_ms) == (3_600_000, 5, 1_000)
    assert fetch.retry.on == ("network", "timeout", "429", "5xx")
    assert fetch.retry.jitter == "none"
    assert (page.retry.max_attempts, page.retry.initial_ms, page.retry.factor) == (7, 2_000, 2.0)
    assert page.retry.on == ("network", "timeout", "408", "429", "5xx")
    assert index["route"].continue_on_error
    assert index["fetch"].position == (13, 5)


def test_the_conditions_of_a_switch_are_all_expressions_and_its_branches_blocks() -> None:
    route = read(FULL).plan.index["route"]
    assert route.evaluation.mode == "first_true"
    assert [e.source for e in route.evaluation.template.expressions] == ["$shape | length > 10", "true"]
    assert [(block.name, [step.id for step in block.steps]) for block in route.blocks] == [
        ("0", ["page"]),
        ("1", ["log"]),
        ("2", []),
    ]


def test_what_is_evaluated_later_is_not_evaluated_before() -> None:
    fetch = read(FULL).plan.index["fetch"]
    assert list(fetch.later) == ["expect.body"]
    assert 'type == "array"' not in [e.source for e in fetch.evaluation.template.expressions]
    assert [e.source for e in fetch.later["expect.body"].expressions] == ['type == "array"']


@pytest.mark.parametrize(
    ("expression", "expected"),
    [("$run.number", True), ("$run", True), ("$run.id", False), ('$run["number"]', True), ("$input", False)],
)
def test_a_plan_knows_whether_it_needs_the_runs_number(expression: str, expected: bool) -> None:
    found = read(f"name: w\nsteps:\n  - id: a\n    transform: ${{{{ {expression} }}}}\n")
    assert found.plan.uses_run_number is expected


def test_a_plan_knows_the_names_that_it_uses() -> None:
    assert read(FULL).plan.names_used == {
        "input", "secrets", "run", "fetch", "shape", "page", "log", "steps", "now",
    }  # fmt: skip


def test_a_stored_document_gives_the_same_plan_as_the_text_did() -> None:
    found = read(FULL)
    again = load_plan(json.loads(json.dumps(found.document)), KINDS, parse_template)
    assert shape_of(again) == shape_of(found.plan)


def test_comments_layout_and_the_order_of_keys_are_no_content() -> None:
    first = read("name: w\nsteps:\n  - id: a\n    transform: {x: 1, y: [1, 2]}\n")
    second = read("# hi\nsteps: [{transform: {y: [1, 2], x: 1}, id: a}]\nname: 'w'\n")
    assert json.dumps(in_order(first.document)) == json.dumps(in_order(second.document))
    assert list(second.document) == ["steps", "name"]


def test_the_order_of_a_list_is_content() -> None:
    first = read("name: w\nsteps: [{id: a, transform: [1, 2]}]")
    second = read("name: w\nsteps: [{id: a, transform: [2, 1]}]")
    assert json.dumps(first.document) != json.dumps(second.document)


def test_big_integers_and_doubles_keep_their_form() -> None:
    found = read("name: w\nsteps:\n  - id: a\n    transform: [12345678901234567890, 1.0, 1e2]\n")
    assert json.dumps(found.document["steps"][0]["transform"]) == "[12345678901234567890, 1.0, 100.0]"


def test_every_expression_has_its_place() -> None:
    found = read("name: w\nsteps:\n  - id: a\n    transform:\n      x: 'n: ${{ $input.n }}'\n")
    (expression,) = found.expressions
    problem = found.problem_at(expression, "wrong")
    assert (expression.source, problem.path) == ("$input.n", "steps[0].transform.x")
    assert (problem.line, problem.column) == (5, 18)


def test_a_literal_opening_is_no_expression() -> None:
    assert read("name: w\nsteps:\n  - {id: a, transform: '$${{ $nothing }}'}\n").plan.names_used == frozenset()


@pytest.mark.parametrize("empty", ["fail:", "fail: {}", "succeed:", "succeed: {}"])
def test_fail_and_succeed_need_no_settings(empty: str) -> None:
    assert read(f"name: w\nsteps:\n  - id: a\n    {empty}\n").plan.index["a"].config == {}


def test_nesting_up_to_the_limit_is_allowed() -> None:
    inner = "{id: z, transform: 1}"
    for number in range(10):
        inner = f"{{id: s{number}, switch: [{{else: [{inner}]}}]}}"
    assert len(read(f"name: w\nsteps:\n  - {inner}\n").plan.index) == 11


def test_limits_are_settings() -> None:
    text = "name: w\nsteps: [{id: a, transform: 1}, {id: b, transform: 2}]"
    assert read(text, steps=2).plan.steps
    assert lines_of(text, steps=1) == ["2:32: the workflow has more than 1 steps"]
    assert "bytes; at most 20 are accepted" in lines_of(text, document_bytes=20)[0]


def test_five_hundred_steps_that_name_each_other_are_read_quickly() -> None:
    steps = [{"id": "s0", "transform": 1}]
    steps += [{"id": f"s{n}", "transform": f"${{{{ $s{n - 1} }}}}"} for n in range(1, 500)]
    assert len(read(json.dumps({"name": "w", "steps": steps}), "json").plan.index) == 500


def test_a_stored_document_whose_kind_is_gone_is_refused_by_name() -> None:
    document = {"name": "w", "steps": [{"id": "a", "shell": "ls"}]}
    with pytest.raises(InvalidDefinition) as caught:
        load_plan(document, KINDS, parse_template)
    assert 'found "shell"' in caught.value.problems[0].message


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\x00",
        b"name: w\nsteps:\n  - {id: a, transform: \x00}\n",
        b"\xff\xfe\x00",
        b"name: \xc3\x28",
        b'{"name": "w", "steps": [{"id": "a", "transform": "\\ud800"}]}',
        b"a: &a [*a]",
        b"a: &a [1,2,3]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c]\ne: [*d,*d,*d,*d]\n" * 3,
        b"[" * 100_000,
        b"{a: " * 50_000,
        b"name: w\nsteps: [{id: a, transform: '" + b"x" * 1_000_000 + b"'}]",
        b"name: w\nsteps: [{id: a, transform: '" + b"${{ $q }}" * 25_000 + b"'}]",
        b"name: w\nsteps: [{id: a, transform: '${{ " + b"(" * 100_000 + b" }}'}]",
        b"name: w\nsteps: [{id: a, transform: '${{ [" + b"$a1," * 60_000 + b"1] }}'}]",
        b"name: w\n" + b"".join(b"key%d: 1\n" % n for n in range(15_000)) + b"steps: [{id: a, transform: 1}]",
        b"name: w\nsteps:\n" + b"- {id: a, htpp: 1}\n" * 10_000,
        b"--- !!python/object:os.system ls\n",
        b"%YAML 1.1\n---\nname: w\n",
        b"<<: {name: w}\nsteps: []\n",
        b"? [a, b]\n: 1\n",
        b"name: w\nsteps: .nan\n",
    ],
    ids=range(21),
)
def test_naughty_documents_are_refused_with_places_and_quickly(text: bytes) -> None:
    for media in MEDIA:
        with pytest.raises(InvalidDefinition) as caught:
            read(text, media)
        assert 1 <= len(caught.value.problems) <= 101


def test_a_document_with_very_many_errors_says_how_many_are_not_shown() -> None:
    found = problems_of(json.dumps({"name": "w", "steps": [{"id": "a", "x": 1}] * 400}), "json")
    assert len(found) == 101
    assert found[-1].message.endswith("more problems are not shown")


# ---- any document at all

VALID = [read(FULL).document, read(WHOLE).document]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["${{ $fetch }}", "${{", "${{ }}", "${{ $x }}", "$${{ a }}", "10s", "*", "a", "fetch", "2xx"]),
)
WORDS = """
id if http transform switch fail succeed retry timeout when else steps url headers json body form query expect status
message code output name inputs triggers cron webhook verify on max_attempts foreach needs type properties $ref default
pattern allOf x foreach items parallel repeat until every wait signal schema on_timeout workflow set_state key value
catch finally undo probe effect rate_limit per concurrency on_limit notify slack url_secret on_failure priority
"""
KEYS = st.sampled_from(WORDS.split())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=6,
)


def places(value: Any, pointer: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [pointer]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*pointer, key))
    return found


PLACES = [(number, place) for number, value in enumerate(VALID) for place in places(value)[1:]]


def changed(value: Any, pointer: tuple[Any, ...], new: Any, how: str) -> Any:
    made = json.loads(json.dumps(value))
    target = made
    for part in pointer[:-1]:
        try:
            target = target[part]
        except (KeyError, IndexError, TypeError):
            return made
    try:
        if how == "remove":
            del target[pointer[-1]]
        elif how == "add" and isinstance(target, dict):
            target[new if isinstance(new, str) else "x"] = new
        else:
            target[pointer[-1]] = new
    except (KeyError, IndexError, TypeError):
        pass
    return made


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.sampled_from(PLACES), VALUES, st.sampled_from(["replace", "remove", "add"])),
        min_size=1,
        max_size=4,
    )
)
def test_a_changed_document_gives_a_plan_or_a_refusal_with_places(changes: list[Any]) -> None:
    number = changes[0][0][0]
    value = VALID[number]
    for (document, pointer), new, how in changes:
        if document == number:
            value = changed(value, pointer, new, how)
    text = json.dumps(value)
    try:
        found = read(text, "json")
    except InvalidDefinition as error:
        assert error.problems
        assert all(problem.line is not None or "not shown" in problem.message for problem in error.problems)
        return
    assert found.plan.steps
    again = load_plan(json.loads(json.dumps(found.document)), KINDS, parse_template)
    assert shape_of(again) == shape_of(found.plan)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_are_refused_or_read(text: bytes) -> None:
    for media in MEDIA:
        try:
            read(text, media)
        except InvalidDefinition as error:
            assert error.problems
