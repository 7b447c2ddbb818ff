"""Places in `concurrency`: who gets one, who waits, and who is next. Derived from the rows of live runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from taskforge.core import events as ev
from taskforge.core.decide import decide
from taskforge.core.errors import IdempotencyMismatch, LeaseLost
from taskforge.core.model import Concurrency, Plan
from taskforge.core.snapshot import RunSnapshot
from taskforge.engine.loading import to_snapshot
from taskforge.store.protocol import RunFilter
from tests.store.backends import Backend
from tests.store.desk import Desk, token
from tests.support.plans import CALL, WAIT, plan, step

A, B = '{"key":"a"}', '{"key":"b"}'


def limited(limit: int = 1, on_limit: Any = "queue", **fields: Any) -> Plan:
    """A run of this plan holds a place from its start to its end; its place is `flow:` and the key of its input."""
    return plan(step("call", CALL), concurrency=Concurrency(limit, on_limit), **fields)


ONE, TWO, SKIP = limited(), limited(2), limited(1, "skip")
ENDS_BY_TIME = limited(timeout_ms=5_000)
ENDS_BY_SIGNAL = plan(step("wait", WAIT, {"signal": "go"}), concurrency=Concurrency())


async def ask(desk: Desk, which: Plan = ONE, *, input: str = A, **fields: Any) -> RunSnapshot:
    """Start a run that asks for a place, and return it as it is stored."""
    desk.clock.advance(1)
    return await desk.load(await desk.start(which, input=input, **fields))


async def begin(desk: Desk, run: RunSnapshot) -> RunSnapshot:
    """Take up the run that was given its place, and no other one."""
    (rows,) = await desk.store.lease_steps(desk.owner, desk.clock.now(), 1)
    assert rows.run.key == run.key
    taken = to_snapshot(rows, run.plan)
    await desk.apply(desk.store.advance_run, taken, ev.TakenUp())
    return taken


async def hold(desk: Desk, which: Plan = ONE, *, input: str = A) -> RunSnapshot:
    """A run at work in its place."""
    return await begin(desk, await ask(desk, which, input=input))


async def placed(desk: Desk, *runs: RunSnapshot) -> list[bool]:
    return [(await desk.load(run)).placed for run in runs]


async def holders_of(desk: Desk) -> list[RunSnapshot]:
    """The live runs that hold a place, oldest first."""
    rows = await desk.store.list_runs(RunFilter(states=("QUEUED", "RUNNING", "WAITING")))
    held = [row.key for row in reversed(rows) if row.record.placed]
    return [to_snapshot(await desk.store.load_run(key), ONE) for key in held]


# ---- asking


async def test_a_free_place_is_given_in_the_transaction_of_the_start(desk: Desk) -> None:
    new, _, changes = desk.begin(ONE, input=A)
    started = await desk.store.start_run(new, changes)
    row = (await desk.store.load_run(started.key)).run
    assert started.due_at == row.record.due_at == desk.clock.now()
    assert (row.record.place, row.record.placed, row.record.owner, row.record.state) == ("flow:a", 1, None, "QUEUED")
    assert row.revision == changes.revision + 2
    assert await desk.store.next_due() == desk.clock.now()


async def test_who_finds_no_place_waits_without_a_time(desk: Desk) -> None:
    await ask(desk)
    new, _, changes = desk.begin(ONE, input=A)
    started = await desk.store.start_run(new, changes)
    row = (await desk.store.load_run(started.key)).run
    assert started.due_at is None
    assert (row.record.place, row.record.placed, row.record.owner, row.record.due_at) == ("flow:a", 0, None, None)
    assert row.revision == changes.revision + 1


async def test_who_waits_for_a_place_keeps_the_time_at_which_its_patience_ends(desk: Desk) -> None:
    impatient = limited(max_queue_ms=5_000)
    await hold(desk)
    run = await ask(desk, impatient)
    assert run.due_at == run.created_at + 5_000
    desk.clock.advance(5_000)
    (taken,) = await desk.take(impatient)
    await desk.apply(desk.store.advance_run, taken, ev.TakenUp())
    assert (await desk.load(run)).state == "CANCELLED"


async def test_who_does_not_wait_is_due_at_once_without_a_place(desk: Desk) -> None:
    holder = await hold(desk)
    run = await ask(desk, SKIP)
    assert (run.placed, run.due_at, run.owner) == (False, desk.clock.now(), None)
    (taken,) = await desk.take(SKIP)
    await desk.apply(desk.store.advance_run, taken, ev.TakenUp())
    stored = await desk.load(run)
    assert stored.state == "CANCELLED" and stored.error is not None and stored.error.code == "CONCURRENCY_SKIPPED"
    assert await placed(desk, holder) == [True]


async def test_a_place_is_asked_for_again_where_the_first_answer_was_not_acted_on(desk: Desk) -> None:
    """A queued run that is taken up for another reason asks once more, and keeps its turn."""
    holder = await hold(desk)
    first, second = await ask(desk, limited(max_queue_ms=60_000)), await ask(desk)
    run = await desk.load(first)
    await desk.apply(desk.store.advance_run, run, ev.TakenUp())
    assert await placed(desk, first, second) == [False, False]
    await desk.succeed(holder)
    assert await placed(desk, first, second) == [True, False]


async def test_places_of_different_keys_have_nothing_to_do_with_each_other(desk: Desk) -> None:
    await hold(desk)
    waits, other = await ask(desk), await ask(desk, input=B)
    assert await placed(desk, waits, other) == [False, True]
    assert (await desk.load(other)).place == "flow:b"


async def test_as_many_as_the_limit_hold_a_place(desk: Desk) -> None:
    runs = [await ask(desk, TWO) for _ in range(4)]
    assert await placed(desk, *runs) == [True, True, False, False]


async def test_a_batch_takes_the_places_in_its_order(desk: Desk) -> None:
    decided = [desk.begin(TWO, input=A) for _ in range(4)]
    started = await desk.store.start_runs([(new, changes) for new, _, changes in decided])
    now = desk.clock.now()
    assert [at.due_at for at in started] == [now, now, None, None]


async def test_a_start_that_is_refused_takes_no_place(desk: Desk, backend: Backend) -> None:
    new, _, changes = desk.begin(ONE, input=A, idempotency_key="k", request_hash="x")
    assert (await desk.store.start_run(new, changes)).due_at == desk.clock.now()
    new, _, changes = desk.begin(TWO, input=A, idempotency_key="k", request_hash="x")
    before = backend.dump()
    assert (await desk.store.start_run(new, changes)).due_at is None
    new, _, changes = desk.begin(TWO, input=A, idempotency_key="k", request_hash="y")
    with pytest.raises(IdempotencyMismatch):
        await desk.store.start_run(new, changes)
    assert backend.dump() == before


async def test_a_claim_of_a_decision_that_ends_the_run_means_nothing(desk: Desk) -> None:
    """Both can meet: the run asks, and its patience has ended."""
    impatient = limited(max_queue_ms=5_000)
    new, _, changes = desk.begin(impatient, input=A, start_at=desk.clock.now() + 10)
    await desk.store.start_run(new, changes)
    desk.clock.advance(60_000)
    (taken,) = await desk.take(impatient)
    ended = decide(taken, [ev.TakenUp()], desk.context())
    assert ended.claim is not None and ended.run.state == "CANCELLED"
    assert await desk.store.advance_run(ended) is None
    assert (await desk.load(taken)).placed is False


@pytest.mark.parametrize("distance", [-1, 1])
async def test_a_claim_on_another_revision_changes_nothing(desk: Desk, backend: Backend, distance: int) -> None:
    run = await desk.start(limited(), input=A, start_at=desk.clock.now() + 10)
    desk.clock.advance(10)
    changes = decide(run, [ev.TakenUp()], desk.context())
    assert changes.claim is not None
    changes.revision += distance
    before = backend.dump()
    with pytest.raises(LeaseLost):
        await desk.store.advance_run(changes)
    assert backend.dump() == before


async def test_whoever_has_a_run_in_memory_notices_that_it_was_given_a_place(desk: Desk, backend: Backend) -> None:
    holder = await hold(desk)
    waits = await ask(desk)
    cancelled = decide(await desk.load(waits), [ev.CancelAsked()], desk.context())
    await desk.succeed(holder)
    before = backend.dump()
    with pytest.raises(LeaseLost):
        await desk.store.cancel_run(cancelled)
    assert backend.dump() == before


# ---- whose turn it is


async def test_the_next_is_of_the_highest_priority_and_then_the_oldest(desk: Desk) -> None:
    await hold(desk)
    waiting = [await ask(desk, priority=priority) for priority in (0, 5, -5, 5, 0)]
    order: list[int] = []
    for _ in waiting:
        (holder,) = await holders_of(desk)
        await desk.apply(desk.store.cancel_run, holder, ev.CancelAsked())
        (following,) = await holders_of(desk)
        order.append([run.key for run in waiting].index(following.key))
    assert order == [1, 3, 0, 4, 2]


async def test_a_new_run_overtakes_nobody_but_those_of_lower_priority(desk: Desk) -> None:
    holder = await hold(desk)
    first, equal, higher = await ask(desk), await ask(desk), await ask(desk, priority=1)
    await desk.succeed(holder)
    assert await placed(desk, first, equal, higher) == [False, False, True]


async def test_under_a_lower_limit_the_next_waits_until_enough_have_ended(desk: Desk) -> None:
    """A new version of the workflow may change the limit; each run goes by the one that it asked under."""
    three = limited(3)
    holders = [await hold(desk, three) for _ in range(3)]
    waits, behind = await ask(desk, ONE), await ask(desk, limited(9))
    for holder in holders:
        assert await placed(desk, waits, behind) == [False, False]
        await desk.succeed(holder)
    assert await placed(desk, waits, behind) == [True, True]


async def test_under_a_higher_limit_a_new_run_finds_a_place_at_once(desk: Desk) -> None:
    await hold(desk)
    assert await placed(desk, await ask(desk, TWO)) == [True]


async def test_nobody_passes_one_who_has_to_wait_and_all_pass_when_it_has_gone(desk: Desk) -> None:
    for _ in range(2):
        await hold(desk, TWO)
    first = await ask(desk, ONE)
    behind = [await ask(desk, limited(4)) for _ in range(3)]
    assert await placed(desk, *behind) == [False, False, False]
    changes = decide(first, [ev.CancelAsked()], desk.context())
    assert await desk.store.cancel_run(changes) == desk.clock.now()
    assert await placed(desk, *behind) == [True, True, False]


# ---- giving it back: every state of the holder, every verb


async def given(desk: Desk) -> RunSnapshot:
    return await ask(desk)


async def running(desk: Desk) -> RunSnapshot:
    return await hold(desk)


async def retrying(desk: Desk) -> RunSnapshot:
    run = await hold(desk)
    await desk.fail(run)
    return run


async def starved(desk: Desk) -> RunSnapshot:
    run = await ask(desk)
    (taken,) = await desk.take(ONE)
    await desk.apply(desk.store.advance_run, taken, ev.TakenUp(), slots=0)
    assert taken.needs_slot
    return await desk.load(run)


async def waiting(desk: Desk) -> RunSnapshot:
    run = await hold(desk, ENDS_BY_SIGNAL)
    assert run.state == "WAITING"
    return run


async def lost(desk: Desk) -> RunSnapshot:
    run = await hold(desk)
    await desk.store.rescue_leases([desk.owner], desk.clock.now())
    return await desk.load(run)


@pytest.mark.parametrize("arrive", [given, running, retrying, starved, waiting, lost], ids=lambda at: at.__name__)
async def test_a_live_run_keeps_its_place_and_its_end_gives_it_to_the_next(
    desk: Desk, arrive: Callable[[Desk], Awaitable[RunSnapshot]]
) -> None:
    holder = await arrive(desk)
    following = await ask(desk)
    assert await placed(desk, holder, following) == [True, False]
    changes = decide(holder, [ev.CancelAsked()], desk.context())
    desk.clock.advance(7)
    assert await desk.store.cancel_run(changes) == changes.now
    stored = await desk.load(following)
    assert (stored.placed, stored.due_at, stored.owner) == (True, changes.now, None)
    assert stored.revision == following.revision + 1


async def by_success(desk: Desk) -> tuple[str, RunSnapshot, ev.Event]:
    run = await hold(desk)
    return "finish_attempt", run, ev.AttemptSucceeded("call", token(run), None)


async def by_cancel(desk: Desk) -> tuple[str, RunSnapshot, ev.Event]:
    return "cancel_run", await hold(desk), ev.CancelAsked()


async def by_time(desk: Desk) -> tuple[str, RunSnapshot, ev.Event]:
    run = await hold(desk, ENDS_BY_TIME)
    desk.clock.advance(5_000)
    return "resume_wait", run, ev.TimePassed()


async def by_taking_up(desk: Desk) -> tuple[str, RunSnapshot, ev.Event]:
    quick = plan(step("give"), concurrency=Concurrency())
    await ask(desk, quick)
    (run,) = await desk.take(quick)
    return "advance_run", run, ev.TakenUp()


async def by_signal(desk: Desk) -> tuple[str, RunSnapshot, ev.Event]:
    return "send_signal", await waiting(desk), ev.SignalSent("sig_1", "go", None)


@pytest.mark.parametrize("end", [by_success, by_cancel, by_time, by_taking_up, by_signal], ids=lambda end: end.__name__)
async def test_every_verb_that_ends_a_run_gives_its_place_to_the_next(
    desk: Desk, end: Callable[[Desk], Awaitable[tuple[str, RunSnapshot, ev.Event]]]
) -> None:
    verb, run, event = await end(desk)
    following, last = await ask(desk), await ask(desk)
    changes = decide(run, [event], desk.context())
    assert changes.run.state in ("SUCCEEDED", "FAILED", "CANCELLED")
    assert await getattr(desk.store, verb)(changes) == changes.now
    assert await placed(desk, following, last) == [True, False]


async def test_an_end_that_is_refused_gives_no_place(desk: Desk, backend: Backend) -> None:
    holder = await hold(desk)
    await ask(desk)
    changes = decide(holder, [ev.AttemptSucceeded("call", token(holder), None)], desk.context())
    changes.ends[0] = changes.ends[0]._replace(id="att_stale")
    before = backend.dump()
    with pytest.raises(LeaseLost):
        await desk.store.finish_attempt(changes)
    assert backend.dump() == before


async def test_a_decision_that_ends_nothing_gives_no_place(desk: Desk) -> None:
    holder = await hold(desk)
    following = await ask(desk)
    await desk.fail(holder)
    assert await placed(desk, following) == [False]


async def test_the_end_of_a_run_that_waits_gives_no_place(desk: Desk) -> None:
    holder = await hold(desk)
    waits, behind = await ask(desk), await ask(desk)
    changes = decide(waits, [ev.CancelAsked()], desk.context())
    assert await desk.store.cancel_run(changes) is None
    assert await placed(desk, holder, behind) == [True, False]


async def test_a_run_that_is_retried_asks_anew_and_queues_behind_the_holder(desk: Desk) -> None:
    first = await hold(desk)
    await desk.fail(first, error_class=None)
    holder = await hold(desk)
    again = await desk.load(first)
    changes = decide(again, [ev.RetryAsked()], desk.context())
    assert await desk.store.retry_run(changes) is None
    assert await placed(desk, again, holder) == [False, True]
    await desk.succeed(holder)
    assert await placed(desk, again) == [True]


async def test_a_run_that_waits_and_was_taken_up_is_given_its_place_all_the_same(desk: Desk) -> None:
    """Who took it up, to see whether its patience has ended, gets LeaseLost and loads it."""
    impatient = limited(max_queue_ms=5_000)
    holder = await hold(desk, impatient)
    waits = await ask(desk, impatient)
    desk.clock.advance(5_000)
    (taken,) = await desk.take(impatient)
    assert taken.key == waits.key and taken.owner == desk.owner
    await desk.succeed(holder)
    stored = await desk.load(waits)
    assert (stored.placed, stored.owner, stored.due_at) == (True, None, desk.clock.now())
    with pytest.raises(LeaseLost):
        await desk.apply(desk.store.advance_run, taken, ev.TakenUp())


# ---- many at once, and after a crash


async def test_of_many_that_end_and_ask_at_once_never_more_hold_a_place_than_the_limit(
    desk: Desk, backend: Backend
) -> None:
    holders = [await hold(desk, TWO) for _ in range(2)]
    asking = [desk.begin(TWO, input=A) for _ in range(30)]
    ends = [decide(run, [ev.AttemptSucceeded("call", token(run), 1)], desk.context()) for run in holders]
    verbs: list[Awaitable[Any]] = [desk.store.start_run(new, changes) for new, _, changes in asking]
    verbs[10:10] = [desk.store.finish_attempt(changes) for changes in ends]
    await asyncio.gather(*verbs)
    assert [at.key for at in await holders_of(desk)] == [3, 4]


async def test_places_outlive_the_process(desk: Desk, backend: Backend) -> None:
    holder = await hold(desk)
    waits = await ask(desk)
    desk.store = await backend.reopen()
    await desk.store.rescue_leases([desk.owner], desk.clock.now())
    assert await placed(desk, holder, waits) == [True, False]
    assert await placed(desk, await ask(desk)) == [False]


# ---- find_oldest_placed


async def test_the_oldest_holder_is_found(desk: Desk) -> None:
    assert await desk.store.find_oldest_placed("flow:a") is None
    first, second = await hold(desk, TWO), await hold(desk, TWO)
    await ask(desk, TWO, priority=9)
    assert await desk.store.find_oldest_placed("flow:a") == first.key
    assert await desk.store.find_oldest_placed("flow:b") is None
    await desk.succeed(first)
    assert await desk.store.find_oldest_placed("flow:a") == second.key


# ---- find_replaced, list_queued


async def test_one_holder_is_to_go_for_each_run_that_waits_the_oldest_first(desk: Desk) -> None:
    store = desk.store
    assert await store.find_replaced("flow:a") is None
    first, second = await hold(desk, TWO), await hold(desk, TWO)
    assert await store.find_replaced("flow:a") is None, "nobody waits"
    waits = await ask(desk, TWO)
    assert await store.find_replaced("flow:a") == first.key
    await ask(desk, TWO, input=B)
    assert await store.find_replaced("flow:b") is None
    await desk.succeed(first)
    assert await placed(desk, waits) == [True]
    assert await store.find_replaced("flow:a") is None
    third = await ask(desk, TWO)
    assert await store.find_replaced("flow:a") == second.key
    await desk.apply(store.cancel_run, third, ev.CancelAsked())
    assert await store.find_replaced("flow:a") is None


async def test_a_holder_that_is_ending_goes_for_one_run_that_waits(desk: Desk) -> None:
    ends_slowly = limited(2, finally_=(step("tidy", CALL),))
    first, second = await hold(desk, ends_slowly), await hold(desk, ends_slowly)
    await ask(desk, ends_slowly)
    await desk.apply(desk.store.cancel_run, first, ev.CancelAsked())
    assert first.state == "RUNNING"
    assert await desk.store.find_replaced("flow:a") is None, "the first one is on its way"
    await ask(desk, ends_slowly)
    assert await desk.store.find_replaced("flow:a") == second.key
    await desk.apply(desk.store.cancel_run, second, ev.CancelAsked("x" * 2_000))
    await ask(desk, ends_slowly)
    assert await desk.store.find_replaced("flow:a") is None


async def test_the_places_for_which_runs_wait_are_listed_each_with_the_oldest_run(desk: Desk) -> None:
    for input in (A, B):
        await hold(desk, input=input)
    first = await ask(desk)
    await ask(desk, priority=9)
    other = await ask(desk, input=B)
    await hold(desk, input='{"key":"c"}')
    everything = [("flow:a", first.key), ("flow:b", other.key)]
    assert await desk.store.list_queued("", 10) == everything
    assert await desk.store.list_queued("", 1) == everything[:1]
    assert await desk.store.list_queued("flow:a", 10) == everything[1:]
    assert await desk.store.list_queued("flow:b", 10) == []
