"""Signals, places, rates, holds, priorities and patience in a running server, across restarts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.engine.stage import Stage, running_stage
from tests.support.crashing_server import crashing_server
from tests.support.invariants import check_invariants
from tests.support.server import ServerProcess
from tests.support.target import Answer, running_target

TWO_WAITS = """
name: two-waits
steps:
  - {id: first, wait: {signal: one}}
  - {id: second, wait: {signal: two, timeout: 1h}}
output: "${{ [$first, $second] }}"
"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A server for the tests that leave it as they found it."""
    with running_stage(tmp_path_factory.mktemp("limits")) as found:
        yield found


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Stage]:
    """A server of this test's own, to kill."""
    with running_stage(tmp_path) as found:
        yield found
        assert '"level": "error"' not in found.server.output()


def place(name: str, limit: int, on_limit: str, step: str) -> str:
    return f"""
name: {name}
inputs: {{type: object, properties: {{key: {{default: all}}, n: {{default: 0}}}}}}
concurrency: {{key: "${{{{ $input.key }}}}", limit: {limit}, on_limit: {on_limit}}}
steps:
  - {step}
"""


WAITS = "{id: hold, wait: {signal: end}}"


# ---- signals


def test_signals_that_came_before_a_death_are_there_after_it(mortal: Stage) -> None:
    mortal.publish(TWO_WAITS)
    run = mortal.start("two-waits")
    mortal.signal(run, "two", "kept")
    assert isinstance(mortal.server, ServerProcess)
    mortal.server.restart()
    assert mortal.states(run) == {"first": "WAITING", "second": "PENDING"}
    mortal.signal(run, "one", "sent")
    assert mortal.end(run)["output"] == ["sent", "kept"]


def test_a_wait_goes_on_waiting_after_a_death(mortal: Stage) -> None:
    mortal.publish(TWO_WAITS, "name: nap\nsteps: [{id: nap, wait: {for: 1s}}, {id: after, transform: '${{ $now }}'}]\n")
    run, nap = mortal.start("two-waits"), mortal.start("nap")
    mortal.signal(run, "one", 1)
    mortal.reach(run, "second")
    due = mortal.step(nap, "nap")["available_at"]
    mortal.server.restart()
    assert mortal.step(nap, "nap")["available_at"] == due
    mortal.signal(run, "two", 2)
    assert mortal.end(run)["output"] == [1, 2]
    ended = mortal.end(nap)
    assert ended["finished_at"] >= due


def test_a_signal_during_a_death_is_kept_or_was_refused(tmp_path: Path) -> None:
    with running_target() as target, crashing_server(tmp_path) as server:
        stage = Stage(server, target)
        stage.publish(TWO_WAITS)
        for when, found in (("before", None), ("after", "one")):
            run = stage.start("two-waits")
            server.arm(f"{when} send_signal 1")
            with pytest.raises(OSError):
                server.call("POST", f"/v1/runs/{run}/signals/one", {"data": "one"})
            server.await_end()
            server.disarm()
            server.start()
            if found is None:
                assert stage.states(run)["first"] == "WAITING"
                stage.signal(run, "one", "again")
            stage.signal(run, "two")
            assert stage.end(run)["output"] == ["one" if found else "again", None]
        check_invariants(server.home / "taskforge.db", [])


def test_a_wait_without_an_answer_takes_its_other_way(stage: Stage) -> None:
    stage.publish(
        "name: late\nsteps:\n  - id: ask\n    wait:\n      signal: yes\n      timeout: 50ms\n"
        "      on_timeout: [{id: remind, http: {url: '{url}/remind'}}, {id: gave, transform: 'gave up'}]\n"
        "output: '${{ $ask }}'\n",
        "name: strict\nsteps: [{id: ask, wait: {signal: yes, timeout: 50ms}}]\n",
    )
    run = stage.start("late")
    assert (stage.end(run)["output"], stage.keys(run)) == ("gave up", ["remind"])
    assert stage.end(stage.start("strict"), "FAILED")["error"]["code"] == "WAIT_TIMEOUT"


# ---- places


