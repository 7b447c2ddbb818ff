"""A run's input: its JSON Schema (draft 2020-12), its defaults, and whether a value fits.

Formats are not asserted. References stay inside the schema. What checking costs is bounded: texts are matched against a
pattern up to a length, patterns that can run away are refused, references are counted.
"""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from taskforge.core.input_patterns import MATCHED_LENGTH
from taskforge.core.jsontext import dumps
from taskforge.core.model import JSON
from taskforge.core.problem import Problem, format_path, quoted, suggest
from taskforge.core.schema_fit import surely_fits
from taskforge.core.schema_walk import ABSENT, resolve_reference
from taskforge.core.templated import describe

MAX_REFERENCES = 5_000
"""References that are followed in one check, and 20 more for each value of the input."""
MAX_PROBLEMS = 50
_KEPT = 64  # validators of the schemas last used
ENDLESS = "the schema refers to itself without end, or the input is nested too deeply"

_TYPE_WORDS = {
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
    "object": "a mapping",
}


def apply_defaults(schema: JSON, value: JSON = ABSENT) -> JSON:
    """Return the value with the schema's defaults where properties are missing, at every depth.

    Looks into `properties`, `items`, `prefixItems`, `allOf` and references; not into alternatives. Without a value: the
    schema's own default, else `{}`. The value given is not changed.
    """
    if value is ABSENT:
        value = schema.get("default", {}) if isinstance(schema, dict) else {}
    budget.fill(value)
    try:
        return fill_defaults(schema, schema, copy.deepcopy(value), 0)
    except TooMuch:
        return value  # `check_input` says what is wrong


def check_input(schema: JSON, value: JSON) -> list[Problem]:
    """Return why the value does not fit, each with its path (`input.repo`); at most 50."""
    if surely_fits(schema, value):
        return []

    from jsonschema.exceptions import SchemaError
    from referencing.exceptions import Unresolvable

    budget.fill(value)
    found: list[Problem] = []
    try:
        for error in validator_of(schema).iter_errors(value):
            found.extend(plain_problems(error))
            if len(found) >= MAX_PROBLEMS:
                break
    except (RecursionError, TooMuch):
        found.append(Problem("input", ENDLESS))
    except (ArithmeticError, ValueError, SchemaError, Unresolvable) as error:
        found.append(Problem("input", f"the input cannot be checked against the schema: {str(error)[:200]}"))
    unique = {(problem.path, problem.message): problem for problem in found}
    return sorted(unique.values(), key=lambda problem: problem.path)


# ---- defaults


def fill_defaults(root: JSON, schema: JSON, value: JSON, depth: int) -> JSON:
    if not isinstance(schema, dict) or depth > 64:
        return value
    reference = schema.get("$ref")
    if isinstance(reference, str):
        budget.spend()
        value = fill_defaults(root, resolve_reference(root, reference), value, depth + 1)
    for inner in schema.get("allOf", ()):
        value = fill_defaults(root, inner, value, depth + 1)
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name not in value:
                default = _default_of(root, inner)
                if default is ABSENT:
                    continue
                value[name] = copy.deepcopy(default)
            value[name] = fill_defaults(root, inner, value[name], depth + 1)
    elif isinstance(value, list):
        leading = schema.get("prefixItems", ())
        for index, item in enumerate(value):
            inner = leading[index] if index < len(leading) else schema.get("items")
            if isinstance(inner, dict):
                value[index] = fill_defaults(root, inner, item, depth + 1)
    return value


def _default_of(root: JSON, schema: JSON) -> JSON:
    """The default of a schema: its own, or that of what it refers to."""
    for _ in range(16):
        if not isinstance(schema, dict):
            return ABSENT
        if "default" in schema:
            return schema["default"]
        if not isinstance(schema.get("$ref"), str):
            return ABSENT
        schema = resolve_reference(root, schema["$ref"])
    return ABSENT


# ---- checking with jsonschema


class TooMuch(Exception):
    """More references were followed than a sensible schema needs."""


class _Budget(threading.local):
    """What is left of the references that one check may follow."""

    left = MAX_REFERENCES

    def fill(self, value: JSON) -> None:
        count, pending = 0, [value]
        while pending:
            item = pending.pop()
            if isinstance(item, dict | list):
                count += len(item)
                pending.extend(item.values() if isinstance(item, dict) else item)
        self.left = MAX_REFERENCES + 20 * count

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise TooMuch


budget = _Budget()
_kept: dict[int, tuple[JSON, Any]] = {}


