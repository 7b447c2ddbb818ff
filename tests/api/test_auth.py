from __future__ import annotations

import itertools
from typing import Any

import pytest

from taskforge.api.route import Route, Scope
from taskforge.api.routes import ROUTES
from tests.api.asgi import request
from tests.api.gate import ADMIN, TokenBook, make_gate

PUBLIC = {
    "/healthz", "/readyz", "/openapi.json", "/docs", "/hooks/-/resume/{token}", "/hooks/{workflow}/{trigger}",
}  # fmt: skip
PROTECTED = [route for route in ROUTES if route.scope is not None]
SAMPLES = {"{name}": "uptime", "{run}": "uptime%231", "{id}": "x_1", "{n}": "1", "{signal}": "go", "{key}": "cursor"}


def concrete(route: Route) -> str:
    path = route.path
    for mark, sample in SAMPLES.items():
        path = path.replace(mark, sample)
    return path


def name_of(route: Route) -> str:
    return f"{route.method} {route.path}"


def spellings(path: str) -> list[str]:
    """Other ways to write a path, none of which may be answered without a token."""
    head, _, tail = path.rpartition("/")
    return [
        path + "/",
        path + "//",
        path.replace("/", "//"),
        "/" + path,
        "/." + path,
        "/healthz/.." + path,
        "/docs/../" + path.lstrip("/"),
        f"{head}/./{tail}",
        f"{head}/x/../{tail}",
        path.upper() if path.upper() != path else path.swapcase(),
        head + "/%2e/" + tail,
        path.replace("/", "%2f", 2),
        "/" + "".join(f"%{ord(char):02x}" for char in path[1:4]) + path[4:],
        path + "%00",
        path + "%0a",
        path + ";x=1",
        path + ".json",
        path + "%20",
        "/healthz%2f.." + path,
    ]


def test_the_public_list_is_exactly_health_the_api_itself_and_hooks() -> None:
    assert {route.path for route in ROUTES if route.scope is None} == PUBLIC


@pytest.mark.parametrize("route", PROTECTED, ids=name_of)
async def test_no_route_answers_without_the_right_token_in_the_right_place(route: Route) -> None:
    app, _, _ = make_gate()
    path = concrete(route)
    wrong: list[dict[str, Any]] = [
        {},
        {"token": "wrong"},
        {"token": ADMIN[:-1]},
        {"token": ADMIN + "x"},
        {"token": ADMIN.upper()},
        {"token": ""},
        {"headers": [("authorization", "Bearer t\xf6ken")]},
        {"headers": [("authorization", b"Bearer \xff\xfe\x00")]},
        {"headers": [("authorization", "Bearer " + "x" * 5000)]},
        {"headers": [("authorization", ADMIN)]},
        {"headers": [("authorization", f"Basic {ADMIN}")]},
        {"headers": [("authorization", f"Bearer{ADMIN}")]},
        {"headers": [("authorization", f"Bearer {ADMIN} {ADMIN}")]},
        {"headers": [("authorization", f"Bearer {ADMIN}"), ("authorization", "Bearer x")]},
        {"headers": [("cookie", f"token={ADMIN}; authorization=Bearer {ADMIN}")]},
        {"headers": [("x-authorization", f"Bearer {ADMIN}")]},
        {"headers": [("proxy-authorization", f"Bearer {ADMIN}")]},
    ]
    for given in wrong:
        reply = await request(app, route.method, path, **given)
        assert (reply.status, reply.code) == (401, "UNAUTHORIZED"), given
        assert (reply.header("www-authenticate") or "").startswith("Bearer"), given
    for name in ("token", "access_token", "authorization", "Authorization"):
        reply = await request(app, route.method, f"{path}?{name}={ADMIN}")
        assert reply.status == 401, name


@pytest.mark.parametrize("route", PROTECTED, ids=name_of)
async def test_no_spelling_of_a_path_gets_around_the_token(route: Route) -> None:
    app, _, _ = make_gate()
    for spelling in spellings(concrete(route)):
        reply = await request(app, route.method, spelling)
        assert reply.status == 401, spelling
        reply = await request(app, route.method, "/hooks/.." + spelling)
        assert reply.status == 404, spelling