def test_runs_queue_for_a_place_and_take_it_in_order_over_a_death(mortal: Stage) -> None:
    mortal.publish(place("queued", 2, "queue", WAITS))
    runs = [mortal.start("queued", {"n": n}) for n in range(5)]
    for run in runs[:2]:
        mortal.reach(run, "hold")
    other = mortal.start("queued", {"key": "other"})
    mortal.reach(other, "hold")
    assert [mortal.show(run)["state"] for run in runs] == ["WAITING"] * 2 + ["QUEUED"] * 3
    mortal.server.restart()
    for position, run in enumerate(runs):
        mortal.reach(run, "hold")
        assert [mortal.show(later)["state"] for later in runs[position + 2 :]] == ["QUEUED"] * max(0, 3 - position)
        mortal.signal(run, "end")
        mortal.end(run)
    mortal.signal(other, "end")
    mortal.end(other)
    check_invariants(mortal.server.home / "taskforge.db", runs)


def test_a_run_that_finds_no_place_is_skipped(stage: Stage) -> None:
    stage.publish(place("skipped", 1, "skip", WAITS))
    first = stage.start("skipped")
    stage.reach(first, "hold")
    second = stage.start("skipped")
    assert stage.end(second, "CANCELLED")["error"]["code"] == "CONCURRENCY_SKIPPED"
    stage.signal(first, "end")
    stage.end(first)
    third = stage.start("skipped")
    stage.reach(third, "hold")
    # A retry of the skipped run asks for a place anew.
    stage.call("POST", f"/v1/runs/{second}/retry")
    assert stage.end(second, "CANCELLED")["generation"] == 2
    stage.signal(third, "end")
    stage.end(third)


def test_a_newer_run_takes_the_place_of_the_oldest(stage: Stage) -> None:
    stage.publish(place("newest", 2, "cancel_oldest", WAITS))
    runs = [stage.start("newest") for _ in range(2)]
    for run in runs:
        stage.reach(run, "hold")
    runs.append(stage.start("newest"))
    assert stage.end(runs[0], "CANCELLED")["error"]["code"] == "CONCURRENCY_REPLACED"
    stage.reach(runs[2], "hold")
    assert stage.show(runs[1])["state"] == "WAITING"
    for run in runs[1:]:
        stage.signal(run, "end")
        stage.end(run)


def test_of_many_at_once_the_newest_stay(stage: Stage) -> None:
    stage.publish(place("burst", 2, "cancel_oldest", WAITS))
    ids = stage.call("POST", "/v1/workflows/burst/runs:batch", {"inputs": [{"n": n} for n in range(30)]})["ids"]
    for run in ids[:28]:
        assert stage.end(run, "CANCELLED")["error"]["code"] == "CONCURRENCY_REPLACED"
    for run in ids[28:]:
        stage.reach(run, "hold")
        stage.signal(run, "end")
        stage.end(run)


def test_who_is_replaced_tidies_up_in_its_place_and_once(stage: Stage) -> None:
    stage.target.answer("/slow-tidy", Answer(hold=True), Answer())
    stage.publish(place("tidy", 1, "cancel_oldest", WAITS) + 'finally: [{id: tidy, http: {url: "{url}/slow-tidy"}}]\n')
    first = stage.start("tidy")
    stage.reach(first, "hold")
    later = [stage.start("tidy") for _ in range(2)]
    stage.target.await_requests(1, "/slow-tidy")
    assert [stage.show(run)["state"] for run in (first, *later)] == ["RUNNING", "QUEUED", "QUEUED"]
    stage.target.release("/slow-tidy")
    assert stage.end(first, "CANCELLED")["error"]["code"] == "CONCURRENCY_REPLACED"
    assert stage.states(first) == {"hold": "CANCELLED", "tidy": "SUCCEEDED"}
    assert stage.end(later[0], "CANCELLED")["error"]["code"] == "CONCURRENCY_REPLACED"
    stage.reach(later[1], "hold")
    stage.signal(later[1], "end")
    stage.end(later[1])


