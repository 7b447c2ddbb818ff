"""Checks the `inputs` of a workflow document: is it a JSON Schema (draft 2020-12) that can be used safely?"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from taskforge.core.input_patterns import pattern_problem
from taskforge.core.inputs import (
    ENDLESS,
    TooMuch,
    apply_defaults,
    budget,
    check_input,
    fill_defaults,
    plain_problems,
    validator_of,
)
from taskforge.core.model import JSON
from taskforge.core.problem import Pointer, quoted, suggest
from taskforge.core.record import dataclass
from taskforge.core.schema_fit import is_surely_schema, surely_fits
from taskforge.core.schema_walk import ABSENT, KEYWORDS, resolve_reference, subschemas
from taskforge.core.templated import describe

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCES = frozenset(("$ref", "$dynamicRef"))


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
    found = [] if is_surely_schema(schema) else list(_check_meta(schema))
    for pointer, inner in subschemas(schema, ()):
        found += _check_one(schema, pointer, inner)
    if not any(not problem.is_warning for problem in found):
        found += _check_defaults(schema)
        if _has_references(schema) and any(
            problem.message == ENDLESS for problem in check_input(schema, apply_defaults(schema))
        ):
            found.append(SchemaProblem((), "the schema refers to itself without end"))
    return found


def _has_references(schema: JSON) -> bool:
    return any(isinstance(inner, dict) and inner.keys() & _REFERENCES for _, inner in subschemas(schema, ()))


def _check_meta(schema: dict[str, JSON]) -> Iterator[SchemaProblem]:
    for error in _meta_validator().iter_errors(schema):
        pointer = tuple(error.absolute_path)
        leaf = min(error.context, key=lambda inner: len(inner.absolute_path)) if error.context else error
        for problem in plain_problems(leaf):
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
    if reference == "#" or resolve_reference(root, reference) is not ABSENT:
        return []
    return [SchemaProblem(pointer, f"{quoted(reference)} is not in the schema")]


def _check_defaults(schema: dict[str, JSON]) -> list[SchemaProblem]:
    """Every default must fit the schema that it stands in."""
    found: list[SchemaProblem] = []
    budget.fill(None)
    for pointer, inner in subschemas(schema, ()):
        if not isinstance(inner, dict) or "default" not in inner:
            continue
        try:
            filled = fill_defaults(schema, inner, copy.deepcopy(inner["default"]), 0)
            if surely_fits(inner, filled):
                continue
            error = next(validator_of(schema).evolve(schema=inner).iter_errors(filled), None)
        except (RecursionError, TooMuch, ArithmeticError, ValueError):
            continue
        if error is not None:
            said = plain_problems(error)[0]
            where = said.path.removeprefix("input").removeprefix(".")
            message = f"the default does not fit: {where + ': ' if where else ''}{said.message}"
            found.append(SchemaProblem((*pointer, "default"), message))
    return found


@lru_cache(maxsize=1)
def _meta_validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(Draft202012Validator.META_SCHEMA)
