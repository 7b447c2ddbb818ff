"""Comparing documents: equal ones have no difference, and the differences explain all of any two."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge.core import outline as outlines
from taskforge.core.definition import parse_definition
from taskforge.core.differences import Difference, Place, compare_documents, same_document
from taskforge.core.outline import Child, calls_of, children_of, host_of, outline
from taskforge.expressions.template import parse_template
from taskforge.steps.registry import built_in_kinds

ROOT = Path(__file__).resolve().parents[2]

values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "b", 1.0, -0.0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def step_lists(draw: st.DrawFn, ids: list[str], depth: int = 2) -> list[dict[str, Any]]:
    """A list of steps that takes its ids from `ids`, each once."""
    made = []
    for _ in range(draw(st.integers(0, 3))):
        if not ids:
            break
        step: dict[str, Any] = {"id": ids.pop()}
        inner = step_lists(ids, depth - 1) if depth else st.just([])
        match draw(
            st.sampled_from(["transform", "foreach", "parallel", "spread", "switch"] if depth else ["transform"])
        ):
            case "transform":
                step["transform"] = draw(values)
            case "foreach":
                step["foreach"] = {"items": draw(values), "steps": draw(inner)}
            case "parallel":
                step["parallel"] = draw(inner)
            case "spread":
                step["parallel"] = {"fail_fast": draw(st.booleans()), "steps": draw(inner)}
            case _:
                step["switch"] = [{"when": draw(values), "steps": draw(inner)}]
                if draw(st.booleans()):
                    step["switch"].append({"else": draw(inner)})
        if depth and draw(st.booleans()):
            step["catch"] = draw(inner)
        made.append(step)
    return made


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    ids = list(draw(st.permutations("abcdefghij")))
    found: dict[str, Any] = {"name": "w", "steps": draw(step_lists(ids))}
    if draw(st.booleans()):
        found["finally"] = draw(step_lists(ids))
    for key in ("timeout", "inputs", "triggers", "output"):
        if draw(st.booleans()):
            found[key] = draw(values)
    return found


def shuffled(value: Any, seed: random.Random) -> Any:
    if isinstance(value, dict):
        keys = list(value)
        seed.shuffle(keys)
        return {key: shuffled(value[key], seed) for key in keys}
    return [shuffled(item, seed) for item in value] if isinstance(value, list) else value


@given(documents(), st.randoms(use_true_random=False))
def test_the_order_of_keys_is_no_difference(document: dict[str, Any], seed: random.Random) -> None:
    other = shuffled(document, seed)
    assert same_document(document, other)
    assert compare_documents(document, other) == []


Flat = tuple[dict[str, Any], dict[str, tuple[str, Any]], dict[str, list[str]]]


def flat(document: dict[str, Any]) -> Flat:
    """A document's own settings, its steps with their settings, and the order of each list."""
    taken = outline(document)
    order: dict[str, list[str]] = {}
    for step in taken.steps.values():
        order.setdefault(step.block, []).append(step.id)
    return taken.fields, {step.id: (step.block, step.fields) for step in taken.steps.values()}, order


def explained(document: dict[str, Any], differences: list[Difference]) -> Flat:
    """What becomes of a document when each difference is made to it."""
    fields, steps, order = copy.deepcopy(flat(document))
    for each in differences:
        if each.step is not None and not each.path and each.was is not None:
            order[each.was.block].remove(each.step)
    for each in differences:
        if each.step is None or each.path:
            target: Any = fields if each.step is None else steps[each.step][1]
            for part in each.path[:-1]:
                target = target[part]
            if each.change == "removed":
                assert target.pop(each.path[-1]) == each.old
            else:
                target[each.path[-1]] = each.new
            continue
        if each.change == "removed":
            del steps[each.step]
        if each.change == "added":
            steps[each.step] = (each.now.block if each.now else "", copy.deepcopy(each.new))
        if each.now is not None:
            steps[each.step] = (each.now.block, steps[each.step][1])
            ids = order.setdefault(each.now.block, [])
            ids.insert(0 if each.now.after is None else ids.index(each.now.after) + 1, each.step)
    return fields, steps, {block: ids for block, ids in order.items() if ids}


@given(documents(), documents())
def test_the_differences_explain_everything(old: dict[str, Any], new: dict[str, Any]) -> None:
    found = compare_documents(old, new)
    assert (found == []) == same_document(old, new)
    fields, steps, order = explained(old, found)
    wanted = flat(new)
    assert order == wanted[2]
    assert same_document(fields, wanted[0])
    assert same_document({id: list(at) for id, at in steps.items()}, {id: list(at) for id, at in wanted[1].items()})


