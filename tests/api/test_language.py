"""Signals, replay, retry from a step, holds, state and why, over the API of a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from taskforge.api.openapi import openapi_document
from taskforge.api.routes import ROUTES
from taskforge.core.errors import FAILURE_CODES
from taskforge.core.reasons import DECISION_CODES
from tests.support.following import await_end, await_state, await_step
from tests.support.server import ServerProcess, running_server
from tests.support.target import Answer, Target, running_target

DOCUMENT = openapi_document(ROUTES)
APPROVE = b"""
name: approve
inputs: {type: object, properties: {who: {type: string, default: anna}}}
steps:
  - {id: first, transform: "${{ $input.who }}"}
  - id: ok
    wait:
      signal: approved
      timeout: 1h
      schema: {type: object, required: [ok], properties: {ok: {type: boolean}}, additionalProperties: false}
output: "${{ {who: $first, ok: $ok.ok} }}"
"""
FREE = b"""
name: free
steps:
  - {id: go, wait: {signal: go-on}}
  - {id: again, wait: {signal: go-on}}
output: "${{ [$go, $again] }}"
"""
PARENT = b"""
name: parent
steps:
  - {id: child, workflow: {name: approve, input: {who: "${{ $run.id }}"}}}
  - {id: other, workflow: {name: approve, wait: false}}
"""
STATEFUL = b"""
name: stateful
steps:
  - {id: seen, set_state: {key: cursor, value: "${{ ($state.cursor // 0) + 1 }}"}}
output: "${{ $seen }}"
"""


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with running_target() as found:
        yield found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("language"), engine__max_attempts_in_flight=2) as started:
        for document in (APPROVE, FREE, PARENT, STATEFUL):
            status, answer = started.call("POST", "/v1/workflows", document)
            assert status == 201, answer
        yield started


def fits(name: str, value: Any) -> bool:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    Draft202012Validator(schema).validate(value)
    return True


def start(server: ServerProcess, workflow: str, **body: Any) -> str:
    status, started = server.call("POST", f"/v1/workflows/{workflow}/runs", body)
    assert status == 202, started
    id: str = started["id"]
    return id


def signal(server: ServerProcess, run: str, name: str, **body: Any) -> tuple[int, Any]:
    return server.call("POST", f"/v1/runs/{run}/signals/{name}", body)


def why(server: ServerProcess, run: str, query: str = "") -> list[dict[str, Any]]:
    status, answer = server.call("GET", f"/v1/runs/{run}/why{query}")
    assert status == 200, answer
    assert fits("Why", answer)
    assert all(item["code"] in DECISION_CODES | FAILURE_CODES for item in answer["items"])
    items: list[dict[str, Any]] = answer["items"]
    return items


# ---- signals


def test_a_signal_wakes_the_step_that_waits_for_it_with_its_data(server: ServerProcess) -> None:
    run = start(server, "approve")
    _, shown = server.call("GET", f"/v1/runs/{run}")
    assert fits("Run", shown)
    (waiting,) = [step for step in shown["steps"] if step["state"] == "WAITING"]
    assert (shown["state"], waiting["path"], waiting["signal"]) == ("WAITING", "ok", "approved")
    assert waiting["available_at"] is not None
    status, answer = signal(server, run, "approved", data={"ok": True})
    assert status == 202
    assert fits("RunSummary", answer)
    assert await_end(server, run)["output"] == {"who": "anna", "ok": True}


@pytest.mark.parametrize("data", [None, {}, {"ok": "yes"}, {"ok": True, "by": "me"}])
def test_data_that_does_not_fit_the_schema_of_the_wait_is_422_and_changes_nothing(
    server: ServerProcess, data: Any
) -> None:
    run = start(server, "approve")
    status, problem = signal(server, run, "approved", data=data)
    assert (status, problem["code"]) == (422, "INVALID_INPUT")
    assert problem["errors"]
    assert server.call("GET", f"/v1/runs/{run}")[1]["state"] == "WAITING"


def test_a_signal_that_comes_before_its_wait_is_kept(server: ServerProcess) -> None:
    run = start(server, "free")
    for number in (1, 2):
        status, _ = signal(server, run, "go-on", data=number)
        assert status == 202
    assert await_end(server, run)["output"] == [1, 2]
    early = start(server, "free", delay="1h")
    assert signal(server, early, "go-on")[0] == 202
    server.call("POST", f"/v1/runs/{early}/cancel")


def test_a_signal_for_a_run_that_has_ended_is_409_with_its_state(server: ServerProcess) -> None:
    run = start(server, "approve")
    signal(server, run, "approved", data={"ok": False})
    await_end(server, run)
    status, problem = signal(server, run, "approved", data={"ok": True})
    assert (status, problem["code"], problem["state"]) == (409, "RUN_ENDED", "SUCCEEDED")


def test_a_signal_for_no_run_or_of_no_name_is_refused(server: ServerProcess) -> None:
    assert signal(server, "run_nothing", "approved")[0] == 404
    run = start(server, "free")
    for name in ("!child:x~1", "a%20b", "x" * 129):
        status, problem = signal(server, run, name)
        assert (status, problem["code"]) == (422, "INVALID_REQUEST")
    status, problem = server.call("POST", f"/v1/runs/{run}/signals/go-on", {"dta": 1})
    assert (status, problem["errors"][0]["hint"]) == (422, 'did you mean "data"?')
    server.call("POST", f"/v1/runs/{run}/cancel")


def test_the_data_of_a_signal_is_bounded(server: ServerProcess) -> None:
    run = start(server, "free")
    status, problem = signal(server, run, "other", data="x" * 1_100_000)
    assert (status, problem["code"]) == (413, "TOO_LARGE")
    server.call("POST", f"/v1/runs/{run}/cancel")


# ---- replay, retry, lineage


def test_a_replay_is_a_new_run_with_the_same_or_another_input(server: ServerProcess) -> None:
    run = start(server, "approve", input={"who": "otto"})
    signal(server, run, "approved", data={"ok": True})
    await_end(server, run)
    status, same = server.call("POST", f"/v1/runs/{run}/replay", {})
    assert status == 202
    assert fits("Started", same)
    _, other = server.call("POST", f"/v1/runs/{run}/replay", {"input": {"who": "ida"}, "version": 1})
    for started, who in ((same, "otto"), (other, "ida")):
        signal(server, started["id"], "approved", data={"ok": True})
        ended = await_end(server, started["id"])
        assert (ended["replay_of"], ended["output"]["who"], ended["version"]) == (run, who, 1)
        assert fits("Run", ended)
    assert server.call("POST", f"/v1/runs/{run}/replay", {"version": 99})[0] == 404
    assert server.call("POST", f"/v1/runs/{run}/replay", {"input": {"who": 1}})[0] == 422
    assert server.call("POST", "/v1/runs/run_none/replay", {})[0] == 404


def test_a_retry_from_a_step_runs_it_and_what_came_after_again_and_keeps_old_attempts(
    server: ServerProcess, target: Target
) -> None:
    document = f"""
