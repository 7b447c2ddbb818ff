"""Query parameters: what each may be, and the reading of them against a route's table. Unknown ones are refused."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

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
_SHORT_QUERY = 200  # bytes; what is longer is hardly asked twice
_SPACED_OFFSET = re.compile(r" (?=\d\d:\d\d$)")


def read_query(query: bytes, params: tuple[Param, ...]) -> dict[str, Any]:
    """The values of a query string by name. Raises InvalidRequest with every wrong parameter named."""
    if not query:
        return {}
    known = {param.name: param for param in params}
    given: dict[str, list[str]] = {}
    problems: list[Problem] = []
    for name, text in _known_pairs(query) if len(query) <= _SHORT_QUERY else _pairs(query):
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


@lru_cache(maxsize=512)
def _known_pairs(query: bytes) -> tuple[tuple[str, str], ...]:
    """The same for what many calls ask alike."""
    return tuple(_pairs(query))


def _value(param: Param, texts: list[str]) -> Any:
    if param.multiple:
        return tuple(dict.fromkeys(param.parse(part) for text in texts for part in text.split(",")))
    if len(texts) > 1:
        raise ValueError("it may be given once only")
    return param.parse(texts[0])


def _accepted(known: dict[str, Param]) -> str:
    return "accepted: " + ", ".join(known) if known else "this call takes no query parameters"


# ---- cursors: opaque to callers; the first letter keeps a cursor of one list from being used in another


class CursorKind(NamedTuple):
    """What a list goes on after: `letter` begins its cursors, `numeric` says that it is a number."""

    letter: str
    numeric: bool

    @property
    def pattern(self) -> str:
        return f"^{self.letter}" + ("[0-9a-f]{1,15}$" if self.numeric else "([0-9a-f]{2}){1,512}$")


WORKFLOWS = CursorKind("w", False)
VERSIONS = CursorKind("v", True)
RUNS = CursorKind("r", True)
STEPS = CursorKind("s", False)
LOGS = CursorKind("l", True)
WHY = CursorKind("y", True)
DEAD_LETTERS = CursorKind("d", False)
DELIVERIES = CursorKind("i", True)
SCHEDULES = CursorKind("c", True)
AUDIT = CursorKind("a", True)


def encode_cursor(kind: CursorKind, value: str | int) -> str:
    """An opaque text for the place after which a list goes on."""
    return kind.letter + (f"{value:x}" if isinstance(value, int) else value.encode().hex())


def cursor_param(kind: CursorKind, name: str = "cursor") -> Param:
    """The parameter that takes cursors of a kind; its value is what `encode_cursor` was given."""
    form = re.compile(kind.pattern)

    def parse(text: str) -> str | int:
        if form.fullmatch(text) is None:
            raise ValueError(f"it is not a cursor of this list; take {_SOURCE[name]} from the answer before")
        return int(text[1:], 16) if kind.numeric else bytes.fromhex(text[1:]).decode(errors="replace")

    schema: Schema = {"type": "string", "pattern": kind.pattern}
    return Param(name, parse, schema, f"Where to go on: {_SOURCE[name]} of the answer before.")


_SOURCE = {"cursor": "next_cursor", "steps_cursor": "steps_cursor"}


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


def _parse_path(text: str) -> str:
    if not 0 < len(text) <= 1000:
        raise ValueError("it must be the path of a step: a text of 1 to 1000 characters")
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
        schema = {"type": "array", "items": schema, "minItems": 1}
    return Param(name, parse, schema, doc, multiple)


def _duration_pattern() -> str:
    """Units fall and at least one stands there: `1h30m`, not `30m1h`; or a number alone."""
    number = r"[0-9]+(\.[0-9]+)?"
    parts = [number + unit for unit in ("d", "h", "m", "s", "ms")]
    ways = [part + "".join(f"({later})?" for later in parts[index + 1 :]) for index, part in enumerate(parts)]
    return f"^({'|'.join([number, *ways])})$"


DURATION_PATTERN = _duration_pattern()

_TIME: Schema = {"type": "string", "format": "date-time"}

LIMIT = Param(
    "limit",
    _parse_limit,
    {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
    "How many items at most.",
)
WAIT = Param(
    "wait",
    _parse_wait,
    {"type": "string", "pattern": DURATION_PATTERN, "examples": ["5s"]},
    "Answer with the run when it has ended or this time is over; at most 10m.",
)
SINCE = Param("since", _parse_time, _TIME, "Created at this time or later.")
UNTIL = Param("until", _parse_time, _TIME, "Created at this time or earlier.")
WORKFLOW = Param("workflow", _parse_text, {"type": "string", "minLength": 1}, "The workflow's name.")
STEP = Param("step", _parse_path, {"type": "string", "minLength": 1, "maxLength": 1000}, "Only this step, by its path.")
TRIGGER = Param("trigger", _parse_text, {"type": "string", "minLength": 1}, "The trigger's type, such as manual.")
RUN_STATE = choice_param("state", tuple(RunState), "One state, or several with commas.", multiple=True)
DEAD_STATE = choice_param("state", tuple(DeadLetterState), "The dead letter's state.")
DELIVERY_STATE = choice_param("state", ("ACCEPTED", "FILTERED", "DUPLICATE", "FAILED"), "What became of the delivery.")
TRIGGER_NAME = Param("trigger", _parse_text, {"type": "string", "minLength": 1}, "The trigger's name.")
SEARCH = Param(
    "search", _parse_text, {"type": "string", "minLength": 1, "maxLength": 256},
    "Text in the headers, query or body; ASCII letters in either case.",
)  # fmt: skip
HAPPENED_SINCE = Param("since", _parse_time, _TIME, "Made at this time or later.")
HAPPENED_UNTIL = Param("until", _parse_time, _TIME, "Made at this time or earlier.")
ACTOR = Param("actor", _parse_text, {"type": "string", "minLength": 1, "maxLength": 256}, "A token's name or id.")
ACTION = Param(
    "action", _parse_text, {"type": "string", "minLength": 1, "maxLength": 256, "examples": ["put_secret"]}, "The act."
)
TARGET = Param(
    "target", _parse_text, {"type": "string", "minLength": 1, "maxLength": 256, "examples": ["workflows/uptime"]},
    "What was changed, or what it lies in.",
)  # fmt: skip
CHOSEN_STEPS = choice_param(
    "steps",
    ("none", "failed", "all"),
    "Which steps the answer has. Without it, the first 500 by path, and steps_cursor for the rest.",
)
