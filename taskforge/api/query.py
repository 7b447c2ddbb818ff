"""Query parameters: what each may be, and the reading of them against a route's table. Unknown ones are refused."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any
from urllib.parse import parse_qsl

from taskforge.api.journal_shapes import Place, parse_place
from taskforge.api.route import Param, Schema
from taskforge.core.clock import from_rfc3339
from taskforge.core.durations import parse_duration
from taskforge.core.errors import InvalidRequest
from taskforge.core.problem import Problem, quoted, suggest
from taskforge.core.states import DeadLetterState, RunState

DEFAULT_LIMIT = 50
MAX_LIMIT = 500
MAX_WAIT_MS = 600_000
_MAX_PARAMS = 100
_SPACED_OFFSET = re.compile(r" (?=\d\d:\d\d$)")


def read_query(query: bytes, params: tuple[Param, ...]) -> dict[str, Any]:
    """The values of a query string by name. Raises InvalidRequest with every wrong parameter named."""
    if not query:
        return {}
    known = {param.name: param for param in params}
    given: dict[str, list[str]] = {}
    problems: list[Problem] = []
    for name, text in _pairs(query):
        if name in known:
            given.setdefault(name, []).append(text)
        else:
            hint = suggest(name, known) or _accepted(known)
            problems.append(Problem(name, f"there is no query parameter {quoted(name)} here", hint=hint))
    values: dict[str, Any] = {}
    for name, texts in given.items():
        try:
            values[name] = _value(known[name], texts)
        except ValueError as error:
            problems.append(Problem(name, str(error)))
    if problems:
        first = problems[0]
        raise InvalidRequest(f"the query parameter {quoted(first.path)} is wrong: {first.message}", problems=problems)
    return values


def _pairs(query: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMS)
    except UnicodeDecodeError:
        raise InvalidRequest("the query string is not valid percent-encoded UTF-8") from None
    except ValueError:
        raise InvalidRequest(f"the query string has more than {_MAX_PARAMS} parameters") from None


def _value(param: Param, texts: list[str]) -> Any:
    if param.multiple:
        return tuple(dict.fromkeys(param.parse(part) for text in texts for part in text.split(",")))
    if len(texts) > 1:
        raise ValueError("it may be given once only")
    return param.parse(texts[0])


def _accepted(known: dict[str, Param]) -> str:
    return "accepted: " + ", ".join(known) if known else "this call takes no query parameters"


# ---- cursors: opaque to callers; the word inside keeps a cursor of one list from being used in another


def encode_cursor(kind: str, value: str | int | None) -> str | None:
    """An opaque text for the place after which a list goes on."""
    if value is None:
        return None
    return base64.urlsafe_b64encode(f"{kind}:{value}".encode()).decode().rstrip("=")


def _decode_cursor(kind: str, text: str) -> str:
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        word, _, value = base64.b64decode(padded, b"-_", validate=True).decode().partition(":")
    except (UnicodeError, binascii.Error, ValueError):
        word, value = "", ""
    if word != kind or not value or "\x00" in value:
        raise ValueError("it is not a cursor of this list; take next_cursor from the answer before")
    return value


def cursor_param(kind: str, *, numeric: bool = False, name: str = "cursor") -> Param:
    """The `cursor` of a list."""

    def parse(text: str) -> str | int:
        value = _decode_cursor(kind, text)
        if not numeric:
            return value
        if not (value.isascii() and value.isdigit() and len(value) <= 18):
            raise ValueError("it is not a cursor of this list; take next_cursor from the answer before")
        return int(value)

    return Param(name, parse, {"type": "string"}, "Where to go on: next_cursor of the answer before.")


# ---- the parameters


def parse_whole(low: int, high: int, text: str) -> int:
    """A whole number in a range."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and low <= int(text) <= high):
        raise ValueError(f"it must be a whole number from {low} to {high}")
    return int(text)


def _parse_limit(text: str) -> int:
    return parse_whole(1, MAX_LIMIT, text)


def _parse_time(text: str) -> int:
    # A "+" that was not written as %2B arrives as a space.
    return from_rfc3339(_SPACED_OFFSET.sub("+", text))


def _parse_wait(text: str) -> int:
    ms = parse_duration(text)
    if ms > MAX_WAIT_MS:
        raise ValueError("it may be at most 10m")
    return ms


def _parse_text(text: str) -> str:
    if not 0 < len(text) <= 256:
        raise ValueError("it must be a text of 1 to 256 characters")
    return text


def choice_param(name: str, choices: tuple[str, ...], doc: str, *, multiple: bool = False) -> Param:
    """A parameter that is one of some words, or a list of them with commas."""

    def parse(text: str) -> str:
        if text not in choices:
            hint = suggest(text, choices)
            raise ValueError(f"it must be one of {', '.join(choices)}" + (f"; {hint}" if hint else ""))
        return text

    schema: Schema = {"type": "string", "enum": list(choices)}
    if multiple:
        schema = {"type": "array", "items": schema}
    return Param(name, parse, schema, doc, multiple)


_TIME: Schema = {"type": "string", "format": "date-time"}

LIMIT = Param(
    "limit",
    _parse_limit,
    {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
    "How many items at most.",
)
WAIT = Param(
    "wait", _parse_wait, {"type": "string"}, "Answer with the run when it has ended or this time is over, such as 30s."
)
SINCE = Param("since", _parse_time, _TIME, "Created at this time or later.")
UNTIL = Param("until", _parse_time, _TIME, "Created at this time or earlier.")
WORKFLOW = Param("workflow", _parse_text, {"type": "string", "minLength": 1}, "The workflow's name.")
TRIGGER = Param("trigger", _parse_text, {"type": "string", "minLength": 1}, "The trigger's type, such as manual.")
RUN_STATE = choice_param("state", tuple(RunState), "One state, or several with commas.", multiple=True)
DEAD_STATE = choice_param("state", tuple(DeadLetterState), "The dead letter's state.")
STEPS = choice_param(
    "steps",
    ("none", "failed", "all"),
    "Which steps the answer has. Without it, the first 500 by path, and steps_cursor for the rest.",
)


def _parse_log_cursor(text: str) -> Place:
    try:
        return parse_place(_decode_cursor("logs", text))
    except ValueError:
        raise ValueError("it is not a cursor of this list; take next_cursor from the answer before") from None


LOG_CURSOR = Param("cursor", _parse_log_cursor, {"type": "string"}, "Where to go on: next_cursor of the answer before.")
