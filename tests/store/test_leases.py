"""Who takes which run: `lease_steps`, `release_run`, `renew_leases`, `next_due`."""

from __future__ import annotations

import asyncio

import pytest

from taskforge.core import events as ev
from taskforge.core.errors import LeaseLost, NotFound
from tests.store.backends import Backend
from tests.store.desk import LEASE_MS, Desk
from tests.support.plans import CALL_THEN_GIVE, ONE_CALL, THREE_GIVES


async def waiting(desk: Desk, delay: int, priority: int = 0) -> int:
    """A run that becomes due after `delay`; returns its key."""
    return (await desk.start(start_at=desk.clock.now() + delay, priority=priority)).key


async def test_a_due_run_is_taken_with_all_its_rows(desk: Desk) -> None:
    run = await desk.start(CALL_THEN_GIVE)
    await desk.fail(run)
    desk.clock.advance(1_000)
    (rows,) = await desk.store.lease_steps("node_b", desk.clock.now(), 10)
    assert rows.run.key == run.key and rows.run.revision == run.revision + 1
    assert (rows.run.record.owner, rows.run.record.due_at) == ("node_b", None)
    assert [at.path for at in rows.steps] == ["call"] and [at.state for at in rows.attempts] == ["FAILED"]


async def test_nothing_is_taken_before_it_is_due(desk: Desk, backend: Backend) -> None:
    await waiting(desk, 1_000)
    before = backend.dump()
    desk.clock.advance(999)
    assert await desk.store.lease_steps("node_b", desk.clock.now(), 10) == []
    assert backend.dump() == before
    desk.clock.advance(1)
    assert len(await desk.store.lease_steps("node_b", desk.clock.now(), 10)) == 1


async def test_a_run_that_is_held_or_has_ended_is_not_taken(desk: Desk) -> None:
    await desk.start(ONE_CALL)
    await desk.start(THREE_GIVES)
    desk.clock.advance(10**9)
    assert await desk.store.lease_steps("node_b", desk.clock.now(), 10) == []


async def test_runs_are_taken_by_priority_and_then_by_time(desk: Desk) -> None:
    keys = {
        name: await waiting(desk, delay, priority)
        for name, delay, priority in [("a", 30, 0), ("b", 10, 0), ("c", 20, 5), ("d", 5, -5), ("e", 1, 5), ("f", 99, 9)]
    }
    desk.clock.advance(50)
    taken = await desk.store.lease_steps("node_b", desk.clock.now(), 10)
    assert [rows.run.key for rows in taken] == [keys[name] for name in "ecbad"]


async def test_no_more_are_taken_than_asked_for(desk: Desk) -> None:
    keys = [await waiting(desk, 1 + i, priority=i % 3) for i in range(9)]
    desk.clock.advance(100)
    taken: list[int] = []
    for _ in range(3):
        found = await desk.store.lease_steps("node_b", desk.clock.now(), 3)
        assert len(found) == 3
        taken += [rows.run.key for rows in found]
    assert sorted(taken) == keys
    assert await desk.store.lease_steps("node_b", desk.clock.now(), 3) == []


async def test_two_nodes_never_take_the_same_run(desk: Desk) -> None:
    for i in range(60):
        await waiting(desk, 1 + i)
    desk.clock.advance(1_000)
    now = desk.clock.now()
    takes = await asyncio.gather(*(desk.store.lease_steps(f"node_{i % 2}", now, 7) for i in range(20)))
    keys = [rows.run.key for taken in takes for rows in taken]
    assert len(keys) == len(set(keys)) == 60


async def test_a_decision_on_a_run_that_was_taken_away_is_refused(desk: Desk) -> None:
    run = await desk.start(ONE_CALL)
    await desk.fail(run)
    desk.clock.advance(1_000)
    await desk.store.lease_steps("node_b", desk.clock.now(), 10)
    with pytest.raises(LeaseLost):
        await desk.apply(desk.store.advance_run, run, ev.TimePassed())


async def test_next_due_is_the_earliest_over_all_priorities(desk: Desk) -> None:
    assert await desk.store.next_due() is None
    start = desk.clock.now()
    for delay, priority in [(500, 0), (300, -7), (900, 4)]:
        await waiting(desk, delay, priority)
    assert await desk.store.next_due() == start + 300
    desk.clock.advance(400)
    await desk.store.lease_steps("node_b", desk.clock.now(), 10)
    assert await desk.store.next_due() == start + 500


# ---- giving back


async def test_a_run_that_was_taken_can_be_given_back(desk: Desk) -> None:
    await waiting(desk, 1)
    desk.clock.advance(1)
    (rows,) = await desk.store.lease_steps("node_b", desk.clock.now(), 1)
    await desk.store.release_run(rows.run.key, rows.run.revision, desk.clock.now() + 70)
    again = (await desk.store.load_run(rows.run.key)).run
    assert (again.record.owner, again.record.due_at) == (None, desk.clock.now() + 70)
    assert again.revision == rows.run.revision + 1


@pytest.mark.parametrize("distance", [-1, 1])
async def test_a_run_is_not_given_back_on_another_revision(desk: Desk, backend: Backend, distance: int) -> None:
    run = await desk.start(ONE_CALL)
    before = backend.dump()
    with pytest.raises(LeaseLost):
        await desk.store.release_run(run.key, run.revision + distance, desk.clock.now())
    assert backend.dump() == before


async def test_a_run_that_nobody_holds_is_not_given_back(desk: Desk, backend: Backend) -> None:
    ended = await desk.start(THREE_GIVES)
    unowned = await desk.start(start_at=desk.clock.now() + 5)
    before = backend.dump()
    for run in (ended, unowned):
        with pytest.raises(LeaseLost):
            await desk.store.release_run(run.key, run.revision, desk.clock.now())
    assert backend.dump() == before


# ---- renewing


async def test_all_leases_of_an_owner_are_renewed_and_no_others(desk: Desk) -> None:
    mine = [await desk.start(ONE_CALL) for _ in range(3)]
    ended = await desk.start(ONE_CALL)
    await desk.succeed(ended)
    desk.owner = "node_b"
    theirs = await desk.start(ONE_CALL)
    desk.clock.advance(10_000)
    until = desk.clock.now() + LEASE_MS
    assert await desk.store.renew_leases("node_a", until) == 3
    for run in mine:
        assert (await desk.rows(run)).attempts[0].record.lease_expires_at == until
    for run in (ended, theirs):
        assert (await desk.rows(run)).attempts[0].record.lease_expires_at == until - 10_000


async def test_an_owner_without_leases_renews_none(desk: Desk, backend: Backend) -> None:
    await desk.start(ONE_CALL)
    before = backend.dump()
    assert await desk.store.renew_leases("node_x", 1) == 0
    assert backend.dump() == before


async def test_loading_a_run_that_is_not_there_is_not_found(desk: Desk) -> None:
    with pytest.raises(NotFound):
        await desk.store.load_run(1)