def test_a_death_between_a_claim_and_the_cancel_is_made_up_for(tmp_path: Path) -> None:
    with running_target() as target, crashing_server(tmp_path) as server:
        stage = Stage(server, target)
        stage.publish(place("newest", 1, "cancel_oldest", WAITS))
        first = stage.start("newest")
        stage.reach(first, "hold")
        server.arm("before cancel_run 1")
        second = stage.start("newest")
        server.await_end()
        server.disarm()
        server.start()
        assert stage.end(first, "CANCELLED")["error"]["code"] == "CONCURRENCY_REPLACED"
        stage.reach(second, "hold")
        check_invariants(server.home / "taskforge.db", [first, second])


def test_a_run_that_waits_too_long_for_its_place_is_cancelled(stage: Stage) -> None:
    stage.publish(place("patient", 1, "queue", WAITS) + "max_queue_time: 200ms\n")
    first = stage.start("patient")
    stage.reach(first, "hold")
    second = stage.start("patient")
    assert stage.end(second, "CANCELLED")["error"]["code"] == "QUEUE_TIMEOUT"
    assert stage.show(first)["state"] == "WAITING", "who has begun is not in a queue"
    stage.signal(first, "end")
    stage.end(first)


def test_places_are_never_more_than_the_limit_under_load(stage: Stage) -> None:
    stage.publish(place("busy", 3, "queue", '{id: call, http: {url: "{url}/busy"}}'))
    stage.target.answer("/busy", Answer(delay_s=0.02))
    ids = stage.call("POST", "/v1/workflows/busy/runs:batch", {"inputs": [{"n": n} for n in range(40)]})["ids"]
    for run in ids:
        stage.end(run)
    seen = sorted(seen.at for seen in stage.target.requests("/busy"))
    assert len(seen) == 40
    # No four requests lie within the time that one takes.
    assert all(later - earlier >= 0.015 for earlier, later in zip(seen, seen[3:], strict=False))


# ---- rates


RATED = """
name: rated
inputs: {type: object, properties: {key: {default: a}}}
steps:
  - id: each
    foreach:
      items: "${{ [range(6)] }}"
      max_parallel: 6
      steps:
        - id: call
          rate_limit: {key: "${{ $input.key }}", max: 2, per: 1s}
          http: {url: "{url}/rated", query: {key: "${{ $input.key }}"}}
"""


def test_a_rate_limit_holds_over_a_death_and_costs_no_slot(tmp_path: Path) -> None:
    with running_stage(tmp_path, engine__max_attempts_in_flight=1) as stage:
        stage.publish(RATED, "name: free\nsteps: [{id: call, http: {url: '{url}/free'}}]\n")
        run = stage.start("rated")
        stage.target.await_requests(3, "/rated")
        stage.server.restart()
        # While the others wait for their time, the one slot is free.
        stage.end(stage.start("free"))
        stage.end(run)
        seen = [seen.at for seen in stage.target.requests("/rated")]
        attempts = [attempt for step in stage.show(run)["steps"] for attempt in step["attempts"]]
        assert len(seen) <= len(attempts) <= 7, "six items, and perhaps one that was in flight at the death"
        # Two may go at once, then one each half second; what was missed meanwhile is not made up for at once.
        assert all(later - earlier >= 0.9 for earlier, later in zip(seen, seen[3:], strict=False)), seen


def test_each_key_has_a_rate_of_its_own_that_runs_share(stage: Stage) -> None:
    stage.publish(RATED.replace("name: rated", "name: rated-keys").replace("range(6)", "range(3)"))
    began = time.monotonic()
    runs = [stage.start("rated-keys", {"key": key}) for key in ("x", "x", "y")]
    for run in runs:
        stage.end(run)
    by_key: dict[str, list[float]] = {}
    for seen in stage.target.requests("/rated"):
        by_key.setdefault(seen.query, []).append(seen.at - began)
    assert {key: len(times) for key, times in by_key.items()} == {"key=x": 6, "key=y": 3}
    assert max(by_key["key=x"]) - min(by_key["key=x"]) >= 1.8
    assert max(by_key["key=y"]) - min(by_key["key=y"]) <= 1.5


# ---- holds, priority, patience


