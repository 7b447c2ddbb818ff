"""`$state` of workflows, the state of rate limits, and the ending of a run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from taskforge.core import events as ev
from taskforge.core.decide import decide
from taskforge.core.errors import LeaseLost, NotFound
from taskforge.core.jsontext import dumps
from taskforge.core.model import RateLimit
from taskforge.core.snapshot import Changes, RunSnapshot
from tests.store.backends import Backend
from tests.store.desk import Desk
from tests.support.plans import CALL, ONE_CALL, THREE_GIVES, plan, step

DAY = 24 * 3_600_000

# ---- get_state, set_state


async def put(
    desk: Desk, key: str, value: str | None, writer: str = "w1", expected: str | None = None, *, compare: bool = False
) -> bool:
    return await desk.store.set_state("flow", key, value, writer, expected, compare, desk.clock.now())


async def test_a_workflow_that_stored_nothing_has_no_state(desk: Desk) -> None:
    assert await desk.store.get_state("flow") == await desk.store.get_state("nobody") == {}


async def test_values_are_kept_by_workflow_and_key(desk: Desk, backend: Backend) -> None:
    await desk.publish("other")
    assert await put(desk, "b", "1") and await put(desk, "a", '{"x":"é"}')
    assert await desk.store.set_state("other", "a", "3", "w", None, False, 1)
    desk.store = await backend.reopen()
    assert await desk.store.get_state("flow") == {"a": '{"x":"é"}', "b": "1"}
    assert await desk.store.get_state("other") == {"a": "3"}


async def test_a_value_is_replaced_and_removed(desk: Desk) -> None:
    assert await put(desk, "a", "1") and await put(desk, "a", "2", "w2")
    assert await desk.store.get_state("flow") == {"a": "2"}
    assert await put(desk, "a", None, "w3")
    assert await desk.store.get_state("flow") == {}
    assert await put(desk, "a", "4", "w4", None, compare=True)
    assert await desk.store.get_state("flow") == {"a": "4"}


@pytest.mark.parametrize("current", [None, "1", "2"])
@pytest.mark.parametrize("expected", [None, "1", "2"])
@pytest.mark.parametrize("value", [None, "1", "3"])
async def test_a_comparison_writes_only_over_what_was_expected(
    desk: Desk, backend: Backend, current: str | None, expected: str | None, value: str | None
) -> None:
    await put(desk, "a", current, "w0")
    before = backend.dump()
    done = await put(desk, "a", value, "w1", expected, compare=True)
    assert done is (current == expected)
    left = value if done else current
    assert await desk.store.get_state("flow") == ({} if left is None else {"a": left})
    if not done:
        assert backend.dump() == before


@pytest.mark.parametrize("value", ["2", None])
async def test_a_writer_that_comes_again_after_a_crash_has_written(
    desk: Desk, backend: Backend, value: str | None
) -> None:
    """Its first write was stored, but it died before it knew."""
    await put(desk, "a", "1", "w0")
    assert await put(desk, "a", value, "w1", "1", compare=True)
    before = backend.dump()
    desk.clock.advance(1_000)
    assert await put(desk, "a", value, "w1", "1", compare=True)
    assert await put(desk, "a", value, "w1")
    assert backend.dump() == before
    assert await put(desk, "a", value, "w2", "1", compare=True) is False


async def test_of_many_that_compare_at_once_one_wins(desk: Desk) -> None:
    await put(desk, "a", "0", "w0")
    done = await asyncio.gather(*(put(desk, "a", str(n + 1), f"w{n + 1}", "0", compare=True) for n in range(20)))
    assert sorted(done) == [False] * 19 + [True]
    assert await desk.store.get_state("flow") == {"a": str(done.index(True) + 1)}


async def test_an_unknown_workflow_has_no_state_to_write(desk: Desk, backend: Backend) -> None:
    before = backend.dump()
    with pytest.raises(NotFound):
        await desk.store.set_state("nobody", "a", "1", "w", None, False, 1)
    assert backend.dump() == before


async def test_state_outlives_runs_versions_and_the_deletion_of_the_workflow(desk: Desk) -> None:
    await put(desk, "a", "1")
    await desk.start()
    await desk.store.publish_workflow("flow", "{}", "", "json", None, 1)
    await desk.store.delete_workflow("flow", desk.clock.now())
    desk.clock.advance(1_000)
    assert await desk.store.prune_runs(desk.clock.now(), 10) == 1
    assert await put(desk, "b", "2")
    assert await desk.store.get_state("flow") == {"a": "1", "b": "2"}


# ---- rates

LIMITED = plan(step("call", CALL, {"key": "k", "config": {}}, rate_limit=RateLimit(1, 60_000)))
KEY = 'flow/call/"k"'


async def test_a_rate_limit_is_stored_with_the_attempt_that_uses_it(desk: Desk, backend: Backend) -> None:
    assert await desk.store.list_rates() == {}
    await desk.start(LIMITED)
    assert await desk.store.list_rates() == {KEY: desk.clock.now()}
    late = await desk.start(LIMITED)
    assert late.due_at == desk.clock.now() + 60_000
    desk.store = await backend.reopen()
    assert await desk.store.list_rates() == {KEY: desk.clock.now() + 60_000}


async def test_a_decision_that_is_refused_uses_nothing(desk: Desk, backend: Backend) -> None:
    run = await desk.start(ONE_CALL)
    changes = decide(run, [ev.CancelAsked()], desk.context())
    changes.rates = {"k": 5}
    changes.revision += 1
    before = backend.dump()
    with pytest.raises(LeaseLost):
        await desk.store.cancel_run(changes)
    assert backend.dump() == before


async def test_a_rates_time_goes_forward_only_in_whatever_order_decisions_are_stored(desk: Desk) -> None:
    for arrival in (50, 90, 70):
        new, _, changes = desk.begin(ONE_CALL)
        changes.rates = {"k": arrival, f"only-{arrival}": arrival}
        await desk.store.start_run(new, changes)
    assert await desk.store.list_rates() == {"k": 90, "only-50": 50, "only-70": 70, "only-90": 90}


@pytest.mark.parametrize("way", ["prune_runs", "register_node"])
async def test_what_has_meant_nothing_for_a_day_is_forgotten(desk: Desk, way: str) -> None:
    now = desk.clock.now()
    new, _, changes = desk.begin(THREE_GIVES)
    changes.rates = {"old": now - DAY - 1, "day": now - DAY, "new": now + 60_000}
    await desk.store.start_run(new, changes)
    if way == "prune_runs":
        assert await desk.store.prune_runs(now, 10) == 0
    else:
        await desk.store.register_node("node_b", "{}", now)
    assert set(await desk.store.list_rates()) == {"day", "new"}


# ---- the ending of a run


def ending(size: int) -> str:
    return dumps({"state": "SUCCEEDED", "output": "x" * size, "error": None, "phase": "finally"})


def touch(run: RunSnapshot, desk: Desk, **fields: Any) -> Changes:
    changes = Changes(run.key, run.revision, desk.clock.now(), decide(run, [], desk.context()).run)
    changes.run = changes.run._replace(**fields)
    run.revision += 1
    return changes


@pytest.mark.parametrize("size", [0, 500, 700, 900, 5_000, 500_000])
async def test_an_ending_of_any_size_comes_back_as_it_was_and_goes_with_the_end(
    desk: Desk, backend: Backend, size: int
) -> None:
    run = await desk.start(ONE_CALL)
    for _ in range(2):
        await desk.store.advance_run(touch(run, desk, ending=ending(size)))
        assert (await desk.rows(run)).run.record.ending == ending(size)
    output = dumps("x" * size)
    changes = decide(await desk.load(run), [ev.CancelAsked()], desk.context())
    changes.run = changes.run._replace(output=output, ending=None)
    await desk.store.cancel_run(changes)
    record = (await desk.rows(run)).run.record
    assert (record.output, record.ending) == (output, None)
    assert [row for row in backend.dump()["outputs"] if row[2] == "ending"] == []


async def test_a_large_ending_and_a_large_output_do_not_mix_up(desk: Desk) -> None:
    run = await desk.start(ONE_CALL, input=dumps({"in": "i" * 3_000}))
    await desk.store.advance_run(touch(run, desk, ending=ending(2_000), output=dumps("o" * 1_500)))
    row = (await desk.rows(run)).run
    assert (row.record.ending, row.record.output) == (ending(2_000), dumps("o" * 1_500))
    await desk.store.advance_run(touch(run, desk, ending=ending(1), output=None))
    row = (await desk.rows(run)).run
    assert (row.record.ending, row.record.output) == (ending(1), None)
    assert row.input == dumps({"in": "i" * 3_000})


async def test_what_runs_around_a_step_comes_back(desk: Desk) -> None:
    """`stage`, `undone` and the rest of what a decision says of a step and its run."""
    run = await desk.start(ONE_CALL)
    changes = touch(run, desk, undone=1)
    (row,) = (await desk.rows(run)).steps
    changes.steps.append(row._replace(stage="catch"))
    await desk.store.advance_run(changes)
    rows = await desk.rows(run)
    assert rows.steps == changes.steps and rows.run.record == changes.run
    changes = touch(run, desk)
    changes.steps.append(row._replace(stage=None))
    await desk.store.advance_run(changes)
    assert (await desk.rows(run)).steps == changes.steps
