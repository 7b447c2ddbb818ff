"""One-time links: what a sender without a token can do with one, and what nobody can."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.following import await_end, await_step
from tests.support.server import ServerProcess, running_server
from tests.support.target import Target, running_target

PUBLIC = "https://flows.example.com/tf"
SCHEMA = (
    "{type: object, required: [ok], additionalProperties: false, properties: {ok: {type: boolean}, "
    "count: {type: integer, maximum: 9}, note: {type: string, default: '<b>'}, level: {enum: [low, 2]}}}"
)
ASK = """
name: ask
steps:
  - {{id: send, http: {{method: POST, url: "{url}/ask", json: {{link: "${{{{ $run.resume_url }}}}"}}}}}}
  - {{id: approve, wait: {{signal: approved, schema: {schema}}}}}
output: "${{{{ $approve }}}}"
"""
TWO = """
name: two
steps:
  - id: send
    http: {{method: POST, url: "{url}/two", json: "${{{{ $run.resume_urls }}}}"}}
  - {{id: pause, wait: {{signal: go}}}}
  - {{id: early, wait: {{signal: same}}}}
  - {{id: late, wait: {{signal: same}}}}
  - {{id: after, transform: "${{{{ $run.resume_url }}}}"}}
output: "${{{{ [$early, $late, $after] }}}}"
"""
EACH = """
name: each
steps:
  - id: items
    foreach:
      items: [a, b]
      max_parallel: 2
      steps:
        - id: send
          http: {{method: POST, url: "{url}/each", json: ["${{{{ $item }}}}", "${{{{ $run.resume_url }}}}"]}}
        - {{id: answer, wait: {{signal: answer}}}}