name: chain
steps:
  - {{id: one, http: {{url: "{target.url}/one"}}}}
  - {{id: two, http: {{url: "{target.url}/two"}}}}
  - {{id: three, http: {{url: "{target.url}/three"}}}}
"""
    assert server.call("POST", "/v1/workflows", document.encode())[0] == 201
    run = start(server, "chain")
    assert await_end(server, run)["state"] == "SUCCEEDED"
    status, _ = server.call("POST", f"/v1/runs/{run}/retry", {"from_step": "two"})
    assert status == 202
    ended = await_end(server, run)
    assert (ended["state"], ended["generation"]) == ("SUCCEEDED", 2)
    attempts = {step["path"]: [(a["generation"], a["number"]) for a in step["attempts"]] for step in ended["steps"]}
    assert attempts == {"one": [(1, 1)], "two": [(1, 1), (2, 1)], "three": [(1, 1), (2, 1)]}
    assert {step["path"]: step["generation"] for step in ended["steps"]} == {"one": 1, "two": 2, "three": 2}
    keys = [seen.key for seen in target.requests() if run in seen.key]
    assert keys == [f"{run}/{key}" for key in ("one", "two", "three", "two~2", "three~2")]
    status, problem = server.call("POST", f"/v1/runs/{run}/retry", {})
    assert (status, problem["code"]) == (409, "NOTHING_TO_RETRY")
    status, problem = server.call("POST", f"/v1/runs/{run}/retry", {"from_step": "tow"})
    assert (status, problem["code"]) == (422, "STEP_UNKNOWN")


def test_a_child_names_its_parent_and_the_parent_its_child(server: ServerProcess) -> None:
    run = start(server, "parent")
    await_step(server, run, "child", "WAITING")
    _, parent = server.call("GET", f"/v1/runs/{run}")
    assert fits("Run", parent)
    steps = {step["path"]: step for step in parent["steps"]}
    child = steps["child"]["child"]
    assert steps["child"]["signal"] is None
    _, shown = server.call("GET", f"/v1/runs/{child}")
    assert (shown["parent"], shown["trigger"]["type"]) == ({"run": run, "step": "child"}, "workflow")
    assert shown["input"] == {"who": run}
    assert [item["code"] for item in why(server, run)] == ["WAITING_CHILD"]
    signal(server, child, "approved", data={"ok": True})
    ended = await_end(server, run)
    steps = {step["path"]: step for step in ended["steps"]}
    assert steps["child"]["output"] == {"who": run, "ok": True}
    other = steps["other"]["child"]
    assert (steps["other"]["output"], steps["child"]["child"]) == ({"run": other}, child)
    signal(server, other, "approved", data={"ok": True})
    await_end(server, other)


# ---- holding


def test_a_held_workflow_accepts_runs_and_begins_no_attempt_until_it_is_released(
    server: ServerProcess, target: Target
) -> None:
    document = f'{{"name": "held", "steps": [{{"id": "call", "http": {{"url": "{target.url}/held"}}}}]}}'
    assert server.call("POST", "/v1/workflows", document.encode())[0] == 201
    status, shown = server.call("PATCH", "/v1/workflows/held", {"held": True})
    assert (status, shown["held"], shown["enabled"]) == (200, True, True)
    assert fits("Workflow", shown)
    assert server.call("GET", "/v1/hold")[1] == {"held": False, "workflows": ["held"]}
    assert server.call("GET", "/v1/stats")[1]["held_workflows"] == 1
    run = start(server, "held")
    (reason,) = why(server, run, "?step=call")[:1]
    assert (reason["code"], reason["current"]) == ("HELD", True)
    # Another workflow goes on meanwhile.
    other = start(server, "stateful")
    await_end(server, other)
    assert target.requests("/held") == []
    assert server.call("PATCH", "/v1/workflows/held", {"held": False})[1]["held"] is False
    assert await_end(server, run)["state"] == "SUCCEEDED"
    assert len(target.requests("/held")) == 1


def test_everything_can_be_held_and_the_server_says_so(server: ServerProcess) -> None:
    status, shown = server.call("PUT", "/v1/hold", {"held": True})
    assert (status, shown) == (200, {"held": True, "workflows": []})
    assert fits("Hold", shown)
    try:
        assert server.call("GET", "/v1/stats")[1]["held"] is True
        assert server.call("GET", "/readyz") == (200, {"status": "ready", "held": True})
        run = start(server, "stateful")
        assert [item["code"] for item in why(server, run)] == ["HELD"]
        assert server.call("GET", f"/v1/runs/{run}")[1]["state"] not in ("SUCCEEDED", "FAILED")
    finally:
        assert server.call("PUT", "/v1/hold", {"held": False})[1]["held"] is False
    assert await_end(server, run)["state"] == "SUCCEEDED"


@pytest.mark.parametrize("body", [{}, {"held": None}, {"held": 1}, {"enabled": "no"}, {"on": True}])
def test_a_change_that_says_nothing_or_nonsense_is_422(server: ServerProcess, body: Any) -> None:
    assert server.call("PATCH", "/v1/workflows/free", body)[0] == 422
    assert server.call("PATCH", "/v1/workflows/nothing", {"held": True})[0] == 404


# ---- state


def test_a_workflows_state_is_read_and_written(server: ServerProcess) -> None:
    path = "/v1/workflows/free/state"
    big = 12345678901234567890
    assert server.call("GET", path) == (200, {"workflow": "free", "state": {}})
    status, stored = server.call("PUT", f"{path}/cursor", {"value": big})
    assert (status, stored) == (200, {"key": "cursor", "value": big})
    assert server.call("PUT", f"{path}/cursor", {"value": {"a": [1]}, "expected": big})[0] == 200
    status, problem = server.call("PUT", f"{path}/cursor", {"value": 3, "expected": big})
    assert (status, problem["code"]) == (409, "STATE_CONFLICT")
    assert server.call("PUT", f"{path}/new", {"value": 1, "expected": None})[0] == 200
    assert server.call("PUT", f"{path}/new", {"value": 2, "expected": None})[0] == 409
    assert server.call("GET", path)[1]["state"] == {"cursor": {"a": [1]}, "new": 1}
    assert server.call("DELETE", f"{path}/cursor") == (204, None)
    assert server.call("DELETE", f"{path}/cursor")[0] == 404
    assert server.call("PUT", f"{path}/new", {"value": None}) == (200, {"key": "new", "value": None})
    assert server.call("GET", path)[1]["state"] == {}
    assert server.call("GET", "/v1/workflows/nothing/state")[0] == 404
    assert server.call("PUT", "/v1/workflows/nothing/state/x", {"value": 1})[0] == 404
    assert server.call("PUT", f"{path}/x", {})[0] == 422


def test_what_people_write_into_the_state_is_what_runs_see(server: ServerProcess) -> None:
    path = "/v1/workflows/stateful/state"
    server.call("PUT", f"{path}/cursor", {"value": 41})
    assert await_end(server, start(server, "stateful"))["output"] == 42
    assert server.call("GET", path)[1]["state"]["cursor"] == 42


# ---- why


def test_why_tells_of_a_false_if_a_retry_and_a_wait(server: ServerProcess, target: Target) -> None:
    target.answer("/shaky", Answer(status=503), Answer())
    document = f"""
