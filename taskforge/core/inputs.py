"""A run's input: its JSON Schema (draft 2020-12), its defaults, and whether a value fits.

Formats are not asserted. References stay inside the schema. What checking costs is bounded: texts are matched against a
pattern up to a length, patterns that can run away are refused, references are counted.
"""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from taskforge.core.input_patterns import MATCHED_LENGTH, pattern_problem
from taskforge.core.jsontext import dumps
from taskforge.core.model import JSON
from taskforge.core.problem import Pointer, Problem, format_path, quoted, suggest
from taskforge.core.templated import describe

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_REFERENCES = 5_000
"""References that are followed in one check, and 20 more for each value of the input."""
MAX_PROBLEMS = 50
_ENDLESS = "the schema refers to itself without end, or the input is nested too deeply"
ABSENT: Any = object()
"""Stands for a value that was not given."""

_ONE = frozenset(
    (
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    )
)
_MANY = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
_NAMED = frozenset(("$defs", "definitions", "dependentSchemas", "patternProperties", "properties"))
_OTHER = """
$anchor $comment $dynamicAnchor $dynamicRef $id $ref $schema $vocabulary const contentEncoding contentMediaType default
dependentRequired deprecated description enum examples exclusiveMaximum exclusiveMinimum format maxContains maxItems
maxLength maxProperties maximum minContains minItems minLength minProperties minimum multipleOf pattern readOnly
required title type uniqueItems writeOnly
"""
KEYWORDS = frozenset((*_ONE, *_MANY, *_NAMED, *_OTHER.split()))

_TYPE_WORDS = {
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
    "object": "a mapping",
}


@dataclass(frozen=True, slots=True)
class SchemaProblem:
    """`key`: the key at `pointer` is meant. `is_warning`: the schema can be used all the same."""

    pointer: Pointer
    message: str
    hint: str | None = None
    key: bool = False
    is_warning: bool = False


def check_schema(schema: JSON) -> list[SchemaProblem]:
    """Return what is wrong with a workflow's `inputs`."""
    if not isinstance(schema, dict):
        return [SchemaProblem((), f"must be a JSON Schema, a mapping with type and properties, not {describe(schema)}")]
    if schema and not any(key in KEYWORDS for key in schema):
        message = "must be a JSON Schema; none of its keys is a keyword of JSON Schema"
        return [SchemaProblem((), message, "write the fields under properties: {type: object, properties: {…}}")]
    found = list(_check_meta(schema))
    for pointer, inner in _subschemas(schema, ()):
        found += _check_one(schema, pointer, inner)
    if not any(not problem.is_warning for problem in found):
        found += _check_defaults(schema)
        if any(problem.message == _ENDLESS for problem in check_input(schema, apply_defaults(schema))):
            found.append(SchemaProblem((), "the schema refers to itself without end"))
    return found


def apply_defaults(schema: JSON, value: JSON = ABSENT) -> JSON:
    """Return the value with the schema's defaults where properties are missing, at every depth.

    Looks into `properties`, `items`, `prefixItems`, `allOf` and references; not into alternatives. Without a value: the
    schema's own default, else `{}`. The value given is not changed.
    """
    if value is ABSENT:
        value = schema.get("default", {}) if isinstance(schema, dict) else {}
    budget.fill(value)
    try:
        return _fill(schema, schema, copy.deepcopy(value), 0)
    except _TooMuch:
        return value  # `check_input` says what is wrong


def check_input(schema: JSON, value: JSON) -> list[Problem]:
    """Return why the value does not fit, each with its path (`input.repo`); at most 50."""
    import jsonschema

    budget.fill(value)
    found: list[Problem] = []
    try:
        for error in _validator(schema).iter_errors(value):
            found.extend(_plain(error))
            if len(found) >= MAX_PROBLEMS:
                break
    except (RecursionError, _TooMuch):
        found.append(Problem("input", _ENDLESS))
    except (ArithmeticError, ValueError, jsonschema.exceptions.SchemaError) as error:
        found.append(Problem("input", f"the input cannot be checked against the schema: {str(error)[:200]}"))
    unique = {(problem.path, problem.message): problem for problem in found}
    return sorted(unique.values(), key=lambda problem: problem.path)


# ---- the schema


def _check_meta(schema: dict[str, JSON]) -> Iterator[SchemaProblem]:
    for error in _meta_validator().iter_errors(schema):
        pointer = tuple(error.absolute_path)
        leaf = min(error.context, key=lambda inner: len(inner.absolute_path)) if error.context else error
        for problem in _plain(leaf):
            yield SchemaProblem(pointer, problem.message)


def _check_one(root: dict[str, JSON], pointer: Pointer, schema: JSON) -> list[SchemaProblem]:
    if not isinstance(schema, dict):
        return []
    found: list[SchemaProblem] = []
    for key, value in schema.items():
        here = (*pointer, key)
        if key in ("$ref", "$dynamicRef") and isinstance(value, str):
            found += _check_reference(root, here, value)
        elif key == "$schema" and value not in (DIALECT, DIALECT + "#"):
            found.append(SchemaProblem(here, f"the dialect must be {DIALECT}", "leave $schema out"))
        elif key == "$id" and pointer:
            found.append(SchemaProblem(here, "$id may stand at the top only; references use #/…", key=True))
        elif key == "pattern" and isinstance(value, str):
            problem = pattern_problem(value)
            found += [SchemaProblem(here, problem)] if problem else []
        elif key == "patternProperties" and isinstance(value, dict):
            texts = [(text, pattern_problem(text)) for text in value]
            found += [SchemaProblem((*here, text), problem, key=True) for text, problem in texts if problem]
        elif key not in KEYWORDS and not key.startswith("x-"):
            near = suggest(key, KEYWORDS)
            said = f"{quoted(key)} is no keyword of JSON Schema and checks nothing"
            found.append(SchemaProblem(here, f"{said}; {near}" if near else said, key=True, is_warning=True))
    return found


