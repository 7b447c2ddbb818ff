"""Child runs: who waits for whom, who has been told, and what is left over after a crash."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from taskforge.core import events as ev
from taskforge.core.decide import decide
from taskforge.core.errors import LeaseLost
from taskforge.core.jsontext import dumps
from taskforge.core.model import Plan
from taskforge.core.snapshot import RunSnapshot
from tests.store.backends import Backend
from tests.store.desk import Desk
from tests.support.plans import CALL, ONE_CALL, THREE_GIVES, WAIT, WAITING, plan, step

PARENT = plan(step("child", WAIT, {"signal": "!child:child~1"}), step("after", CALL))


async def child_of(desk: Desk, parent: RunSnapshot, which: Plan = ONE_CALL, *, waits: bool = True) -> RunSnapshot:
    link: dict[str, object] = {"key": parent.key, "run": parent.id, "path": "child", "depth": 1}
    if waits:
        link |= {"signal": "!child:child~1", "places": []}
    return await desk.start(which, parent=dumps(link), parent_key=parent.key)


async def tell(desk: Desk, parent: RunSnapshot, child: RunSnapshot) -> None:
    event = ev.SignalSent(desk.clock.new_id("sig"), "!child:child~1", None, told_child=child.key)
    await desk.apply(desk.store.send_signal, parent, event)


async def cancel(desk: Desk, run: RunSnapshot) -> None:
    await desk.apply(desk.store.cancel_run, run, ev.CancelAsked())


async def seen(desk: Desk, parent: RunSnapshot) -> tuple[list[int], list[int], list[int]]:
    """The children, those that ended untold, and the orphans."""
    store = desk.store
    return await store.list_children(parent.key), await store.list_untold_children(50), await store.list_orphans(50)


async def test_what_started_a_child_comes_back_with_it(desk: Desk) -> None:
    parent = await desk.start(PARENT)
    child = await child_of(desk, parent)
    link = {"key": parent.key, "run": parent.id, "path": "child", "depth": 1, "places": []}
    assert (await desk.load(child)).parent == link | {"signal": "!child:child~1"}
    assert (await desk.store.get_run(parent.id)).parent is None


async def test_a_child_that_is_waited_for_is_listed_until_it_has_ended_and_is_told_of_once(desk: Desk) -> None:
    parent = await desk.start(PARENT)
    children = [await child_of(desk, parent) for _ in range(2)]
    keys = [child.key for child in children]
    assert await seen(desk, parent) == (keys, [], [])
    await desk.succeed(children[0])
    assert await seen(desk, parent) == (keys[1:], keys[:1], [])
    await tell(desk, parent, children[0])
    assert (await desk.load(parent)).steps["child"].state == "SUCCEEDED"
    # The step has ended: what else it started, nobody waits for.
    assert await seen(desk, parent) == (keys[1:], [], keys[1:])


async def test_a_child_that_nobody_waits_for_is_none_of_these(desk: Desk) -> None:
    parent = await desk.start(PARENT)
    child = await child_of(desk, parent, waits=False)
    assert await seen(desk, parent) == ([], [], [])
    await desk.succeed(child)
    await cancel(desk, parent)
    await child_of(desk, parent, waits=False)
    assert await seen(desk, parent) == ([], [], [])


async def test_a_child_that_ends_in_its_first_transaction_is_untold(desk: Desk) -> None:
    parent = await desk.start(PARENT)
    child = await child_of(desk, parent, THREE_GIVES)
    assert await seen(desk, parent) == ([], [child.key], [])


async def test_an_ended_parents_children_are_its_children_still_and_orphans_while_they_go_on(desk: Desk) -> None:
    parent = await desk.start(PARENT)
    ended, live, waiting = [await child_of(desk, parent, which) for which in (THREE_GIVES, ONE_CALL, WAITING)]
    await cancel(desk, parent)
    assert await seen(desk, parent) == ([live.key, waiting.key], [], [live.key, waiting.key])
    await cancel(desk, live)
    await cancel(desk, waiting)
    assert await seen(desk, parent) == ([], [], [])
    assert (await desk.load(ended)).state == "SUCCEEDED"


async def test_other_runs_children_stay_what_they_are_when_a_parent_ends(desk: Desk) -> None:
    parent, other = await desk.start(PARENT), await desk.start(PARENT)
    child = await child_of(desk, other)
    await cancel(desk, parent)
    assert await seen(desk, other) == ([child.key], [], [])


async def test_the_child_of_a_step_that_has_ended_is_an_orphan_though_its_run_goes_on(desk: Desk) -> None:
    limited = step("child", WAIT, {"signal": "!child:child~1"}, timeout_ms=1_000, continue_on_error=True)
    parent = await desk.start(plan(limited, step("after", WAIT, {"signal": "go"})))
    child = await child_of(desk, parent)
    assert await seen(desk, parent) == ([child.key], [], [])
    desk.clock.advance(1_000)
    await desk.apply(desk.store.resume_wait, parent, ev.TakenUp(), ev.TimePassed())
    assert (parent.state, parent.steps["child"].state) == ("WAITING", "FAILED")
    assert await seen(desk, parent) == ([child.key], [], [child.key])
    late = await child_of(desk, parent)
    assert await seen(desk, parent) == ([child.key, late.key], [], [child.key, late.key])
    await cancel(desk, child)
    await cancel(desk, late)
    assert await seen(desk, parent) == ([], [], [])


async def test_a_child_that_begins_after_its_parent_has_ended_is_an_orphan(desk: Desk) -> None:
    """Its start was on its way when the parent was cancelled."""
    parent = await desk.start(PARENT)
    await cancel(desk, parent)
    child = await child_of(desk, parent)
    assert await seen(desk, parent) == ([child.key], [], [child.key])


async def test_a_child_of_a_run_that_is_gone_is_an_orphan(desk: Desk) -> None:
    parent = await desk.start(PARENT)
    first = await child_of(desk, parent)
    await cancel(desk, parent)
    desk.clock.advance(1_000)
    assert await desk.store.prune_runs(desk.clock.now(), 10) == 1
    second = await child_of(desk, parent)
    assert await seen(desk, parent) == ([first.key, second.key], [], [first.key, second.key])


async def test_no_more_are_listed_than_asked_for(desk: Desk) -> None:
    parent, gone = await desk.start(PARENT), await desk.start(PARENT)
    for _ in range(3):
        await child_of(desk, parent, THREE_GIVES)
        await child_of(desk, gone)
    await cancel(desk, gone)
    assert len(await desk.store.list_untold_children(2)) == len(await desk.store.list_orphans(2)) == 2


async def test_a_parent_that_is_retried_has_the_children_of_its_new_generation(desk: Desk) -> None:
    parent = await desk.start(PARENT)
    old = await child_of(desk, parent)
    await cancel(desk, parent)
    await desk.apply(desk.store.retry_run, parent, ev.RetryAsked())
    new = await child_of(desk, parent)
    children, untold, orphans = await seen(desk, parent)
    assert (children, untold, orphans) == ([old.key, new.key], [], [old.key])


async def test_a_child_that_is_retried_after_its_parent_was_told_is_waited_for_by_nobody(desk: Desk) -> None:
    parent = await desk.start(PARENT)
    child = await child_of(desk, parent)
    await desk.fail(child, error_class=None)
    await tell(desk, parent, child)
    await desk.apply(desk.store.retry_run, child, ev.RetryAsked())
    assert await seen(desk, parent) == ([], [], [])
    await desk.succeed(child)
    assert await seen(desk, parent) == ([], [], [])


async def test_an_untold_child_is_not_pruned(desk: Desk) -> None:
    """Its parent would wait for ever."""
    parent = await desk.start(PARENT)
    child = await child_of(desk, parent, THREE_GIVES)
    desk.clock.advance(1_000)
    assert await desk.store.prune_runs(desk.clock.now(), 10) == 0
    await tell(desk, parent, child)
    assert await desk.store.prune_runs(desk.clock.now(), 10) == 1


# ---- telling


async def ended_parent(desk: Desk) -> RunSnapshot:
    parent = await desk.start(PARENT)
    await cancel(desk, parent)
    return parent


async def waiting_parent(desk: Desk) -> RunSnapshot:
    return await desk.start(PARENT)


async def busy_parent(desk: Desk) -> RunSnapshot:
    """Its attempt has started the child, and has not come back with that."""
    return await desk.start(plan(step("child", CALL)))


PARENTS = pytest.mark.parametrize(
    "arrive", [ended_parent, waiting_parent, busy_parent], ids=lambda state: state.__name__
)


@PARENTS
async def test_a_parent_in_any_state_can_be_told(desk: Desk, arrive: Callable[[Desk], Awaitable[RunSnapshot]]) -> None:
    parent = await arrive(desk)
    child = await child_of(desk, parent, THREE_GIVES)
    await tell(desk, parent, child)
    assert await seen(desk, parent) == ([], [], [])
    assert [sent.name for sent in (await desk.rows(parent)).signals] == (
        ["!child:child~1"] if arrive is busy_parent else []
    )


@PARENTS
@pytest.mark.parametrize("distance", [-1, 1])
async def test_a_parent_on_another_revision_is_not_told(
    desk: Desk, backend: Backend, arrive: Callable[[Desk], Awaitable[RunSnapshot]], distance: int
) -> None:
    parent = await arrive(desk)
    child = await child_of(desk, parent, THREE_GIVES)
    event = ev.SignalSent("sig_1", "!child:child~1", None, told_child=child.key)
    changes = decide(parent, [event], desk.context())
    changes.revision += distance
    before = backend.dump()
    with pytest.raises(LeaseLost):
        await desk.store.send_signal(changes)
    assert backend.dump() == before