name: reasons
steps:
  - {{id: never, if: "${{{{ false }}}}", transform: 1}}
  - {{id: shaky, http: {{url: "{target.url}/shaky"}}, retry: {{initial: 10ms, jitter: none}}}}
  - {{id: rest, wait: {{for: 1h}}}}
  - {{id: last, transform: 1}}
"""
    assert server.call("POST", "/v1/workflows", document.encode())[0] == 201
    run = start(server, "reasons")
    await_step(server, run, "rest", "WAITING")
    items = why(server, run)
    told = [(item.get("step"), item["code"], item["current"]) for item in items]
    assert told == [
        ("never", "IF_FALSE", False),
        ("shaky", "STATUS_UNEXPECTED", False),
        ("shaky", "RETRY_SCHEDULED", False),
        ("rest", "WAITING_UNTIL", True),
    ]
    assert items[3]["until"] > items[3]["at"]
    assert why(server, run, "?step=never") == items[:1]
    assert why(server, run, "?step=rest") == items[3:]
    assert [item["code"] for item in why(server, run, "?step=last")] == ["NOT_REACHED"]
    status, problem = server.call("GET", f"/v1/runs/{run}/why?step=nver")
    assert (status, "never" in problem["detail"]) == (404, True)
    _, page = server.call("GET", f"/v1/runs/{run}/why?limit=2")
    assert [item["code"] for item in page["items"]] == ["IF_FALSE", "STATUS_UNEXPECTED"]
    assert why(server, run, f"?limit=2&cursor={page['next_cursor']}") == items[2:]
    server.call("POST", f"/v1/runs/{run}/cancel")
    await_end(server, run)
    assert [item["code"] for item in why(server, run, "?step=rest")] == ["WAITING_UNTIL", "RUN_ENDED"]


def test_why_names_who_holds_the_place_and_the_full_slots(server: ServerProcess, target: Target) -> None:
    target.answer("/held-open", Answer(hold=True))
    document = f"""
