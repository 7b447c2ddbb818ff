"""Inputs: which schemas are taken, how defaults are filled in, what is said of a value that does not fit."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskforge.core.input_schema import check_schema
from taskforge.core.inputs import apply_defaults, check_input


def said(schema: Any, value: Any) -> list[str]:
    return [f"{problem.path}: {problem.message}" for problem in check_input(schema, value)]


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ({"properties": {"a": {"default": 1}}}, {}, {"a": 1}),
        ({"properties": {"a": {"default": 1}}}, {"a": None}, {"a": None}),
        ({"properties": {"a": {"default": {}, "properties": {"b": {"default": 2}}}}}, {}, {"a": {"b": 2}}),
        ({"properties": {"a": {"properties": {"b": {"default": 2}}}}}, {}, {}),
        ({"properties": {"a": {"properties": {"b": {"default": 2}}}}}, {"a": {}}, {"a": {"b": 2}}),
        ({"items": {"properties": {"a": {"default": 1}}}}, [{}, 3, {"a": 2}], [{"a": 1}, 3, {"a": 2}]),
        ({"prefixItems": [{}, {"properties": {"a": {"default": 1}}}]}, [{}, {}], [{}, {"a": 1}]),
        ({"allOf": [{"properties": {"a": {"default": 1}}}]}, {}, {"a": 1}),
        ({"$defs": {"d": {"default": 5}}, "properties": {"a": {"$ref": "#/$defs/d"}}}, {}, {"a": 5}),
        ({"anyOf": [{"properties": {"a": {"default": 1}}}]}, {}, {}),
        ({"$defs": {"n": {"properties": {"next": {"$ref": "#/$defs/n"}, "v": {"default": 0}}}}, "$ref": "#/$defs/n"},
         {"next": {}}, {"next": {"v": 0}, "v": 0}),
    ],
)  # fmt: skip
def test_defaults_are_filled_in_at_every_depth(schema: Any, value: Any, expected: Any) -> None:
    given_value = copy.deepcopy(value)
    assert apply_defaults(schema, given_value) == expected
    assert given_value == value, "the value given was changed"


def test_without_an_input_the_schemas_own_default_is_taken() -> None:
    assert apply_defaults({"default": {"a": 1}, "properties": {"b": {"default": 2}}}) == {"a": 1, "b": 2}
    assert apply_defaults({"properties": {"b": {"default": 2}}}) == {"b": 2}


def test_a_default_is_never_shared_between_runs() -> None:
    schema: dict[str, Any] = {"properties": {"a": {"default": []}}}
    apply_defaults(schema)["a"].append(1)
    assert apply_defaults(schema) == {"a": []}


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ({"type": "object"}, [], ["input: must be a mapping, not a list"]),
        ({"required": ["a", "b"]}, {"b": 1}, ['input: "a" is missing']),
        ({"properties": {"repo": {}}, "additionalProperties": False}, {"reop": 1},
         ['input: unknown field "reop"; did you mean "repo"?']),
        ({"properties": {"a": {"type": ["string", "null"]}}}, {"a": 3},
         ["input.a: must be text or null, not a number"]),
        ({"properties": {"a": {"items": {"enum": [1, "x"]}}}}, {"a": [1, 2]}, ['input.a[1]: must be one of 1, "x"']),
        ({"properties": {"n": {"minimum": 3}}}, {"n": 2}, ["input.n: must be at least 3"]),
        ({"properties": {"n": {"type": "integer"}}}, {"n": 1.5}, ["input.n: must be a whole number, not a number"]),
        ({"properties": {"s": {"pattern": "^a+$"}}}, {"s": "b"}, ["input.s: does not match the pattern ^a+$"]),
        ({"properties": {"s": {"pattern": "a"}}}, {"s": "a" * 5000},
         ["input.s: is longer than the 4096 characters that a pattern is checked on"]),
        ({"properties": {"s": {"const": 1}}}, {"s": 2}, ["input.s: must be 1"]),
        ({"properties": {"s": {"uniqueItems": True}}}, {"s": [1, 1.0]}, ["input.s: has an item twice"]),
        ({"properties": {"s": {"uniqueItems": True}}}, {"s": [{"a": 1, "b": 2}, {"b": 2, "a": 1}]},
         ["input.s: has an item twice"]),
        ({"properties": {"s": False}}, {"s": 1}, ["input: 1 is not allowed"]),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, 1, ["input: fits none of the 2 forms that are allowed"]),
        ({"oneOf": [{}, {}]}, 1, ["input: fits more than one of the forms, and may fit only one"]),
        ({"not": {}}, 1, ["input: has a form that is not allowed"]),
        ({"properties": {"e": {"format": "email"}}}, {"e": "no"}, []),
        ({"properties": {"n": {"type": "integer"}}}, {"n": 12345678901234567890}, []),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_in_plain_words_with_its_path(schema: Any, value: Any, expected: list[str]) -> None:
    assert said(schema, value) == expected


def test_all_problems_come_at_once_and_at_most_fifty() -> None:
    schema = {"items": {"type": "string"}}
    assert len(said(schema, [1, 2, 3])) == 3
    assert 50 <= len(said(schema, [1] * 1000)) <= 51


def test_a_long_foreign_value_is_not_repeated() -> None:
    schema = {"properties": {"a": {"const": "x" * 5000}}, "additionalProperties": False}
    assert all(len(line) < 400 for line in said(schema, {"a": "y" * 10_000, "k" * 10_000: 1}))


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"$ref": "#"}, {}),
        ({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}, {}),
        ({"$defs": {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)} | {"d40": {}},
          "$ref": "#/$defs/d0"}, {}),
        ({"properties": {"a": {"$ref": "#"}}}, json.loads('{"a":' * 200 + "1" + "}" * 200)),
        ({"uniqueItems": True}, [{"a": n} for n in range(20_000)]),
        ({"multipleOf": 0.1}, 1e308),
        ({"multipleOf": 3}, 10**400),
        ({"pattern": "^(a|b)*c$"}, "ab" * 2000),
    ],
)  # fmt: skip
def test_no_schema_and_no_input_makes_checking_endless(schema: Any, value: Any) -> None:
    apply_defaults(schema, value)
    check_input(schema, value)
    check_schema(schema)


@pytest.mark.parametrize(
    "pattern", ["(a+)+", "(a*)*b", "(x+x+)+y", "((ab)+c?)*", "a*b*c*d*e*", "[", "(?P<a>", "x" * 2000]
)
def test_a_pattern_that_could_run_for_ever_is_refused(pattern: str) -> None:
    assert [problem.pointer for problem in check_schema({"properties": {"a": {"pattern": pattern}}})] == [
        ("properties", "a", "pattern")
    ]


@pytest.mark.parametrize(
    "pattern", [r"^[^/]+/[^/]+$", r"^\d{4}-\d{2}$", "^(foo|bar)+$", r"^[a-z0-9-]{1,63}(\.[a-z]{2,9})?$"]
)
def test_ordinary_patterns_are_taken(pattern: str) -> None:
    assert check_schema({"properties": {"a": {"pattern": pattern}}}) == []


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {"$ref": {"type": "string"}, "default": {}, "pattern": {}}},
        {"$id": "https://x.example/s", "$defs": {"a": {"$anchor": "here"}}, "properties": {"b": {"$ref": "#here"}}},
        {"$defs": {"a/b~c": {}}, "properties": {"b": {"$ref": "#/$defs/a~1b~0c"}, "c": {"$ref": "#/$defs/a%2Fb~0c"}}},
        {"properties": {"tree": {"$ref": "#/$defs/t"}}, "$defs": {"t": {"items": {"$ref": "#/$defs/t"}}}},
        {"const": {"$ref": "http://elsewhere"}, "enum": [{"pattern": "("}], "examples": [{"$id": 1}]},
    ],
)
def test_sound_schemas_are_taken(schema: Any) -> None:
    assert [problem for problem in check_schema(schema) if "default" not in problem.message] == []


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
SCHEMAS = st.recursive(
    st.sampled_from(
        [{}, True, False, {"type": "string"}, {"type": "integer", "minimum": 2}, {"enum": [1]}, {"$ref": "#"}]
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
            "items": inner,
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "default": st.sampled_from([None, 1, {}, {"a": 1}, []]),
            "required": st.lists(st.sampled_from("abc"), unique=True),
            "additionalProperties": inner,
            "pattern": st.sampled_from(["a", "(a+)+", "["]),
        },
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(SCHEMAS | JSON_VALUES, JSON_VALUES)
def test_any_schema_is_refused_or_usable(schema: Any, value: Any) -> None:
    if any(not problem.is_warning for problem in check_schema(schema)):
        return
    for problem in check_input(schema, apply_defaults(schema, value)):
        assert problem.path.startswith("input") and problem.message
