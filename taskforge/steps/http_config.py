"""What an `http` step is told to do: its config as written, and as it is once evaluated.

Imports nothing of the network, so that validation is quick.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field

from taskforge.core.config_errors import ConfigProblem
from taskforge.core.problem import quoted, suggest
from taskforge.core.templated import (
    AnyJSON,
    Condition,
    Duration,
    Plain,
    Scalar,
    StepConfig,
    Templated,
    describe,
    has_expression,
)

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")

_STATUS_FORM = 'must be a status such as 304, or a class such as "2xx"'
_STATUS_CLASS = re.compile(r"[1-5]xx", re.IGNORECASE)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_BREAK = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_FRAMING = frozenset(
    (
        "connection",
        "content-length",
        "expect",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)


def _check_method(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be a method such as GET, not {describe(value)}")
    if value not in METHODS:
        near = value.upper() if value.upper() in METHODS else None
        hint = f"; did you mean {quoted(near)}?" if near else f"; {said}" if (said := suggest(value, METHODS)) else ""
        raise ValueError(f"{quoted(value)} is no method that a step may use{hint or ': ' + ', '.join(METHODS)}")
    return value


def _check_url(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be a URL such as https://host/path, not {describe(value)}")
    problem = url_problem(value)
    if problem:
        raise ValueError(problem)
    return value


def url_problem(text: str) -> str | None:
    """Say what is wrong with a URL, as far as its text shows; one with expressions is looked at up to the first."""
    start = text.partition("${{")[0] if has_expression(text) else text
    if _BREAK.search(start):
        return "the URL has a line break or another control character in it"
    if has_expression(text) and not _SCHEME.match(start) and "/" not in start:
        return None  # the expression gives the beginning
    scheme = _SCHEME.match(start)
    if scheme is None or not start[scheme.end() :].startswith("//"):
        return "the URL must begin with http:// or https://"
    if scheme[1].lower() not in ("http", "https"):
        return f"the URL's scheme is {quoted(scheme[1])}; only http and https are possible"
    if not has_expression(text) and not start[scheme.end() + 2 :].strip("/"):
        return "the URL has no host"
    return None


def _check_status(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
        return str(value)
    if isinstance(value, str) and (_STATUS_CLASS.fullmatch(value) or (value.isdecimal() and 100 <= int(value) <= 599)):
        return value.lower()
    raise ValueError(_STATUS_FORM)


def _check_statuses(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ValueError("must name at least one status")
    return tuple(_check_status(item) for item in values)


def _check_query_value(value: Any) -> Any:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, list | dict):
            where = "a list inside the list" if isinstance(item, list) else "a mapping"
            raise ValueError(f"must be text, a number, true, false, null or a list of these, not {where}")
    return value


_STATUS_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 100, "maximum": 599},
        {"type": "string", "pattern": r"^([1-5][xX][xX]|[1-5][0-9][0-9])$"},
    ]
}
_SCALARS = {"type": ["string", "number", "boolean", "null"]}
_SCALAR_OR_LIST = {"anyOf": [_SCALARS, {"type": "array", "items": _SCALARS}]}

Method = Annotated[Any, Plain(_check_method, {"enum": list(METHODS)})]
Url = Annotated[Any, Plain(_check_url, {"type": "string", "pattern": r"^https?://|^\$\{\{"})]
Statuses = Annotated[
    Any, Plain(_check_statuses, {"anyOf": [_STATUS_SCHEMA, {"type": "array", "items": _STATUS_SCHEMA, "minItems": 1}]})
]
QueryValue = Annotated[Any, Plain(_check_query_value, _SCALAR_OR_LIST)]


class Expect(StepConfig):
    """What counts as success."""

    status: Statuses = Field(None, description='Admitted statuses: 304, "2xx" or a list of these. Default: below 400.')
    body: Condition = Field(None, description="One whole ${{ … }} in which `.` is the response's body.")


class HttpConfig(StepConfig):
    method: Annotated[Templated[Method], Field(description="Default GET.")] = "GET"
    url: Annotated[Url, Field(description="Absolute http or https URL. Data in it is inserted as it is: use @uri.")]
    query: Annotated[
        Templated[dict[str, QueryValue]] | None, Field(description="Added to the URL, encoded. null is left out.")
    ] = None
    headers: Annotated[Templated[dict[str, Scalar]] | None, Field(description="Request headers. null is left out.")] = (
        None
    )
    json_: Annotated[AnyJSON, Field(alias="json", description="A JSON body; sets Content-Type.")] = None
    body: Annotated[Templated[str] | None, Field(description="A text body.")] = None
    form: Annotated[
        Templated[dict[str, QueryValue]] | None, Field(description="A form body (application/x-www-form-urlencoded).")
    ] = None
    timeout: Annotated[Templated[Duration], Field(description="Bound of one attempt; default 30s.")] = None
    max_redirects: Annotated[
        Templated[Annotated[int, Field(ge=0, le=5)]], Field(description="Redirects to follow, 0 to 5; default 5.")
    ] = 5
    expect: Annotated[Expect | None, Field(description="What counts as success. Default: any status below 400.")] = None

    @property
    def has_json(self) -> bool:
        return "json_" in self.model_fields_set


def config_problems_between(config: dict[str, Any]) -> list[ConfigProblem]:
    """What is wrong in a config beyond single fields: two bodies, headers that must not be sent."""
    given = [key for key in ("json", "body", "form") if key in config and (key == "json" or config[key] is not None)]
    found: list[ConfigProblem] = []
    if len(given) > 1:
        message = f"the request has {' and '.join(given)}; it can have only one body"
        found.append(ConfigProblem((given[1],), message, key=True))
    headers = config.get("headers")
    for name, value in headers.items() if isinstance(headers, dict) else ():
        problem = header_problem(name, value)
        if problem is not None:
            found.append(ConfigProblem(("headers", name), problem, key=True, code="INVALID_HEADER"))
    return found


def header_problem(name: str, value: object) -> str | None:
    """Say why a header of a document must not be sent, or None."""
    lowered = name.lower()
    if _HEADER_NAME.fullmatch(name) is None:
        return f"{quoted(name)} is no header name; letters, digits and - are usual"
    if lowered == "idempotency-key":
        return "Idempotency-Key is set by TaskForge, the same for every attempt of the step; leave it out"
    if lowered in _FRAMING:
        return f"the header {name} is set by TaskForge itself; leave it out"
    if isinstance(value, str) and _BREAK.search(value):
        return f"the value of header {name} has a line break or another control character in it"
    return None
