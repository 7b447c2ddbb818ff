"""`:plan` and `:apply` on a real server: what would change, what follows, and all or nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from taskforge.api.openapi import openapi_document
from taskforge.api.routes import ROUTES
from tests.support.server import ServerProcess, running_server

DOCUMENT = openapi_document(ROUTES)
BRIEF = "name: {}\nsteps: [{{id: a, transform: {}}}]\n"
WAITS = """
name: waits
triggers:
  nightly: {cron: "0 9 1 1 *", timezone: Europe/Berlin}
  kept: {cron: "0 0 1 6 *"}
steps:
  - {id: hold, wait: {signal: go}}
  - {id: call, http: {url: "https://one.example.com/x"}}
"""
WAITS_MORE = """
# how it is now
name: waits
triggers:
  nightly: {cron: "0 8 1 1 *", timezone: Europe/Berlin}
  kept: {cron: "0 0 1 6 *", catch_up: none}
  hook: {webhook: {verify: {scheme: github, secret: HOOK_KEY}}}
steps:
  - {id: call, http: {url: "https://one.example.com/y", headers: {A: "${{ $secrets.KEY }} ${{ $vars.ONE }}"}}}
  - {id: hold, wait: {signal: go}}
  - {id: other, http: {url: "https://Two.example.com:8443/"}}
  - {id: computed, http: {url: "${{ $vars.ONE }}"}}
  - {id: child, workflow: {name: nowhere}}