@pytest.mark.parametrize("route", PROTECTED, ids=name_of)
async def test_each_scope_opens_its_calls_and_those_below_it_only(route: Route) -> None:
    assert route.scope is not None
    book = TokenBook()
    for scope in Scope:
        book.add(f"tf_{scope.name}", scope.name.lower())
    book.add("tf_none")
    book.add("tf_other", "owner", "run:", "run:Up", "*:uptime")
    book.add("tf_two", "read", "write")
    app, _, _ = make_gate(book)
    for scope in Scope:
        reply = await request(app, route.method, concrete(route), token=f"tf_{scope.name}")
        assert (reply.status == 403) == (scope < route.scope), scope
        if reply.status == 403:
            assert reply.json()["scope"] == route.scope.name.lower()
    for token in ("tf_none", "tf_other"):
        assert (await request(app, route.method, concrete(route), token=token)).status == 403
    assert ((await request(app, route.method, concrete(route), token="tf_two")).status == 403) == (
        route.scope > Scope.WRITE
    )


async def test_a_caller_without_a_token_learns_nothing_of_what_exists() -> None:
    app, _, _ = make_gate()
    bodies = set()
    for path, method in itertools.product(("/v1", "/v1/", "/v1/nothing", "/v1/runs", "/other", "/"), ("GET", "TRACE")):
        reply = await request(app, method, path)
        assert reply.status == 401
        bodies.add(reply.body)
    assert len(bodies) == 1


async def test_with_a_token_an_odd_spelling_is_not_found() -> None:
    app, _, _ = make_gate()
    for path in ("/v1/runs/", "//v1/runs", "/V1/runs", "/v1//runs", "/v1/./runs", "/v1/x/../runs", "/v1/runs%0a"):
        assert (await request(app, "GET", path, token=ADMIN)).status == 404, path


async def test_the_scheme_may_be_written_in_any_case() -> None:
    app, _, _ = make_gate()
    for scheme in ("Bearer", "bearer", "BEARER"):
        reply = await request(app, "GET", "/v1/runs/x", headers=[("authorization", f"{scheme} {ADMIN}")])
        assert reply.status == 404


async def test_an_empty_configured_token_admits_nobody() -> None:
    app, _, _ = make_gate()
    app._context.authenticator._admin = None
    for header in ("Bearer ", "Bearer", "Bearer  "):
        assert (await request(app, "GET", "/v1/runs", headers=[("authorization", header)])).status == 401


async def test_a_revoked_token_is_refused_within_a_second_and_at_once_where_it_was_revoked() -> None:
    app, book, clock = make_gate()
    book.add("tf_gone", "read")
    assert (await request(app, "GET", "/v1/runs/x", token="tf_gone")).status == 404
    book.rows.clear()
    clock.advance(999)
    assert (await request(app, "GET", "/v1/runs/x", token="tf_gone")).status == 401
    book.add("tf_gone", "read")
    clock.advance(999)
    assert (await request(app, "GET", "/v1/runs/x", token="tf_gone")).status == 404
    book.rows.clear()
    app._context.authenticator.forget()
    assert (await request(app, "GET", "/v1/runs/x", token="tf_gone")).status == 401


async def test_a_token_ends_at_its_time_even_while_it_is_remembered() -> None:
    app, book, clock = make_gate()
    book.add("tf_short", "read", expires_at=clock.now() + 100)
    assert (await request(app, "GET", "/v1/runs/x", token="tf_short")).status == 404
    clock.advance(100)
    assert (await request(app, "GET", "/v1/runs/x", token="tf_short")).status == 401


async def test_the_store_is_asked_once_for_a_token_that_keeps_coming() -> None:
    app, book, _ = make_gate()
    book.add("tf_busy", "read")
    for _ in range(50):
        await request(app, "GET", "/v1/runs/x", token="tf_busy")
        await request(app, "GET", "/v1/runs/x", token="tf_wrong")
    assert book.lookups == 2


async def test_many_wrong_tokens_do_not_fill_the_memory() -> None:
    app, _, _ = make_gate()
    for number in range(5000):
        await request(app, "GET", "/v1/runs", token=f"tf_{number}")
    assert len(app._context.authenticator._known) <= 4096