def _check_reference(root: dict[str, JSON], pointer: Pointer, reference: str) -> list[SchemaProblem]:
    if not reference.startswith("#"):
        message = f"{quoted(reference)}: a reference must stay inside the schema"
        return [SchemaProblem(pointer, message, "copy what it points to under $defs and refer to #/$defs/NAME")]
    if reference == "#" or _resolve(root, reference) is not ABSENT:
        return []
    return [SchemaProblem(pointer, f"{quoted(reference)} is not in the schema")]


def _resolve(root: JSON, reference: str) -> JSON:
    """Return what a reference inside the schema points to, or ABSENT."""
    if reference == "#":
        return root
    if not reference.startswith("#/"):
        anchor = reference[1:]
        for _, inner in _subschemas(root, ()):
            if isinstance(inner, dict) and anchor in (inner.get("$anchor"), inner.get("$dynamicAnchor")):
                return inner
        return ABSENT
    value = root
    for raw in reference[2:].split("/"):
        part = re.sub("%[0-9A-Fa-f]{2}", lambda match: chr(int(match[0][1:], 16)), raw)
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part[:9]) < len(value):
            value = value[int(part)]
        else:
            return ABSENT
    return value if isinstance(value, dict | bool) else ABSENT


def _subschemas(schema: JSON, pointer: Pointer) -> Iterator[tuple[Pointer, JSON]]:
    pending: list[tuple[Pointer, JSON]] = [(pointer, schema)]
    while pending:
        here, item = pending.pop()
        yield here, item
        if not isinstance(item, dict):
            continue
        for key, value in item.items():
            if key in _ONE:
                pending.append(((*here, key), value))
            elif key in _MANY and isinstance(value, list):
                pending += [((*here, key, index), inner) for index, inner in enumerate(value)]
            elif key in _NAMED and isinstance(value, dict):
                pending += [((*here, key, name), inner) for name, inner in value.items()]


def _check_defaults(schema: dict[str, JSON]) -> list[SchemaProblem]:
    """Every default must fit the schema that it stands in."""
    found: list[SchemaProblem] = []
    validator = _validator(schema)
    budget.fill(None)
    for pointer, inner in _subschemas(schema, ()):
        if not isinstance(inner, dict) or "default" not in inner:
            continue
        try:
            error = next(
                validator.evolve(schema=inner).iter_errors(_fill(schema, inner, copy.deepcopy(inner["default"]), 0)),
                None,
            )
        except (RecursionError, _TooMuch, ArithmeticError, ValueError):
            continue
        if error is not None:
            said = _plain(error)[0]
            where = said.path.removeprefix("input").removeprefix(".")
            message = f"the default does not fit: {where + ': ' if where else ''}{said.message}"
            found.append(SchemaProblem((*pointer, "default"), message))
    return found


# ---- defaults


def _fill(root: JSON, schema: JSON, value: JSON, depth: int) -> JSON:
    if not isinstance(schema, dict) or depth > 64:
        return value
    reference = schema.get("$ref")
    if isinstance(reference, str):
        budget.spend()
        value = _fill(root, _resolve(root, reference), value, depth + 1)
    for inner in schema.get("allOf", ()):
        value = _fill(root, inner, value, depth + 1)
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name not in value:
                default = _default_of(root, inner)
                if default is ABSENT:
                    continue
                value[name] = copy.deepcopy(default)
            value[name] = _fill(root, inner, value[name], depth + 1)
    elif isinstance(value, list):
        leading = schema.get("prefixItems", ())
        for index, item in enumerate(value):
            inner = leading[index] if index < len(leading) else schema.get("items")
            if isinstance(inner, dict):
                value[index] = _fill(root, inner, item, depth + 1)
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
        schema = _resolve(root, schema["$ref"])
    return ABSENT


# ---- checking with jsonschema


class _TooMuch(Exception):
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
            raise _TooMuch


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


@lru_cache(maxsize=1)
def _meta_validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(Draft202012Validator.META_SCHEMA)


def _validator(schema: JSON) -> Any:
    """The validator of a schema; kept for the schemas of plans, which live long."""
    known = _kept.get(id(schema))
    if known is not None and known[0] is schema:
        return known[1]
    from referencing import Registry

    # An empty registry: nothing is ever fetched.
    validator = _checker()(schema, registry=Registry())
    if len(_kept) >= 512:
        _kept.clear()
    _kept[id(schema)] = (schema, validator)
    return validator


# ---- messages


def _plain(error: Any) -> list[Problem]:
    """jsonschema's error in plain words. Values are repeated only as far as 80 characters."""
    path = format_path(("input", *error.absolute_path))
    keyword, wanted, value = error.validator, error.validator_value, error.instance
    if keyword == "required":
        missing = [name for name in wanted if isinstance(value, dict) and name not in value]
        return [Problem(f"{path}", f"{quoted(name)} is missing") for name in missing]
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