def test_a_hold_stays_over_a_death_and_spares_what_runs(mortal: Stage) -> None:
    mortal.target.answer("/slow", Answer(hold=True), Answer())
    mortal.publish("name: steps\nsteps: [{id: one, http: {url: '{url}/slow'}}, {id: two, http: {url: '{url}/two'}}]\n")
    run = mortal.start("steps")
    mortal.target.await_requests(1, "/slow")
    mortal.call("PUT", "/v1/hold", {"held": True})
    mortal.target.release("/slow")
    mortal.reach(run, "one", "SUCCEEDED")
    mortal.server.restart()
    later = mortal.start("steps")
    assert mortal.call("GET", "/v1/hold")["held"] is True
    assert mortal.target.requests("/two") == []
    assert mortal.states(later) == {"one": "QUEUED", "two": "PENDING"}
    mortal.call("PUT", "/v1/hold", {"held": False})
    mortal.end(run)
    mortal.end(later)
    assert mortal.keys(run) == ["one", "two"]


def test_a_hold_in_the_middle_of_a_block_leaves_the_server_idle_and_ends(stage: Stage) -> None:
    """One branch runs while the other is held: nothing may spin until it is released."""
    stage.target.answer("/branch", Answer(hold=True), Answer())
    stage.publish(
        "name: branches\nsteps:\n  - id: both\n    parallel:\n"
        "      - {id: slow, http: {url: '{url}/branch'}}\n"
        "      - {id: nap, wait: {for: 100ms}}\n"
        "      - {id: held, needs: [nap], http: {url: '{url}/held-branch'}}\n"
    )
    run = stage.start("branches")
    stage.target.await_requests(1, "/branch")
    stage.call("PATCH", "/v1/workflows/branches", {"held": True})
    stage.reach(run, "nap", "SUCCEEDED")
    before = cpu_seconds(stage.server.pid)
    began = time.monotonic()
    other = stage.start("branches")
    for _ in range(20):
        stage.show(other)
    spent, took = cpu_seconds(stage.server.pid) - before, time.monotonic() - began
    assert spent <= max(0.5, took * 0.9), f"{spent} s of CPU in {took} s"
    assert stage.target.requests("/held-branch") == []
    stage.target.release("/branch")
    stage.reach(run, "slow", "SUCCEEDED")
    stage.call("PATCH", "/v1/workflows/branches", {"held": False})
    stage.end(run)
    stage.end(other)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_runs_of_a_higher_priority_go_first(tmp_path: Path) -> None:
    with running_stage(tmp_path, engine__max_attempts_in_flight=1) as stage:
        stage.target.answer("/p", Answer(hold=True), Answer())
        call = (
            "inputs: {type: object, properties: {n: {}}}\n"
            "steps: [{id: call, http: {url: '{url}/p', query: {n: '${{ $input.n }}'}}}]\n"
        )
        stage.publish(f"name: low\n{call}", f"name: high\npriority: 5\n{call}")
        runs = [stage.start("low", {"n": 0})]
        stage.target.await_requests(1, "/p")
        for workflow, n, more in (("low", 1, {}), ("low", 2, {"priority": 9}), ("high", 3, {}), ("low", 4, {})):
            runs.append(stage.start(workflow, {"n": n}, **more))
        stage.target.release("/p")
        for run in runs:
            stage.end(run)
        assert [seen.query for seen in stage.target.requests("/p")] == ["n=0", "n=2", "n=3", "n=1", "n=4"]


def test_a_run_that_is_not_begun_in_time_is_cancelled(tmp_path: Path) -> None:
    with running_stage(tmp_path) as stage:
        stage.target.answer("/q", Answer(hold=True), Answer())
        limits = "concurrency: {limit: 1}\nmax_queue_time: 300ms\n"
        stage.publish(f"name: hasty\n{limits}steps: [{{id: call, http: {{url: '{{url}}/q'}}}}]\n")
        first = stage.start("hasty")
        stage.target.await_requests(1, "/q")
        second = stage.start("hasty")
        assert stage.end(second, "CANCELLED")["error"]["code"] == "QUEUE_TIMEOUT"
        stage.target.release("/q")
        stage.end(first)
        assert len(stage.target.requests("/q")) == 1


