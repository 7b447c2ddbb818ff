"""Tokens for one workflow, on a real server: every route × scope, and what lists, streams and errors give away."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from taskforge.api.access import RULES, About, rule_of
from taskforge.api.route import Route, Scope
from taskforge.api.routes import ROUTES
from tests.support.server import ServerProcess, running_server

PROTECTED = [route for route in ROUTES if route.scope is not None]
DOCUMENT = """
name: {name}
triggers:
  hook: {{webhook: {{verify: none}}}}
  nightly: {{cron: "0 9 * * *"}}
steps:
  - {{id: call, http: {{url: "http://127.0.0.1:1/"}}, retry: {{max_attempts: 1}}}}
"""


@dataclass
class Things:
    """What there is of one workflow, by the parameters of paths."""

    name: str
    run: str
    letter: str
    delivery: str

    def path(self, route: Route) -> str:
        id = {About.DEAD_LETTER: self.letter, About.DELIVERY: self.delivery}.get(rule_of(route), "x")
        known = {"name": self.name, "run": self.run, "id": id, "n": "1", "key": "cursor", "signal": "go"}
        return route.path.format(**known)


@dataclass
class Stage:
    server: ServerProcess
    mine: Things
    other: Things
    tokens: dict[str, str]

    def call(self, method: str, path: str, token: str, body: Any = None) -> tuple[int, Any]:
        return self.server.call(method, path, body, {"Authorization": f"Bearer {self.tokens[token]}"})


def make(server: ServerProcess, name: str) -> Things:
    assert server.call("PUT", f"/v1/workflows/{name}", DOCUMENT.format(name=name).encode())[0] == 201
    run = server.call("POST", f"/v1/workflows/{name}/runs?wait=20s", {})[1]
    assert run["state"] == "FAILED"
    server.call("PUT", f"/v1/workflows/{name}/state/cursor", {"value": name})
    delivery = server.call("POST", f"/hooks/{name}/hook", {"n": 1})[1]["delivery"]
    letters = server.call("GET", f"/v1/dead-letters?workflow={name}")[1]["items"]
    assert [letter["workflow"] for letter in letters] == [name] * len(letters)
    return Things(name, run["id"], letters[0]["id"], delivery)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_server(tmp_path_factory.mktemp("access")) as server:
        mine, other = make(server, "mine"), make(server, "secretive")
        words = {f"{scope.name.lower()}:mine": [f"{scope.name.lower()}:mine"] for scope in Scope}
        words |= {"both": ["run:mine", "read:secretive", "write:absent"], "absent": ["admin:absent"]}
        words |= {"mixed": ["read", "write:mine"]}
        tokens = {}
        for name, scopes in words.items():
            status, made = server.call("POST", "/v1/tokens", {"name": name, "scopes": scopes})
            assert (status, made["scopes"]) == (201, scopes)
            tokens[name] = made["token"]
        yield Stage(server, mine, other, tokens)


def name_of(route: Route) -> str:
    return f"{route.method} {route.path}"


def test_every_route_has_a_rule_and_every_rule_a_route() -> None:
    assert RULES.keys() == {name_of(route) for route in PROTECTED}


def test_a_route_without_a_rule_is_about_the_whole_server() -> None:
    new = Route("POST", "/v1/new/{name}", Scope.READ, PROTECTED[0].handler, "", {})
    assert rule_of(new) is About.SERVER


@pytest.mark.parametrize("route", PROTECTED, ids=name_of)
def test_a_token_for_one_workflow_opens_its_calls_about_it_and_no_others(stage: Stage, route: Route) -> None:
    """The question that no call takes is looked at after the scopes: 422 says that the token was admitted."""
    assert route.scope is not None
    about = rule_of(route)
    for scope in Scope:
        token = f"{scope.name.lower()}:mine"
        status, answer = stage.call(route.method, stage.mine.path(route) + "?no_such=1", token)
        admitted = about is not About.SERVER and scope >= route.scope
        assert status == (422 if admitted else 403), (token, answer)
        if not admitted:
            assert (answer["code"], answer["scope"]) == ("FORBIDDEN", route.scope.name.lower())
            assert route.scope.name.lower() in answer["detail"]
        status, answer = stage.call(route.method, stage.other.path(route) + "?no_such=1", token)
        if about in (About.NOTHING, About.LIST, About.DOCUMENT):
            assert status == (422 if admitted else 403)
        else:
            assert status in (403, 404), (token, answer)
            assert stage.other.name not in json.dumps(answer).replace(stage.other.path(route), "") or (
                about is About.NAME
            )


@pytest.mark.parametrize("route", PROTECTED, ids=name_of)
def test_what_is_hidden_is_answered_like_what_is_not_there(stage: Stage, route: Route) -> None:
    if rule_of(route) in (About.SERVER, About.NOTHING, About.LIST, About.DOCUMENT):
        return
    absent = Things("absent-flow", "run_absent", "dead_absent", "dlv_absent")
    for scope in Scope:
        found = []
        for things in (stage.other, absent):
            status, answer = stage.call(route.method, things.path(route), f"{scope.name.lower()}:mine")
            text = json.dumps(answer)
            for hidden in (things.name, things.run, things.letter, things.delivery):
                text = text.replace(hidden, "…")
            found.append((status, text))
        assert found[0] == found[1]
        assert found[0][0] in (403, 404)


def test_a_run_of_another_workflow_is_refused_by_its_number_too(stage: Stage) -> None:
    for number in (1, 99):
        path = f"/v1/runs/{quote(f'secretive#{number}')}"
        assert stage.call("GET", path, "admin:mine")[0] == 403
    assert stage.call("GET", f"/v1/runs/{quote('mine#1')}", "read:mine")[0] == 200


@pytest.mark.parametrize("route", [r for r in PROTECTED if rule_of(r) is About.LIST], ids=name_of)
def test_lists_show_what_the_token_may_see_and_nothing_else(stage: Stage, route: Route) -> None:
    if route.path == "/v1/events":
        return
    _, everything = stage.server.call("GET", route.path)
    assert {named(item) for item in everything["items"]} == {"mine", "secretive"}
    status, page = stage.call("GET", route.path, "read:mine")
    assert (status, {named(item) for item in page["items"]}) == (200, {"mine"})
    assert page["items"] == [item for item in everything["items"] if named(item) == "mine"]
    assert "secretive" not in json.dumps(page)
    assert stage.call("GET", route.path, "absent") == (200, {"items": [], "next_cursor": None})
    assert stage.call("GET", route.path, "both")[1] == everything
    assert stage.call("GET", route.path, "mixed")[1] == everything
    items, cursor = [], ""
    while True:
        status, page = stage.call("GET", f"{route.path}?limit=1{cursor}", "both")
        assert status == 200
        items += page["items"]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert items == everything["items"]
    if any(param.name == "workflow" for param in route.query):
        assert stage.call("GET", f"{route.path}?workflow=secretive", "read:mine")[0] == 403
        assert stage.call("GET", f"{route.path}?workflow=absent-too", "read:mine")[0] == 403
        assert stage.call("GET", f"{route.path}?workflow=mine", "read:mine")[0] == 200


def named(item: dict[str, Any]) -> str:
    return str(item.get("workflow") or item.get("name"))


def test_a_stream_of_all_events_has_those_of_the_tokens_workflow_only(stage: Stage) -> None:
    headers = {"Authorization": f"Bearer {stage.tokens['read:mine']}", "Last-Event-ID": "0"}
    request = urllib.request.Request(f"{stage.server.url}/v1/events", headers=headers)
    with urllib.request.urlopen(request, timeout=20) as stream:
        other = stage.server.call("POST", "/v1/workflows/secretive/runs?wait=20s", {})[1]
        mine = stage.server.call("POST", "/v1/workflows/mine/runs?wait=20s", {})[1]
        seen = b""
        while not (mine["id"].encode() in seen and b"FAILED" in seen[seen.index(mine["id"].encode()) :]):
            seen += stream.readline()
    assert stage.mine.run.encode() in seen
    assert other["id"].encode() not in seen
    assert stage.other.run.encode() not in seen


def test_a_document_is_published_only_under_the_tokens_name(stage: Stage) -> None:
    document = DOCUMENT.format(name="secretive").encode()
    for path in ("/v1/workflows", "/v1/workflows/secretive"):
        method = "POST" if path.endswith("workflows") else "PUT"
        status, answer = stage.call(method, path, "write:mine", document)
        assert (status, answer["code"]) == (403, "FORBIDDEN")
        assert "write:secretive" in answer["detail"]
    assert stage.call("POST", "/v1/workflows", "mixed", document)[0] == 403
    assert stage.call("POST", "/v1/workflows:validate", "read:mine", document)[0] == 403
    assert stage.call("PUT", "/v1/workflows/mine", "write:mine", document)[1]["code"] == "NAME_MISMATCH"
    mine = DOCUMENT.format(name="mine").encode()
    for token in ("write:mine", "admin:mine", "mixed"):
        assert stage.call("POST", "/v1/workflows", token, mine)[0] == 200
    assert stage.call("POST", "/v1/workflows", "run:mine", mine)[0] == 403
    assert stage.call("POST", "/v1/workflows", "absent", DOCUMENT.format(name="absent").encode())[0] == 201
    assert stage.call("DELETE", "/v1/workflows/absent", "absent")[0] == 204


def test_validation_tells_a_token_of_one_workflow_no_names_of_secrets(stage: Stage) -> None:
    stage.server.call("PUT", "/v1/secrets/GITHUB_TOKEN", {"value": "opaque value"})
    document = b"name: mine\nsteps: [{id: a, http: {url: 'https://x/${{ $secrets.GITHUB_TOKN }}'}}]\n"
    assert "GITHUB_TOKEN" in json.dumps(stage.server.call("POST", "/v1/workflows:validate", document)[1])
    status, answer = stage.call("POST", "/v1/workflows:validate", "read:mine", document)
    assert (status, answer["valid"]) == (200, True)
    assert "GITHUB_TOKEN" not in json.dumps(answer)


def test_a_wrong_scope_is_refused_and_named(stage: Stage) -> None:
    for word in ("owner", "run:", "run:UP", "run:a b", "", "run:a:b"):
        status, answer = stage.server.call("POST", "/v1/tokens", {"name": "x", "scopes": ["read", word]})
        assert (status, answer["errors"][0]["path"]) == (422, "scopes")
    assert stage.server.call("POST", "/v1/tokens", {"name": "x", "scopes": ["read"] * 101})[0] == 422


def test_an_expired_or_revoked_token_is_refused_at_once(stage: Stage) -> None:
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 86_400))
    _, made = stage.server.call("POST", "/v1/tokens", {"name": "gone", "scopes": ["run:mine"], "expires_at": end})
    stage.tokens["gone"] = made["token"]
    assert stage.call("GET", "/v1/workflows/mine", "gone")[0] == 200
    assert stage.server.call("DELETE", f"/v1/tokens/{made['id']}")[0] == 204
    assert stage.call("GET", "/v1/workflows/mine", "gone")[0] == 401
