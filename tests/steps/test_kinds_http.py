"""The `http` step over real sockets: what it sends, what it gives, how it fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from taskforge.core.kind import ActionFailed
from taskforge.core.model import JSON, AttemptFailure
from taskforge.security.egress import EgressPolicy
from taskforge.steps.http import HttpKind
from taskforge.steps.http_client import HttpClient
from tests.support.raw_server import Peer, Received, Script, raw_server


@dataclass
class Attempt:
    """What an http step may use while it runs."""

    resources: dict[str, Any]
    answers: list[JSON] = field(default_factory=list)
    dots: list[JSON] = field(default_factory=list)
    idempotency_key: str = "run_1/a"
    deadline_ms: int | None = None
    output_limit: int = 1_000
    depth: int | None = None
    effect: str = "idempotent"
    workflow: str = "w"
    path: str = "a"
    generation: int = 1

    async def start_child(self, workflow: str, input: JSON, *, wait: bool, version: int | None = None) -> str:
        raise AssertionError("an http step starts no runs")

    async def set_state(self, key: str, value: JSON, expected: JSON, *, compare: bool) -> bool:
        raise AssertionError("an http step keeps no state")

    def now(self) -> int:
        return 1_800_000_000_000

    async def evaluate(self, name: str, dot: JSON) -> JSON:
        assert name == "expect.body"
        self.dots.append(dot)
        return self.answers.pop(0)


@pytest.fixture
async def attempt() -> AsyncIterator[Attempt]:
    async with HttpClient(EgressPolicy()) as client:
        yield Attempt({"http": client})


def script(body: bytes, *headers: str, status: str = "200 OK") -> Script:
    async def answer(peer: Peer, _: Received) -> None:
        await peer.answer(body, *headers, status=status)

    return answer


JSON_TYPE = "Content-Type: application/json"


async def failed(value: JSON, attempt: Attempt) -> AttemptFailure:
    with pytest.raises(ActionFailed) as caught:
        await HttpKind().run(value, attempt)
    return caught.value.result


async def test_the_output_is_status_headers_body_and_duration(attempt: Attempt) -> None:
    async with raw_server(script(b'{"id": 12345678901234567890}', JSON_TYPE, "X-A: b")) as server:
        output = await HttpKind().run({"url": server.url("/x")}, attempt)
    assert output["status"] == 200
    assert output["body"] == {"id": 12345678901234567890}
    assert output["headers"]["x-a"] == "b"
    assert isinstance(output["duration_ms"], int)
    got = server.requests[0]
    assert (got.method, got.target) == ("GET", "/x")
    assert got.header("idempotency-key") == "run_1/a"
    assert str(got.header("user-agent")).lower().startswith("taskforge/")


async def test_a_step_that_must_not_be_sent_twice_has_a_connection_of_its_own(attempt: Attempt) -> None:
    attempt.effect = "once"
    async with raw_server(script(b"")) as server:
        for _ in range(2):
            await HttpKind().run({"url": server.url("/x")}, attempt)
    assert server.connections == 2
    assert [got.header("connection") for got in server.requests] == ["close", "close"]


async def test_the_configuration_caps_what_a_server_asks_for(attempt: Attempt) -> None:
    attempt.resources["retry_after_cap_ms"] = 2_000
    async with raw_server(script(b"", "Retry-After: 60", status="503 Busy")) as server:
        assert (await failed({"url": server.url()}, attempt)).retry_after_ms == 2_000


async def test_looking_at_the_body_belongs_to_the_time_of_the_attempt(attempt: Attempt) -> None:
    class Slow(Attempt):
        async def evaluate(self, name: str, dot: JSON) -> JSON:
            await asyncio.Event().wait()

    async with raw_server(script(b"1", JSON_TYPE)) as server:
        value = {"url": server.url(), "timeout": "200ms", "expect": {"body": True}}
        result = await failed(value, Slow(attempt.resources))
    assert (result.failure.code, result.error_class, result.timed_out) == ("ATTEMPT_TIMEOUT", "timeout", True)
    assert result.sent and "`expect.body`" in result.failure.message


async def test_query_and_headers_are_sent_as_text_and_null_is_left_out(attempt: Attempt) -> None:
    value = {
        "query": {"n": 12345678901234567890, "yes": True, "none": None, "list": ["a b", 2, None], "f": 1.5},
        "headers": {"X-Number": 7, "X-No": None, "X-Flag": False},
    }
    async with raw_server(script(b"")) as server:
        await HttpKind().run(value | {"url": server.url("/x?z=1")}, attempt)
    got = server.requests[0]
    assert got.target == "/x?z=1&n=12345678901234567890&yes=true&list=a+b&list=2&f=1.5"
    assert (got.header("x-number"), got.header("x-no"), got.header("x-flag")) == ("7", None, "false")


@pytest.mark.parametrize(
    ("config", "body", "content_type"),
    [
        ({"json": {"a": [1, None]}}, b'{"a":[1,null]}', "application/json"),
        ({"json": None}, b"null", "application/json"),
        ({"json": 12345678901234567890}, b"12345678901234567890", "application/json"),
        ({"body": "h\u00e9"}, "h\u00e9".encode(), "text/plain; charset=utf-8"),
        ({"form": {"a": "1 2&", "b": [True, 3]}}, b"a=1+2%26&b=true&b=3", "application/x-www-form-urlencoded"),
        ({"json": 1, "headers": {"content-type": "application/vnd.api+json"}}, b"1", "application/vnd.api+json"),
        ({}, b"", None),
    ],
)
async def test_a_body_is_sent_with_its_content_type(
    attempt: Attempt, config: dict[str, Any], body: bytes, content_type: str | None
) -> None:
    async with raw_server(script(b"")) as server:
        await HttpKind().run({"url": server.url(), "method": "POST"} | config, attempt)
    assert server.requests[0].body == body
    assert server.requests[0].header("content-type") == content_type


@pytest.mark.parametrize(
    ("status", "expect", "passes"),
    [
        ("200 OK", None, True),
        ("304 Not Modified", None, True),
        ("400 Bad Request", None, False),
        ("404 Not Found", {"status": ["2xx", 404]}, True),
        ("404 Not Found", {"status": "4xx"}, True),
        ("201 Created", {"status": 200}, False),
        ("503 Busy", {"status": "2XX"}, False),
    ],
)
async def test_expect_says_which_statuses_are_success(attempt: Attempt, status: str, expect: Any, passes: bool) -> None:
    async with raw_server(script(b"", status=status)) as server:
        value = {"url": server.url()} | ({} if expect is None else {"expect": expect})
        if passes:
            assert (await HttpKind().run(value, attempt))["status"] == int(status[:3])
            return
        result = await failed(value, attempt)
    assert result.failure.code == "STATUS_UNEXPECTED"
    assert result.status == int(status[:3])
    assert result.error_class is None and result.sent


async def test_a_status_failure_shows_the_bodys_beginning_and_honours_retry_after(attempt: Attempt) -> None:
    async with raw_server(script(b"busy " * 150, "Retry-After: 7", status="503 Busy")) as server:
        result = await failed({"url": server.url()}, attempt)
    assert result.retry_after_ms == 7_000
    assert result.failure.detail is not None
    assert result.failure.detail["status"] == 503
    assert len(result.failure.detail["body"]) == 500
    assert server.url() not in result.failure.message


async def test_retry_after_is_bounded(attempt: Attempt) -> None:
    async with raw_server(script(b"", "Retry-After: 1000000000", status="429 Slow")) as server:
        assert (await failed({"url": server.url()}, attempt)).retry_after_ms == 3_600_000


async def test_a_status_that_fails_counts_before_a_body_that_is_no_json(attempt: Attempt) -> None:
    async with raw_server(script(b"<html>", JSON_TYPE, status="502 Bad")) as server:
        assert (await failed({"url": server.url()}, attempt)).failure.code == "STATUS_UNEXPECTED"
    async with raw_server(script(b"<html>", JSON_TYPE)) as server:
        assert (await failed({"url": server.url()}, attempt)).failure.code == "INVALID_BODY"


@pytest.mark.parametrize(
    ("answer", "code"),
    [(True, None), (False, "BODY_UNEXPECTED"), (None, "BODY_UNEXPECTED"), (1, "EXPRESSION_ERROR")],
)
async def test_expect_body_sees_the_body_and_decides(attempt: Attempt, answer: JSON, code: str | None) -> None:
    attempt.answers = [answer]
    async with raw_server(script(b"[1]", JSON_TYPE)) as server:
        value = {"url": server.url(), "expect": {"body": True}}
        if code is None:
            await HttpKind().run(value, attempt)
        else:
            result = await failed(value, attempt)
            assert result.failure.code == code
            assert result.status == (200 if code == "BODY_UNEXPECTED" else None)
    assert attempt.dots == [[1]]


@pytest.mark.parametrize(
    ("config", "code", "path"),
    [
        ({"url": "ftp://x"}, "INVALID_URL", "http.url"),
        ({"url": "http://127.0.0.1/a b"}, "INVALID_URL", None),
        ({"url": "http://127.0.0.1/\r\nX: y"}, "INVALID_URL", "http.url"),
        ({"url": 7}, "INVALID_CONFIG", "http.url"),
        ({"url": None}, "INVALID_CONFIG", "http.url"),
        ({"timeout": "soon"}, "INVALID_CONFIG", "http.timeout"),
        ({"method": "get"}, "INVALID_CONFIG", "http.method"),
        ({"headers": {"X": "a\r\nb"}}, "INVALID_HEADER", "http.headers.X"),
        ({"headers": {"a b": "c"}}, "INVALID_HEADER", 'http.headers["a b"]'),
        ({"headers": {"Idempotency-Key": "mine"}}, "INVALID_HEADER", "http.headers.Idempotency-Key"),
        ({"headers": {"X": [1]}}, "INVALID_CONFIG", "http.headers.X"),
        ({"headers": "x"}, "INVALID_CONFIG", "http.headers"),
        ({"query": {"a": {"b": 1}}}, "INVALID_CONFIG", "http.query.a"),
        ({"body": {"a": 1}}, "INVALID_CONFIG", "http.body"),
        ({"max_redirects": 6}, "INVALID_CONFIG", "http.max_redirects"),
    ],
)
async def test_settings_that_came_out_wrong_fail_the_step_and_nothing_is_sent(
    attempt: Attempt, config: dict[str, Any], code: str, path: str | None
) -> None:
    async with raw_server(script(b"")) as server:
        result = await failed({"url": server.url()} | config, attempt)
    assert server.requests == []
    assert result.failure.code == code
    assert not result.sent and result.error_class is None and result.status is None
    if path is not None:
        assert result.failure.detail == {"path": path}


@pytest.mark.parametrize("data", ["${{ $secrets.X }}", "${{", "$${{ 1 }}"])
async def test_what_looks_like_an_expression_in_data_is_sent_as_it_is(attempt: Attempt, data: str) -> None:
    async with raw_server(script(b"")) as server:
        await HttpKind().run({"url": server.url(), "method": "POST", "headers": {"X-A": data}, "json": data}, attempt)
    assert server.requests[0].header("x-a") == data
    assert json.loads(server.requests[0].body) == data


async def test_a_connection_that_is_refused_is_a_network_error_that_was_not_sent(attempt: Attempt) -> None:
    async with raw_server(script(b"")) as server:
        url = server.url()
    result = await failed({"url": url}, attempt)
    assert (result.failure.code, result.error_class, result.sent) == ("CONNECT_REFUSED", "network", False)
    assert not result.timed_out


async def test_an_answer_that_does_not_come_in_time_is_a_timeout_that_was_sent(attempt: Attempt) -> None:
    async def silent(peer: Peer, _: Received) -> None:
        await peer.reader.read()

    async with raw_server(silent) as server:
        result = await failed({"url": server.url(), "timeout": "100ms"}, attempt)
    assert (result.failure.code, result.error_class, result.sent) == ("ATTEMPT_TIMEOUT", "timeout", True)
    assert result.timed_out


async def test_an_answer_above_the_output_limit_is_refused(attempt: Attempt) -> None:
    async with raw_server(script(b"x" * 2_000)) as server:
        assert (await failed({"url": server.url()}, attempt)).failure.code == "RESPONSE_TOO_LARGE"


async def test_redirects_are_followed_up_to_the_steps_own_bound(attempt: Attempt) -> None:
    async with raw_server(script(b"", "Location: /next", status="302 Found")) as server:
        value = {"url": server.url(), "max_redirects": 0}
        assert (await HttpKind().run(value, attempt))["status"] == 302
