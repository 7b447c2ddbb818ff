"""One run, from event to event: what is stored, what is refused, and what becomes of it then."""

from __future__ import annotations

import asyncio

import pytest

from taskforge.core.errors import RunEnded, StoreFull, Unavailable
from taskforge.core.jsontext import loads
from taskforge.core.model import Prepared
from taskforge.core.snapshot import RunSnapshot, StepRun
from taskforge.engine.starting import StartRequest
from tests.engine.engine import Engine, attempts, states
from tests.support.target import Answer

ONE = "name: one\nsteps: [{id: call, http: {method: POST, url: URL/call}}]\n"
TWO = """
name: two
steps:
  - {id: first, http: {method: POST, url: URL/first, json: "${{ $input }}"}, retry: {max_attempts: 1}}
  - {id: shape, transform: {status: "${{ $first.status }}"}}
  - {id: second, http: {method: POST, url: URL/second, json: "${{ $shape }}"}}
output: "${{ $second.body }}"
"""
PAUSED = """
name: paused
steps: [{id: first, http: {method: POST, url: URL/first}, retry: {initial: 20ms, jitter: none}}]
"""


async def test_a_chain_costs_one_transaction_for_each_side_effect_and_no_look_for_work(engine: Engine) -> None:
    workflow = await engine.publish(TWO)
    before = dict(engine.faults.calls)
    row = await engine.end(await engine.begin(workflow))
    assert (row.record.state, row.record.output) == ("SUCCEEDED", '{"ok":true}')
    done = {verb: count - before.get(verb, 0) for verb, count in engine.faults.calls.items()}
    writes = {verb: count for verb, count in done.items() if not verb.startswith("get_") and count}
    assert writes == {"start_run": 1, "finish_attempt": 2}


async def test_a_run_without_side_effects_is_over_when_it_is_acknowledged(engine: Engine) -> None:
    workflow = await engine.publish("name: pure\nsteps: [{id: a, transform: 1}, {id: b, transform: '${{ $a }}'}]\n")
    started = await engine.service.start_run(StartRequest(workflow))
    assert started.state == "SUCCEEDED"
    assert len(engine.drivers) == 0


async def test_a_finished_run_leaves_nothing_in_memory(engine: Engine) -> None:
    workflow = await engine.publish(TWO)
    for _ in range(20):
        await engine.end(await engine.begin(workflow))
    assert (len(engine.drivers), engine.executor.in_flight) == (0, 0)


# ---- refused changes


async def test_a_result_whose_lease_is_lost_changes_nothing_and_the_step_is_tried_again(engine: Engine) -> None:
    engine.target.answer("/call", Answer(body=1, hold=True), Answer(body=2))
    run = await engine.begin(await engine.publish(ONE))
    await engine.until("/call")
    # Another node finds that this one is dead, while it only slept.
    await engine.store.rescue_leases([engine.node], engine.clock.now())
    engine.target.release("/call")
    row = await engine.end(run)
    rows = await engine.rows(run)
    assert row.record.state == "SUCCEEDED"
    assert attempts(rows) == [("call", 1, "LOST", "PROCESS_DIED"), ("call", 2, "SUCCEEDED", None)]
    assert loads(rows.steps[0].output or "")["body"] == 2
    assert engine.target.keys() == [f"{run}/call"] * 2
    assert engine.executor.in_flight == 0


async def test_a_result_for_a_run_that_ended_elsewhere_is_refused(engine: Engine) -> None:
    engine.target.answer("/call", Answer(hold=True))
    run = await engine.begin(await engine.publish(ONE))
    await engine.until("/call")
    held = engine.faults.hold("finish_attempt")
    engine.target.release("/call")
    await held.reached.wait()
    driver = engine.drivers.find((await engine.store.get_run(run)).key)
    assert driver is not None
    rows = await engine.rows(run)
    await engine.store.rescue_leases([engine.node], engine.clock.now())
    taken = await engine.store.lease_steps("node_other", engine.clock.now(), 1)
    assert [found.run.id for found in taken] == [run]
    held.let_go()
    while len(engine.drivers):
        await asyncio.sleep(0)
    after = await engine.rows(run)
    assert (after.run.record.state, after.run.record.owner) == ("RUNNING", "node_other")
    assert states(after) == {"call": "QUEUED"}
    assert rows.run.revision + 2 == after.run.revision
    await engine.store.rescue_leases(["node_other"], engine.clock.now())


