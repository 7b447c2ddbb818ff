"""Says yes, without jsonschema, to schemas and values of the plain kind that people write.

Importing jsonschema takes 0.1 s of CPU, and checking with it twenty times as long as here. A yes is what jsonschema
would say too; where there is none, only jsonschema knows, and has the words for what is wrong.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from taskforge.core.input_patterns import MATCHED_LENGTH
from taskforge.core.model import JSON
from taskforge.core.schema_walk import subschemas

_Check = Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return type(value) is int or type(value) is float


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value) and len(set(value)) == len(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_some(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _is_anything(value: Any) -> bool:
    return True


_TYPES: Final[Mapping[Any, _Check]] = {
    "string": _is_text,
    "number": _is_number,
    "integer": lambda value: type(value) is int or (type(value) is float and value.is_integer()),
    "boolean": _is_flag,
    "null": lambda value: value is None,
    "array": _is_list,
    "object": _is_mapping,
}


def _is_type(value: Any) -> bool:
    return _is_some(value) and _is_names(value) and _TYPES.keys() >= set(value) if isinstance(value, list) else (
        isinstance(value, str) and value in _TYPES
    )  # fmt: skip


_FORMS: Final[Mapping[str, _Check]] = {
    **dict.fromkeys(("title", "description", "$comment", "format", "pattern", "$ref"), _is_text),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _is_number),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _is_count),
    **dict.fromkeys(("deprecated", "readOnly", "writeOnly", "uniqueItems"), _is_flag),
    **dict.fromkeys(("enum", "examples"), _is_list),
    **dict.fromkeys(("default", "const"), _is_anything),
    **dict.fromkeys(("properties", "patternProperties", "$defs"), _is_mapping),
    **dict.fromkeys(("items", "additionalProperties", "not", "if", "then", "else", "contains"), _is_schema),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), _is_some),
    "required": _is_names,
    "type": _is_type,
}
"""What the metaschema asks of the keywords that people use; what is not here, jsonschema judges."""

_REMARKS: Final = frozenset(
    (
        "title",
        "description",
        "$comment",
        "$defs",
        "default",
        "examples",
        "format",
        "deprecated",
        "readOnly",
        "writeOnly",
    )
)
"""Keywords that check nothing."""


def is_surely_schema(schema: JSON) -> bool:
    """Return True only where the metaschema finds nothing wrong."""
    for _, inner in subschemas(schema, ()):
        if isinstance(inner, bool):
            continue
        if not isinstance(inner, dict):
            return False
        for key, value in inner.items():
            form = _FORMS.get(key)
            if form is None or not form(value):
                return False
    return True


def surely_fits(schema: JSON, value: JSON) -> bool:
    """Return True only where the value fits the schema. The schema may be anything; a value too."""
    if not isinstance(schema, dict):
        return schema is True
    for key, wanted in schema.items():
        if key in _REMARKS:
            continue
        check = _CHECKS.get(key)
        if check is None or not check(wanted, value, schema):
            return False
    return True


def _has_type(wanted: Any, value: Any, schema: Any) -> bool:
    return _is_type(wanted) and any(_TYPES[word](value) for word in (wanted if isinstance(wanted, list) else (wanted,)))


def _is_one_of(wanted: Any, value: Any, schema: Any) -> bool:
    plain = isinstance(value, str | int | None)
    return plain and isinstance(wanted, list) and any(type(item) is type(value) and item == value for item in wanted)


def _is_const(wanted: Any, value: Any, schema: Any) -> bool:
    return _is_one_of([wanted], value, schema)


def _matches(wanted: Any, value: Any, schema: Any) -> bool:
    if not isinstance(value, str):
        return True
    try:
        return len(value) <= MATCHED_LENGTH and re.search(wanted, value) is not None
    except (re.error, TypeError, OverflowError, RecursionError):
        return False


def _fit_properties(wanted: Any, value: Any, schema: Any) -> bool:
    if not isinstance(value, dict):
        return True
    return isinstance(wanted, dict) and all(
        surely_fits(inner, value[name]) for name, inner in wanted.items() if name in value
    )


def _fit_others(wanted: Any, value: Any, schema: Any) -> bool:
    if not isinstance(value, dict) or wanted is True:
        return True
    known = schema.get("properties", {})
    return isinstance(known, dict) and all(surely_fits(wanted, value[name]) for name in value if name not in known)


def _fit_items(wanted: Any, value: Any, schema: Any) -> bool:
    return not isinstance(value, list) or all(surely_fits(wanted, item) for item in value)


def _has_names(wanted: Any, value: Any, schema: Any) -> bool:
    return _is_names(wanted) and (not isinstance(value, dict) or all(name in value for name in wanted))


def _is_unique(wanted: Any, value: Any, schema: Any) -> bool:
    return wanted is False or not isinstance(value, list) or _is_names(value)


def _fits_all(wanted: Any, value: Any, schema: Any) -> bool:
    return isinstance(wanted, list) and all(surely_fits(inner, value) for inner in wanted)


def _fits_any(wanted: Any, value: Any, schema: Any) -> bool:
    return isinstance(wanted, list) and any(surely_fits(inner, value) for inner in wanted)


def _bound(is_within: Callable[[Any, Any], bool]) -> Callable[[Any, Any, Any], bool]:
    def check(wanted: Any, value: Any, schema: Any) -> bool:
        return _is_number(wanted) and (not _is_number(value) or is_within(value, wanted))

    return check


def _size(
    of: type[str | list[Any] | dict[str, Any]], is_within: Callable[[int, int], bool]
) -> Callable[[Any, Any, Any], bool]:
    def check(wanted: Any, value: Any, schema: Any) -> bool:
        return _is_count(wanted) and (not isinstance(value, of) or is_within(len(value), wanted))

    return check


_CHECKS: Final[Mapping[str, Callable[[Any, Any, Any], bool]]] = {
    "type": _has_type,
    "enum": _is_one_of,
    "const": _is_const,
    "pattern": _matches,
    "properties": _fit_properties,
    "additionalProperties": _fit_others,
    "items": _fit_items,
    "required": _has_names,
    "uniqueItems": _is_unique,
    "allOf": _fits_all,
    "anyOf": _fits_any,
    "minimum": _bound(operator.ge),
    "maximum": _bound(operator.le),
    "exclusiveMinimum": _bound(operator.gt),
    "exclusiveMaximum": _bound(operator.lt),
    "minLength": _size(str, operator.ge),
    "maxLength": _size(str, operator.le),
    "minItems": _size(list, operator.ge),
    "maxItems": _size(list, operator.le),
    "minProperties": _size(dict, operator.ge),
    "maxProperties": _size(dict, operator.le),
}
