"""Types for the config models of step kinds: fields that may hold `${{ }}`, durations, conditions, plain scalars.

A model is used twice: on the document, where a field of type `Templated[T]` may hold text with an expression in place
of a T; and, with `resolve`, on the evaluated config, where it must be a T. Text that came out of data is never taken
for an expression.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from taskforge.core.durations import parse_duration

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

_OPENED = re.compile(r"(?<!\$)\$\{\{")
_WHOLE = re.compile(r"\s*\$\{\{.*\}\}\s*", re.DOTALL)
_RESOLVED = {"resolved": True}

EXPRESSION_SCHEMA = {"type": "string", "pattern": r"\$\{\{"}
CONDITION_SCHEMA = {"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": r"^\s*\$\{\{[\s\S]*\}\}\s*$"}]}
DURATION_SCHEMA = {
    "anyOf": [
        {"type": "string", "pattern": r"^ *([0-9]+(\.[0-9]+)?(ms|[dhms]))+ *$|^ *[0-9]+(\.[0-9]+)? *$"},
        {"type": "number", "minimum": 0},
    ]
}


def has_expression(value: object) -> bool:
    """Return whether text opens a `${{` (`$${{` is a literal one)."""
    return isinstance(value, str) and _OPENED.search(value) is not None


def is_condition(value: object) -> bool:
    """Return whether a value has the form of a condition: true, false, or text that is one `${{ }}` from end to end."""
    return isinstance(value, bool) or (isinstance(value, str) and _WHOLE.fullmatch(value) is not None)


class StepConfig(BaseModel):
    """Base of config models: strict types, no unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


def resolve(model: type[M], value: object) -> M:
    """Check an evaluated config. Raises pydantic's ValidationError."""
    return model.model_validate(value, context=_RESOLVED)


class _MayBeExpression:
    """Lets text with an expression stand for any value, until the config is evaluated."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_wrap_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        inner = handler(schema)
        return inner if inner.get("type") == "string" and len(inner) == 1 else {"anyOf": [inner, EXPRESSION_SCHEMA]}

    @staticmethod
    def _check(value: Any, handler: core_schema.ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        if has_expression(value) and not is_resolved(info):
            return value
        return handler(value)


def is_resolved(info: ValidationInfo) -> bool:
    """For validators: whether the config is an evaluated one, in which `${{` is plain text."""
    return bool(info.context and info.context.get("resolved"))


Templated = Annotated[T, _MayBeExpression()]
"""`Templated[int]`: an int, or text with an expression whose result will be one."""


class Plain:
    """A type by a function of our own: it returns the value to keep or raises ValueError with the whole message."""

    def __init__(self, check: Any, schema: dict[str, Any]) -> None:
        self._check = check
        self._schema = schema

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._run)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return dict(self._schema)

    def _run(self, value: Any) -> Any:
        try:
            return self._check(value)
        except ValueError as error:
            raise PydanticCustomError("plain", "{message}", {"message": str(error)}) from None


def _check_duration(value: Any) -> int:
    found = parse_duration(value)
    if found < 1:
        raise ValueError("must be at least 1ms")
    return found


def _check_condition(value: Any) -> Any:
    if value is None or is_condition(value):
        return value
    raise ValueError("a condition must be one whole ${{ … }}, true or false")


def describe(value: object) -> str:
    """A JSON value's type in the words of messages: `a number`, `text`, …"""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "a mapping"


def _check_scalar(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ValueError(f"must be text, a number, true, false or null, not {describe(value)}")


def _check_json(value: Any) -> Any:
    return value


Duration = Annotated[Any, Plain(_check_duration, DURATION_SCHEMA)]
"""As people write it; in the checked model an int of milliseconds."""

Condition = Annotated[Any, Plain(_check_condition, CONDITION_SCHEMA)]
"""One whole `${{ }}`, true or false."""

Scalar = Annotated[Any, Plain(_check_scalar, {"type": ["string", "number", "boolean", "null"]})]
"""Text, a number, true, false or null, as it stands."""

AnyJSON = Annotated[Any, Plain(_check_json, {})]
"""Any JSON value, with expressions anywhere in it."""


def _check_step_list(value: Any) -> Any:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of steps, not {describe(value)}")
    return value


StepList = Annotated[Any, Plain(_check_step_list, {"x-ref": "steps"})]
"""A list of inner steps; `Kind.blocks` says where it stands, and each step is checked by itself."""