async def test_a_run_that_another_node_has_taken_meanwhile_is_left_to_it(engine: Engine) -> None:
    engine.target.answer("/first", Answer(503), Answer())
    leased = engine.faults.hold("lease_steps", "after")
    run = await engine.begin(await engine.publish(PAUSED))
    await leased.reached.wait()
    await engine.store.rescue_leases([engine.node], engine.clock.now())
    taken = await engine.store.lease_steps("node_other", engine.clock.now(), 1)
    assert [found.run.id for found in taken] == [run]
    leased.let_go()
    while engine.faults.calls["load_run"] == 0 or len(engine.drivers):
        await asyncio.sleep(0)
    assert len(engine.target.keys()) == 1
    assert (await engine.store.get_run(run)).record.owner == "node_other"
    assert engine.executor.in_flight == 0
    await engine.store.rescue_leases(["node_other"], engine.clock.now())


async def test_a_cancelled_run_is_not_brought_back_by_rows_that_were_read_before(engine: Engine) -> None:
    """The due loop has taken the run and read its rows; the cancellation is stored after that, and both answers come in
    the worst order."""
    engine.target.answer("/first", Answer(503, hold=True), Answer())
    run = await engine.begin(await engine.publish(PAUSED))
    await engine.until("/first")
    leased = engine.faults.hold("lease_steps", "after")
    engine.target.release("/first")
    await leased.reached.wait()
    cancelled = engine.faults.hold("cancel_run", "after")
    asked = asyncio.create_task(engine.service.cancel_run(run))
    await cancelled.reached.wait()
    leased.let_go()
    await asyncio.sleep(0.05)  # as long as the due loop needs to hand the old rows over
    cancelled.let_go()
    assert (await asked).record.state == "CANCELLED"
    while len(engine.drivers):
        await asyncio.sleep(0)
    assert (await engine.store.get_run(run)).record.state == "CANCELLED"
    assert len(engine.target.keys()) == 1


# ---- a store that takes nothing, or whose answer is lost


async def test_an_outcome_is_kept_until_a_full_store_takes_it(engine: Engine) -> None:
    workflow = await engine.publish(ONE)
    engine.faults.refuse("finish_attempt", StoreFull("full"), times=3)
    run = await engine.begin(workflow)
    assert (await engine.end(run)).record.state == "SUCCEEDED"
    assert engine.faults.calls["finish_attempt"] == 4
    assert attempts(await engine.rows(run)) == [("call", 1, "SUCCEEDED", None)]
    assert len(engine.target.keys()) == 1


async def test_a_start_that_is_refused_starts_nothing_and_takes_no_slot(engine: Engine) -> None:
    workflow = await engine.publish(ONE)
    engine.faults.refuse("start_run", StoreFull("full"))
    with pytest.raises(StoreFull):
        await engine.begin(workflow)
    assert (engine.executor.in_flight, engine.target.keys()) == (0, [])
    engine.faults.refuse("start_runs", StoreFull("full"))
    with pytest.raises(StoreFull):
        await engine.service.start_runs(StartRequest(workflow), [{}] * 10)
    assert (engine.executor.in_flight, len(engine.drivers), engine.target.keys()) == (0, 0, [])
    assert (await engine.end(await engine.begin(workflow))).number == 1


async def test_an_outcome_that_was_stored_though_the_store_said_no_is_stored_once(engine: Engine) -> None:
    workflow = await engine.publish(TWO)
    engine.faults.lose_answer("finish_attempt", Unavailable("the answer was lost"))
    run = await engine.begin(workflow)
    # The second attempt was stored with the first one's outcome, but nobody knew: it is LOST, and tried again.
    assert (await engine.end(run)).record.state == "SUCCEEDED"
    assert attempts(await engine.rows(run)) == [
        ("first", 1, "SUCCEEDED", None),
        ("second", 1, "LOST", "RELEASED"),
        ("second", 2, "SUCCEEDED", None),
    ]
    assert engine.target.keys("/second") == [f"{run}/second"]
    assert engine.executor.in_flight == 0


