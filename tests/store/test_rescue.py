"""`rescue_leases` and `register_node`: what a dead or silent process held is free again, and crashes are counted."""

from __future__ import annotations

from taskforge.core import events as ev
from taskforge.core.decide import ALONE, CONVICTED, CRASH_LIMIT, SUSPECT
from taskforge.core.jsontext import loads
from taskforge.core.snapshot import RunSnapshot
from taskforge.store.protocol import Rescued
from tests.store.backends import Backend
from tests.store.desk import LEASE_MS, Desk
from tests.support.plans import CALL, CALL_THEN_GIVE, ONE_CALL, THREE_GIVES, plan, step

ASK = plan(step("ask", config="ask the child"), step("call", CALL))


async def crash(desk: Desk) -> Rescued:
    """The process dies, and the next one frees what it held."""
    return await desk.store.rescue_leases([desk.owner], desk.clock.now(), keep="node_next")


async def test_an_attempt_of_a_dead_process_is_lost_and_its_run_due_at_once(desk: Desk) -> None:
    run = await desk.start(CALL_THEN_GIVE)
    desk.clock.advance(10)
    assert await crash(desk) == Rescued(attempts=1, runs=1)
    rows = await desk.rows(run)
    record = rows.run.record
    assert (record.state, record.owner, record.due_at, record.suspect) == ("RUNNING", None, desk.clock.now(), 0)
    assert rows.run.revision == run.revision + 1
    (at,) = rows.steps
    assert (at.state, at.available_at, at.crashes, at.attempts) == ("QUEUED", desk.clock.now(), 1, 1)
    (attempt,) = rows.attempts
    assert (attempt.state, attempt.finished_at) == ("LOST", desk.clock.now())
    assert loads(attempt.error or "")["code"] == "PROCESS_DIED"


async def test_a_rescue_writes_down_what_it_did(desk: Desk) -> None:
    run = await desk.start(ONE_CALL)
    await crash(desk)
    entries = loads((await desk.store.list_journal(run.key, 0, 10))[-1].entries)
    assert entries == [
        {"step": "call", "attempt": 1, "ended": "LOST", "error": "PROCESS_DIED"},
        {"step": "call", "from": "RUNNING", "to": "QUEUED", "code": "LOST"},
    ]


async def test_a_rescued_run_goes_on_and_ends(desk: Desk) -> None:
    await desk.start(CALL_THEN_GIVE)
    await crash(desk)
    desk.owner = "node_next"
    run = await desk.take_up(CALL_THEN_GIVE)
    await desk.succeed(run)
    rows = await desk.rows(run)
    assert rows.run.record.state == "SUCCEEDED"
    assert [(at.record.number, at.state) for at in rows.attempts if at.record.path == "call"] == [
        (1, "LOST"),
        (2, "SUCCEEDED"),
    ]


async def test_a_run_that_was_held_without_an_attempt_is_freed_too(desk: Desk) -> None:
    run = await desk.start(ASK)
    assert await crash(desk) == Rescued(attempts=0, runs=1)
    rows = await desk.rows(run)
    assert (rows.run.record.owner, rows.run.record.due_at) == (None, desk.clock.now())
    assert rows.steps[0].crashes == 0


async def test_nothing_else_is_touched(desk: Desk, backend: Backend) -> None:
    await desk.start(THREE_GIVES)
    await desk.start(start_at=desk.clock.now() + 5)
    retrying = await desk.start(ONE_CALL)
    await desk.fail(retrying)
    desk.owner = "node_alive"
    await desk.start(ONE_CALL)
    before = backend.dump()
    assert await desk.store.rescue_leases(["node_a"], desk.clock.now()) == Rescued(0, 0)
    assert await desk.store.rescue_leases([], desk.clock.now(), keep="node_alive") == Rescued(0, 0)
    assert await desk.store.rescue_leases(None, desk.clock.now() + 10**9, keep="node_alive") == Rescued(0, 0)
    assert backend.dump() == before


async def test_an_empty_list_means_every_owner_but_the_one_to_keep(desk: Desk) -> None:
    await desk.start(ONE_CALL)
    desk.owner = "node_b"
    await desk.start(ASK)
    desk.owner = "node_alive"
    kept = await desk.start(ONE_CALL)
    assert await desk.store.rescue_leases([], desk.clock.now(), keep="node_alive") == Rescued(attempts=1, runs=2)
    assert (await desk.rows(kept)).run.record.owner == "node_alive"


async def test_more_runs_than_one_transaction_takes_are_all_freed(desk: Desk) -> None:
    work = [desk.begin(ONE_CALL) for _ in range(1_100)]
    await desk.store.start_runs([(new, changes) for new, _, changes in work])
    assert await crash(desk) == Rescued(attempts=1_100, runs=1_100)
    assert await crash(desk) == Rescued(0, 0)
    stats = await desk.store.stats(desk.clock.now())
    assert (stats.steps["QUEUED"], stats.ready_steps) == (1_100, 1_100)


async def test_every_attempt_of_a_run_with_several_is_lost(desk: Desk) -> None:
    """Blocks run steps side by side; a decision with two leases stands for one."""
    new, run, changes = desk.begin(ONE_CALL)
    second = changes.steps[0]._replace(path="other")
    changes.steps.append(second)
    changes.leases.append(changes.leases[0]._replace(path="other", id="att_other"))
    changes.counts["step", "RUNNING"] += 1
    run.key = (await desk.store.start_run(new, changes)).key
    assert await crash(desk) == Rescued(attempts=2, runs=1)
    rows = await desk.rows(run)
    assert {(at.path, at.state, at.crashes) for at in rows.steps} == {("call", "QUEUED", 1), ("other", "QUEUED", 1)}


