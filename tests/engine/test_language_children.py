"""Child runs in a running server: success, failure and cancel both ways, bounds, and deaths in between."""

from __future__ import annotations

import contextlib
import itertools
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.stage import Stage, running_stage
from tests.support.crashing_server import CrashingServer, crashing_server
from tests.support.invariants import check_invariants
from tests.support.target import Answer, running_target

CHILD = """
name: child
inputs: {type: object, properties: {n: {type: integer, default: 1}}}
steps:
  - {id: go, wait: {signal: go}}
  - {id: stop, if: "${{ $go == \\"fail\\" }}", fail: {message: "told to", code: TOLD}}
output: "${{ {n: $input.n, go: $go} }}"
"""
QUICK = """
name: quick
inputs: {type: object, properties: {n: {type: integer, default: 1}}}
steps: [{id: twice, transform: "${{ $input.n * 2 }}"}]
output: "${{ $twice }}"
"""
PARENT = """
name: parent
steps:
  - {id: child, workflow: {name: child, input: {n: 7}}}
  - {id: after, transform: "${{ $child.n }}"}
output: "${{ [$child, $after] }}"
"""
CATCHES = """
name: catches
steps:
  - id: child
    workflow: {name: child}
    catch: [{id: note, transform: "${{ $error }}"}]
output: "${{ $note }}"
"""
PATIENT = """
name: patient
steps:
  - {id: child, timeout: 300ms, continue_on_error: true, workflow: {name: child}}
  - {id: after, wait: {signal: end}}
"""
LOOSE = """
name: loose
steps:
  - {id: child, workflow: {name: child, wait: false}}
  - {id: after, wait: {signal: end}}
"""
RECURSIVE = """
name: recursive
steps: [{id: again, workflow: {name: recursive}}]
"""
MANY = """
name: many
steps:
  - id: each
    foreach:
      items: "${{ [range(40)] }}"
      max_parallel: 8
      steps: [{id: one, workflow: {name: quick, input: {n: "${{ $item }}"}}}]
output: "${{ $each }}"
"""
FAST = """
name: fast
steps:
  - id: both
    parallel:
      fail_fast: true
      steps:
        - {id: child, workflow: {name: child}}
        - {id: wait, wait: {signal: fail}}
        - {id: bad, needs: [wait], fail: {message: "enough"}}
    continue_on_error: true
  - {id: after, wait: {signal: end}}
"""
DOCUMENTS = (CHILD, QUICK, PARENT, CATCHES, PATIENT, LOOSE, RECURSIVE, MANY, FAST)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A server for the tests that leave it as they found it."""
    with running_stage(tmp_path_factory.mktemp("children")) as found:
        found.publish(*DOCUMENTS)
        yield found


def test_a_parent_goes_on_with_its_childs_output(stage: Stage) -> None:
    run = stage.start("parent")
    stage.reach(run, "child")
    child = stage.child(run, "child")
    stage.signal(child, "go", {"x": 1})
    assert stage.end(run)["output"] == [{"n": 7, "go": {"x": 1}}, 7]


def test_a_childs_failure_is_its_steps(stage: Stage) -> None:
    run = stage.start("parent")
    stage.reach(run, "child")
    child = stage.child(run, "child")
    stage.signal(child, "go", "fail")
    error = stage.end(run, "FAILED")["error"]
    assert (error["code"], error["step"], error["detail"]["run"]) == ("CHILD_FAILED", "child", child)
    assert error["detail"]["error"]["code"] == "TOLD"
    assert stage.step(run, "child")["child"] == child
    # A retry starts a new child; the old one stays what it is.
    stage.call("POST", f"/v1/runs/{run}/retry")
    stage.reach(run, "child", times=2)
    again = stage.child(run, "child")
    assert again != child
    stage.signal(again, "go")
    assert stage.end(run)["generation"] == 2
    assert stage.show(child)["state"] == "FAILED"


def test_a_handler_takes_a_childs_failure(stage: Stage) -> None:
    run = stage.start("catches")
    stage.reach(run, "child")
    stage.signal(stage.child(run, "child"), "go", "fail")
    assert stage.end(run)["output"]["code"] == "CHILD_FAILED"


def test_a_cancelled_parent_cancels_its_child(stage: Stage) -> None:
    run = stage.start("parent")
    stage.reach(run, "child")
    child = stage.child(run, "child")
    stage.cancel(run)
    stage.end(run, "CANCELLED")
    assert stage.end(child, "CANCELLED")["error"]["code"] == "CANCELLED"


def test_a_cancelled_child_fails_its_parent(stage: Stage) -> None:
    run = stage.start("parent")
    stage.reach(run, "child")
    stage.cancel(stage.child(run, "child"))
    assert stage.end(run, "FAILED")["error"]["code"] == "CHILD_CANCELLED"


def test_a_child_is_cancelled_when_its_step_is_out_of_time_though_the_run_goes_on(stage: Stage) -> None:
    run = stage.start("patient")
    stage.reach(run, "child")
    child = stage.child(run, "child")
    stage.reach(run, "after")
    assert stage.step(run, "child")["error"]["code"] == "STEP_TIMEOUT"
    stage.end(child, "CANCELLED")
    stage.signal(run, "end")
    stage.end(run)


def test_a_child_is_cancelled_when_the_block_around_its_step_fails_fast(stage: Stage) -> None:
    run = stage.start("fast")
    stage.reach(run, "child")
    child = stage.child(run, "child")
    stage.signal(run, "fail")
    stage.reach(run, "after")
    assert stage.states(run)["child"] == "CANCELLED"
    stage.end(child, "CANCELLED")
    stage.signal(run, "end")
    stage.end(run)


def test_a_child_that_is_not_waited_for_outlives_its_parent(stage: Stage) -> None:
    run = stage.start("loose")
    stage.reach(run, "after")
    child = stage.child(run, "child")
    stage.cancel(run)
    stage.end(run, "CANCELLED")
    stage.signal(child, "go")
    stage.end(child)


def test_a_workflow_that_starts_itself_ends(stage: Stage) -> None:
    run = stage.start("recursive")
    error = stage.end(run, "FAILED")["error"]
    for _ in range(10):
        assert error["code"] == "CHILD_FAILED"
        error = error["detail"]["error"]
    assert error["code"] == "RECURSION_LIMIT"
    items = stage.call("GET", "/v1/runs?workflow=recursive")["items"]
    assert len(items) == 11
    assert {item["state"] for item in items} == {"FAILED"}


def test_every_item_has_a_child_of_its_own(stage: Stage) -> None:
    run = stage.start("many")
    assert stage.end(run)["output"] == [2 * number for number in range(40)]
    children = {step["child"] for step in stage.show(run)["steps"] if step["kind"] == "workflow"}
    assert len(children) == 40


def test_a_child_that_cannot_be_started_fails_its_step(stage: Stage) -> None:
    stage.publish("name: lost\nsteps: [{id: child, workflow: {name: nowhere}}]\n")
    error = stage.end(stage.start("lost"), "FAILED")["error"]
    assert (error["code"], "nowhere" in error["message"]) == ("CHILD_NOT_STARTED", True)
    stage.publish("name: picky\nsteps: [{id: child, workflow: {name: child, input: {n: many}}}]\n")
    assert stage.end(stage.start("picky"), "FAILED")["error"]["code"] == "CHILD_NOT_STARTED"


def test_a_child_never_waits_for_a_place_that_an_ancestor_holds(stage: Stage) -> None:
    stage.publish(
        "name: locked\nconcurrency: {key: one, limit: 1}\n"
        "inputs: {type: object, properties: {deep: {type: integer, default: 2}}}\n"
        "steps:\n"
        '  - {id: inner, if: "${{ $input.deep > 0 }}",\n'
        '     workflow: {name: between, input: {deep: "${{ $input.deep - 1 }}"}}}\n',
        "name: between\ninputs: {type: object, properties: {deep: {type: integer}}}\n"
        'steps: [{id: lock, workflow: {name: locked, input: {deep: "${{ $input.deep }}"}}}]\n',
    )
    error = stage.end(stage.start("locked"), "FAILED")["error"]
    assert error["detail"]["error"]["detail"]["error"]["code"] == "CONCURRENCY_DEADLOCK"


# ---- deaths


@pytest.fixture
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, CrashingServer]]:
    with running_target() as target, crashing_server(tmp_path_factory.mktemp("mortal")) as server:
        stage = Stage(server, target)
        stage.publish(*DOCUMENTS)
        stage.publish("name: asks\nsteps: [{id: child, workflow: {name: answers}}]\noutput: '${{ $child }}'\n")
        stage.publish(
            "name: answers\nsteps: [{id: call, http: {url: '{url}/answers'}}]\noutput: '${{ $call.status }}'\n"
        )
        yield stage, server
        check_invariants(Path(server.home) / "taskforge.db", [])


def revive(server: CrashingServer) -> None:
    assert server.await_end() == -signal.SIGKILL
    server.disarm()
    server.start()


_CHILD_STARTED = ("before start_run 2", "after start_run 2")
_POINTS = [
    *(
        f"{when} {verb}"
        for when in ("before", "after")
        for verb in ("finish_attempt 1", "finish_attempt 2", "request 1")
    ),
    *(f"{when} send_signal 1" for when in ("before", "after")),
    *_CHILD_STARTED,
]


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.parametrize("point", _POINTS)
def test_a_death_on_the_way_changes_nothing_of_what_a_parent_and_its_child_come_to(
    mortal: tuple[Stage, CrashingServer], point: str
) -> None:
    """Between the child's start, its end, and the word to its parent: one child, told of once."""
    stage, server = mortal
    server.arm(point)
    run = stage.start("asks")
    revive(server)
    assert stage.end(run)["output"] == 200
    child = stage.child(run, "child")
    assert stage.end(child)["parent"] == {"run": run, "step": "child"}
    runs = stage.call("GET", "/v1/runs?workflow=answers&limit=500")["items"]
    assert [item["id"] for item in runs if item["parent"]["run"] == run] == [child]
    # The child's request may be in flight at any of these points: then it is sent once more, with its own key.
    assert 1 <= len(stage.keys(child)) <= 2
    assert len(set(stage.keys(child))) == 1


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.parametrize("point", ["after cancel_run 1", "before cancel_run 2", "after cancel_run 2"])
def test_a_death_after_a_cancel_leaves_no_child_behind(mortal: tuple[Stage, CrashingServer], point: str) -> None:
    stage, server = mortal
    run = stage.start("parent")
    stage.reach(run, "child")
    child = stage.child(run, "child")
    server.arm(point)
    with contextlib.suppress(OSError):
        stage.server.call("POST", f"/v1/runs/{run}/cancel")
    revive(server)
    stage.end(run, "CANCELLED")
    stage.end(child, "CANCELLED")


