"""The audit log on a real server: every change leaves its entry, no entry tells a secret, and none can be changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import apsw
import pytest
from jsonschema import Draft202012Validator

from taskforge.api.openapi import openapi_document
from taskforge.api.recording import MEMBERS, VERBS, Recorder
from taskforge.api.routes import ROUTES
from tests.support.server import ServerProcess, running_server

DOCUMENT = openapi_document(ROUTES)
RECORDED = [route for route in ROUTES if Recorder.is_recorded(route)]
FAILS = """
name: {name}
triggers: {{hook: {{webhook: {{verify: none}}}}}}
steps: [{{id: call, http: {{url: "http://127.0.0.1:1/"}}, retry: {{max_attempts: 1}}}}]
"""
WAITS = "name: waits\nsteps: [{id: ask, wait: {signal: go}}]\n"
VALUE = "opaque-value-of-a-secret"

Calls = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("audit")) as started:
        yield started


@pytest.fixture
def ci(server: ServerProcess) -> Iterator[Calls]:
    """Calls with a token named `ci`, which is an administrator's."""
    _, made = server.call("POST", "/v1/tokens", {"name": "ci", "scopes": ["admin"]})
    yield lambda method, path, body=None: server.call(method, path, body, {"Authorization": f"Bearer {made['token']}"})
    server.call("DELETE", f"/v1/tokens/{made['id']}")


def newest(server: ServerProcess, **asked: str) -> Any:
    query = "&".join(f"{name}={quote(value)}" for name, value in asked.items())
    status, page = server.call("GET", f"/v1/audit?limit=1&{query}")
    assert status == 200
    schema = {"$ref": "#/components/schemas/AuditPage", "components": DOCUMENT["components"]}
    Draft202012Validator(schema).validate(page)
    return page["items"][0]


def failed_run(server: ServerProcess, name: str = "fails") -> str:
    server.call("PUT", f"/v1/workflows/{name}", FAILS.format(name=name).encode())
    run: str = server.call("POST", f"/v1/workflows/{name}/runs?wait=20s", {})[1]["id"]
    return run


def letter_of(server: ServerProcess, run: str) -> str:
    letters = server.call("GET", "/v1/dead-letters?state=OPEN&limit=500")[1]["items"]
    found: str = next(letter["id"] for letter in letters if letter["run_id"] == run)
    return found


def waiting_run(server: ServerProcess) -> str:
    server.call("PUT", "/v1/workflows/waits", WAITS.encode())
    run: str = server.call("POST", "/v1/workflows/waits/runs", {})[1]["id"]
    return run


