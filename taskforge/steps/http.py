"""`http`: one request per attempt, with the same `Idempotency-Key` for all attempts of the step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from pydantic import ValidationError

from taskforge.core.config_errors import ConfigProblem, config_problems
from taskforge.core.durations import parse_duration
from taskforge.core.errors import Failure
from taskforge.core.jsontext import dump_bytes, dumps
from taskforge.core.kind import ActionFailed, ActionKind, AttemptContext
from taskforge.core.model import JSON, AttemptFailure
from taskforge.core.problem import Pointer, format_path
from taskforge.core.templated import resolve
from taskforge.steps.http_config import Expect, HttpConfig, config_problems_between

if TYPE_CHECKING:
    from taskforge.steps.http_client import HttpFailure, Request, Response

DEFAULT_TIMEOUT_MS = 30_000
RETRY_AFTER_CAP_MS = 3_600_000
"""So long a server may put off the next attempt, where the configuration does not say."""

_EXCERPT = 500  # characters of a body that is repeated in an error


class HttpKind(ActionKind):
    """The output is `{status, headers, body, duration_ms}`."""

    name = "http"
    summary = "Send an HTTP request; the output is {status, headers, body, duration_ms}."
    Config = HttpConfig
    conditions = ("expect.body",)

    def check(self, config: JSON) -> list[ConfigProblem]:
        return config_problems_between(config) if isinstance(config, dict) else []

    def evaluated(self, config: JSON) -> JSON:
        expect = config.get("expect") if isinstance(config, dict) else None
        if not isinstance(expect, dict) or "body" not in expect:
            return config
        # `body` is evaluated when the answer is there; true marks that it has to be.
        return {**config, "expect": {**expect, "body": True}}

    def later(self, config: JSON) -> Mapping[str, tuple[Pointer, JSON]]:
        expect = config.get("expect") if isinstance(config, dict) else None
        if not isinstance(expect, dict) or "body" not in expect:
            return {}
        return {"expect.body": (("expect", "body"), expect["body"])}

    def attempt_timeout_ms(self, value: JSON) -> int | None:
        try:
            timeout = value.get("timeout")
            return None if timeout is None else parse_duration(timeout)
        except (ValueError, AttributeError):
            return None  # `run` says what is wrong

    def keeps_time(self, value: JSON) -> bool:
        return True  # and only the client knows whether anything was sent

    async def run(self, value: JSON, context: AttemptContext) -> JSON:
        http = _client()
        config = _checked(value)
        client = context.resources["http"]
        default_ms = context.resources.get("http_timeout_ms", DEFAULT_TIMEOUT_MS)
        cap_ms = context.resources.get("retry_after_cap_ms", RETRY_AFTER_CAP_MS)
        request = make_request(config, context.idempotency_key, default_ms, context.output_limit, context.depth)
        if context.effect == "once":
            # On a connection that the server just closed it would be unknown whether the request arrived.
            request = request._replace(fresh=True)
        try:
            response = await client.request(request)
            _check_status(config.expect, request, response, context, cap_ms)
            body = http.parse_body(response)
        except http.HttpFailure as failure:
            raise _failed(failure) from None
        if config.expect is not None and config.expect.body is True:
            import asyncio

            try:
                async with asyncio.timeout((request.timeout_ms - response.duration_ms) / 1000):
                    await _check_body(context, request, response, body)
            except TimeoutError:
                raise _late(request) from None
        return {
            "status": response.status,
            "headers": response.headers,
            "body": body,
            "duration_ms": response.duration_ms,
        }


@cache
def _client() -> ModuleType:
    """The client's module: whoever only checks documents need not import it, and importing it for each call costs."""
    from taskforge.steps import http_client

    return http_client


def _checked(value: JSON) -> HttpConfig:
    """The evaluated config as a model. Raises ActionFailed."""
    if isinstance(value, dict) and all(type(part) is str for part in value.values()):
        # Mostly there are a method and a URL, and often the same as before. Only of texts are equal ones the same.
        return _check_texts(tuple(value.items()))
    return _check(value)


@lru_cache(maxsize=512)
def _check_texts(items: tuple[tuple[str, str], ...]) -> HttpConfig:
    return _check(dict(items))


def _check(value: JSON) -> HttpConfig:
    try:
        config = resolve(HttpConfig, value)
    except ValidationError as error:
        raise _refused(config_problems(error, value, HttpConfig), value) from None
    if between := config_problems_between(value):
        raise _refused(between, value)
    return config


