"""From an error to an answer: RFC 9457 `application/problem+json` with our stable `code`.

The table is the error tree itself (`core.errors`): class → status, title, code. What HTTP adds by header is here.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from taskforge.core.errors import MethodNotAllowed, TaskForgeError, TooManyRequests, Unauthorized, Unavailable
from taskforge.core.jsontext import dump_bytes

MEDIA_TYPE = "application/problem+json"
_RESERVED = frozenset({"type", "title", "status", "code", "detail", "instance", "errors"})


def problem_body(error: TaskForgeError) -> dict[str, Any]:
    """The problem as data. Members of the error's own detail (such as `state`) stand beside the standard ones."""
    body: dict[str, Any] = {
        "type": problem_type(error.code),
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": error.message,
    }
    body |= {key: value for key, value in error.detail.items() if key not in _RESERVED}
    if error.problems:
        body["errors"] = [problem.to_json() for problem in error.problems]
    return body


def problem_type(code: str) -> str:
    """The URI that names a kind of problem."""
    return f"urn:taskforge:problem:{code.lower().replace('_', '-')}"


def problem_response(error: TaskForgeError) -> Response:
    """The answer for a refusal."""
    headers: dict[str, str] = {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="taskforge"'
    elif isinstance(error, MethodNotAllowed):
        headers["Allow"] = error.detail["allow"]
    elif isinstance(error, TooManyRequests | Unavailable):
        headers["Retry-After"] = str(error.detail.get("retry_after_s", 1))
    return Response(dump_bytes(problem_body(error)), error.status, headers, MEDIA_TYPE)


def internal_error() -> TaskForgeError:
    """What a caller learns of an error that nobody expected: that it is ours, and where to look."""
    return TaskForgeError("the server met an error of its own; its log says which")
