"""Holding back: `set_hold`, `list_holds`, and what `lease_steps` and `next_due` leave alone."""

from __future__ import annotations

import pytest

from taskforge.core import events as ev
from taskforge.core.errors import NotFound
from tests.store.backends import Backend
from tests.store.desk import Desk
from tests.support.plans import CALL, ONE_CALL, plan, step

OTHER = plan(step("call", CALL), name="other")


async def due(desk: Desk, which: str = "flow", delay: int = 1, priority: int = 0, slots: int = 64) -> int:
    """A run that becomes due after `delay`; without slots it is due at once and needs one."""
    start_at = None if slots == 0 else desk.clock.now() + delay
    run = await desk.start(ONE_CALL if which == "flow" else OTHER, start_at=start_at, priority=priority, slots=slots)
    return run.key


async def taken(desk: Desk, limit: int = 10, *, slots: bool = True, held: tuple[str, ...] = ()) -> list[int]:
    rows = await desk.store.lease_steps("node_b", desk.clock.now(), limit, slots=slots, held=held)
    return [found.run.key for found in rows]


# ---- which workflows are held


async def test_a_held_workflow_is_listed_until_it_is_let_go_on(desk: Desk, backend: Backend) -> None:
    await desk.publish("other")
    assert await desk.store.list_holds() == []
    await desk.store.set_hold("other", True, 1)
    await desk.store.set_hold(None, True, 2)
    await desk.store.set_hold("flow", True, 3)
    assert await desk.store.list_holds() == ["*", "flow", "other"]
    desk.store = await backend.reopen()
    await desk.store.set_hold(None, False, 4)
    assert await desk.store.list_holds() == ["flow", "other"]
    await desk.store.set_hold("flow", False, 5)
    assert await desk.store.list_holds() == ["other"]


@pytest.mark.parametrize("workflow", ["flow", None])
@pytest.mark.parametrize("held", [True, False])
async def test_what_is_so_already_changes_nothing(
    desk: Desk, backend: Backend, workflow: str | None, held: bool
) -> None:
    await desk.store.set_hold(workflow, held, 1)
    before = backend.dump()
    await desk.store.set_hold(workflow, held, 2)
    assert backend.dump() == before


@pytest.mark.parametrize("name", ["nobody", "*", ""])
@pytest.mark.parametrize("held", [True, False])
async def test_an_unknown_workflow_is_not_found_and_changes_nothing(
    desk: Desk, backend: Backend, name: str, held: bool
) -> None:
    await desk.store.set_hold(None, True, 1)
    before = backend.dump()
    with pytest.raises(NotFound):
        await desk.store.set_hold(name, held, 1)
    assert backend.dump() == before


async def test_a_workflow_that_was_deleted_while_held_can_be_let_go_on_and_not_held_again(desk: Desk) -> None:
    await desk.store.set_hold("flow", True, 1)
    await desk.store.delete_workflow("flow", 2)
    assert await desk.store.list_holds() == ["flow"]
    await desk.store.set_hold("flow", False, 3)
    assert await desk.store.list_holds() == []
    with pytest.raises(NotFound):
        await desk.store.set_hold("flow", True, 4)


# ---- what is taken


async def test_runs_of_held_workflows_are_left_alone_and_others_taken(desk: Desk, backend: Backend) -> None:
    await desk.publish("other")
    mine, theirs = await due(desk, priority=9), await due(desk, "other", delay=5)
    now = desk.clock.now()
    assert await desk.store.next_due(held=("flow",)) == now + 5
    assert await desk.store.next_due(held=("flow", "other")) is None
    assert await desk.store.next_due(held=("*",)) is None
    desk.clock.advance(10)
    before = backend.dump()
    assert await taken(desk, held=("flow", "other")) == await taken(desk, held=("*",)) == []
    assert backend.dump() == before
    assert await taken(desk, held=("flow", "unknown")) == [theirs]
    assert await taken(desk) == [mine]


async def test_held_runs_do_not_hide_those_behind_them(desk: Desk) -> None:
    await desk.publish("other")
    for _ in range(20):
        await due(desk, priority=1)
        await due(desk)
    last = await due(desk, "other", delay=50)
    desk.clock.advance(100)
    assert await taken(desk, 3, held=("flow",)) == [last]


async def test_without_slots_only_runs_that_need_none_are_taken(desk: Desk) -> None:
    needing = await due(desk, slots=0)
    assert await desk.store.next_due() == desk.clock.now()
    assert await desk.store.next_due(slots=False) is None
    free = await due(desk, delay=5)
    assert await desk.store.next_due(slots=False) == desk.clock.now() + 5
    desk.clock.advance(5)
    assert await taken(desk, slots=False) == [free]
    assert await taken(desk, slots=False) == []
    assert await taken(desk) == [needing]


async def test_those_that_need_a_slot_and_those_that_do_not_are_taken_in_one_order(desk: Desk) -> None:
    keys = []
    for priority, slots in [(0, 64), (0, 0), (5, 0), (5, 64), (0, 0), (-1, 64), (5, 0)]:
        keys.append(await due(desk, priority=priority, slots=slots))
        desk.clock.advance(10)
    assert await taken(desk, 4) == [keys[index] for index in (2, 3, 6, 0)]
    assert await taken(desk) == [keys[index] for index in (1, 4, 5)]


async def test_runs_due_at_the_same_time_are_taken_oldest_first(desk: Desk) -> None:
    await desk.publish("other")
    keys = [await due(desk, which) for which in ("other", "flow", "other", "flow", "flow")]
    desk.clock.advance(10)
    assert await taken(desk) == keys


async def test_a_suspect_is_taken_up_with_the_same_choice(desk: Desk) -> None:
    run = await desk.start(ONE_CALL)
    for _ in range(3):
        await desk.store.rescue_leases([desk.owner], desk.clock.now())
        if not (await desk.load(run)).suspect:
            run = await desk.take_up(ONE_CALL)
    assert (await desk.load(run)).suspect
    now, store = desk.clock.now(), desk.store
    assert await store.next_due(suspects=True, held=("flow",)) is None
    assert await store.next_due(suspects=True, held=("*",)) is None
    assert await store.lease_steps("node_b", now, 9, suspects=True, held=("flow",)) == []
    assert await store.lease_steps("node_b", now, 9, suspects=True, held=("*",)) == []
    assert await store.next_due(suspects=True, slots=False, held=("other",)) == now
    assert len(await store.lease_steps("node_b", now, 9, suspects=True, slots=False)) == 1


async def test_whether_a_run_needs_a_slot_is_as_its_last_decision_says(desk: Desk) -> None:
    run = await desk.start(ONE_CALL, slots=0)
    assert (await desk.rows(run)).run.record.needs_slot == 1
    await desk.take_up(ONE_CALL)
    assert (await desk.rows(run)).run.record.needs_slot == 0
    await desk.apply(desk.store.cancel_run, await desk.load(run), ev.CancelAsked())
    assert (await desk.rows(run)).run.record.needs_slot == 0