def publish(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    versions = server.call("GET", "/v1/workflows/shown/versions")[1].get("items", [])
    for method, path in (("PUT", "/v1/workflows/shown"), ("POST", "/v1/workflows")):
        version = versions[0]["version"] + 1 if versions else 1
        versions = [{"version": version}]
        assert ci(method, path, f"name: shown\nsteps: [{{id: a, transform: {version}}}]\n".encode())[0] < 300
        entry = newest(server)
        assert (entry["target"], entry["detail"]) == ("workflows/shown", {"version": version})
    assert (
        ci("PUT", "/v1/workflows/shown", f"name: shown\nsteps: [{{id: a, transform: {version}}}] # same\n".encode())[0]
        == 200
    )
    assert newest(server)["id"] == entry["id"], "nothing was changed"
    return "workflows/shown", {"version": version}


def apply(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    for name in ("batch-a", "batch-old"):
        server.call("PUT", f"/v1/workflows/{name}", f"name: {name}\nsteps: [{{id: a, transform: 1}}]\n".encode())
    keep = [
        row["name"] for row in server.call("GET", "/v1/workflows?limit=500")[1]["items"] if row["name"] != "batch-old"
    ]
    documents = [{"source": f"name: {name}\nsteps: [{{id: a, transform: {value}}}]\n"}
                 for name, value in (("batch-a", 1), ("batch-b", VALUE))]  # fmt: skip
    body = {"documents": documents, "prune": True, "keep": keep}
    status, done = ci("POST", "/v1/workflows:apply", body)
    assert (status, done["deleted"]) == (200, ["batch-old"])
    before = newest(server)["id"]
    assert ci("POST", "/v1/workflows:apply", body)[0] == 200
    assert newest(server)["id"] == before, "nothing has changed, so there is no entry"
    return "workflows", {"versions": {"batch-b": done["items"][1]["version"]}, "deleted": ["batch-old"]}


def change(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    publish(server, ci)
    assert ci("PATCH", "/v1/workflows/shown", {"held": True})[0] == 200
    assert newest(server)["detail"] == {"held": True}
    assert ci("PATCH", "/v1/workflows/shown", {"held": False})[0] == 200
    assert ci("PATCH", "/v1/workflows/shown", {"enabled": False})[0] == 200
    return "workflows/shown", {"enabled": False}


def delete(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    server.call("PUT", "/v1/workflows/brief", b"name: brief\nsteps: [{id: a, transform: 1}]\n")
    assert ci("DELETE", "/v1/workflows/brief")[0] == 204
    return "workflows/brief", {}


def keep_state(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    failed_run(server)
    assert ci("PUT", "/v1/workflows/fails/state/at", {"value": VALUE})[0] == 200
    return "workflows/fails/state/at", {}


def drop_state(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    keep_state(server, ci)
    assert ci("DELETE", "/v1/workflows/fails/state/at")[0] == 204
    return "workflows/fails/state/at", {}


def cancel(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    run = waiting_run(server)
    assert ci("POST", f"/v1/runs/{run}/cancel", {"reason": VALUE})[0] == 202
    return f"runs/{run}", {}


def retry(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    run = failed_run(server)
    assert ci("POST", f"/v1/runs/{run}/retry", {"from_step": "call"})[0] == 202
    return f"runs/{run}", {"from_step": "call"}


def replay(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    run = failed_run(server)
    status, started = ci("POST", f"/v1/runs/{run}/replay", {"input": {"a": VALUE}})
    assert status == 202
    return f"runs/{run}", {"run": started["id"]}


def signal(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    run = waiting_run(server)
    assert ci("POST", f"/v1/runs/{run}/signals/go", {"data": VALUE})[0] == 202
    return f"runs/{run}/signals/go", {}


def retry_letter(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    letter = letter_of(server, failed_run(server))
    assert ci("POST", f"/v1/dead-letters/{letter}/retry")[0] == 202
    return f"dead-letters/{letter}", {}


def discard_letter(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    letter = letter_of(server, failed_run(server))
    assert ci("DELETE", f"/v1/dead-letters/{letter}")[0] == 200
    return f"dead-letters/{letter}", {}


def replay_delivery(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    failed_run(server)
    delivery = server.call("POST", "/hooks/fails/hook", {"a": VALUE})[1]["delivery"]
    assert ci("POST", f"/v1/deliveries/{delivery}/replay", {})[0] == 202
    return f"deliveries/{delivery}", {}


def put_secret(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    assert ci("PUT", "/v1/secrets/SEALED", {"value": VALUE})[0] == 200
    return "secrets/SEALED", {}


def delete_secret(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    put_secret(server, ci)
    assert ci("DELETE", "/v1/secrets/SEALED")[0] == 204
    return "secrets/SEALED", {}


def put_var(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    assert ci("PUT", "/v1/vars/SHOWN", {"value": VALUE})[0] == 200
    return "vars/SHOWN", {}


def delete_var(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    put_var(server, ci)
    assert ci("DELETE", "/v1/vars/SHOWN")[0] == 204
    return "vars/SHOWN", {}


def hold(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    for held in (True, False):
        assert ci("PUT", "/v1/hold", {"held": held})[0] == 200
    return "hold", {"held": False}


def vacuum(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    assert ci("POST", "/v1/db:vacuum")[0] == 200
    return "db", {}


def prune(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    assert ci("POST", "/v1/db:prune", {"older_than": "3000d"})[0] == 200
    return "db", {}


def make_backup(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    assert ci("POST", "/v1/db:backup")[0] == 201
    return "db", {}


def create_token(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    status, made = ci("POST", "/v1/tokens", {"name": "made", "scopes": ["run:fails"]})
    assert status == 201
    return f"tokens/{made['id']}", {"name": "made", "scopes": ["run:fails"]}


def revoke_token(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    target, _ = create_token(server, ci)
    assert ci("DELETE", f"/v1/{target}")[0] == 204
    return target, {}


def rotate(server: ServerProcess, ci: Calls) -> tuple[str, Any]:
    assert ci("POST", "/v1/secrets:rotate-key", {"keep_links": False})[0] == 200
    return "secrets", {"keep_links": False}


STORIES: dict[str, Callable[[ServerProcess, Calls], tuple[str, Any]]] = {
    "publish_workflow": publish,
    "apply_workflows": apply,
    "change_workflow": change,
    "delete_workflow": delete,
    "set_state": keep_state,
    "delete_state": drop_state,
    "cancel_run": cancel,
    "retry_run": retry,
    "replay_run": replay,
    "send_signal": signal,
    "retry_dead_letter": retry_letter,
    "discard_dead_letter": discard_letter,
    "replay_delivery": replay_delivery,
    "put_secret": put_secret,
    "delete_secret": delete_secret,
    "rotate_key": rotate,
    "put_var": put_var,
    "delete_var": delete_var,
    "set_hold": hold,
    "vacuum_database": vacuum,
    "prune_runs": prune,
    "make_backup": make_backup,
    "create_token": create_token,
    "revoke_token": revoke_token,
}


def test_every_call_that_changes_something_has_a_story() -> None:
    assert {route.operation for route in RECORDED} == set(STORIES)
    assert VERBS.keys() | MEMBERS.keys() <= set(STORIES)


@pytest.mark.parametrize("action", STORIES)
def test_a_change_leaves_one_entry_with_who_and_what_and_no_value(
    server: ServerProcess, ci: Calls, action: str
) -> None:
    before = newest(server)["id"]
    target, detail = STORIES[action](server, ci)
    entry = newest(server)
    assert entry["id"] > before
    assert (entry["actor"], entry["action"], entry["target"]) == ("ci", action, target)
    assert (entry["outcome"], entry["detail"], entry["address"]) == ("DONE", detail, "127.0.0.1")
    assert entry["token"].startswith("tok_")
    everything = server.call("GET", "/v1/audit?limit=500")[1]["items"]
    assert VALUE not in json.dumps(everything)
    assert len([item for item in everything if item["id"] > before and item["target"] == target]) >= 1


def test_a_refused_change_leaves_no_entry_but_for_a_missing_scope(server: ServerProcess, ci: Calls) -> None:
    before = newest(server)["id"]
    assert ci("DELETE", "/v1/secrets/ABSENT")[0] == 404
    assert ci("PUT", "/v1/secrets/NAME", {"value": ""})[0] == 422
    assert ci("POST", "/v1/runs/run_absent/cancel")[0] == 404
    run = failed_run(server)
    assert ci("POST", f"/v1/runs/{run}/cancel")[0] == 409
    assert ci("POST", "/v1/workflows", b"name: [")[0] == 422
    entries = server.call("GET", "/v1/audit?limit=500")[1]["items"]
    assert [item["action"] for item in entries if item["id"] > before and item["actor"] == "ci"] == []
    _, made = server.call("POST", "/v1/tokens", {"name": "reader", "scopes": ["read"]})
    headers = {"Authorization": f"Bearer {made['token']}"}
    assert server.call("PUT", "/v1/hold", {"held": True}, headers)[0] == 403
    entry = newest(server)
    assert (entry["actor"], entry["action"], entry["outcome"]) == ("reader", "set_hold", "FORBIDDEN")
    assert server.call("GET", "/v1/audit", None, headers)[0] == 403


def test_refusals_are_recorded_a_bounded_number_a_minute(server: ServerProcess) -> None:
    _, made = server.call("POST", "/v1/tokens", {"name": "loud", "scopes": ["read"]})
    headers = {"Authorization": f"Bearer {made['token']}"}
    for _ in range(150):
        assert server.call("DELETE", "/v1/vars/ANY", None, headers)[0] == 403
    assert len(server.call("GET", "/v1/audit?actor=loud&limit=500")[1]["items"]) <= 120


def test_the_configured_token_is_the_administrator(server: ServerProcess) -> None:
    server.call("PUT", "/v1/vars/MINE", {"value": 1})
    entry = newest(server)
    assert (entry["actor"], entry["token"], entry["target"]) == ("admin", None, "vars/MINE")


def test_entries_are_found_by_who_what_and_when(server: ServerProcess, ci: Calls) -> None:
    delete_var(server, ci)
    put_secret(server, ci)
    entry = newest(server)
    for chosen in ({"action": "put_secret"}, {"target": "secrets"}, {"target": "secrets/SEALED"}, {"actor": "ci"},
                   {"actor": entry["token"]}, {"since": entry["at"]}, {"until": entry["at"]}):  # fmt: skip
        assert newest(server, **chosen)["id"] == entry["id"], chosen
    for chosen in ({"action": "put_var"}, {"target": "vars"}, {"target": "secret"}, {"actor": "admin"}):
        query = "&".join(f"{name}={value}" for name, value in chosen.items())
        found = server.call("GET", f"/v1/audit?limit=500&{query}")[1]["items"]
        assert entry["id"] not in [item["id"] for item in found]
    first = server.call("GET", "/v1/audit?limit=2")[1]
    second = server.call("GET", f"/v1/audit?limit=2&cursor={first['next_cursor']}")[1]
    ids = [item["id"] for item in first["items"] + second["items"]]
    assert ids == sorted(ids, reverse=True) and len(ids) == 4


def test_a_run_says_which_token_started_it(server: ServerProcess, ci: Calls) -> None:
    server.call("PUT", "/v1/workflows/waits", WAITS.encode())
    run = ci("POST", "/v1/workflows/waits/runs", {})[1]["id"]
    trigger = server.call("GET", f"/v1/runs/{run}")[1]["trigger"]
    assert (trigger["type"], trigger["by"], trigger["token"][:4]) == ("manual", "ci", "tok_")
    ids = ci("POST", "/v1/workflows/waits/runs:batch", {"inputs": [{}]})[1]["ids"]
    assert server.call("GET", f"/v1/runs/{ids[0]}")[1]["trigger"]["by"] == "ci"
    own = server.call("POST", "/v1/workflows/waits/runs", {})[1]["id"]
    assert server.call("GET", f"/v1/runs/{own}")[1]["trigger"] == {"type": "manual"}


def test_the_database_refuses_to_change_or_to_lose_an_entry(server: ServerProcess, ci: Calls) -> None:
    put_var(server, ci)
    conn = apsw.Connection(str(server.home / "taskforge.db"))
    try:
        conn.set_busy_timeout(5000)
        for statement in ("UPDATE audit SET actor = 'x'", "DELETE FROM audit", "UPDATE audit SET at = 0 WHERE id = 1"):
            with pytest.raises(apsw.ConstraintError, match="only added to"):
                conn.execute(statement)
    finally:
        conn.close()


def test_the_command_line_lists_changes(server: ServerProcess) -> None:
    server.run_cli("var", "set", "BY_HAND", "1")
    shown = server.run_cli("audit", "list", "--target", "vars/BY_HAND", "--since", "1h")
    assert shown.returncode == 0, shown.stderr
    assert "put_var" in shown.stdout and "admin" in shown.stdout
    entry = json.loads(server.run_cli("audit", "--limit", "1", "-o", "json").stdout)["items"][0]
    assert entry["target"] == "vars/BY_HAND"
    assert server.run_cli("audit", "-q", "--limit", "1").stdout.strip() == str(entry["id"])
    assert server.run_cli("audit", "--since", "soon").returncode == 2