@pytest.mark.crash
@pytest.mark.slow
def test_a_death_after_a_step_gave_up_cancels_its_child_at_the_next_start(mortal: tuple[Stage, CrashingServer]) -> None:
    stage, server = mortal
    for point in ("before cancel_run 1", "after cancel_run 1"):
        run = stage.start("patient")
        stage.reach(run, "child")
        child = stage.child(run, "child")
        server.arm(point)
        revive(server)
        stage.reach(run, "after")
        stage.end(child, "CANCELLED")
        stage.signal(run, "end")
        stage.end(run)


@pytest.mark.crash
@pytest.mark.slow
def test_kills_at_any_moment_leave_every_item_with_one_child(tmp_path: Path) -> None:
    with running_target() as target, crashing_server(tmp_path) as server:
        stage = Stage(server, target)
        target.answer("/answers", Answer(delay_s=0.01))
        stage.publish(
            "name: answers\nsteps: [{id: call, http: {url: '{url}/answers'}}]\noutput: '${{ $run.id }}'\n",
            "name: fan\nsteps:\n  - id: each\n    foreach:\n      items: '${{ [range(60)] }}'\n      max_parallel: 10\n"
            "      steps: [{id: one, workflow: {name: answers}}]\noutput: '${{ $each }}'\n",
        )
        run = stage.start("fan")
        for count in itertools.accumulate((7, 11, 13, 17)):
            target.await_requests(count)
            server.kill()
            server.start()
        output = stage.end(run)["output"]
        assert len(set(output)) == 60
        children = {step["path"]: step["child"] for step in stage.show(run)["steps"] if step["kind"] == "workflow"}
        assert children == {f"each[{index}].one": output[index] for index in range(60)}
        found = stage.call("GET", "/v1/runs?workflow=answers&limit=500")["items"]
        assert {item["id"] for item in found} == set(output)
        check_invariants(server.home / "taskforge.db", [run])
