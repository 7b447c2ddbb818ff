"""pydantic's findings about a step's config, in plain words and at the place in the config that they are about."""

from __future__ import annotations

import typing
from typing import Any

from pydantic import BaseModel, RootModel, ValidationError

from taskforge.core.findings import with_suggestion
from taskforge.core.problem import Pointer, quoted, suggest
from taskforge.core.record import dataclass
from taskforge.core.templated import describe

_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "list_type": "a list",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """`pointer` leads into the config; `key` says that the key is meant, not its value."""

    pointer: Pointer
    message: str
    key: bool = False
    hint: str | None = None
    code: str | None = None


def config_problems(error: ValidationError, config: Any, model: type[BaseModel]) -> list[ConfigProblem]:
    """Return what is wrong, in pydantic's order, each once."""
    found: dict[tuple[Pointer, str], ConfigProblem] = {}
    for entry in error.errors(include_url=False, include_input=False):
        problem = _problem(entry, config, model)
        found.setdefault((problem.pointer, problem.message), problem)
    return list(found.values())


def _problem(entry: Any, config: Any, model: type[BaseModel]) -> ConfigProblem:
    kind, ctx = entry["type"], entry.get("ctx", {})
    pointer, value, rest = _follow(entry["loc"], config)
    if kind == "extra_forbidden":
        known = _keys(_model_at(model, pointer[:-1]))
        word = str(pointer[-1]) if pointer else ""
        near = suggest(word, known)
        hint = None if near or not known else "known here: " + ", ".join(known)
        return ConfigProblem(pointer, with_suggestion(f"unknown key {quoted(word)}", near), True, hint)
    if kind == "missing":
        name = str(rest[0]) if rest else ""
        return ConfigProblem(pointer, f"{quoted(name)} is missing")
    if kind == "plain_at_key":
        return ConfigProblem((*pointer, ctx["key"]), ctx["message"], True, code=ctx.get("code"))
    if kind == "plain":
        return ConfigProblem(pointer, ctx["message"], code=ctx.get("code"))
    return ConfigProblem(pointer, _message(kind, ctx, entry["msg"], value))


def _message(kind: str, ctx: dict[str, Any], said: str, value: Any) -> str:
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}, not {describe(value)}"
    if kind in ("greater_than_equal", "less_than_equal", "greater_than", "less_than"):
        sign, limit = next(iter(ctx.items()))
        words = {"ge": "at least", "le": "at most", "gt": "more than", "lt": "less than"}
        return f"must be {words.get(sign, sign)} {limit}"
    if kind == "too_short":
        return f"must have at least {ctx['min_length']} item{'s' if ctx['min_length'] != 1 else ''}"
    if kind == "too_long":
        return f"must have at most {ctx['max_length']} items"
    if kind in ("literal_error", "enum"):
        choices = [word.strip(" '") for word in ctx["expected"].replace(" or ", ", ").split(", ")]
        near = suggest(value, choices) if isinstance(value, str) else None
        return with_suggestion(f"must be {'one of ' if len(choices) > 1 else ''}{', '.join(choices)}", near)
    return said[:1].lower() + said[1:]


def _follow(loc: tuple[int | str, ...], config: Any) -> tuple[Pointer, Any, tuple[int | str, ...]]:
    """Walk as far as the config goes; parts of `loc` that name pydantic's own layers are left out."""
    pointer: list[str | int] = []
    value: Any = config
    rest: list[int | str] = []
    for part in loc:
        is_key = isinstance(value, dict) and part in value
        if is_key or (isinstance(value, list) and isinstance(part, int) and 0 <= part < len(value)):
            pointer.append(part)
            value, rest = value[part], []
        else:
            rest.append(part)
    return tuple(pointer), value, tuple(rest)


def _keys(model: type[BaseModel] | None) -> list[str]:
    if model is None:
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_at(model: type[BaseModel] | None, pointer: Pointer) -> type[BaseModel] | None:
    """Return the model of the mapping at `pointer`, where the annotations say so."""
    for part in pointer:
        if model is None:
            return None
        if issubclass(model, RootModel):
            model = _model_in(model.model_fields["root"].annotation)
            continue
        field = next((field for name, field in model.model_fields.items() if (field.alias or name) == part), None)
        model = None if field is None else _model_in(field.annotation)
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
