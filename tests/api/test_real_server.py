"""The API of a real server process, over real sockets."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from jsonschema import Draft202012Validator

from taskforge.api.openapi import openapi_document
from taskforge.api.routes import ROUTES
from tests.support.server import ServerProcess, running_server

ECHO = b"""
name: echo
inputs: {type: object, properties: {n: {type: integer}}}
steps:
  - {id: one, transform: {n: "${{ $input.n }}"}}
  - {id: two, transform: "${{ $one.n }}"}
output: "${{ $two }}"
"""
FAILS = b"""
name: fails
steps:
  - {id: call, http: {url: "http://127.0.0.1:1/"}, retry: {max_attempts: 1}}
"""
WAITS = b"""
name: waits
steps:
  - {id: call, http: {url: "http://127.0.0.1:1/"}, retry: {initial: 1h, jitter: none}}
  - {id: after, transform: 1}
"""
JSON_HEADERS = {"Content-Type": "application/json"}
DOCUMENT = openapi_document(ROUTES)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("api"), server__body_limit=1_000_000, limits__steps=2000) as started:
        for document in (ECHO, FAILS, WAITS):
            status, _ = started.call("POST", "/v1/workflows", document)
            assert status == 201
        yield started


def fits(name: str, value: Any) -> bool:
    """Whether an answer fits its schema in the OpenAPI document."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    Draft202012Validator(schema).validate(value)
    return True


def connect(server: ServerProcess) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)


def test_a_run_is_started_waited_for_and_shown_with_every_digit(server: ServerProcess) -> None:
    big = 123456789012345678901234567890
    status, run = server.call("POST", "/v1/workflows/echo/runs?wait=30s", {"input": {"n": big}})
    assert (status, run["state"], run["output"], run["input"]) == (200, "SUCCEEDED", big, {"n": big})
    assert fits("Run", run)
    assert [(step["path"], step["state"], step["attempts"]) for step in run["steps"]] == [
        ("one", "SUCCEEDED", []),
        ("two", "SUCCEEDED", []),
    ]
    assert server.call("GET", f"/v1/runs/{run['id']}") == (200, run)
    assert server.call("GET", f"/v1/runs/echo%23{run['number']}") == (200, run)
    assert server.call("GET", f"/v1/runs/{run['id']}?steps=all") == (200, run)
    for choice in ("none", "failed"):
        status, shown = server.call("GET", f"/v1/runs/{run['id']}?steps={choice}")
        assert (status, shown) == (200, run | {"steps": []})


def test_steps_come_in_pages(server: ServerProcess) -> None:
    _, run = server.call("POST", "/v1/workflows/echo/runs?wait=30s", {"input": {"n": 1}})
    _, first = server.call("GET", f"/v1/runs/{run['id']}?limit=1")
    assert [step["path"] for step in first["steps"]] == ["one"]
    _, second = server.call("GET", f"/v1/runs/{run['id']}?limit=1&steps_cursor={first['steps_cursor']}")
    assert [step["path"] for step in second["steps"]] == ["two"]


def test_all_steps_of_a_long_run_come_in_one_answer_when_asked_for(server: ServerProcess) -> None:
    ids = sorted(f"s{number}" for number in range(1100))
    steps = [{"id": f"s{number}", "transform": number} for number in range(1100)]
    steps.append({"id": "z", "fail": {"message": "so be it"}})
    assert server.call("POST", "/v1/workflows", json.dumps({"name": "long", "steps": steps}).encode())[0] == 201
    _, run = server.call("POST", "/v1/workflows/long/runs?wait=60s", {})
    path = f"/v1/runs/{run['id']}"
    assert (run["state"], run["steps_total"], len(run["steps"])) == ("FAILED", 1101, 500)
    status, whole = server.call("GET", f"{path}?steps=all")
    assert (status, [step["path"] for step in whole["steps"]], whole["steps_cursor"]) == (200, [*ids, "z"], None)
    assert fits("Run", whole)
    joined, page = run["steps"], run
    while page["steps_cursor"] is not None:
        _, page = server.call("GET", f"{path}?steps_cursor={page['steps_cursor']}")
        joined = joined + page["steps"]
    assert joined == whole["steps"]
    assert [step["path"] for step in server.call("GET", f"{path}?steps=failed")[1]["steps"]] == ["z"]