BASE: dict[str, Any] = {
    "name": "w",
    "timeout": "1h",
    "steps": [
        {"id": "a", "http": {"url": "https://one.example/x", "headers": {"A": "1"}}},
        {"id": "b", "transform": 1},
        {"id": "c", "foreach": {"items": [1], "steps": [{"id": "d", "transform": 2}]}},
    ],
}


def changed(**more: Any) -> dict[str, Any]:
    return copy.deepcopy(BASE) | more


def test_a_setting_of_a_step_is_named_by_its_path() -> None:
    new = changed()
    new["steps"][0]["http"]["headers"] = {"A": "2", "B": None}
    assert compare_documents(BASE, new) == [
        Difference("changed", ("http", "headers", "A"), "a", "http", old="1", new="2"),
        Difference("added", ("http", "headers", "B"), "a", "http", new=None),
    ]


def test_a_step_that_changes_places_is_the_only_one_that_moved() -> None:
    new = changed(steps=[BASE["steps"][2], BASE["steps"][0], BASE["steps"][1]])
    assert compare_documents(BASE, new) == [
        Difference("moved", (), "c", "foreach", was=Place("steps", "b"), now=Place("steps", None))
    ]


def test_a_step_that_goes_into_a_block_has_moved_and_its_inner_steps_have_not() -> None:
    new = changed()
    new["steps"][2]["foreach"]["steps"].append(new["steps"].pop(1))
    assert compare_documents(BASE, new) == [
        Difference("moved", (), "b", "transform", was=Place("steps", "a"), now=Place("c.foreach", "d"))
    ]


def test_numbers_and_flags_of_one_worth_are_different_values() -> None:
    for old, new in ((1, True), (1, 1.0), (0, False), (None, False), ({}, [])):
        assert len(compare_documents(changed(output=old), changed(output=new))) == 1
    assert [each.change for each in compare_documents(BASE, changed(output=None))] == ["added"]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://API.example.com/x?y#z", "api.example.com"),
        ("http://user:pw@example.com:8080", "example.com:8080"),
        ("https://example.com/${{ $input.x }}", "example.com"),
        ("https://example.com?x=${{ 1 }}", "example.com"),
        ("https://[::1]:80/", "[::1]:80"),
        ("https://example.com${{ $input.x }}", None),
        ("https://${{ $vars.HOST }}/x", None),
        ("${{ $vars.URL }}", None),
        ("ftp://example.com", None),
        ("https:///x", None),
        (None, None),
    ],
)
def test_a_host_is_known_where_no_expression_can_change_it(url: Any, host: str | None) -> None:
    assert host_of(url) == host


def test_calls_and_children_are_found_at_every_depth() -> None:
    document = changed(
        triggers={"end": {"on_run": {"workflow": "first"}}, "hand": {"manual": None}},
        notify=[{"slack": {"url_secret": "S"}}, {"on": ["FAILED"], "webhook": {"url": "https://two.example/"}}],
    )
    document["steps"][2]["foreach"]["steps"][0]["catch"] = [
        {"id": "e", "workflow": {"name": "other"}},
        {"id": "f", "workflow": {"name": "${{ $input.name }}"}},
        {"id": "g", "http": {"url": "${{ $input.url }}"}},
    ]
    assert calls_of(document) == (frozenset({"one.example", "two.example"}), ("g", "notify[0]"))
    assert children_of(document) == [
        Child("other", ("steps", 2, "foreach", "steps", 0, "catch", 0, "workflow", "name")),
        Child("first", ("triggers", "end", "on_run", "workflow")),
    ]


@pytest.mark.parametrize("file", sorted((ROOT / "docs" / "examples").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_step_of_a_document_is_in_its_outline(file: Path) -> None:
    definition = parse_definition(file.read_bytes(), "yaml", built_in_kinds(), parse_template)
    ids = {id for id in definition.plan.index if not id.startswith("notify_")}
    assert outline(definition.document).steps.keys() == ids
    for step in outline(definition.document).steps.values():
        found: Any = definition.document
        for part in step.pointer:
            found = found[part]
        assert (found["id"], step.kind) == (step.id, definition.plan.index[step.id].kind.name)


def test_no_kind_with_inner_steps_is_unknown_to_outlines() -> None:
    """A new kind has to be named in `core.outline`."""
    assert built_in_kinds().keys() == outlines._OWN


def test_inner_steps_of_other_packages_are_steps_and_data_is_none() -> None:
    inner = [{"id": "b", "transform": {"steps": [{"id": "data"}]}}]
    assert [*outline({"steps": [{"id": "a", "guarded": {"try": inner, "times": [1]}}]}).steps] == ["a", "b"]


def test_a_document_of_old_forms_is_taken_as_it_is() -> None:
    assert outline({"steps": [1, {"id": 2}, {"id": "a"}]}).steps["a"].kind == ""