async def test_a_start_whose_caller_went_away_is_driven_if_it_was_stored(engine: Engine) -> None:
    workflow = await engine.publish(ONE)
    held = engine.faults.hold("start_run", "after")
    engine.faults.refuse("ping", Unavailable("busy"))
    asked = asyncio.create_task(engine.service.start_run(StartRequest(workflow)))
    await held.reached.wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert (await engine.end("one#1")).record.state == "SUCCEEDED"
    assert engine.executor.in_flight == 0


async def test_a_cancellation_that_is_refused_changes_nothing(engine: Engine) -> None:
    engine.target.answer("/first", Answer(400, hold=True))
    run = await engine.begin(await engine.publish(TWO), input={"n": 1})
    await engine.until("/first")
    engine.faults.refuse("cancel_run", StoreFull("full"))
    with pytest.raises(StoreFull):
        await engine.service.cancel_run(run)
    assert (await engine.store.get_run(run)).record.state == "RUNNING"
    engine.target.release("/first")
    row = await engine.end(run)
    assert (row.record.state, len(engine.target.keys())) == ("FAILED", 1)
    # The dead letter still knows what was sent.
    (letter,) = await engine.service.list_dead_letters("OPEN", None, 10)
    assert loads(letter.input or "null")["json"] == {"n": 1}
    assert engine.executor.in_flight == 0


# ---- cancel


async def test_cancelling_stops_the_attempt_and_gives_its_slot_back(engine: Engine) -> None:
    engine.target.answer("/call", Answer(hold=True))
    run = await engine.begin(await engine.publish(ONE))
    await engine.until("/call")
    row = await engine.service.cancel_run(run, "not wanted")
    assert (row.record.state, loads(row.record.error or "")["message"]) == ("CANCELLED", "not wanted")
    assert attempts(await engine.rows(run)) == [("call", 1, "CANCELLED", None)]
    while engine.executor.in_flight:
        await asyncio.sleep(0)
    with pytest.raises(RunEnded):
        await engine.service.cancel_run(run)


async def test_a_result_that_comes_while_the_cancellation_is_stored_changes_nothing(engine: Engine) -> None:
    engine.target.answer("/call", Answer(hold=True))
    run = await engine.begin(await engine.publish(ONE))
    await engine.until("/call")
    held = engine.faults.hold("cancel_run", "after")
    asked = asyncio.create_task(engine.service.cancel_run(run))
    await held.reached.wait()
    engine.target.release("/call")
    while engine.executor.in_flight and not engine.drivers.find(1)._events:  # type: ignore[union-attr]
        await asyncio.sleep(0)
    held.let_go()
    assert (await asked).record.state == "CANCELLED"
    while engine.executor.in_flight or len(engine.drivers):
        await asyncio.sleep(0)
    assert attempts(await engine.rows(run)) == [("call", 1, "CANCELLED", None)]


# ---- a fault of our own


async def test_a_run_that_cannot_be_decided_fails_and_the_others_go_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = await engine.publish(TWO)
    prepare = engine.drivers.expressions.prepare

    def broken(run: RunSnapshot, at: StepRun | None, name: str) -> Prepared | None:
        if run.input == {"broken": True} and at is not None and at.path == "shape":
            raise RuntimeError("planted")
        return prepare(run, at, name)

    monkeypatch.setattr(engine.drivers.context, "prepare", broken)
    runs = [await engine.begin(workflow, input={"broken": n == 1}) for n in range(3)]
    ends = [await engine.end(run) for run in runs]
    assert [row.record.state for row in ends] == ["SUCCEEDED", "FAILED", "SUCCEEDED"]
    error = loads(ends[1].record.error or "")
    assert (error["code"], "planted" in error["message"]) == ("INTERNAL", False)
    assert (engine.executor.in_flight, len(engine.drivers)) == (0, 0)


async def test_an_evaluation_that_breaks_the_evaluator_fails_its_run(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = await engine.publish("name: jq\nsteps: [{id: a, transform: '${{ def f: 1; f }}'}]\n")

    async def broken(*_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(engine.evaluator, "evaluate", broken)
    row = await engine.end(await engine.begin(workflow))
    assert loads(row.record.error or "")["code"] == "INTERNAL"