# ---- lapsed leases


async def test_a_lapsed_lease_is_lost_without_counting_a_crash(desk: Desk) -> None:
    run = await desk.start(ONE_CALL)
    desk.clock.advance(LEASE_MS + 1)
    assert await desk.store.rescue_leases(None, desk.clock.now(), keep="node_b") == Rescued(1, 1)
    rows = await desk.rows(run)
    assert rows.steps[0].crashes == 0 and rows.run.record.suspect == 0
    assert '"code":"LEASE_EXPIRED"' in (rows.attempts[0].error or "")


async def test_a_lease_that_has_not_lapsed_is_left_alone(desk: Desk, backend: Backend) -> None:
    await desk.start(ONE_CALL)
    desk.clock.advance(LEASE_MS)
    before = backend.dump()
    assert await desk.store.rescue_leases(None, desk.clock.now(), keep="node_b") == Rescued(0, 0)
    assert backend.dump() == before


async def test_a_renewed_lease_is_not_rescued(desk: Desk) -> None:
    await desk.start(ONE_CALL)
    desk.clock.advance(LEASE_MS + 1)
    await desk.store.renew_leases("node_a", desk.clock.now() + LEASE_MS)
    assert await desk.store.rescue_leases(None, desk.clock.now(), keep="node_b") == Rescued(0, 0)


async def test_an_owners_own_lapsed_leases_are_kept(desk: Desk) -> None:
    await desk.start(ONE_CALL)
    desk.clock.advance(10**7)
    assert await desk.store.rescue_leases(None, desk.clock.now(), keep="node_a") == Rescued(0, 0)


# ---- runs that kill the process


async def crash_until_suspect(desk: Desk) -> RunSnapshot:
    run = await desk.start(ONE_CALL)
    for death in range(1, CRASH_LIMIT + 1):
        await crash(desk)
        rows = await desk.rows(run)
        assert rows.steps[0].crashes == death
        assert rows.run.record.suspect == (SUSPECT if death == CRASH_LIMIT else 0)
        if death < CRASH_LIMIT:
            await desk.take_up(ONE_CALL)
    return run


async def test_a_run_in_flight_at_three_deaths_is_taken_up_alone(desk: Desk) -> None:
    run = await crash_until_suspect(desk)
    assert await desk.store.next_due() is None
    assert await desk.store.next_due(suspects=True) == desk.clock.now()
    assert await desk.take(ONE_CALL) == []
    run = await desk.take_up(ONE_CALL, suspects=True)
    assert (await desk.rows(run)).run.record.suspect == ALONE
    await desk.succeed(run)
    record = (await desk.rows(run)).run.record
    assert (record.state, record.suspect) == ("SUCCEEDED", 0)


async def test_a_run_that_kills_the_process_while_alone_is_convicted_and_fails(desk: Desk) -> None:
    await crash_until_suspect(desk)
    run = await desk.take_up(ONE_CALL, suspects=True)
    await crash(desk)
    assert (await desk.rows(run)).run.record.suspect == CONVICTED
    run = await desk.take_up(ONE_CALL, suspects=True)
    rows = await desk.rows(run)
    assert rows.run.record.state == "FAILED" and '"code":"CRASH_LOOP"' in (rows.run.record.error or "")
    assert [letter.path for letter in await desk.store.list_dead_letters("OPEN", None, 10)] == ["call"]


async def test_a_run_alone_whose_attempt_was_given_back_is_not_convicted(desk: Desk) -> None:
    await crash_until_suspect(desk)
    run = await desk.take_up(ONE_CALL, suspects=True)
    at = run.steps["call"].attempt
    assert at is not None
    await desk.apply(desk.store.finish_attempt, run, ev.AttemptReleased("call", at.id))
    await desk.take(ONE_CALL, suspects=True)
    await crash(desk)
    assert (await desk.rows(run)).run.record.suspect == ALONE


async def test_crashes_of_other_steps_do_not_add_up(desk: Desk) -> None:
    two = plan(step("a", CALL), step("b", CALL))
    run = await desk.start(two)
    for name in ("a", "b"):
        for _ in range(CRASH_LIMIT - 1):
            await crash(desk)
            run = await desk.take_up(two)
        await desk.succeed(run, name)
    assert (await desk.rows(run)).run.record.suspect == 0


async def test_lost_attempts_do_not_use_up_the_attempts_of_a_step(desk: Desk) -> None:
    run = await desk.start(plan(step("call", CALL, max_attempts=1)))
    for _ in range(2):
        await crash(desk)
        run = await desk.take_up(run.plan)
    await desk.succeed(run)
    rows = await desk.rows(run)
    assert [at.state for at in rows.attempts] == ["LOST", "LOST", "SUCCEEDED"]
    assert rows.steps[0].failures == 0


# ---- nodes


async def test_a_new_process_learns_which_others_still_hold_something(desk: Desk) -> None:
    store, now = desk.store, desk.clock.now()
    assert await store.register_node("node_a", "{}", now) == []
    await desk.start(ONE_CALL)
    desk.owner = "node_b"
    await desk.start(ASK)
    await desk.start(THREE_GIVES)
    assert sorted(await store.register_node("node_c", "{}", now)) == ["node_a", "node_b"]
    assert await store.register_node("node_a", "{}", now) == ["node_b"]
    await store.rescue_leases(["node_a", "node_b"], now, keep="node_c")
    assert await store.register_node("node_c", "{}", now) == []
