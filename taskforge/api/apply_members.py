"""The members of bodies with many workflow documents."""

from __future__ import annotations

import re
from typing import Any, Final

from taskforge.api.members import MAX_VERSION
from taskforge.api.route import Field, JsonBody
from taskforge.core.problem import quoted
from taskforge.engine.planning import Given

MAX_DOCUMENTS: Final = 1_000
_MAX_PATTERNS = 100
_MAX_FILE = 1_000
_PATTERN = re.compile(r"[a-z0-9*?-]{1,63}")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def _documents(value: Any) -> list[Given]:
    if not isinstance(value, list) or len(value) > MAX_DOCUMENTS:
        raise ValueError(f"it must be a list of at most {MAX_DOCUMENTS} documents")
    return [_document(entry, f"documents[{number}]") for number, entry in enumerate(value)]


def _document(value: Any, place: str) -> Given:
    if not isinstance(value, dict) or not isinstance(value.get("source"), str):
        raise ValueError(f"{place} must be an object with `source`, the document's text")
    unknown = value.keys() - {"source", "media", "file"}
    if unknown:
        raise ValueError(f"{place} has {quoted(min(unknown))}; accepted: source, media, file")
    media, file = value.get("media", "yaml"), value.get("file")
    if media not in ("yaml", "json"):
        raise ValueError(f"{place}.media must be yaml or json")
    if file is not None and (not isinstance(file, str) or not 1 <= len(file) <= _MAX_FILE):
        raise ValueError(f"{place}.file must be a text of 1 to {_MAX_FILE} characters")
    return Given(value["source"].encode("utf-8", "surrogatepass"), media, file)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("it must be true or false")
    return value


def _keep(value: Any) -> list[str]:
    good = isinstance(value, list) and len(value) <= _MAX_PATTERNS
    if not good or not all(isinstance(item, str) and _PATTERN.fullmatch(item) for item in value):
        raise ValueError(f"it must be a list of at most {_MAX_PATTERNS} names, in which * and ? stand for characters")
    return list(value)


def _expected(value: Any) -> dict[str, int] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not all(map(_is_version, value.values())):
        raise ValueError("it must be an object of versions by workflow; 0 for one that is not there")
    wrong = next((name for name in value if _NAME.fullmatch(name) is None), None)
    if wrong is not None:
        raise ValueError(f"{quoted(wrong)} is no name of a workflow")
    return {name: int(version) for name, version in value.items()}


def _is_version(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_VERSION and not value % 1
    )


_DOCUMENT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["source"],
    "properties": {
        "source": {"type": "string", "description": "The document's text."},
        "media": {"enum": ["yaml", "json"], "description": "Its language; default yaml."},
        "file": {
            "type": ["string", "null"],
            "minLength": 1,
            "maxLength": _MAX_FILE,
            "description": "What errors and warnings call it.",
        },
    },
}
_FIELDS = (
    Field(
        "documents",
        _documents,
        {"type": "array", "items": _DOCUMENT, "maxItems": MAX_DOCUMENTS},
        "The workflows that the server should have.",
        required=True,
    ),
    Field("prune", _flag, {"type": "boolean"}, "And no others: delete every workflow that no document is of."),
    Field(
        "keep",
        _keep,
        {
            "type": "array",
            "items": {"type": "string", "pattern": f"^{_PATTERN.pattern}$"},
            "maxItems": _MAX_PATTERNS,
        },
        "Names that `prune` leaves alone; * and ? stand for characters.",
    ),
    Field("allow_empty", _flag, {"type": "boolean"}, "Take an empty list of documents: with `prune`, nothing is left."),
)
PLAN_WORKFLOWS = JsonBody(_FIELDS, "PlanWorkflows")
APPLY_WORKFLOWS = JsonBody(
    (
        *_FIELDS,
        Field(
            "expected",
            _expected,
            {
                "type": ["object", "null"],
                "propertyNames": {"pattern": f"^{_NAME.pattern}$"},
                "additionalProperties": {"type": "integer", "minimum": 0, "maximum": MAX_VERSION},
            },
            "As a plan has it: newest versions by name, 0 for a workflow that is not there. Apply only where they are.",
        ),
    ),
    "ApplyWorkflows",
)
