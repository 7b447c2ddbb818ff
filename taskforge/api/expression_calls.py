"""Expressions that people try out: by themselves, or against what a run saw."""

from __future__ import annotations

import re
from typing import Any

from starlette.responses import Response

from taskforge.api.call import Call, JsonResponse
from taskforge.api.route import Field, JsonBody, Scope
from taskforge.core.jsontext import dump_bytes

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_MOST_VARIABLES = 1000
_LONGEST = 32_768
_LONGEST_PATH = 1000


async def evaluate_expression(call: Call) -> Response:
    """Every result of a jq program. Nothing is stored."""
    members = call.members
    results = await call.service.evaluate_expression(
        members["expression"], members.get("input"), members.get("variables", {})
    )
    return JsonResponse(dump_bytes({"results": results}), 200)


async def evaluate_in_run(call: Call) -> Response:
    """Every result of a jq program that sees what a run, or one of its steps, saw; secrets are masks. Nothing is
    stored. `$vars` and `$secrets` are the server's: a token for single workflows does not see them."""
    members = call.members
    is_servers = call.principal is None or call.principal.grants.admits(Scope.READ, None)
    results = await call.service.evaluate_in_run(
        call.params["run"], members.get("step"), members["expression"], members.get("input"), with_values=is_servers
    )
    return JsonResponse(dump_bytes({"results": results}), 200)


def _expression(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise ValueError(f"it must be a text of at most {_LONGEST} characters: a jq program, or ${{{{ … }}}}")
    return value


def _variables(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > _MOST_VARIABLES:
        raise ValueError(f"it must be an object of at most {_MOST_VARIABLES} variables")
    for name in value:
        if _VARIABLE.fullmatch(name) is None:
            raise ValueError(f"{name[:80]!r} names no variable: letters, digits and _, not beginning with a digit")
    return value


def _path(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not 1 <= len(value) <= _LONGEST_PATH):
        raise ValueError(f"it must be the path of a step: a text of 1 to {_LONGEST_PATH} characters")
    return value


_EXPRESSION = Field(
    "expression",
    _expression,
    {"type": "string", "maxLength": _LONGEST, "examples": ["[.[] | select(.open)] | length"]},
    "A jq program; ${{ … }} may stand around it, or several of them in a longer text.",
    required=True,
)
EVALUATE_EXPRESSION = JsonBody(
    (
        _EXPRESSION,
        Field("input", lambda value: value, {}, "What `.` is; null without it."),
        Field(
            "variables",
            _variables,
            {"type": "object", "maxProperties": _MOST_VARIABLES},
            "The values of $names, by name. $now is there without it.",
        ),
    ),
    "EvaluateExpression",
)
EVALUATE_IN_RUN = JsonBody(
    (
        _EXPRESSION,
        Field(
            "step",
            _path,
            {"type": ["string", "null"], "minLength": 1, "maxLength": _LONGEST_PATH},
            "See what this step (a path, such as each[3].post) saw; `.` is its output. Else: what the run's end sees.",
        ),
        Field("input", lambda value: value, {}, "What `.` is instead; null is as without it."),
    ),
    "EvaluateInRun",
)