output: "${{{{ $items }}}}"
"""


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with running_target() as found:
        yield found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, target: Target) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("links"), server__public_url=PUBLIC) as started:
        for text in (ASK, TWO, EACH):
            document = text.format(url=target.url, schema=SCHEMA).encode()
            status, answer = started.call("POST", "/v1/workflows", document)
            assert status == 201, answer
        yield started


def start(server: ServerProcess, workflow: str) -> str:
    status, started = server.call("POST", f"/v1/workflows/{workflow}/runs", {})
    assert status == 202
    id: str = started["id"]
    return id


def link_of(server: ServerProcess, target: Target, run: str) -> str:
    """The path of the link that the run `ask` has sent."""
    await_step(server, run, "approve", "WAITING")
    url: str = [seen for seen in target.requests("/ask") if run in seen.key][-1].json["link"]
    assert url.startswith(f"{PUBLIC}/hooks/-/resume/")
    return url.removeprefix(PUBLIC)


def ask(
    server: ServerProcess, path: str, body: Any = None, *, method: str = "POST", **headers: str
) -> tuple[int, str, str]:
    """A request without a token, with a Host header of the outside. Returns status, content type and text."""
    sent = {"Host": "flows.example.com"} | {name.replace("_", "-"): value for name, value in headers.items()}
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    if body is not None:
        sent.setdefault("Content-Type", "application/json")
    request = urllib.request.Request(server.url + path, method=method, data=data, headers=sent)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def form(**fields: str) -> dict[str, Any]:
    return {"body": urlencode(fields).encode(), "Content_Type": "application/x-www-form-urlencoded"}


def state_of(server: ServerProcess, run: str) -> str:
    state: str = server.call("GET", f"/v1/runs/{run}?steps=none")[1]["state"]
    return state


def test_whoever_has_the_link_resumes_the_step_once(server: ServerProcess, target: Target) -> None:
    run = start(server, "ask")
    path = link_of(server, target, run)
    status, media, text = ask(server, path, {"ok": True, "count": 3})
    assert (status, media) == (202, "application/json")
    answer = json.loads(text)
    assert (answer["run"].partition("#")[0], answer["step"]) == ("ask", "approve")
    assert await_end(server, run)["output"] == {"ok": True, "count": 3}
    for method in ("POST", "GET"):
        status, media, text = ask(server, path, {"ok": False} if method == "POST" else None, method=method)
        assert (status, media, json.loads(text)["code"]) == (410, "application/problem+json", "RESUME_LINK_USED")
    assert await_end(server, run)["output"] == {"ok": True, "count": 3}


def test_looking_at_a_link_changes_nothing(server: ServerProcess, target: Target) -> None:
    run = start(server, "ask")
    path = link_of(server, target, run)
    for _ in range(3):
        status, media, page = ask(server, path, method="GET", Accept="text/html")
        assert (status, media) == (200, "text/html; charset=utf-8")
    assert ask(server, path, method="HEAD")[0] == 200
    assert state_of(server, run) == "WAITING"
    assert '<form method="post">' in page
    for name in ("ok", "count", "note", "level"):
        assert f'name="{name}"' in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "<script" not in page
    server.call("POST", f"/v1/runs/{run}/cancel")


def test_the_pages_form_gives_values_of_the_schemas_types(server: ServerProcess, target: Target) -> None:
    run = start(server, "ask")
    path = link_of(server, target, run)
    status, media, page = ask(server, path, **form(ok="maybe", count="12", note="<i>"))
    assert (status, media) == (422, "text/html; charset=utf-8")
    assert "ok" in page
    assert "&lt;i&gt;" in page
    assert state_of(server, run) == "WAITING"
    status, media, page = ask(server, path, **form(ok="true", count="", note="fine & well", level="2"))
    assert (status, media, "goes on" in page) == (202, "text/html; charset=utf-8", True)
    assert await_end(server, run)["output"] == {"ok": True, "note": "fine & well", "level": 2}
    status, media, page = ask(server, path, **form(ok="true"))
    assert (status, media, "has been used" in page) == (410, "text/html; charset=utf-8", True)


@pytest.mark.parametrize("body", [None, {}, {"ok": 1}, [], {"ok": True, "x": 1}])
def test_data_that_does_not_fit_is_refused_and_does_not_use_the_link_up(
    server: ServerProcess, target: Target, body: Any
) -> None:
    run = start(server, "ask")
    path = link_of(server, target, run)
    status, _, text = ask(server, path, body)
    assert (status, json.loads(text)["code"]) == (422, "INVALID_INPUT")
    assert ask(server, path, b"{", Content_Type="application/json")[0] == 400
    assert ask(server, path, b"ok=true", Content_Type="text/plain")[0] == 415
    assert ask(server, path, {"ok": True})[0] == 202
    assert await_end(server, run)["state"] == "SUCCEEDED"


def test_a_link_that_was_changed_or_made_up_is_404_whatever_it_says(server: ServerProcess, target: Target) -> None:
    run = start(server, "ask")
    path = link_of(server, target, run)
    other = link_of(server, target, start(server, "ask"))
    payload, _, signature = path.rpartition("/")[2].partition(".")
    foreign = other.rpartition(".")[2]
    changed = chr(ord(signature[0]) ^ 1)
    head = "/hooks/-/resume/"
    wrong = [f"{payload}.{foreign}", f"{payload}.{changed}{signature[1:]}", f"{payload[:-1]}.{signature}", payload, "x"]
    for token in wrong:
        for method in ("GET", "POST"):
            status, _, text = ask(server, head + token, {"ok": True} if method == "POST" else None, method=method)
            assert (status, json.loads(text)["code"]) == (404, "NOT_FOUND")
            assert run not in text
    assert ask(server, head)[0] == 404
    assert ask(server, path, method="DELETE")[0] == 405
    assert state_of(server, run) == "WAITING"
    assert ask(server, path, {"ok": True})[0] == 202


def test_a_link_used_before_its_steps_turn_counts_when_that_comes(server: ServerProcess, target: Target) -> None:
    run = start(server, "two")
    await_step(server, run, "pause", "WAITING")
    links: dict[str, str] = next(seen for seen in target.requests("/two") if run in seen.key).json
    assert set(links) == {"pause", "early", "late"}
    late = links["late"].removeprefix(PUBLIC)
    assert ask(server, late, {"n": 2})[0] == 202
    assert ask(server, late, {"n": 3})[0] == 410
    assert server.call("POST", f"/v1/runs/{run}/signals/go", {})[0] == 202
    await_step(server, run, "early", "WAITING")
    # Both steps wait for the same signal; the link is for one of them alone.
    assert ask(server, links["early"].removeprefix(PUBLIC), {"n": 1})[0] == 202
    assert await_end(server, run)["output"] == [{"n": 1}, {"n": 2}, None]
    assert ask(server, links["pause"].removeprefix(PUBLIC), {})[0] == 410


def test_every_item_has_a_link_of_its_own(server: ServerProcess, target: Target) -> None:
    run = start(server, "each")
    for index in (0, 1):
        await_step(server, run, f"items[{index}].answer", "WAITING")
    links = dict(seen.json for seen in target.requests("/each") if run in seen.key)
    assert set(links) == {"a", "b"}
    assert ask(server, links["b"].removeprefix(PUBLIC), "for b")[0] == 202
    assert ask(server, links["a"].removeprefix(PUBLIC), "for a")[0] == 202
    assert await_end(server, run)["output"] == ["for a", "for b"]


def test_a_link_of_a_cancelled_run_or_an_earlier_generation_is_410(server: ServerProcess, target: Target) -> None:
    run = start(server, "ask")
    first = link_of(server, target, run)
    server.call("POST", f"/v1/runs/{run}/cancel")
    await_end(server, run)
    assert ask(server, first, {"ok": True})[0] == 410
    assert server.call("POST", f"/v1/runs/{run}/retry", {"from_step": "send"})[0] == 202
    await_step(server, run, "approve", "WAITING", times=2)
    second = link_of(server, target, run)
    assert second != first
    status, _, text = ask(server, first, {"ok": True})
    assert (status, "earlier try" in text) == (410, True)
    assert ask(server, second, {"ok": True})[0] == 202
    assert await_end(server, run)["output"] == {"ok": True}


def test_a_link_is_good_after_a_restart_and_leads_to_the_server_itself_unless_told(
    tmp_path: Path, target: Target
) -> None:
    with running_server(tmp_path) as server:
        document = ASK.format(url=target.url, schema="{}").encode()
        assert server.call("POST", "/v1/workflows", document)[0] == 201
        run = start(server, "ask")
        await_step(server, run, "approve", "WAITING")
        url: str = [seen for seen in target.requests("/ask") if run in seen.key][-1].json["link"]
        assert url.startswith(server.url)
        server.restart()
        path = url.removeprefix(server.url)
        assert ask(server, path)[0] == 202
        assert await_end(server, run)["output"] is None
        server.restart()
        assert ask(server, path)[0] == 410