def test_a_step_whose_turn_has_not_come_is_pending_until_the_run_ends(server: ServerProcess) -> None:
    _, started = server.call("POST", "/v1/workflows/waits/runs", {})
    path = f"/v1/runs/{started['id']}"
    _, run = server.call("GET", path)
    assert fits("Run", run)
    assert [step["state"] for step in run["steps"] if step["path"] == "after"] == ["PENDING"]
    status, cancelled = server.call("POST", f"{path}/cancel", {"reason": "enough"})
    assert (status, cancelled["state"], cancelled["error"]["message"]) == (202, "CANCELLED", "enough")
    assert fits("RunSummary", cancelled)
    _, run = server.call("GET", path)
    assert [step["path"] for step in run["steps"]] == ["call"]
    status, problem = server.call("POST", f"{path}/cancel")
    assert (status, problem["code"], problem["state"]) == (409, "RUN_ENDED", "CANCELLED")


def test_one_key_starts_one_run_however_many_ask_at_once(server: ServerProcess) -> None:
    def start(_: int) -> tuple[int, str]:
        status, run = server.call(
            "POST", "/v1/workflows/echo/runs", {"input": {"n": 5}}, {"Idempotency-Key": "once", **JSON_HEADERS}
        )
        return status, run["id"]

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(start, range(50)))
    assert len({run for _, run in answers}) == 1
    assert sorted(status for status, _ in answers) == [200] * 49 + [202]
    status, problem = server.call(
        "POST", "/v1/workflows/echo/runs", {"input": {"n": 6}}, {"Idempotency-Key": "once", **JSON_HEADERS}
    )
    assert (status, problem["code"]) == (422, "IDEMPOTENCY_MISMATCH")


def test_a_batch_is_all_or_none(server: ServerProcess) -> None:
    status, answer = server.call("POST", "/v1/workflows/echo/runs:batch", {"inputs": [{"n": 1}, {"n": 2}, {}]})
    assert (status, len(set(answer["ids"]))) == (202, 3)
    _, before = server.call("GET", "/v1/stats")
    status, problem = server.call("POST", "/v1/workflows/echo/runs:batch", {"inputs": [{"n": 1}, {"n": "x"}]})
    assert (status, problem["code"]) == (422, "INVALID_INPUT")
    assert problem["errors"][0]["path"].startswith("inputs[1]")
    _, after = server.call("GET", "/v1/stats")
    assert after["runs"] == before["runs"]
    assert fits("Stats", after)


