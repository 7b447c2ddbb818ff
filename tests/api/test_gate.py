from __future__ import annotations

import logging

import pytest

from taskforge.api.server import Api
from tests.api.asgi import request
from tests.api.gate import ADMIN, TokenBook, make_gate


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:1", "localhost.", "127.0.0.1", "127.0.0.1:7788", "[::1]:7788", "10.1.2.3", "[fe80::1]",
     "box.lan", "BOX.lan:80", "a.apps.example", "b.a.apps.example:443", "bound.example"],
)  # fmt: skip
async def test_hosts_that_are_this_server_are_answered(host: str) -> None:
    app, _, _ = make_gate(host="bound.example", allowed_hosts=("box.lan", "*.apps.example"))
    assert (await request(app, "GET", "/healthz", host=host)).status == 200
    assert (await request(app, "GET", "/healthz", host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil.example:7788", "user@localhost",
     "localhost:port", "localhost:7788:1", "localhost,evil", "localhost evil", "2130706433", "0x7f.0.0.1", "127.1",
     "[::1", "::1", "[127.0.0.1]", "", "apps.example", "xapps.example", ".apps.example.", "localhost\x00",
     "l\xf6calhost", "localhost/", "a" * 300],
)  # fmt: skip
async def test_other_hosts_are_refused_everywhere_but_under_hooks(host: str) -> None:
    app, _, _ = make_gate(allowed_hosts=("*.apps.example",))
    for path in ("/healthz", "/docs", "/v1/runs", "/nothing"):
        reply = await request(app, "GET", path, host=host, token=ADMIN)
        assert (reply.status, reply.code) == (421, "HOST_REFUSED"), path
    assert (await request(app, "POST", "/hooks/a/b", host=host)).status == 404


async def test_a_request_has_exactly_one_host_unless_it_is_http_1_0() -> None:
    app, _, _ = make_gate()
    assert (await request(app, "GET", "/healthz", host=None)).status == 400
    assert (await request(app, "GET", "/healthz", host=None, http_version="1.0")).status == 200
    two = await request(app, "GET", "/healthz", headers=[("host", "evil.example")])
    assert two.status == 400


async def test_nothing_is_said_to_pages_of_other_origins() -> None:
    app, _, _ = make_gate()
    reply = await request(app, "GET", "/healthz", headers=[("origin", "https://evil.example")])
    assert not [name for name, _ in reply.headers if name.lower().startswith("access-control")]
    preflight = await request(
        app, "OPTIONS", "/v1/runs", headers=[("origin", "null"), ("access-control-request-method", "POST")]
    )
    assert preflight.status == 401


async def test_an_unknown_address_is_a_problem_with_a_code() -> None:
    app, _, _ = make_gate()
    for path in ("/v1/nothing", "/v1/runs/x/y/z", "/"):
        reply = await request(app, "GET", path, token=ADMIN)
        assert (reply.status, reply.code) == (404, "NOT_FOUND")
        assert reply.json()["status"] == 404


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/v1/runs", "GET, HEAD, OPTIONS"),
        ("PATCH", "/v1/workflows", "GET, HEAD, OPTIONS, POST"),
        ("GET", "/v1/workflows/a/runs", "OPTIONS, POST"),
        ("HEAD", "/v1/workflows/a/runs", "OPTIONS, POST"),
        ("BREW", "/v1/stats", "GET, HEAD, OPTIONS"),
        ("get", "/v1/stats", "GET, HEAD, OPTIONS"),
        ("POST", "/healthz", "GET, HEAD, OPTIONS"),
    ],
)
async def test_a_wrong_method_names_the_right_ones(method: str, path: str, allow: str) -> None:
    app, _, _ = make_gate()
    reply = await request(app, method, path, token=ADMIN)
    assert (reply.status, reply.code, reply.header("allow")) == (405, "METHOD_NOT_ALLOWED", allow)


async def test_options_says_what_an_address_takes() -> None:
    app, _, _ = make_gate()
    reply = await request(app, "OPTIONS", "/v1/runs", token=ADMIN)
    assert (reply.status, reply.header("allow"), reply.body) == (204, "GET, HEAD, OPTIONS", b"")


async def test_head_is_answered_like_get() -> None:
    app, _, _ = make_gate()
    got, head = await request(app, "GET", "/healthz"), await request(app, "HEAD", "/healthz")
    assert (got.status, got.headers) == (head.status, head.headers)


async def test_an_error_of_ours_is_logged_once_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    app, book, _ = make_gate()

    async def broken() -> None:
        raise RuntimeError("a secret detail")

    book.stats = broken  # type: ignore[attr-defined]
    with caplog.at_level(logging.DEBUG):
        reply = await request(app, "GET", "/v1/stats", token=ADMIN)
    assert (reply.status, reply.code) == (500, "INTERNAL")
    assert b"secret" not in reply.body
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


async def test_answers_are_not_kept_by_caches_and_not_guessed_at() -> None:
    app, _, _ = make_gate()
    for path in ("/healthz", "/v1/runs", "/docs"):
        reply = await request(app, "GET", path)
        assert reply.header("x-content-type-options") == "nosniff"
        assert reply.header("cache-control") == "no-store"


async def test_health_turns_red_with_its_reason() -> None:
    book = TokenBook()
    app, _, _ = make_gate(book)
    assert (await request(app, "GET", "/healthz")).json() == {"status": "ok"}
    assert (await request(app, "GET", "/readyz")).json() == {"status": "ready", "held": False}
    book.liveness = lambda: "the engine's loop has stopped"  # type: ignore[method-assign]
    reply = await request(app, "GET", "/healthz")
    assert (reply.status, reply.code, reply.json()["detail"]) == (503, "UNAVAILABLE", "the engine's loop has stopped")
    assert reply.header("retry-after") is not None


async def test_websockets_and_lifespan_are_answered() -> None:
    app, _, _ = make_gate()
    sent: list[str] = []
    incoming = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> dict[str, str]:
        return {"type": next(incoming)}

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        sent.append(message["type"])

    await app({"type": "lifespan"}, receive, send)
    await app({"type": "websocket"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]


def test_the_application_is_made_anew_each_time() -> None:
    first, _, _ = make_gate()
    second, _, _ = make_gate()
    assert isinstance(first, Api)
    assert first is not second
