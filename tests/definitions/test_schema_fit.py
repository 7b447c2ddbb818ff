"""The quick yes to a schema or a value: only where jsonschema finds nothing, and there for what people write."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from taskforge.core.inputs import validator_of
from taskforge.core.schema_fit import is_surely_schema, surely_fits

_NAMES = st.sampled_from(["a", "b", "c"])
_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-2, 3), st.sampled_from([0.0, 1.0, 1.5]), _NAMES)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3), max_leaves=6
)
_TYPES = st.sampled_from(["string", "number", "integer", "boolean", "null", "array", "object"])


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=2)
    named = st.dictionaries(_NAMES, inner, max_size=3)
    keywords = {
        "type": _TYPES | st.lists(_TYPES, min_size=1, max_size=2, unique=True),
        "properties": named, "patternProperties": named, "$defs": named,
        "additionalProperties": inner, "items": inner, "not": inner, "if": inner, "then": inner,
        "allOf": several, "anyOf": several, "oneOf": several, "prefixItems": several,
        "required": st.lists(_NAMES, max_size=2, unique=True), "enum": st.lists(_VALUES, max_size=3), "const": _VALUES,
        "minimum": st.integers(-1, 2), "exclusiveMaximum": st.sampled_from([0, 1.5]), "multipleOf": st.just(2),
        "minLength": st.integers(0, 2), "maxItems": st.integers(0, 2), "minProperties": st.integers(0, 2),
        "uniqueItems": st.booleans(), "pattern": st.sampled_from(["^a", "b$", "."]), "default": _VALUES,
        "description": st.just("words"), "x-other": _VALUES,
    }  # fmt: skip
    return st.fixed_dictionaries({}, optional={name: strategy for name, strategy in keywords.items()})


_SCHEMAS = st.recursive(st.booleans() | _schemas(st.booleans()), _schemas, max_leaves=4)


@given(_SCHEMAS, _VALUES)
def test_what_surely_fits_has_no_error_for_jsonschema(schema: Any, value: Any) -> None:
    if surely_fits(schema, value):
        assert list(validator_of(schema).iter_errors(value)) == []


@given(_SCHEMAS, st.data())
def test_what_is_surely_a_schema_has_no_error_for_the_metaschema(schema: Any, data: st.DataObject) -> None:
    if isinstance(schema, dict) and schema:
        # One keyword gets a value of any kind.
        schema = {**schema, data.draw(st.sampled_from(sorted(schema))): data.draw(_VALUES)}
    if is_surely_schema(schema):
        assert list(Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(schema)) == []


@given(_VALUES, _VALUES)
def test_anything_at_all_may_be_asked(schema: Any, value: Any) -> None:
    assert surely_fits(schema, value) in (True, False)
    assert is_surely_schema({"type": value, "properties": schema, "items": value}) in (True, False)


_FORM = {
    "type": "object",
    "required": ["site"],
    "additionalProperties": False,
    "properties": {
        "site": {"type": "string", "minLength": 1, "pattern": "^[a-z.]+$"},
        "tries": {"type": "integer", "minimum": 0, "maximum": 9, "default": 4},
        "mode": {"enum": ["fast", "slow"]},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3, "uniqueItems": True},
        "more": {"anyOf": [{"type": "null"}, {"type": "object"}]},
    },
}


def test_a_usual_form_and_what_is_filled_in_need_no_jsonschema() -> None:
    value = {"site": "example.com", "tries": 2, "mode": "fast", "tags": ["a", "b"], "more": None}
    assert is_surely_schema(_FORM)
    assert surely_fits(_FORM, value)


@pytest.mark.parametrize(
    "change",
    [
        {"site": ""}, {"site": "A"}, {"site": 1}, {"tries": True}, {"tries": 10}, {"tries": 1.5}, {"mode": "x"},
        {"mode": 1}, {"tags": ["a", "a"]}, {"tags": "a"}, {"tags": ["a"] * 4}, {"tags": [1]}, {"more": 1}, {"other": 1},
        {"site": "a" * 5000},
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_left_to_jsonschema(change: dict[str, Any]) -> None:
    assert not surely_fits(_FORM, {"site": "example.com", **change})
    assert not surely_fits(_FORM, {})
