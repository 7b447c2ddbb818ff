"""The members of JSON bodies: one declaration each, used to check requests and to write the schema."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from taskforge.api.grants import SCOPE_PATTERN
from taskforge.api.query import DURATION_PATTERN
from taskforge.api.route import Field, JsonBody, Schema, Scope
from taskforge.core.clock import from_rfc3339
from taskforge.core.durations import MAX_DURATION_MS, parse_duration
from taskforge.core.problem import quoted

MAX_BATCH = 1000
MAX_SCOPES = 100
MAX_PRIORITY = 1000
MAX_SLOTS = 1000
MAX_CRON = 200
MAX_VERSION = 2**31 - 1
SIGNAL_NAME = re.compile(r"^[^\s!/\x00-\x1f\x7f][^\s/\x00-\x1f\x7f]{0,127}$")
"""What a `wait` step may wait for."""

STATE_KEY = re.compile(r"^[^/\x00-\x1f\x7f]{1,200}$")
_MAX_TEXT = 1000
_SCOPE = re.compile(SCOPE_PATTERN)


def _any(value: Any) -> Any:
    return value


def _version(value: Any) -> int:
    return _whole(value, 1, MAX_VERSION)


def _priority(value: Any) -> int:
    return _whole(value, -MAX_PRIORITY, MAX_PRIORITY)


def _whole(value: Any, low: int, high: int) -> int:
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high or value % 1:
        raise ValueError(f"it must be a whole number from {low} to {high}")
    return int(value)


def _delay(value: Any) -> int:
    return parse_duration(value)


def _inputs(value: Any) -> list[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_BATCH:
        raise ValueError(f"it must be a list of 1 to {MAX_BATCH} inputs")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("it must be true or false")
    return value


def _reason(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or len(value) > _MAX_TEXT):
        raise ValueError(f"it must be a text of at most {_MAX_TEXT} characters")
    return value


def _step(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not 1 <= len(value) <= _MAX_TEXT):
        raise ValueError(f"it must be the path of a step: a text of 1 to {_MAX_TEXT} characters")
    return value


def _cron(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_CRON:
        raise ValueError(f"it must be a text of at most {MAX_CRON} characters, such as 0 9 * * MON-FRI")
    return value


def _short_text(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or len(value) > MAX_CRON):
        raise ValueError(f"it must be a text of at most {MAX_CRON} characters")
    return value


def _jitter(value: Any) -> Any:
    parse_duration(value)
    return value


def _slots(value: Any) -> int:
    return _whole(value, 1, MAX_SLOTS)


def _token_name(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value.strip()) <= 100 or not value.isprintable():
        raise ValueError("it must be a text of 1 to 100 printable characters")
    return value.strip()


def _scopes(value: Any) -> list[str]:
    known = ", ".join(scope.name.lower() for scope in Scope)
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_SCOPES:
        raise ValueError(f"it must be a list of 1 to {MAX_SCOPES} of {known}, each also for one workflow: run:NAME")
    for word in value:
        if not isinstance(word, str) or not _SCOPE.fullmatch(word):
            raise ValueError(f"{quoted(word)} is no scope; there are {known}, each also for one workflow: run:NAME")
    return list(dict.fromkeys(value))


def _time(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("it must be an RFC 3339 time such as 2026-11-23T02:37:01.123Z")
    return from_rfc3339(value)


_DURATION: Schema = {
    "type": ["string", "number"],
    "pattern": DURATION_PATTERN,
    "minimum": 0,
    "maximum": MAX_DURATION_MS // 1000,
    "examples": ["10m"],
}
_VERSION = Field(
    "version",
    _version,
    {"type": "integer", "minimum": 1, "maximum": MAX_VERSION},
    "The version to run; the newest without it.",
)
_PRIORITY = Field(
    "priority",
    _priority,
    {"type": "integer", "minimum": -MAX_PRIORITY, "maximum": MAX_PRIORITY},
    "Runs of a higher number are taken up first; the workflow's own without it, else 0.",
)
_DELAY = Field("delay", _delay, _DURATION, "Start after this time: 500ms, 30s, 10m, 2h, 1d, or a number of seconds.")

START_RUN = JsonBody(
    (
        Field("input", _any, {}, "The run's input; defaults of the workflow's inputs are applied."),
        _VERSION,
        _DELAY,
        _PRIORITY,
    ),
    "StartRun",
)
START_RUNS = JsonBody(
    (
        Field(
            "inputs",
            _inputs,
            {"type": "array", "minItems": 1, "maxItems": MAX_BATCH},
            "One run for each.",
            required=True,
        ),
        _VERSION,
        _PRIORITY,
    ),
    "StartRuns",
)
_HELD = Field("held", _flag, {"type": "boolean"}, "Held back: no attempt begins; runs are still accepted.")
CHANGE_WORKFLOW = JsonBody(
    (Field("enabled", _flag, {"type": "boolean"}, "May the workflow start runs?"), _HELD),
    "ChangeWorkflow",
    at_least_one=True,
)
PRUNE_RUNS = JsonBody(
    (
        Field("older_than", _delay, _DURATION, "Runs that ended longer ago than this go.", required=True),
        Field("dry_run", _flag, {"type": "boolean"}, "Only count them."),
    ),
    "PruneRuns",
)
SET_HOLD = JsonBody((replace(_HELD, required=True),), "SetHold")
SET_STATE = JsonBody(
    (
        Field("value", _any, {}, "What is stored; null removes the key.", required=True),
        Field("expected", _any, {}, "Store it only where the value is this now; null: where there is none."),
    ),
    "SetState",
)
CANCEL_RUN = JsonBody(
    (Field("reason", _reason, {"type": ["string", "null"], "maxLength": _MAX_TEXT}, "Kept with the run."),), "CancelRun"
)
RETRY_RUN = JsonBody(
    (
        Field(
            "from_step",
            _step,
            {"type": ["string", "null"], "minLength": 1, "maxLength": _MAX_TEXT},
            "Run this step (a path, such as each[3].post) and all that came after it again; else what failed.",
        ),
    ),
    "RetryRun",
)
REPLAY_RUN = JsonBody(
    (
        Field("version", _version, _VERSION.schema, "The version to run; the run's own without it."),
        Field("input", _any, {}, "The input; the run's own without it."),
    ),
    "ReplayRun",
)
REPLAY_DELIVERY = JsonBody(
    (Field("version", _version, _VERSION.schema, "The version to run; the newest without it."),), "ReplayDelivery"
)
SEND_SIGNAL = JsonBody((Field("data", _any, {}, "What the step that waits gets as its output."),), "SendSignal")
NOTHING = JsonBody((), "Nothing")
CREATE_TOKEN = JsonBody(
    (
        Field("name", _token_name, {"type": "string", "minLength": 1, "maxLength": 100}, "For people.", required=True),
        Field(
            "scopes",
            _scopes,
            {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_SCOPES,
                "items": {"type": "string", "pattern": SCOPE_PATTERN, "examples": ["read", "run:uptime"]},
            },
            "admin includes write, write run, run read; run:NAME is run for one workflow.",
            required=True,
        ),
        Field("expires_at", _time, {"type": ["string", "null"], "format": "date-time"}, "Never, without it."),
    ),
    "CreateToken",
)
PREVIEW_SCHEDULE = JsonBody(
    (
        Field(
            "cron",
            _cron,
            {"type": "string", "maxLength": MAX_CRON, "examples": ["0 9 * * MON-FRI"]},
            "Five fields: minute hour day month weekday; or @hourly … @yearly, or @every 90s.",
            required=True,
        ),
        Field(
            "timezone",
            _short_text,
            {"type": ["string", "null"], "maxLength": MAX_CRON, "examples": ["Europe/Berlin"]},
            "An IANA name; default UTC.",
        ),
        Field(
            "from",
            _short_text,
            {"type": ["string", "null"], "maxLength": MAX_CRON, "examples": ["2026-11-23T02:37:01Z"]},
            "Times strictly after this one: RFC 3339, or without an offset on the time zone's clocks; default now.",
        ),
        Field("count", _slots, {"type": "integer", "minimum": 1, "maximum": MAX_SLOTS}, "How many times; default 10."),
        Field("jitter", _jitter, _DURATION, "Each slot fires less than this later; gives every item its `latest`."),
    ),
    "PreviewSchedule",
)