name: placed
concurrency: {{limit: 1}}
steps: [{{id: call, http: {{url: "{target.url}/held-open"}}}}]
"""
    assert server.call("POST", "/v1/workflows", document.encode())[0] == 201
    first = start(server, "placed")
    await_step(server, first, "call", "RUNNING")
    second = start(server, "placed")
    (reason,) = why(server, second)
    assert (reason["code"], reason["holder"], reason["current"]) == ("CONCURRENCY", "placed#1", True)
    assert [item["code"] for item in why(server, first)] == ["RUNNING"]
    other = f'{{"name": "slots", "steps": [{{"id": "call", "http": {{"url": "{target.url}/held-open"}}}}]}}'
    assert server.call("POST", "/v1/workflows", other.encode())[0] == 201
    busy = start(server, "slots")
    await_step(server, busy, "call", "RUNNING")
    third = start(server, "slots")
    assert [item["code"] for item in why(server, third)] == ["NO_SLOT"]
    target.answer("/held-open", Answer())
    target.release("/held-open")
    for run in (first, second, busy, third):
        assert await_end(server, run)["state"] == "SUCCEEDED"


def test_why_says_that_a_run_is_delayed(server: ServerProcess) -> None:
    run = start(server, "free", delay="1h")
    (reason,) = why(server, run)
    assert (reason["code"], reason["current"]) == ("DELAYED", True)
    server.call("POST", f"/v1/runs/{run}/cancel")
    await_state(server, run, "CANCELLED")