"""


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("applying")) as started:
        yield started


@pytest.fixture
def server(module_server: ServerProcess) -> ServerProcess:
    """A server without workflows, secrets and variables."""
    status, _ = module_server.call("POST", "/v1/workflows:apply", {"documents": [], "prune": True, "allow_empty": True})
    assert status == 200
    return module_server


def request(*sources: str, **more: Any) -> dict[str, Any]:
    return {"documents": [{"source": source} for source in sources], **more}


def fits(name: str, value: Any) -> bool:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    Draft202012Validator(schema).validate(value)
    return True


def plan(server: ServerProcess, *sources: str, **more: Any) -> Any:
    status, found = server.call("POST", "/v1/workflows:plan", request(*sources, **more))
    assert status == 200, found
    assert fits("Plan", found)
    return found


def apply(server: ServerProcess, *sources: str, **more: Any) -> Any:
    status, found = server.call("POST", "/v1/workflows:apply", request(*sources, **more))
    assert status == 200, found
    assert fits("Applied", found)
    return found


def names(server: ServerProcess) -> list[str]:
    return [item["name"] for item in server.call("GET", "/v1/workflows")[1]["items"]]


def test_what_is_new_changed_unchanged_and_deleted_is_told_and_then_done(server: ServerProcess) -> None:
    apply(server, BRIEF.format("same", 1), BRIEF.format("other", 1), BRIEF.format("old", 1))
    given = (BRIEF.format("same", 1), BRIEF.format("other", 2), BRIEF.format("fresh", 1))
    told = plan(server, *given, prune=True)
    assert told["summary"] == {"new": 1, "changed": 1, "unchanged": 1, "deleted": 1}
    assert [(one["name"], one["action"], one["new_version"]) for one in told["workflows"]] == [
        ("same", "unchanged", 1),
        ("other", "changed", 2),
        ("fresh", "new", told["workflows"][2]["new_version"]),
        ("old", "deleted", None),
    ]
    done = apply(server, *given, prune=True, expected=told["expected"])
    assert [(one["name"], one["action"]) for one in done["items"]] == [
        ("same", "unchanged"), ("other", "changed"), ("fresh", "new")
    ]  # fmt: skip
    assert [one["version"] for one in done["items"]] == [one["new_version"] for one in told["workflows"][:3]]
    assert (done["deleted"], names(server)) == (["old"], ["fresh", "other", "same"])
    again = plan(server, *given, prune=True)
    assert (again["changes"], {one["action"] for one in again["workflows"]}) == (False, {"unchanged"})
    assert {one["changed"] for one in apply(server, *given, prune=True)["items"]} == {False}


def test_a_plan_says_what_follows(server: ServerProcess) -> None:
    apply(server, WAITS)
    for _ in range(2):
        server.call("POST", "/v1/workflows/waits/runs", {})
    told = plan(server, WAITS_MORE)
    (one,) = told["workflows"]
    assert [(each["change"], each.get("step"), each["path"]) for each in one["differences"]] == [
        ("changed", None, "triggers.nightly.cron"),
        ("added", None, "triggers.kept.catch_up"),
        ("added", None, "triggers.hook"),
        ("moved", "call", ""),
        ("changed", "call", "http.url"),
        ("added", "call", "http.headers"),
        ("added", "other", ""),
        ("added", "computed", ""),
        ("added", "child", ""),
    ]
    assert one["differences"][3]["old_place"] == {"block": "steps", "after": "hold"}
    assert one["differences"][3]["new_place"] == {"block": "steps", "after": None}
    assert one["differences"][4]["old"] == "https://one.example.com/x"
    assert [(each["name"], each["change"]) for each in one["triggers"]] == [
        ("nightly", "changed"), ("kept", "changed"), ("hook", "added")
    ]  # fmt: skip
    (moved,) = one["firings"]
    assert (moved["trigger"], moved["old"]["timezone"]) == ("nightly", "Europe/Berlin")
    assert moved["old"]["local"].endswith("-01-01T09:00:00+01:00")
    assert moved["new"]["local"].endswith("-01-01T08:00:00+01:00")
    assert one["runs"]["total"] == 2
    assert {each["version"] for each in one["runs"]["counts"]} == {one["version"]}
    assert len(one["runs"]["names"]) == 2
    users = [{"name": name, "workflows": ["waits"]} for name in ("HOOK_KEY", "KEY", "ONE", "nowhere")]
    assert told["missing"] == {"secrets": users[:2], "vars": users[2:3], "workflows": users[3:]}
    assert told["hosts"] == [{"host": "two.example.com:8443", "workflows": ["waits"]}]
    assert told["computed_hosts"] == ["waits/computed"]
    assert any("nowhere" in warning["message"] for warning in told["warnings"])
    assert server.call("GET", "/v1/workflows/waits")[1]["version"] == one["version"], "a plan changes nothing"
    for run in server.call("GET", "/v1/runs?workflow=waits")[1]["items"]:
        server.call("POST", f"/v1/runs/{run['id']}/cancel")


def test_the_firings_that_were_planned_are_the_schedules_after_it(server: ServerProcess) -> None:
    apply(server, WAITS)
    told = {move["trigger"]: move["new"]["at"] for move in plan(server, WAITS_MORE)["workflows"][0]["firings"]}
    before = {row["trigger"]: row["next_slot"] for row in server.call("GET", "/v1/schedules")[1]["items"]}
    apply(server, WAITS_MORE)
    after = {row["trigger"]: row["next_slot"] for row in server.call("GET", "/v1/schedules")[1]["items"]}
    assert after == before | told
    (gone,) = plan(server, BRIEF.format("a", 1), prune=True)["workflows"][1:]
    assert {move["trigger"]: move["old"]["at"] for move in gone["firings"]} == after
    assert {trigger["change"] for trigger in gone["triggers"]} == {"removed"}


def test_a_disabled_workflow_stays_so_and_fires_nothing(server: ServerProcess) -> None:
    apply(server, WAITS)
    server.call("PATCH", "/v1/workflows/waits", {"enabled": False})
    (one,) = plan(server, WAITS_MORE)["workflows"]
    assert (one["enabled"], one["firings"]) == (False, [])
    apply(server, WAITS_MORE)
    assert server.call("GET", "/v1/workflows/waits")[1]["enabled"] is False


def test_every_error_of_every_document_is_told_and_nothing_stored(server: ServerProcess) -> None:
    body = {
        "documents": [
            {"source": BRIEF.format("good", 1), "file": "good.yaml"},
            {"source": "name: x\nsteps:\n  - {id: a, transfrom: 1}\n", "file": "x.yaml"},
            {"source": '{"name": 1}', "media": "json"},
            {"source": BRIEF.format("good", 2), "file": "twin.yaml"},
            {"source": "name: y\nsteps: [{id: a, transform: '${{ 1 | nope }}'}]\n", "file": "y.yaml"},
        ]
    }
    for call in ("plan", "apply"):
        status, problem = server.call("POST", f"/v1/workflows:{call}", body)
        assert (status, problem["code"]) == (422, "INVALID_DEFINITION")
        assert fits("Problem", problem)
        places = {(error["file"], error["line"]) for error in problem["errors"]}
        assert places >= {("x.yaml", 3), ("documents[2]", 1), ("twin.yaml", 1), ("y.yaml", 2)}
        assert any("also in good.yaml" in error["message"] for error in problem["errors"])
        assert "4 of 5 documents" in problem["detail"]
    assert names(server) == []


def test_what_moved_since_the_plan_refuses_all_of_it(server: ServerProcess) -> None:
    apply(server, BRIEF.format("a", 1), BRIEF.format("b", 1))
    expected = plan(server, BRIEF.format("a", 2), BRIEF.format("b", 2), prune=True)["expected"]
    server.call("PUT", "/v1/workflows/b", BRIEF.format("b", 3).encode())
    documents = request(BRIEF.format("a", 2), BRIEF.format("b", 2), prune=True, expected=expected)
    status, problem = server.call("POST", "/v1/workflows:apply", documents)
    assert (status, problem["code"]) == (409, "WORKFLOWS_MOVED")
    assert problem["moved"] == [{"name": "b", "expected": expected["b"], "version": expected["b"] + 1}]
    assert server.call("GET", "/v1/workflows/a")[1]["version"] == expected["a"]

    expected["b"] += 1
    server.call("PUT", "/v1/workflows/newcomer", BRIEF.format("newcomer", 1).encode())
    status, problem = server.call("POST", "/v1/workflows:apply", documents | {"expected": expected})
    assert (status, [moved["name"] for moved in problem["moved"]]) == (409, ["newcomer"])
    assert names(server) == ["a", "b", "newcomer"], "what nobody has seen in a plan is not pruned"


def test_of_two_that_apply_the_same_plan_one_is_refused(server: ServerProcess) -> None:
    apply(server, BRIEF.format("race", 0))
    expected = plan(server, BRIEF.format("race", 1))["expected"]
    answers: list[int] = []

    def send(value: int) -> None:
        body = request(BRIEF.format("race", value), expected=expected)
        answers.append(server.call("POST", "/v1/workflows:apply", body)[0])

    threads = [threading.Thread(target=send, args=(value,)) for value in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 409]


def test_names_that_are_kept_are_not_pruned(server: ServerProcess) -> None:
    apply(server, *(BRIEF.format(name, 1) for name in ("ops-a", "ops-b", "x", "y")))
    done = apply(server, BRIEF.format("x", 1), prune=True, keep=["ops-*"])
    assert (done["deleted"], names(server)) == (["y"], ["ops-a", "ops-b", "x"])


def test_a_deleted_workflow_comes_back_with_its_numbers_going_on(server: ServerProcess) -> None:
    before = apply(server, BRIEF.format("back", 1))["items"][0]["version"]
    server.call("DELETE", "/v1/workflows/back")
    # The order of keys is no content: the version comes back that was there.
    same = "steps: [{transform: 1, id: a}]\nname: back\n"
    for source, version in ((same, before), (BRIEF.format("back", 2), before + 1)):
        server.call("DELETE", "/v1/workflows/back")
        (told,) = plan(server, source)["workflows"]
        assert (told["action"], told["returns"], told["version"], told["new_version"]) == ("new", True, None, version)
        (done,) = apply(server, source)["items"]
        assert (done["action"], done["version"]) == ("new", version)


def test_documents_of_one_request_may_name_each_other(server: ServerProcess) -> None:
    parent = "name: parent\nsteps: [{id: a, workflow: {name: child}}]\n"
    follower = "name: follower\ntriggers: {end: {on_run: {workflow: parent}}}\nsteps: [{id: a, transform: 1}]\n"
    told = plan(server, parent, BRIEF.format("child", 1), follower)
    assert (told["missing"]["workflows"], told["warnings"]) == ([], [])
    alone = plan(server, parent)
    assert alone["missing"]["workflows"] == [{"name": "child", "workflows": ["parent"]}]


def test_an_unknown_child_is_a_warning_of_validation_and_of_a_put(server: ServerProcess) -> None:
    apply(server, BRIEF.format("child", 1))
    parent = "name: parent\nsteps:\n  - {id: a, workflow: {name: chidl}}\n  - {id: b, workflow: {name: parent}}\n"
    _, found = server.call("POST", "/v1/workflows:validate", parent.encode())
    assert found["valid"] is True
    (warning,) = found["warnings"]
    assert (warning["line"], warning["path"]) == (3, "steps[0].workflow.name")
    assert warning["hint"] == 'did you mean "child"?'
    status, stored = server.call("PUT", "/v1/workflows/parent", parent.encode())
    assert (status in (200, 201), stored["warnings"]) == (True, [warning])


def test_a_secret_in_a_document_is_not_in_its_plan(server: ServerProcess) -> None:
    server.call("PUT", "/v1/secrets/CANARY", {"value": "canary-value-7731"})
    apply(server, BRIEF.format("leak", 1))
    told = plan(server, BRIEF.format("leak", "canary-value-7731"))
    assert told["workflows"][0]["differences"][0]["old"] == 1
    assert "canary-value-7731" not in str(told)
    server.call("DELETE", "/v1/secrets/CANARY")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"documents": []},
        {"documents": "x"},
        {"documents": [1]},
        {"documents": [{"source": 1}]},
        {"documents": [{"source": "x", "media": "toml"}]},
        {"documents": [{"source": "x", "file": ""}]},
        {"documents": [{"source": "x", "more": 1}]},
        {"documents": [{"source": "x"}] * 1001},
        {"documents": [{"source": "\ud800"}]},
        {"documents": [{"source": "x"}], "prune": 1},
        {"documents": [{"source": "x"}], "keep": ["A/B"]},
        {"documents": [{"source": "x"}], "expected": {"a": -1}},
        {"documents": [{"source": "x"}], "expected": {"A B": 1}},
        {"documents": [{"source": "x"}], "expected": [1]},
    ],
)
def test_a_body_that_does_not_fit_is_refused_with_its_reason(server: ServerProcess, body: dict[str, Any]) -> None:
    status, problem = server.call("POST", "/v1/workflows:apply", body)
    assert status in (400, 422)
    assert fits("Problem", problem)


def test_a_plan_needs_read_and_an_apply_needs_write(server: ServerProcess) -> None:
    _, made = server.call("POST", "/v1/tokens", {"name": "reader", "scopes": ["read"]})
    headers = {"Authorization": f"Bearer {made['token']}"}
    body = request(BRIEF.format("a", 1))
    assert server.call("POST", "/v1/workflows:plan", body, headers)[0] == 200
    assert server.call("POST", "/v1/workflows:apply", body, headers)[0] == 403
    assert names(server) == []