def test_runs_are_listed_newest_first_and_filtered(server: ServerProcess) -> None:
    ids = server.call("POST", "/v1/workflows/echo/runs:batch", {"inputs": [{}] * 5})[1]["ids"]
    seen: list[str] = []
    path = "/v1/runs?workflow=echo&state=SUCCEEDED,RUNNING&trigger=manual&limit=2"
    cursor = ""
    while len(seen) < 5:
        _, page = server.call("GET", path + cursor)
        assert fits("RunPage", page)
        seen += [run["id"] for run in page["items"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert seen[:5] == ids[::-1]
    _, run = server.call("GET", f"/v1/runs/{ids[0]}")
    at = run["created_at"]
    _, page = server.call("GET", f"/v1/runs?workflow=echo&since={at}&until={at}")
    assert {run["created_at"] for run in page["items"]} == {at}
    assert server.call("GET", "/v1/runs?since=2100-01-01T00:00:00Z")[1] == {"items": [], "next_cursor": None}


def test_a_dead_letter_is_retried_or_discarded_once(server: ServerProcess) -> None:
    _, run = server.call("POST", "/v1/workflows/fails/runs?wait=30s", {})
    assert run["state"] == "FAILED"
    _, page = server.call("GET", "/v1/dead-letters?state=OPEN")
    assert fits("DeadLetterPage", page)
    letter = next(item for item in page["items"] if item["run_id"] == run["id"])
    assert (letter["path"], letter["error"]["code"]) == ("call", "CONNECT_REFUSED")
    path = f"/v1/dead-letters/{letter['id']}"
    assert server.call("GET", path) == (200, letter)
    status, again = server.call("POST", f"{path}/retry")
    assert (status, again["id"], again["generation"]) == (202, run["id"], 2)
    assert server.call("GET", path)[1]["state"] == "RETRIED"
    status, problem = server.call("DELETE", path)
    assert (status, problem["code"], problem["state"]) == (409, "DEAD_LETTER_CLOSED", "RETRIED")
    server.call("GET", f"/v1/runs/{run['id']}?wait=30s")
    _, page = server.call("GET", "/v1/dead-letters?state=OPEN&limit=1")
    status, gone = server.call("DELETE", f"/v1/dead-letters/{page['items'][0]['id']}")
    assert (status, gone["state"]) == (200, "DISCARDED")
    assert fits("DeadLetter", gone)


def test_workflows_are_stored_listed_disabled_and_deleted(server: ServerProcess) -> None:
    document = b"name: brief\nsteps: [{id: a, transform: 1}]\n"
    status, published = server.call("PUT", "/v1/workflows/brief", document)
    assert (status, published["version"], published["changed"]) == (201, 1, True)
    assert server.call("PUT", "/v1/workflows/brief", document)[0] == 200
    second = document.replace(b"1}", b"2}")
    assert server.call("PUT", "/v1/workflows/brief", second)[1]["version"] == 2
    status, problem = server.call("PUT", "/v1/workflows/other", document)
    assert (status, problem["code"]) == (422, "NAME_MISMATCH")
    _, shown = server.call("GET", "/v1/workflows/brief")
    assert fits("WorkflowDetail", shown)
    assert (shown["version"], shown["source"]) == (2, second.decode())
    _, versions = server.call("GET", "/v1/workflows/brief/versions")
    assert fits("VersionPage", versions)
    assert [item["version"] for item in versions["items"]] == [2, 1]
    assert server.call("GET", "/v1/workflows/brief/versions/1")[1]["source"] == document.decode()
    for number in ("3", "0", "x", "99999999999999999999"):
        assert server.call("GET", f"/v1/workflows/brief/versions/{number}")[0] == 404
    _, run = server.call("POST", "/v1/workflows/brief/runs?wait=30s", {"version": 1})
    assert run["version"] == 1
    status, disabled = server.call("PATCH", "/v1/workflows/brief", {"enabled": False})
    assert (status, disabled["enabled"]) == (200, False)
    assert fits("Workflow", disabled)
    status, problem = server.call("POST", "/v1/workflows/brief/runs", {})
    assert (status, problem["code"]) == (409, "WORKFLOW_DISABLED")
    assert "brief" in [item["name"] for item in server.call("GET", "/v1/workflows")[1]["items"]]
    assert server.call("DELETE", "/v1/workflows/brief") == (204, None)
    assert server.call("GET", "/v1/workflows/brief")[0] == 404
    assert server.call("DELETE", "/v1/workflows/brief")[0] == 404
    assert server.call("GET", f"/v1/runs/{run['id']}")[0] == 200


def test_a_wrong_document_is_answered_with_every_error_and_stores_nothing(server: ServerProcess) -> None:
    document = b"name: wrong\nsteps:\n  - {id: a, transform: '${{ $b }}'}\n  - {id: A, fetch: 1}\n"
    status, found = server.call("POST", "/v1/workflows:validate", document)
    assert (status, found["valid"], len(found["errors"]) >= 2) == (200, False, True)
    assert fits("Validation", found)
    assert all(error["line"] >= 3 for error in found["errors"])
    status, problem = server.call("POST", "/v1/workflows", document)
    assert (status, problem["code"], problem["errors"]) == (422, "INVALID_DEFINITION", found["errors"])
    assert server.call("GET", "/v1/workflows/wrong")[0] == 404


def test_a_token_is_shown_once_and_refused_as_soon_as_it_is_revoked(server: ServerProcess) -> None:
    status, made = server.call("POST", "/v1/tokens", {"name": "ci", "scopes": ["run"]})
    assert status == 201
    assert fits("NewToken", made)
    bearer = {"Authorization": f"Bearer {made['token']}"}
    assert server.call("GET", "/v1/runs", headers=bearer)[0] == 200
    assert server.call("GET", "/v1/tokens", headers=bearer)[0] == 403
    _, listed = server.call("GET", "/v1/tokens")
    assert made["token"] not in json.dumps(listed)
    assert fits("TokenPage", listed)
    assert server.call("DELETE", f"/v1/tokens/{made['id']}")[0] == 204
    assert server.call("GET", "/v1/runs", headers=bearer)[0] == 401
    assert server.call("DELETE", f"/v1/tokens/{made['id']}")[0] == 404
    status, problem = server.call(
        "POST", "/v1/tokens", {"name": "old", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}
    )
    assert (status, problem["errors"][0]["path"]) == (422, "expires_at")


def test_metrics_name_every_state_and_need_a_token(server: ServerProcess) -> None:
    status, text = server.call("GET", "/metrics")
    assert status == 200
    for name in ('taskforge_runs{state="WAITING"} 0.0', "taskforge_build_info{version=", "taskforge_database_bytes "):
        assert name in text.decode()
    assert server.call("GET", "/metrics", headers={"Authorization": "Bearer no"})[0] == 401


# ---- events


def _events(server: ServerProcess, path: str, last: str | None = None) -> list[tuple[str, str, Any]]:
    """A stream read to its end: (id, event, data)."""
    connection = connect(server)
    headers = {"Authorization": f"Bearer {server.token}"} | ({"Last-Event-ID": last} if last else {})
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("content-type")) == (200, "text/event-stream; charset=utf-8")
    found = []
    for block in answer.read().decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" in fields:
            found.append((fields.get("id", ""), fields["event"], json.loads(fields["data"])))
    connection.close()
    return found


def test_the_events_of_a_run_end_with_it_and_go_on_after_any_of_them(server: ServerProcess) -> None:
    _, run = server.call("POST", "/v1/workflows/fails/runs?wait=30s", {})
    everything = _events(server, f"/v1/runs/{run['id']}/events")
    assert everything[-1][1] == "end"
    assert [(kind, data["state"]) for _, kind, data in everything[:-1] if kind == "run"] == [
        ("run", "QUEUED"),
        ("run", "RUNNING"),
        ("run", "FAILED"),
    ]
    for index in range(len(everything) - 1):
        assert (
            _events(server, f"/v1/runs/fails%23{run['number']}/events", everything[index][0]) == everything[index + 1 :]
        )
    assert server.call("GET", f"/v1/runs/{run['id']}/events", headers={"Last-Event-ID": "x"})[0] == 422
    assert server.call("GET", "/v1/runs/run_none/events")[0] == 404
    assert server.call("HEAD", "/v1/events")[0] == 200


def test_a_run_is_followed_while_it_goes_on(server: ServerProcess) -> None:
    _, started = server.call("POST", "/v1/workflows/waits/runs", {})
    found: list[Any] = []
    follower = threading.Thread(target=lambda: found.extend(_events(server, f"/v1/runs/{started['id']}/events")))
    follower.start()
    server.call("POST", f"/v1/runs/{started['id']}/cancel")
    follower.join(10)
    assert not follower.is_alive()
    assert [data["state"] for _, kind, data in found if kind == "run"][-1] == "CANCELLED"


def test_all_runs_are_followed_from_now_on(server: ServerProcess) -> None:
    server.call("POST", "/v1/workflows/echo/runs?wait=30s", {})
    connection = connect(server)
    connection.request("GET", "/v1/events", headers={"Authorization": f"Bearer {server.token}"})
    answer = connection.getresponse()
    _, run = server.call("POST", "/v1/workflows/echo/runs?wait=30s", {})
    seen: list[str] = []
    while not seen or seen[-1] != "SUCCEEDED" or len(seen) < 3:
        line = answer.readline().decode()
        assert line
        if line.startswith("data: ") and (data := json.loads(line[6:])):
            assert data["run_id"] == run["id"]
            seen += [data["state"]] if "step" not in data else []
    assert seen == ["QUEUED", "RUNNING", "SUCCEEDED"]
    connection.close()


def test_logs_come_in_pages_that_join_without_a_gap(server: ServerProcess) -> None:
    _, run = server.call("POST", "/v1/workflows/fails/runs?wait=30s", {})
    _, whole = server.call("GET", f"/v1/runs/{run['id']}/logs?limit=500")
    assert fits("LogPage", whole)
    joined: list[Any] = []
    cursor = ""
    while True:
        _, page = server.call("GET", f"/v1/runs/{run['id']}/logs?limit=2{cursor}")
        joined += page["items"]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert joined == whole["items"]
    assert any(line["level"] == "error" for line in joined)


# ---- what sockets bring


def _raw(server: ServerProcess, request: bytes) -> bytes:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as sock:
        sock.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            chunk = sock.recv(65536)
            if not chunk:
                break
            answer += chunk
        return answer


@pytest.mark.parametrize(
    "target", ["http://evil.example/v1/runs", "//v1/runs", "/v1/%2e%2e/v1/runs", "/%76%31/runs", "/v1/runs#x", "*"]
)
def test_odd_request_targets_are_not_let_in(server: ServerProcess, target: str) -> None:
    answer = _raw(server, f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert answer.split(b" ")[1] in (b"400", b"401", b"404"), answer


def test_a_body_beyond_the_limit_is_answered_while_it_is_still_being_sent(server: ServerProcess) -> None:
    connection = connect(server)
    headers = {"Authorization": f"Bearer {server.token}", **JSON_HEADERS}
    connection.request("POST", "/v1/workflows/echo/runs", body=b"x" * 20_000_000, headers=headers)
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (413, "TOO_LARGE")
    connection.close()
    connection.request(
        "POST", "/v1/workflows/echo/runs", body=iter([b"x" * 100_000] * 30), headers=headers, encode_chunked=True
    )
    assert connection.getresponse().status == 413
    connection.close()


def test_wrong_tokens_are_cheap(server: ServerProcess) -> None:
    connection = connect(server)
    server.call("GET", "/healthz")
    count, began = 300, time.monotonic()
    for number in range(count):
        connection.request("GET", "/v1/runs", headers={"Authorization": f"Bearer tf_{number}"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 401
    connection.close()
    # Client and network included, on a busy machine: the limit is only there to catch what is out of all proportion.
    assert (time.monotonic() - began) / count < 0.05


def test_a_server_that_is_told_to_stop_does_not_wait_for_those_who_watch(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        server.call("POST", "/v1/workflows", WAITS)
        _, started = server.call("POST", "/v1/workflows/waits/runs", {})
        watchers = [
            threading.Thread(target=server.call, args=("GET", f"/v1/runs/{started['id']}?wait=5m")),
            threading.Thread(target=_events, args=(server, f"/v1/runs/{started['id']}/events")),
        ]
        for watcher in watchers:
            watcher.start()
        server.call("GET", "/v1/stats")
        began = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - began < 8
        for watcher in watchers:
            watcher.join(10)
            assert not watcher.is_alive()


def test_a_key_stands_for_a_whole_batch_and_for_a_replay(server: ServerProcess) -> None:
    batch = {"inputs": [{"n": 1}, {"n": 2}]}
    first = server.call("POST", "/v1/workflows/echo/runs:batch", batch, {"Idempotency-Key": "batch"})
    again = server.call("POST", "/v1/workflows/echo/runs:batch", batch, {"Idempotency-Key": "batch"})
    assert (first[0], again[0], again[1]) == (202, 200, first[1]) and len(set(first[1]["ids"])) == 2
    for other in ({"inputs": [{"n": 1}]}, {"inputs": [{"n": 2}, {"n": 1}]}, batch | {"priority": 1}):
        status, problem = server.call("POST", "/v1/workflows/echo/runs:batch", other, {"Idempotency-Key": "batch"})
        assert (status, problem["code"]) == (422, "IDEMPOTENCY_MISMATCH") and "'batch'" in problem["detail"]
    replay = f"/v1/runs/{first[1]['ids'][0]}/replay"
    once, twice = (server.call("POST", replay, {}, {"Idempotency-Key": "replay"}) for _ in range(2))
    assert (once[0], twice[0], twice[1]["id"]) == (202, 200, once[1]["id"])
    assert server.call("POST", replay, {"input": {"n": 3}}, {"Idempotency-Key": "replay"})[0] == 422
    elsewhere = f"/v1/runs/{first[1]['ids'][1]}/replay"
    assert server.call("POST", elsewhere, {}, {"Idempotency-Key": "replay"})[0] == 422
    server.call("PATCH", "/v1/workflows/echo", {"enabled": False})
    try:
        for path, body, key in (("/v1/workflows/echo/runs:batch", batch, "batch"), (replay, {}, "replay")):
            assert server.call("POST", path, body, {"Idempotency-Key": key})[0] == 200
            assert server.call("POST", path, body, {"Idempotency-Key": "new"})[0] == 409
    finally:
        server.call("PATCH", "/v1/workflows/echo", {"enabled": True})


def test_who_leaves_while_pipelined_requests_are_answered_leaves_no_error_behind(server: ServerProcess) -> None:
    host, port = urlsplit(server.url).hostname, urlsplit(server.url).port
    body = b'{"input": {"n": 1}}'
    start = (
        f"POST /v1/workflows/echo/runs?wait=5s HTTP/1.1\r\nHost: {host}:{port}\r\n"
        f"Authorization: Bearer {server.token}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    for _ in range(10):
        with socket.create_connection((host, port), timeout=10) as connection:
            connection.sendall(start * 4)
    assert server.call("GET", "/healthz")[0] == 200
    assert server.call("POST", "/v1/workflows/echo/runs?wait=5s", {"input": {"n": 2}})[0] == 200
    assert "Exception in ASGI" not in server.output()
