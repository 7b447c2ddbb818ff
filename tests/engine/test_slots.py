"""Who may begin an attempt, and in which order. The slow poll is a minute away: whoever waits for it hangs."""

from __future__ import annotations

import asyncio

import pytest

from taskforge.engine.starting import StartRequest
from tests.engine.engine import Engine, states
from tests.support.target import Answer

CALL = """
name: {name}
steps: [{{id: call, http: {{method: POST, url: URL/{name}}}, retry: {{initial: 30ms, jitter: none}}}}]
"""
ONE_SLOT = pytest.mark.parametrize("engine", [{"slots": 1}], indirect=True)


async def begin(engine: Engine, *names: str) -> list[str]:
    return [await engine.begin(name) for name in names]


async def publish(engine: Engine, *names: str) -> None:
    for name in names:
        await engine.publish(CALL.format(name=name))


@pytest.mark.parametrize("engine", [{"slots": 3}], indirect=True)
async def test_no_more_attempts_run_than_there_are_slots_and_every_run_gets_one(engine: Engine) -> None:
    await publish(engine, "call")
    engine.target.answer("/call", Answer(hold=True))
    runs = await begin(engine, *["call"] * 10)
    await engine.until("/call", 3)
    for done in (3, 6, 9):
        assert len(engine.target.keys()) == done
        assert engine.executor.in_flight == 3 or done == 9
        queued = [run for run in runs if states(await engine.rows(run)) == {"call": "QUEUED"}]
        assert queued == runs[done:]
        engine.target.release("/call")
        await engine.until("/call", min(done + 3, 10))
    engine.target.release("/call")
    for run in runs:
        assert (await engine.end(run)).record.state == "SUCCEEDED"
    assert engine.target.keys() == [f"{run}/call" for run in runs]
    assert (engine.executor.in_flight, len(engine.drivers)) == (0, 0)


@ONE_SLOT
async def test_a_new_run_does_not_overtake_those_that_wait(engine: Engine) -> None:
    await publish(engine, "first", "second", "third", "late")
    for name in ("first", "second", "third", "late"):
        engine.target.answer(f"/{name}", Answer(hold=True))
    runs = await begin(engine, "first", "second", "third")
    await engine.until("/first")
    # The slot is free, and those who wait are being taken up: the worst moment for them.
    taking = engine.faults.hold("lease_steps")
    engine.target.release("/first")
    await taking.reached.wait()
    assert engine.executor.free == 1
    runs += await begin(engine, "late")
    taking.let_go()
    await engine.until("/second")
    engine.target.release("/second")
    await engine.until("/third")
    assert engine.target.keys("/late") == []
    engine.target.release("/third")
    await engine.until("/late")
    engine.target.release("/late")
    for run in runs:
        await engine.end(run)


@ONE_SLOT
@pytest.mark.parametrize("has_rival", [False, True])
async def test_a_retry_that_came_due_while_all_slots_were_taken_gets_the_next_one(
    engine: Engine, has_rival: bool
) -> None:
    await publish(engine, "retried", "long", "late")
    engine.target.answer("/retried", Answer(503, hold=True), Answer(hold=True))
    engine.target.answer("/long", Answer(hold=True))
    retried = await engine.begin("retried")
    await engine.until("/retried")
    paused = engine.faults.hold("finish_attempt", "after")
    engine.target.release("/retried")
    await paused.reached.wait()
    long = await engine.begin("long")
    paused.let_go()
    await engine.until("/long")
    due = (await engine.rows(retried)).run.record.due_at
    assert due is not None
    while engine.clock.now() <= due + 20:
        await asyncio.sleep(0.005)
    engine.target.release("/long")
    # A new run that comes in this moment does not overtake it.
    late = await engine.begin("late") if has_rival else None
    await engine.until("/retried", 2)
    assert engine.target.keys("/late") == []
    engine.target.release("/retried")
    for run in (retried, long, late):
        assert run is None or (await engine.end(run)).record.state == "SUCCEEDED"


@ONE_SLOT
async def test_higher_priority_goes_first_then_who_came_first(engine: Engine) -> None:
    await publish(engine, "call")
    engine.target.answer("/call", Answer(hold=True), Answer())
    first = await engine.begin("call")
    await engine.until("/call")
    others = [(await engine.begin("call", priority=priority)) for priority in (0, 5, -3, 5, 0)]
    engine.target.release("/call")
    for run in others:
        await engine.end(run)
    order = [first, others[1], others[3], others[0], others[4], others[2]]
    assert engine.target.keys() == [f"{run}/call" for run in order]


@ONE_SLOT
async def test_the_slot_of_a_step_goes_to_the_next_step_of_its_run(engine: Engine) -> None:
    await engine.publish("name: two\nsteps:\n  - {id: a, http: {url: URL/a}}\n  - {id: b, http: {url: URL/b}}\n")
    runs = await begin(engine, "two", "two")
    for run in runs:
        await engine.end(run)
    first, second = runs
    assert engine.target.keys() == [f"{first}/a", f"{first}/b", f"{second}/a", f"{second}/b"]


@ONE_SLOT
async def test_cancelling_those_who_wait_leaves_the_way_free(engine: Engine) -> None:
    await publish(engine, "held", "waits", "next")
    engine.target.answer("/held", Answer(hold=True))
    held, waits = await begin(engine, "held", "waits")
    await engine.until("/held")
    await engine.service.cancel_run(waits)
    engine.target.release("/held")
    await engine.end(held)
    while engine.executor.backlog:
        await asyncio.sleep(0)
    # New runs begin at once again, without being taken up first.
    before = engine.faults.calls["lease_steps"]
    await engine.end(await engine.begin("next"))
    await engine.end(await engine.begin("next"))
    assert engine.faults.calls["lease_steps"] == before
    assert engine.target.keys("/waits") == []


@pytest.mark.parametrize("engine", [{"slots": 4}], indirect=True)
async def test_many_more_runs_than_slots_all_end_without_a_poll(engine: Engine) -> None:
    await engine.publish(
        "name: three\nsteps:\n"
        + "".join(f"  - {{id: s{n}, http: {{url: URL/s{n}}}, retry: {{initial: 1ms}}}}\n" for n in range(3))
    )
    engine.target.answer("/s1", Answer(503), Answer(), Answer(), Answer(503), Answer())
    started = await engine.service.start_runs(StartRequest("three"), [{}] * 300)
    for one in started:
        assert (await engine.end(one.id)).record.state == "SUCCEEDED"
    assert (engine.executor.in_flight, len(engine.drivers)) == (0, 0)
    keys = engine.target.keys()
    assert len(set(keys)) == 900
    assert len(keys) == 902