def make_request(
    config: HttpConfig, idempotency_key: str, default_ms: int, max_bytes: int, depth: int | None = None
) -> Request:
    """Turn an evaluated config into the request that is sent."""
    headers = [(name, _text(value)) for name, value in (config.headers or {}).items() if value is not None]
    body, content_type = _body(config)
    if content_type is not None and all(name.lower() != "content-type" for name, _ in headers):
        headers.append(("Content-Type", content_type))
    headers.append(("Idempotency-Key", idempotency_key))
    if depth is not None:
        # So that a circle of workflows that call each other's hooks comes to an end.
        headers.append(("TaskForge-Depth", str(depth)))
    request: Request = _client().Request(
        method=config.method,
        url=config.url,
        headers=headers,
        query=_pairs(config.query),
        body=body,
        timeout_ms=config.timeout if config.timeout is not None else default_ms,
        max_bytes=max_bytes,
        max_redirects=config.max_redirects,
    )
    return request


def _body(config: HttpConfig) -> tuple[bytes | None, str | None]:
    if config.has_json:
        return dump_bytes(config.json_), "application/json"
    if config.form is not None:
        return urlencode(_pairs(config.form)).encode(), "application/x-www-form-urlencoded"
    if config.body is not None:
        return config.body.encode("utf-8", "replace"), "text/plain; charset=utf-8"
    return None, None


def _pairs(values: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Lists repeat their name; null is left out."""
    pairs: list[tuple[str, str]] = []
    for name, value in (values or {}).items():
        items = value if isinstance(value, list) else [value]
        pairs.extend((name, _text(item)) for item in items if item is not None)
    return pairs


def _text(value: Any) -> str:
    return value if isinstance(value, str) else dumps(value)


def _check_status(
    expect: Expect | None, request: Request, response: Response, context: AttemptContext, cap_ms: int
) -> None:
    status = response.status
    wanted = None if expect is None else expect.status
    if wanted is None:
        if status < 400:
            return
        message = f"{request.method} answered {status}"
    else:
        if str(status) in wanted or f"{status // 100}xx" in wanted:
            return
        message = f"{request.method} answered {status}; expected {' or '.join(wanted)}"
    detail: dict[str, Any] = {"status": status}
    if response.body:
        detail["body"] = response.body[: 4 * _EXCERPT].decode("utf-8", "replace")[:_EXCERPT]
    pause = _client().retry_after_ms(response.headers, context.now(), cap_ms)
    if pause is not None:
        detail["retry_after_ms"] = pause
    failure = Failure("STATUS_UNEXPECTED", message, detail=detail)
    raise ActionFailed(AttemptFailure(failure, status=status, retry_after_ms=pause))


async def _check_body(context: AttemptContext, request: Request, response: Response, body: JSON) -> None:
    answer = await context.evaluate("expect.body", body)
    if answer is True:
        return
    if answer is False or answer is None:
        message = f"{request.method} answered {response.status} with a body that `expect.body` does not admit"
        detail: dict[str, Any] = {"status": response.status, "body": dumps(body)[:_EXCERPT]}
        raise ActionFailed(AttemptFailure(Failure("BODY_UNEXPECTED", message, detail=detail), status=response.status))
    message = f"`expect.body` must give true, false or null; it gave {dumps(answer)[:80]}"
    raise ActionFailed(AttemptFailure(Failure("EXPRESSION_ERROR", message, detail={"path": "http.expect.body"})))


def _late(request: Request) -> ActionFailed:
    message = f"the attempt took longer than {request.timeout_ms / 1000:g} s, while `expect.body` looked at the answer"
    failure = Failure("ATTEMPT_TIMEOUT", message)
    return ActionFailed(AttemptFailure(failure, error_class="timeout", timed_out=True))


def _failed(failure: HttpFailure) -> ActionFailed:
    return ActionFailed(
        AttemptFailure(
            Failure(failure.code, failure.message, detail=dict(failure.detail) or None),
            error_class=failure.retry_class,
            timed_out=failure.code == "ATTEMPT_TIMEOUT",
            sent=failure.sent,
        )
    )


def _refused(found: list[ConfigProblem], value: JSON) -> ActionFailed:
    """Nothing was sent: the evaluated config does not fit."""
    first = found[0]
    path = format_path(("http", *first.pointer))
    is_url = first.pointer == ("url",) and isinstance(value["url"], str)
    code = first.code or ("INVALID_URL" if is_url else "INVALID_CONFIG")
    return ActionFailed(AttemptFailure(Failure(code, f"{path}: {first.message}", detail={"path": path}), sent=False))