def test_who_waits_for_a_slot_costs_nothing_and_its_times_are_kept(tmp_path: Path) -> None:
    with running_stage(tmp_path, engine__max_attempts_in_flight=1) as stage:
        stage.target.answer("/one", Answer(hold=True), Answer())
        call = "{id: call, http: {url: '{url}/one'}}"
        limited = call.replace("call,", "call, timeout: 1h,")
        stage.publish(
            f"name: busy\nsteps: [{call}]\n",
            f"name: step-time\nsteps: [{call.replace('call,', 'call, timeout: 600ms,')}]\n",
            f"name: run-time\ntimeout: 600ms\nsteps: [{{id: nap, wait: {{for: 1ms}}}}, {call}]\n",
            f"name: beside\nsteps: [{{id: both, parallel: [{{id: nap, wait: {{for: 600ms}}}}, {limited}]}}]\n",
        )
        busy = stage.start("busy")
        stage.target.await_requests(1, "/one")
        runs = [stage.start(name) for name in ("step-time", "run-time", "beside")]
        stage.reach(runs[2], "nap", "WAITING")
        before = cpu_seconds(stage.server.pid)
        began = time.monotonic()
        assert stage.end(runs[0], "FAILED")["error"]["code"] == "STEP_TIMEOUT"
        assert stage.end(runs[1], "FAILED")["error"]["code"] == "RUN_TIMEOUT"
        stage.reach(runs[2], "nap", "SUCCEEDED")
        assert cpu_seconds(stage.server.pid) - before <= max(0.15, (time.monotonic() - began) / 4)
        stage.target.release("/one")
        stage.end(busy)
        stage.end(runs[2])


# ---- state


COUNTER = """
name: counter
steps:
  - id: tries
    repeat:
      until: "${{ $swap.state == \\"SUCCEEDED\\" }}"
      max: 200
      every: 1ms
      steps:
        - {id: seen, transform: "${{ $state.count // 0 }}"}
        - id: next
          continue_on_error: true
          set_state: {key: count, value: "${{ $seen + 1 }}", expected: "${{ if $seen == 0 then null else $seen end }}"}
        - {id: swap, transform: {state: "${{ $steps.next.state }}", value: "${{ $next }}"}}
output: "${{ $tries.value }}"
"""


def test_compare_and_set_counts_right_under_parallel_runs(stage: Stage) -> None:
    stage.publish(COUNTER)
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: stage.start("counter"), range(16)))
    outputs = sorted(stage.end(run)["output"] for run in runs)
    assert outputs == list(range(1, 17))
    assert stage.call("GET", "/v1/workflows/counter/state")["state"] == {"count": 16}


def test_state_is_kept_over_a_death_and_a_run_sees_what_others_wrote(mortal: Stage) -> None:
    mortal.publish(
        "name: cursor\nsteps:\n  - {id: before, transform: '${{ $state }}'}\n"
        "  - {id: put, set_state: {key: last, value: {id: '${{ $run.number }}', big: 12345678901234567890}}}\n"
        "  - {id: after, transform: '${{ $state.last }}'}\noutput: '${{ [$before, $after] }}'\n"
    )
    big = 12345678901234567890
    assert mortal.end(mortal.start("cursor"))["output"] == [{}, {"id": 1, "big": big}]
    mortal.server.restart()
    second = mortal.end(mortal.start("cursor"))
    assert second["output"] == [{"last": {"id": 1, "big": big}}, {"id": 2, "big": big}]


def test_a_write_counts_once_though_the_server_died_before_it_was_told(tmp_path: Path) -> None:
    with running_target() as target, crashing_server(tmp_path) as server:
        stage = Stage(server, target)
        stage.publish(
            "name: once\nsteps:\n  - {id: put, set_state: {key: a, value: 1, expected: null}}\n"
            "  - {id: more, set_state: {key: a, value: '${{ $state.a + 1 }}', expected: '${{ $state.a }}'}}\n"
            "output: '${{ $more }}'\n"
        )
        server.arm("after set_state 1")
        run = stage.start("once")
        server.await_end()
        server.disarm()
        server.start()
        assert stage.end(run)["output"] == 2