@lru_cache(maxsize=1)
def _checker() -> Any:
    """The validator class: draft 2020-12 with bounded keywords."""
    from jsonschema import Draft202012Validator, ValidationError, validators

    follow = Draft202012Validator.VALIDATORS["$ref"]

    def reference(validator: Any, target: Any, instance: Any, schema: Any) -> Iterable[Any]:
        budget.spend()
        yield from follow(validator, target, instance, schema)

    def pattern(validator: Any, text: Any, instance: Any, schema: Any) -> Iterable[Any]:
        if not isinstance(instance, str):
            return
        if len(instance) > MATCHED_LENGTH:
            yield ValidationError(f"is longer than the {MATCHED_LENGTH} characters that a pattern is checked on")
        elif re.search(text, instance) is None:
            yield ValidationError(f"does not match the pattern {text[:100]}")

    def unique(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterable[Any]:
        if wanted and isinstance(instance, list):
            seen = {dumps(_normal(item)) for item in instance}
            if len(seen) != len(instance):
                yield ValidationError("has an item twice")

    extend: Any = validators.extend
    return extend(Draft202012Validator, {"$ref": reference, "pattern": pattern, "uniqueItems": unique})


def _normal(value: JSON) -> JSON:
    """1 and 1.0 are the same in JSON Schema, and the order of keys means nothing."""
    if isinstance(value, dict):
        return {key: _normal(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_normal(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def validator_of(schema: JSON) -> Any:
    """The validator of a schema; kept for the schemas of plans, which live long."""
    known = _kept.get(id(schema))
    if known is not None and known[0] is schema:
        return known[1]
    from referencing import Registry

    # An empty registry: nothing is ever fetched.
    validator = _checker()(schema, registry=Registry())
    if len(_kept) >= _KEPT:
        _kept.clear()
    _kept[id(schema)] = (schema, validator)
    return validator


# ---- messages


def plain_problems(error: Any) -> list[Problem]:
    """jsonschema's error in plain words. Values are repeated only as far as 80 characters."""
    path = format_path(("input", *error.absolute_path))
    keyword, wanted, value = error.validator, error.validator_value, error.instance
    if keyword == "required":
        missing = [name for name in wanted if isinstance(value, dict) and name not in value]
        return [Problem(path, f"{quoted(name)} is missing") for name in missing]
    if keyword == "additionalProperties" and wanted is False:
        known = list(error.schema.get("properties", {}))
        patterns = list(error.schema.get("patternProperties", {}))
        extra = [key for key in value if key not in known and not any(re.search(text, key) for text in patterns)]
        return [_unknown(path, key, known) for key in extra]
    if keyword == "oneOf" and not error.context:
        return [Problem(path, "fits more than one of the forms, and may fit only one")]
    return [Problem(path, _message(keyword, wanted, value, error.message))]


def _unknown(path: str, key: str, known: list[str]) -> Problem:
    near = suggest(key, known)
    return Problem(path, f"unknown field {quoted(key)}" + (f"; {near}" if near else ""))


_BOUNDS: Mapping[str, str] = {
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "exclusiveMinimum": "must be more than {}",
    "exclusiveMaximum": "must be less than {}",
    "multipleOf": "must be a multiple of {}",
    "minLength": "must have at least {} characters",
    "maxLength": "must have at most {} characters",
    "minItems": "must have at least {} items",
    "maxItems": "must have at most {} items",
    "minProperties": "must have at least {} fields",
    "maxProperties": "must have at most {} fields",
}


def _message(keyword: str | None, wanted: Any, value: JSON, said: str) -> str:
    if keyword == "type":
        words = wanted if isinstance(wanted, list) else [wanted]
        return f"must be {' or '.join(_TYPE_WORDS.get(str(word), str(word)) for word in words)}, not {describe(value)}"
    if keyword == "enum":
        return f"must be one of {_cut(', '.join(dumps(item) for item in wanted))}"
    if keyword == "const":
        return f"must be {_cut(dumps(wanted))}"
    if keyword is not None and keyword in _BOUNDS:
        return _BOUNDS[keyword].format(wanted)
    if keyword in ("anyOf", "oneOf"):
        return f"fits none of the {len(wanted)} forms that are allowed"
    if keyword == "not":
        return "has a form that is not allowed"
    if keyword is None:
        return f"{_cut(dumps(value))} is not allowed"
    return _cut(said)


def _cut(text: str) -> str:
    return text if len(text) <= 160 else text[:160] + "…"
