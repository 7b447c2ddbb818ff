from __future__ import annotations

import pytest
from starlette.responses import Response

from taskforge.api.call import Call
from taskforge.api.dispatch import Dispatcher
from taskforge.api.route import Route, Scope
from taskforge.api.routes import ROUTES


async def _nothing(call: Call) -> Response:
    return Response()


def _route(method: str, path: str) -> Route:
    return Route(method, path, Scope.READ, _nothing, "", {})  # type: ignore[arg-type]


def test_every_route_of_the_table_is_found_under_its_own_path() -> None:
    dispatcher = Dispatcher(ROUTES)
    for route in ROUTES:
        path = "/".join("x" if part.startswith("{") else part for part in route.path.split("/"))
        match = dispatcher.find(path)
        assert match is not None
        assert match.methods[route.method] is route
        assert set(match.params.values()) <= {"x"}
        assert f"{{{next(iter(match.params), 'no')}}}" in route.path or not match.params


def test_a_word_of_the_table_goes_before_a_parameter() -> None:
    dispatcher = Dispatcher([_route("GET", "/a/{id}"), _route("GET", "/a/b:c"), _route("GET", "/a/{id}/d")])
    literal, value, deeper = dispatcher.find("/a/b:c"), dispatcher.find("/a/b:x"), dispatcher.find("/a/x/d")
    assert literal is not None and literal.params == {}
    assert value is not None and value.params == {"id": "b:x"}
    assert deeper is not None and deeper.params == {"id": "x"}


@pytest.mark.parametrize(
    "path", ["", "a", "/", "//", "/a", "/a/", "/a//", "//a/x", "/a/x/", "/a/.", "/a/..", "/A/x", "/a/x\n/", "*"]
)
def test_other_spellings_are_not_found(path: str) -> None:
    assert Dispatcher([_route("GET", "/a/{id}")]).find(path) is None


def test_a_call_is_in_the_table_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        Dispatcher([_route("GET", "/a/{id}"), _route("GET", "/a/{id}")])
    with pytest.raises(ValueError, match="twice"):
        Dispatcher([_route("GET", "/a/{id}"), _route("PUT", "/a/{name}")])
