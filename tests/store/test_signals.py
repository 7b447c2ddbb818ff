"""Signals: kept until the run takes them, each taken once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from taskforge.core import events as ev
from taskforge.core.decide import decide
from taskforge.core.errors import LeaseLost
from taskforge.core.model import JSON
from taskforge.core.snapshot import Changes, RunSnapshot, SignalRecord
from tests.store.backends import Backend
from tests.store.desk import Desk
from tests.support.plans import CALL, ONE_CALL, THREE_GIVES, WAIT, WAITING, plan, step

TWICE = plan(step("call", CALL), step("one", WAIT, {"signal": "go"}), step("two", WAIT, {"signal": "go"}))
SIZES = [0, 700, 900, 5_000, 200_000]


async def send(desk: Desk, run: RunSnapshot, name: str = "go", data: JSON = None) -> Changes:
    event = ev.SignalSent(desk.clock.new_id("sig"), name, data)
    return await desk.apply(desk.store.send_signal, run, event)


async def kept(desk: Desk, run: RunSnapshot) -> list[str]:
    return [sent.name for sent in (await desk.rows(run)).signals]


async def test_a_signal_that_comes_early_is_kept_and_taken_when_its_time_has_come(desk: Desk, backend: Backend) -> None:
    run = await desk.start(TWICE)
    await send(desk, run, data={"n": 1})
    (stored,) = (await desk.rows(run)).signals
    assert stored == SignalRecord(stored.id, "go", '{"n":1}', desk.clock.now())
    changes = await desk.succeed(run)
    assert changes.signals_taken == [stored.id]
    assert await kept(desk, run) == []
    assert backend.dump()["signals"] == []
    again = await desk.load(run)
    assert again.steps["one"].output == {"n": 1} and again.steps["two"].state == "WAITING"


async def test_a_signal_that_somebody_waits_for_is_never_stored(desk: Desk, backend: Backend) -> None:
    run = await desk.start(WAITING)
    assert (run.state, run.owner) == ("WAITING", None)
    changes = await send(desk, run, data=7)
    assert (changes.signals, changes.signals_taken) == ([], [])
    assert backend.dump()["signals"] == []
    assert (await desk.load(run)).state == "SUCCEEDED"


async def test_signals_come_back_in_the_order_in_which_they_were_sent(desk: Desk, backend: Backend) -> None:
    run, other = await desk.start(ONE_CALL), await desk.start(ONE_CALL)
    for name in ["c", "a", "b", "a"]:
        await send(desk, run, name)
        await send(desk, other, f"other-{name}")
    assert await kept(desk, run) == ["c", "a", "b", "a"]
    desk.store = await backend.reopen()
    assert await kept(desk, run) == ["c", "a", "b", "a"]


async def test_those_of_one_name_are_taken_one_by_one_oldest_first(desk: Desk) -> None:
    run = await desk.start(TWICE)
    for number in range(3):
        await send(desk, run, data=number)
    await desk.succeed(run)
    stored = await desk.load(run)
    assert [stored.steps[path].output for path in ("one", "two")] == [0, 1]
    assert stored.state == "SUCCEEDED"
    assert [sent.data for sent in (await desk.rows(run)).signals] == ["2"]


@pytest.mark.parametrize("size", SIZES)
async def test_data_of_any_size_comes_back_as_it_was_and_leaves_nothing(
    desk: Desk, backend: Backend, size: int
) -> None:
    run = await desk.start(TWICE)
    await send(desk, run, data="é" * size)
    assert run.signals == (await desk.rows(run)).signals
    by_ref = await desk.store.get_run_rows(run.id)
    assert by_ref.signals == run.signals
    await desk.succeed(run)
    rows = backend.dump()
    assert rows["signals"] == []
    assert [row for row in rows["outputs"] if row[2] == "signal"] == []
    assert (await desk.load(run)).steps["one"].output == "é" * size


async def test_large_data_is_compressed(desk: Desk, backend: Backend) -> None:
    run = await desk.start(TWICE)
    await send(desk, run, data="x" * 100_000)
    (row,) = [row for row in backend.dump()["outputs"] if row[2] == "signal"]
    assert row[3] == "zlib" and len(row[4]) < 1_000


async def test_signals_are_deleted_with_their_run(desk: Desk, backend: Backend) -> None:
    run = await desk.start(ONE_CALL)
    await send(desk, run, data="x" * 5_000)
    await send(desk, run, "small")
    await desk.succeed(run)
    assert await kept(desk, run) == ["go", "small"]
    desk.clock.advance(1_000)
    assert await desk.store.prune_runs(desk.clock.now(), 10) == 1
    rows = backend.dump()
    assert rows["signals"] == rows["outputs"] == []


async def test_what_was_kept_is_there_after_a_retry(desk: Desk) -> None:
    run = await desk.start(TWICE)
    await send(desk, run, data=1)
    await desk.fail(run, error_class=None)
    assert await kept(desk, run) == ["go"]
    await desk.apply(desk.store.retry_run, run, ev.RetryAsked())
    await desk.succeed(run)
    assert (await desk.load(run)).steps["one"].output == 1


async def test_a_run_that_ends_in_the_decision_keeps_no_signal_of_it(desk: Desk, backend: Backend) -> None:
    run = await desk.start(ONE_CALL)
    changes = decide(run, [ev.SignalSent("sig_1", "go", "x" * 5_000), ev.CancelAsked()], desk.context())
    assert changes.signals
    await desk.store.cancel_run(changes)
    rows = backend.dump()
    assert rows["signals"] == rows["outputs"] == []


# ---- every state that a run can be in


async def running(desk: Desk) -> RunSnapshot:
    return await desk.start(ONE_CALL)


async def delayed(desk: Desk) -> RunSnapshot:
    return await desk.start(start_at=desk.clock.now() + 60_000)


async def retrying(desk: Desk) -> RunSnapshot:
    run = await running(desk)
    await desk.fail(run)
    return run


async def waiting_for_another(desk: Desk) -> RunSnapshot:
    return await desk.start(plan(step("wait", WAIT, {"signal": "other"})))


async def waiting_for_a_time(desk: Desk) -> RunSnapshot:
    return await desk.start(plan(step("wait", WAIT, {"signal": "other", "for_ms": 1_000})))


LIVE = [running, delayed, retrying, waiting_for_another, waiting_for_a_time]


@pytest.mark.parametrize("arrive", LIVE, ids=lambda state: state.__name__)
async def test_a_live_run_keeps_a_signal_and_goes_on_as_before(
    desk: Desk, arrive: Callable[[Desk], Awaitable[RunSnapshot]]
) -> None:
    run = await arrive(desk)
    before = await desk.load(run)
    await send(desk, run)
    after = await desk.load(run)
    assert [sent.name for sent in after.signals] == ["go"]
    assert (after.state, after.owner, after.due_at) == (before.state, before.owner, before.due_at)
    assert after.revision == before.revision + 1


@pytest.mark.parametrize("arrive", LIVE, ids=lambda state: state.__name__)
@pytest.mark.parametrize("distance", [-1, 1])
async def test_a_signal_on_another_revision_changes_nothing(
    desk: Desk, backend: Backend, arrive: Callable[[Desk], Awaitable[RunSnapshot]], distance: int
) -> None:
    run = await arrive(desk)
    changes = decide(run, [ev.SignalSent("sig_1", "go", "x" * 5_000)], desk.context())
    changes.revision += distance
    before = backend.dump()
    with pytest.raises(LeaseLost):
        await desk.store.send_signal(changes)
    assert backend.dump() == before


async def test_a_run_that_has_ended_keeps_nothing(desk: Desk, backend: Backend) -> None:
    run = await desk.start(THREE_GIVES)
    changes = decide(run, [ev.SignalSent("sig_1", "go", 1)], desk.context())
    assert changes.is_empty
    changes.signals.append(SignalRecord("sig_1", "go", "1", 1))
    await desk.store.send_signal(changes)
    assert backend.dump()["signals"] == []


async def test_a_signal_is_taken_once(desk: Desk, backend: Backend) -> None:
    """The revision says it; the row says it again."""
    run = await desk.start(TWICE)
    await send(desk, run)
    taken = await desk.succeed(run)
    again = decide(run, [ev.SignalSent("sig_9", "other", 1)], desk.context())
    again.signals_taken = list(taken.signals_taken)
    before = backend.dump()
    with pytest.raises(LeaseLost, match="taken before"):
        await desk.store.send_signal(again)
    assert backend.dump() == before


async def test_many_senders_at_once_lose_nothing(desk: Desk) -> None:
    """Who is refused loads the run and decides again, as the engine does."""
    run = await desk.start(ONE_CALL)

    async def sender(number: int) -> None:
        while True:
            mine = await desk.load(run)
            try:
                await send(desk, mine, data=number)
            except LeaseLost:
                continue
            return

    await asyncio.gather(*(sender(number) for number in range(12)))
    stored: list[Any] = [int(sent.data) for sent in (await desk.rows(run)).signals]
    assert sorted(stored) == list(range(12))
