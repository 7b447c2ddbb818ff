"""Starting runs: now, later, many at once; waiting for them; and what shutting down does to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from taskforge.core.errors import (
    IdempotencyMismatch,
    InvalidInput,
    NotFound,
    ShuttingDown,
    TooLarge,
    WorkflowDisabled,
)
from taskforge.core.jsontext import loads
from taskforge.engine.starting import StartRequest
from tests.engine.engine import Engine, attempts, running_engine, states
from tests.engine.test_attempts import turns
from tests.support.clock import ManualClock
from tests.support.target import Answer, Target

CALL = "name: call\nsteps: [{id: call, http: {method: POST, url: URL/call}}]\n"
TYPED = """
name: typed
inputs:
  type: object
  properties: {n: {type: integer}, word: {type: string, default: hello}}
  required: [n]
  additionalProperties: false
steps: [{id: echo, transform: "${{ $input }}"}]
output: "${{ $echo }}"
"""


async def test_a_delayed_run_begins_at_its_time_and_not_before(tmp_path: Path, target: Target) -> None:
    clock = ManualClock()
    async with running_engine(tmp_path, target, clock, poll_s=0.02) as engine:
        workflow = await engine.publish(CALL)
        later = await engine.begin(workflow, delay_ms=60_000)
        now = await engine.begin(workflow)
        await engine.end(now)
        assert (await engine.store.get_run(later)).record.state == "QUEUED"
        clock.advance(59_999)
        await turns(engine)
        assert target.keys() == [f"{now}/call"]
        clock.advance(1)
        row = await engine.end(later)
        assert (row.record.state, row.record.started_at) == ("SUCCEEDED", row.created_at + 60_000)


async def test_a_delayed_run_survives_the_process(tmp_path: Path, target: Target) -> None:
    clock = ManualClock()
    async with running_engine(tmp_path, target, clock) as engine:
        run = await engine.begin(await engine.publish(CALL), delay_ms=60_000)
    clock.advance(60_000)
    async with running_engine(tmp_path, target, clock) as engine:
        assert (await engine.end(run)).record.state == "SUCCEEDED"


async def test_a_delayed_run_that_is_cancelled_never_begins(engine: Engine) -> None:
    run = await engine.begin(await engine.publish(CALL), delay_ms=60_000)
    assert (await engine.service.cancel_run(run)).record.state == "CANCELLED"
    assert (states(await engine.rows(run)), engine.target.keys()) == ({}, [])


async def test_a_delayed_run_without_side_effects_begins_at_its_time_too(engine: Engine) -> None:
    run = await engine.begin(await engine.publish(TYPED), input={"n": 1}, delay_ms=100)
    row = await engine.store.get_run(run)
    assert (row.record.state, states(await engine.rows(run))) == ("QUEUED", {})
    row = await engine.end(run)
    assert (row.record.started_at or 0) >= row.created_at + 100


# ---- input


async def test_input_is_checked_and_defaults_are_applied_before_anything_is_stored(engine: Engine) -> None:
    workflow = await engine.publish(TYPED)
    with pytest.raises(InvalidInput) as refused:
        await engine.begin(workflow, input={"n": "one", "more": 1})
    assert len(refused.value.problems) == 2
    with pytest.raises(TooLarge):
        await engine.begin(workflow, input={"n": 1, "word": "x" * 2_000_000})
    with pytest.raises(TooLarge, match="1200017 bytes"):
        await engine.begin(workflow, input={"n": 1, "word": "é" * 600_000})
    run = await engine.begin(workflow, input={"n": 12345678901234567890})
    assert run.endswith((await engine.store.get_run("typed#1")).id)
    output = (await engine.end(run)).record.output
    assert loads(output or "") == {"n": 12345678901234567890, "word": "hello"}


async def test_a_batch_is_all_or_none_and_keeps_its_order(engine: Engine) -> None:
    workflow = await engine.publish(TYPED)
    with pytest.raises(InvalidInput) as refused:
        await engine.service.start_runs(StartRequest(workflow), [{"n": 1}, {"n": "x"}, {}])
    assert [problem.path.split(".")[0] for problem in refused.value.problems] == ["inputs[1]", "inputs[2]"]
    with pytest.raises(TooLarge, match=r"inputs\[1\]"):
        await engine.service.start_runs(StartRequest(workflow), [{"n": 1}, {"n": 1, "word": "x" * 2_000_000}])
    assert engine.executor.in_flight == 0
    with pytest.raises(NotFound):
        await engine.store.get_run("typed#1")
    started = await engine.service.start_runs(StartRequest(workflow), [{"n": n} for n in range(50)])
    assert [one.number for one in started] == list(range(1, 51))
    for n, one in enumerate(started):
        assert loads((await engine.end(one.id)).record.output or "")["n"] == n


async def test_a_key_starts_one_run_whose_second_request_changes_nothing(engine: Engine) -> None:
    workflow = await engine.publish(CALL)
    started = [
        await engine.service.start_run(StartRequest(workflow, input={"n": 1}, idempotency_key="k")) for _ in range(3)
    ]
    assert [one.created for one in started] == [True, False, False]
    assert len({one.id for one in started}) == 1
    with pytest.raises(IdempotencyMismatch):
        await engine.service.start_run(StartRequest(workflow, input={"n": 2}, idempotency_key="k"))
    await engine.end(started[0].id)
    assert len(engine.target.keys()) == 1
    assert engine.executor.in_flight == 0


async def test_a_repeated_key_gives_its_run_also_when_the_workflow_would_refuse_a_new_one(engine: Engine) -> None:
    workflow = await engine.publish(TYPED)
    again = StartRequest(workflow, input={"n": 1}, idempotency_key="k")
    first = await engine.service.start_run(again)
    await engine.end(first.id)
    await engine.service.set_enabled(workflow, False)
    assert (await engine.service.start_run(again)).id == first.id
    for other, refusal in (({"n": 2}, IdempotencyMismatch), ({"n": 1}, WorkflowDisabled)):
        key = "k" if refusal is IdempotencyMismatch else "new"
        with pytest.raises(refusal):
            await engine.service.start_run(StartRequest(workflow, input=other, idempotency_key=key))
    await engine.service.set_enabled(workflow, True)
    await engine.publish(TYPED.replace("{type: integer}", "{type: string}"))
    assert (await engine.service.start_run(again)).id == first.id
    await engine.service.delete_workflow(workflow)
    assert not (await engine.service.start_run(again)).created
    with pytest.raises(NotFound):
        await engine.service.start_run(StartRequest(workflow, input={"n": 1}, idempotency_key="new"))


async def test_what_cannot_be_started_is_refused(engine: Engine) -> None:
    with pytest.raises(NotFound):
        await engine.begin("nothing")
    workflow = await engine.publish(CALL)
    with pytest.raises(NotFound):
        await engine.begin(workflow, version=2)
    await engine.service.set_enabled(workflow, False)
    with pytest.raises(WorkflowDisabled):
        await engine.begin(workflow)
    await engine.service.delete_workflow(workflow)
    with pytest.raises(NotFound):
        await engine.begin(workflow)
    assert engine.executor.in_flight == 0


@pytest.mark.parametrize("change", ["publish", "disable"])
async def test_a_start_that_read_the_workflow_before_it_was_changed_does_not_hide_the_change(
    engine: Engine, change: str
) -> None:
    workflow = await engine.publish(CALL)
    if change == "disable":
        await engine.service.set_enabled(workflow, False)
    read = engine.faults.hold("get_workflow", "after")
    first = asyncio.create_task(engine.begin(workflow))
    await read.reached.wait()
    if change == "publish":
        await engine.publish(CALL.replace("POST", "PUT"))
    else:
        await engine.service.set_enabled(workflow, True)
    read.let_go()
    await asyncio.gather(first, return_exceptions=True)
    run = await engine.end(await engine.begin(workflow))
    assert run.version == (2 if change == "publish" else 1)


# ---- waiting


async def test_waiting_ends_when_whoever_waits_leaves(engine: Engine) -> None:
    engine.target.answer("/call", Answer(hold=True))
    started = await engine.service.start_run(StartRequest(await engine.publish(CALL)))
    there: set[Callable[[], None]] = set()

    def leaving(tell: Callable[[], None]) -> Callable[[], None]:
        there.add(tell)
        return lambda: there.discard(tell)

    for wait in (
        engine.service.start_and_wait(StartRequest(await engine.publish(CALL)), 60_000, leaving),
        engine.service.wait_run(started.id, 60_000, leaving),
    ):
        waiting = asyncio.create_task(wait)
        while not there:
            await asyncio.sleep(0.001)
        for tell in tuple(there):
            tell()
        await asyncio.wait_for(waiting, 10)
        assert not there
    engine.target.release("/call")
    await engine.service.wait_run(started.id, 60_000, leaving)
    assert not there
    assert (await engine.store.get_run(started.id)).record.state == "SUCCEEDED"


async def test_waiting_ends_with_the_run_or_with_the_time(engine: Engine) -> None:
    engine.target.answer("/call", Answer(hold=True))
    run = await engine.begin(await engine.publish(CALL))
    await engine.service.wait_run(run, 30)
    assert (await engine.store.get_run(run)).record.state == "RUNNING"
    waiting = [asyncio.create_task(engine.service.wait_run(run, 60_000)) for _ in range(5)]
    await engine.until("/call")
    engine.target.release("/call")
    await asyncio.wait_for(asyncio.gather(*waiting), 10)
    assert (await engine.store.get_run(run)).record.state == "SUCCEEDED"
    await engine.service.wait_run(run, 60_000)
    with pytest.raises(NotFound):
        await engine.service.wait_run("call#9", 10)


# ---- shutting down


async def test_a_stop_releases_what_runs_and_the_next_process_sends_it_again(tmp_path: Path, target: Target) -> None:
    target.answer("/call", Answer(hold=True), Answer())
    async with running_engine(tmp_path, target) as engine:
        run = await engine.begin(await engine.publish(CALL))
        await engine.until("/call")
        engine.service.stop()
        with pytest.raises(ShuttingDown):
            await engine.begin("call")
        with pytest.raises(ShuttingDown):
            await engine.service.start_runs(StartRequest("call"), [{}])
    async with running_engine(tmp_path, target) as engine:
        assert (await engine.end(run)).record.state == "SUCCEEDED"
        rows = await engine.rows(run)
        assert attempts(rows) == [("call", 1, "LOST", "RELEASED"), ("call", 2, "SUCCEEDED", None)]
        assert [step.crashes for step in rows.steps] == [0]
        assert target.keys() == [f"{run}/call"] * 2


async def test_a_stop_lets_attempts_end_and_begins_none(tmp_path: Path, target: Target) -> None:
    target.answer("/first", Answer(hold=True))
    async with running_engine(tmp_path, target) as engine:
        await engine.publish(
            "name: two\nsteps:\n  - {id: first, http: {url: URL/first}}\n  - {id: second, http: {url: URL/second}}\n"
        )
        run = await engine.begin("two")
        await engine.until("/first")
        stopping = asyncio.create_task(engine.executor.stop(10, 1))
        await asyncio.sleep(0)
        target.release("/first")
        await stopping
        rows = await engine.rows(run)
        assert states(rows) == {"first": "SUCCEEDED", "second": "QUEUED"}
        assert (rows.run.record.owner, target.keys("/second")) == (None, [])
    async with running_engine(tmp_path, target) as engine:
        assert (await engine.end(run)).record.state == "SUCCEEDED"
        assert target.keys() == [f"{run}/first", f"{run}/second"]


async def test_a_run_whose_start_is_being_stored_while_the_engine_stops_is_released(
    tmp_path: Path, target: Target
) -> None:
    async with running_engine(tmp_path, target) as engine:
        await engine.publish(CALL)
        held = engine.faults.hold("start_run", "after")
        asked = asyncio.create_task(engine.service.start_run(StartRequest("call")))
        await held.reached.wait()
        engine.service.stop()
        await engine.timers.stop()
        await engine.executor.stop(0, 1)
        held.let_go()
        run = (await asked).id
        await engine.drivers.drain(5)
        assert attempts(await engine.rows(run)) == [("call", 1, "LOST", "RELEASED")]
        assert target.keys() == []
    async with running_engine(tmp_path, target) as engine:
        assert (await engine.end(run)).record.state == "SUCCEEDED"
