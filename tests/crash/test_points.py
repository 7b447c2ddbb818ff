"""`kill -9` at every named point: before and after each verb of the store, before and after each request.

A story reaches its points and says what must be seen after the death. That there is a story for every verb that writes
is a test of its own: a new verb without one makes it red.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any

import apsw
import pytest

from taskforge.core.clock import to_rfc3339
from taskforge.security.keys import KeyFile
from taskforge.security.secrets import SecretBox
from tests.crash.points import (
    APPROVAL,
    BRIEF,
    COUNTING,
    FOLLOWS,
    HOOK,
    LATE,
    ONCE,
    STORIES,
    TWO,
    Shown,
    Stage,
    Story,
    dies_at,
)
from tests.support.crashing_server import crashing_server
from tests.support.faulty_store import WRITE_VERBS
from tests.support.invariants import check_invariants
from tests.support.target import Answer, running_target

pytestmark = [pytest.mark.crash, pytest.mark.slow]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    tmp_path = tmp_path_factory.mktemp("points")
    with running_target() as target, crashing_server(tmp_path, engine__lease_seconds=1) as server:
        stage = Stage(server, target)
        for document in (TWO.format(url=target.url), LATE, APPROVAL, COUNTING):
            stage.call("POST", "/v1/workflows", document.encode())
        yield stage
        check_invariants(server.home / "taskforge.db", stage.acknowledged)


_numbers = itertools.count(1)


@pytest.fixture
def stage(shared: Stage) -> Iterator[Stage]:
    shared.at, shared.point = f"story-{next(_numbers)}", ""
    yield shared
    shared.server.disarm()
    if not shared.server.is_running:
        shared.server.start()


# ---- a run on its way


@dies_at("start_run 1", "request 1", "finish_attempt 1", "advance_run 1", "request 2", "finish_attempt 2")
def a_run_goes_on_where_it_was(stage: Stage) -> None:
    stage.die_running()
    stage.check_run()


@dies_at("lease_steps 1", "advance_run 1")
def a_retry_that_is_taken_up_is_taken_up_again(stage: Stage) -> None:
    stage.script("first", Answer(503), Answer())
    stage.die_running()
    run = stage.check_run(again=1)
    assert run["steps"][0]["attempts"][0]["state"] == "FAILED"


@dies_at("start_runs 1")
def a_batch_is_stored_whole_or_not_at_all(stage: Stage) -> None:
    path = "/v1/runs?workflow=two&limit=500"
    before = {run["id"] for run in stage.call("GET", path)["items"]}
    stage.die("POST", "/v1/workflows/two/runs:batch", {"inputs": [{"at": stage.at}] * 5})
    new = {run["id"] for run in stage.call("GET", path)["items"]} - before
    assert len(new) == (0 if stage.when == "before" else 5)
    assert {stage.shown(run)["state"] for run in new} <= {"SUCCEEDED"}


@dies_at("resume_wait 1")
def a_run_whose_time_is_over_fails(stage: Stage) -> None:
    stage.die_running("late")
    run = stage.shown(stage.begin("late"))
    assert (run["state"], run["error"]["code"]) == ("FAILED", "RUN_TIMEOUT")


@dies_at("cancel_run 1")
def a_cancellation_is_stored_or_the_run_goes_on(stage: Stage) -> None:
    stage.script("first", Answer(hold=True), Answer())
    run = stage.begin()
    stage.await_request("first")
    stage.die("POST", f"/v1/runs/{run}/cancel")
    assert changes(stage, f"runs/{run}") == ["cancel_run"] * (stage.when == "after")
    stage.check_run("CANCELLED" if stage.when == "after" else "SUCCEEDED")


@dies_at("retry_run 1")
def a_retry_begins_a_generation_or_nothing_changes(stage: Stage) -> None:
    stage.script("first", Answer(400), Answer())
    id = stage.begin()
    assert stage.shown(id)["state"] == "FAILED"
    stage.die("POST", f"/v1/runs/{id}/retry")
    assert changes(stage, f"runs/{id}") == ["retry_run"] * (stage.when == "after")
    run = stage.shown(id)
    keys = [seen.key for seen in stage.requests("first")]
    if stage.when == "before":
        assert (run["state"], run["generation"], keys) == ("FAILED", 1, [f"{id}/first"])
    else:
        assert (run["state"], run["generation"], keys) == ("SUCCEEDED", 2, [f"{id}/first", f"{id}/first~2"])


@dies_at("register_node 1", "rescue_leases 1")
def a_run_survives_a_death_at_the_next_start(stage: Stage) -> None:
    stage.script("first", Answer(hold=True), Answer())
    stage.begin()
    stage.await_request("first")
    stage.server.kill()
    stage.arm()
    assert stage.server.try_start() == -signal.SIGKILL
    stage.server.disarm()
    stage.server.start()
    stage.check_run()


@dies_at("renew_leases 1", "rescue_leases 1")
def a_run_survives_a_death_at_the_care_of_leases(stage: Stage) -> None:
    stage.script("first", Answer(hold=True), Answer())
    stage.begin()
    stage.await_request("first")
    stage.arm()
    stage.revive()
    stage.check_run()


@dies_at("send_signal 1")
def a_signal_is_taken_once_or_can_be_sent_again(stage: Stage) -> None:
    run = stage.begin("approval")
    path = f"/v1/runs/{run}/signals/approved"
    stage.die("POST", path, {"data": {"by": stage.at}})
    status, _ = stage.server.call("POST", path, {"data": {"by": stage.at}})
    assert status == (202 if stage.when == "before" else 409)
    shown = stage.shown(run)
    assert (shown["state"], shown["output"]) == ("SUCCEEDED", {"by": stage.at})


@dies_at("set_state 1", "finish_attempt 1")
def a_value_is_compared_and_set_once(stage: Stage) -> None:
    stage.die_running("counting")
    run = stage.shown(stage.begin("counting"))
    assert (run["state"], run["output"]) == ("SUCCEEDED", stage.at)


# ---- what triggers start


@dies_at("accept_delivery 1")
def a_delivery_is_stored_with_its_run_or_comes_again(stage: Stage) -> None:
    stage.call("POST", "/v1/workflows", HOOK.format(name=stage.at).encode())
    stage.die("POST", f"/hooks/{stage.at}/hook", {"n": 1}, stage.at)
    status, again = stage.server.call("POST", f"/hooks/{stage.at}/hook", {"n": 1}, {"Idempotency-Key": stage.at})
    assert status == (202 if stage.when == "before" else 200)
    stage.acknowledged.append(again["id"])
    assert stage.shown(again["id"])["state"] == "SUCCEEDED"
    assert [run["id"] for run in stage.call("GET", f"/v1/runs?workflow={stage.at}")["items"]] == [again["id"]]
    states = [row["state"] for row in stage.call("GET", f"/v1/deliveries?workflow={stage.at}")["items"]]
    assert states == (["ACCEPTED"] if stage.when == "before" else ["DUPLICATE", "ACCEPTED"])


@dies_at("fire_schedule 1")
def a_slot_starts_one_run(stage: Stage) -> None:
    stage.arm()
    at = to_rfc3339(round(time.time() * 1000) + 700)
    stage.try_call("POST", "/v1/workflows", ONCE.format(name=stage.at, at=at).encode())
    stage.revive()
    runs = await_runs(stage, stage.at)
    assert [run["trigger"]["scheduled_at"] for run in runs] == [at]


@dies_at("start_on_end 1")
def an_end_starts_one_run(stage: Stage) -> None:
    for document in (BRIEF.format(name=stage.at, value=1), FOLLOWS.format(name=stage.at)):
        stage.call("POST", "/v1/workflows", document.encode())
    stage.die_running(stage.at)
    run = stage.begin(stage.at)
    (follower,) = await_runs(stage, f"{stage.at}-follows")
    assert follower["trigger"]["run"] == run


def await_runs(stage: Stage, workflow: str) -> list[Shown]:
    """The runs of a workflow as soon as there is one, when they have ended."""
    deadline = time.monotonic() + 20
    while not (found := stage.call("GET", f"/v1/runs?workflow={workflow}")["items"]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [stage.shown(run["id"]) for run in found]


# ---- what people store


@dies_at("set_hold 1")
def everything_is_held_or_not(stage: Stage) -> None:
    stage.die("PUT", "/v1/hold", {"held": True})
    held = stage.call("GET", "/v1/hold")["held"]
    stage.call("PUT", "/v1/hold", {"held": False})
    assert held == (stage.when == "after")


@dies_at("publish_workflow 1")
def a_definition_is_stored_whole_or_not_at_all(stage: Stage) -> None:
    path, document = f"/v1/workflows/{stage.at}", BRIEF.format(name=stage.at, value=1).encode()
    stage.die("PUT", path, document)
    assert changes(stage, path.removeprefix("/v1/")) == ["publish_workflow"] * (stage.when == "after")
    found = stage.call("PUT", path, document)
    assert (found["version"], found["changed"]) == (1, stage.when == "before")


@dies_at("apply_workflows 1")
def many_definitions_are_applied_or_none(stage: Stage) -> None:
    names = [f"{stage.at}-{number}" for number in range(3)]
    stage.call("PUT", f"/v1/workflows/{names[0]}", BRIEF.format(name=names[0], value=1).encode())
    documents = [{"source": BRIEF.format(name=name, value=1)} for name in names[1:]]
    kept = [row["name"] for row in stage.call("GET", "/v1/workflows?limit=500")["items"] if row["name"] != names[0]]
    body = {"documents": documents, "prune": True, "keep": kept}
    stage.die("POST", "/v1/workflows:apply", body)
    found = {row["name"] for row in stage.call("GET", "/v1/workflows?limit=500")["items"]} & set(names)
    assert found == ({names[0]} if stage.when == "before" else set(names[1:]))
    again = stage.call("POST", "/v1/workflows:apply", body)
    assert {one["changed"] for one in again["items"]} == {stage.when == "before"}


@dies_at("set_enabled 1")
def a_workflow_is_disabled_or_not(stage: Stage) -> None:
    path = f"/v1/workflows/{stage.at}"
    stage.call("PUT", path, BRIEF.format(name=stage.at, value=1).encode())
    stage.die("PATCH", path, {"enabled": False})
    assert stage.server.call("POST", f"{path}/runs", {})[0] == (202 if stage.when == "before" else 409)


@dies_at("delete_workflow 1")
def a_workflow_is_deleted_or_not(stage: Stage) -> None:
    path = f"/v1/workflows/{stage.at}"
    stage.call("PUT", path, BRIEF.format(name=stage.at, value=1).encode())
    stage.die("DELETE", path)
    assert stage.server.call("POST", f"{path}/runs", {})[0] == (202 if stage.when == "before" else 404)


@dies_at("put_secret 1")
def a_secret_is_stored_or_not(stage: Stage) -> None:
    stage.die("PUT", f"/v1/secrets/{stored_name(stage)}", {"value": "opaque value"})
    names = [row["name"] for row in stage.call("GET", "/v1/secrets")["items"]]
    assert (stored_name(stage) in names) == (stage.when == "after")
    assert changes(stage, f"secrets/{stored_name(stage)}") == ["put_secret"] * (stage.when == "after")


@dies_at("add_audit 1")
def a_refusal_is_recorded_or_not(stage: Stage) -> None:
    token = stage.call("POST", "/v1/tokens", {"name": stage.at, "scopes": ["read"]})["token"]
    path = f"/v1/vars/{stored_name(stage)}"
    stage.arm()
    with contextlib.suppress(OSError, HTTPException):
        stage.server.call("DELETE", path, None, {"Authorization": f"Bearer {token}"})
    stage.revive()
    assert changes(stage, path.removeprefix("/v1/")) == ["delete_var"] * (stage.when == "after")


def changes(stage: Stage, target: str) -> list[str]:
    """What the audit log has of this: an entry is stored with its change, and not without it."""
    return [item["action"] for item in stage.call("GET", f"/v1/audit?target={target}")["items"]]


@dies_at("delete_secret 1")
def a_secret_is_deleted_or_not(stage: Stage) -> None:
    path = f"/v1/secrets/{stored_name(stage)}"
    stage.call("PUT", path, {"value": "opaque value"})
    stage.die("DELETE", path)
    names = [row["name"] for row in stage.call("GET", "/v1/secrets")["items"]]
    assert (stored_name(stage) in names) == (stage.when == "before")


@dies_at("write_keys 1", "place_keys 1", "reseal_secrets 1", "write_keys 2", "place_keys 2")
def the_key_is_changed_whole_and_every_secret_can_be_read(stage: Stage) -> None:
    names = [f"{stored_name(stage)}_{number}" for number in range(3)]
    for name in names:
        stage.call("PUT", f"/v1/secrets/{name}", {"value": f"opaque {name}"})
    before = KeyFile(stage.server.home).read()
    stage.die("POST", "/v1/secrets:rotate-key")
    check_keys(stage, names)
    changed = KeyFile(stage.server.home).read().current != before.current
    early = stage.point in ("before write_keys 1", "before place_keys 1")
    assert changed == (not early)
    assert changes(stage, "secrets")[0] == ("put_secret" if early else "rotate_key")
    stage.call("POST", "/v1/secrets:rotate-key")
    check_keys(stage, names)


@pytest.mark.parametrize("point", ["before reseal_secrets 1", "after reseal_secrets 1", "before place_keys 1"])
def test_a_change_of_the_key_survives_a_second_death_at_the_start_that_finishes_it(stage: Stage, point: str) -> None:
    name = stored_name(stage)
    stage.call("PUT", f"/v1/secrets/{name}", {"value": f"opaque {name}"})
    stage.server.arm("after write_keys 1")
    stage.try_call("POST", "/v1/secrets:rotate-key")
    assert stage.server.await_end() == -signal.SIGKILL
    stage.server.arm(point)
    assert stage.server.try_start() == -signal.SIGKILL
    stage.server.disarm()
    stage.server.start()
    check_keys(stage, [name])


def check_keys(stage: Stage, names: list[str]) -> None:
    """Every secret is sealed with the one key of the file, and opens to its value; nothing else lies beside it."""
    home = stage.server.home
    ring = KeyFile(home).read()
    assert ring.previous is None
    box = SecretBox(ring.current)
    conn = apsw.Connection(str(home / "taskforge.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        rows: list[Any] = conn.execute("SELECT name, sealed, key_id FROM secrets").fetchall()
    finally:
        conn.close()
    assert {key_id for _, _, key_id in rows} == {box.key_id}
    opened = {name: box.open(name, sealed) for name, sealed, _ in rows}
    assert {name: opened[name] for name in names} == {name: f"opaque {name}" for name in names}
    assert (home / "secret.key").stat().st_mode & 0o777 == 0o600
    assert not list(home.glob(".n*"))


@dies_at("put_var 1")
def a_variable_is_changed_or_not(stage: Stage) -> None:
    path = f"/v1/vars/{stored_name(stage)}"
    stage.call("PUT", path, {"value": 1})
    stage.die("PUT", path, {"value": 2})
    assert variables(stage)[stored_name(stage)] == (1 if stage.when == "before" else 2)


@dies_at("delete_var 1")
def a_variable_is_deleted_or_not(stage: Stage) -> None:
    path = f"/v1/vars/{stored_name(stage)}"
    stage.call("PUT", path, {"value": 1})
    stage.die("DELETE", path)
    assert (stored_name(stage) in variables(stage)) == (stage.when == "before")


def stored_name(stage: Stage) -> str:
    """A name for what this story stores."""
    return stage.at.replace("-", "_").upper()


def variables(stage: Stage) -> dict[str, Any]:
    return {row["name"]: row["value"] for row in stage.call("GET", "/v1/vars")["items"]}


@dies_at("discard_dead_letter 1")
def a_dead_letter_is_discarded_or_open(stage: Stage) -> None:
    stage.script("first", Answer(400))
    run = stage.begin()
    stage.shown(run)
    letters = stage.call("GET", "/v1/dead-letters?state=OPEN&limit=500")["items"]
    path = next(f"/v1/dead-letters/{letter['id']}" for letter in letters if letter["run_id"] == run)
    stage.die("DELETE", path)
    assert stage.call("GET", path)["state"] == ("OPEN" if stage.when == "before" else "DISCARDED")
    assert changes(stage, path.removeprefix("/v1/")) == ["discard_dead_letter"] * (stage.when == "after")


@dies_at("create_token 1")
def a_token_is_made_or_not(stage: Stage) -> None:
    stage.die("POST", "/v1/tokens", {"name": stage.at, "scopes": ["read"]})
    names = [token["name"] for token in stage.call("GET", "/v1/tokens")["items"]]
    assert (stage.at in names) == (stage.when == "after")


@dies_at("revoke_token 1")
def a_token_is_revoked_or_not(stage: Stage) -> None:
    made = stage.call("POST", "/v1/tokens", {"name": stage.at, "scopes": ["read"]})
    stage.die("DELETE", f"/v1/tokens/{made['id']}")
    names = [token["name"] for token in stage.call("GET", "/v1/tokens")["items"]]
    assert (stage.at in names) == (stage.when == "before")


@pytest.mark.parametrize(("story", "point"), STORIES, ids=[f"{point}: {story.__name__}" for story, point in STORIES])
def test_after_a_death(stage: Stage, story: Story, point: str) -> None:
    stage.point = point
    story(stage)


@pytest.mark.parametrize("step", ["first", "second"])
def test_a_death_between_request_and_answer_repeats_the_request_once_with_its_key(stage: Stage, step: str) -> None:
    stage.script(step, Answer(before=lambda seen: os.kill(stage.server.pid, signal.SIGKILL), hold=True), Answer())
    stage.die_running()
    run = stage.check_run()
    assert [seen.key for seen in stage.requests(step)] == [f"{run['id']}/{step}"] * 2


NOT_CALLED = {
    "release_run": "the engine takes no run without deciding",
    "prune_runs": "told in test_data.py: it takes the runs of other stories",
    "free_pages": "told in test_data.py",
    "back_up": "told in test_data.py, and changes nothing here",
    "prune_deliveries": "retention runs now and then",
    "prune_slots": "retention runs now and then",
    "prune_audit": "retention runs now and then",
}


def test_there_is_a_story_for_every_verb_that_writes() -> None:
    points = sorted({point for _, point in STORIES})
    print(f"{len(points)} points:", *points, sep="\n  ")
    assert {point.split()[1] for point in points} == WRITE_VERBS - NOT_CALLED.keys() | {
        "request",
        "write_keys",
        "place_keys",
    }
