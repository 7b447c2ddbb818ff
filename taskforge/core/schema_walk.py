"""Walks a JSON Schema: its keywords, the schemas inside it, what a reference in it points to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from taskforge.core.model import JSON
from taskforge.core.problem import Pointer

ABSENT: Any = object()
"""Stands for a value that is not there."""

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


def resolve_reference(root: JSON, reference: str) -> JSON:
    """Return what a reference inside the schema points to, or ABSENT."""
    if reference == "#":
        return root
    if not reference.startswith("#/"):
        anchor = reference[1:]
        for _, inner in subschemas(root, ()):
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


def subschemas(schema: JSON, pointer: Pointer) -> Iterator[tuple[Pointer, JSON]]:
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
