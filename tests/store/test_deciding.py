"""The verbs that apply a decision: what they store, and what guards them, in every state that a run can be in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from taskforge.core import events as ev
from taskforge.core.decide import decide
from taskforge.core.errors import Failure, LeaseLost
from taskforge.core.model import AttemptFailure, Concurrency, Prepared
from taskforge.core.snapshot import Changes, RunSnapshot
from taskforge.store.protocol import Store
from tests.store.backends import Backend
from tests.store.desk import Desk, token
from tests.support.plans import CALL, CALL_THEN_GIVE, ONE_CALL, THREE_GIVES, TWO_CALLS, WAITING, plan, step

Verb = Callable[[Changes], Awaitable[int | None]]

APPLYING = ["advance_run", "finish_attempt", "resume_wait", "cancel_run", "send_signal", "retry_run"]

LIMITED = plan(step("call", CALL), concurrency=Concurrency())


# ---- every state that a run can be in


async def delayed(desk: Desk) -> RunSnapshot:
    return await desk.start(start_at=desk.clock.now() + 60_000)


async def running(desk: Desk) -> RunSnapshot:
    return await desk.start(ONE_CALL)


async def starved(desk: Desk) -> RunSnapshot:
    return await desk.start(ONE_CALL, slots=0)


async def preparing(desk: Desk) -> RunSnapshot:
    return await desk.start(plan(step("call", CALL, "ask the child")))


async def retrying(desk: Desk) -> RunSnapshot:
    run = await desk.start(ONE_CALL)
    await desk.fail(run)
    return run


async def succeeded(desk: Desk) -> RunSnapshot:
    return await desk.start()


async def failed(desk: Desk) -> RunSnapshot:
    run = await desk.start(ONE_CALL)
    await desk.fail(run, error_class=None)
    return run


async def cancelled(desk: Desk) -> RunSnapshot:
    run = await desk.start(ONE_CALL)
    await desk.apply(desk.store.cancel_run, run, ev.CancelAsked())
    return run


async def suspect(desk: Desk) -> RunSnapshot:
    run = await desk.start(ONE_CALL)
    for _ in range(3):
        await desk.store.rescue_leases([desk.owner], desk.clock.now())
        if not (await desk.load(run)).suspect:
            run = await desk.take_up(ONE_CALL)
    return await desk.load(run)


async def waiting(desk: Desk) -> RunSnapshot:
    return await desk.start(WAITING)


async def placed(desk: Desk) -> RunSnapshot:
    return await desk.load(await desk.start(LIMITED))


async def queued(desk: Desk) -> RunSnapshot:
    await desk.start(LIMITED)
    return await desk.start(LIMITED)


STATES = [
    delayed, running, starved, preparing, retrying, waiting, placed, queued, succeeded, failed, cancelled, suspect,
]  # fmt: skip
IN_EVERY_STATE = pytest.mark.parametrize("arrive", STATES, ids=lambda state: state.__name__)


def touch(run: RunSnapshot, desk: Desk) -> Changes:
    """A decision that changes nothing but the revision."""
    changes = Changes(run.key, run.revision, desk.clock.now(), decide(run, [], desk.context()).run)
    changes.journal = '[{"note":"test"}]'
    return changes


@IN_EVERY_STATE
@pytest.mark.parametrize("verb", APPLYING)
async def test_a_decision_on_the_right_revision_is_applied(
    desk: Desk, arrive: Callable[[Desk], Awaitable[RunSnapshot]], verb: str
) -> None:
    run = await arrive(desk)
    changes = touch(run, desk)
    await getattr(desk.store, verb)(changes)
    rows = await desk.rows(run)
    assert rows.run.revision == run.revision + 1
    assert rows.run.record == changes.run
    assert (await desk.store.list_journal(run.key, 0, 100))[-1].entries == '[{"note":"test"}]'
    if run.owner is None and run.due_at is None and not run.ended and arrive not in (waiting, queued):
        pytest.fail("the state is not one that decide makes")


@IN_EVERY_STATE
@pytest.mark.parametrize("verb", APPLYING)
@pytest.mark.parametrize("distance", [-1, 1])
async def test_a_decision_on_another_revision_changes_nothing(
    desk: Desk,
    backend: Backend,
    arrive: Callable[[Desk], Awaitable[RunSnapshot]],
    verb: str,
    distance: int,
) -> None:
    run = await arrive(desk)
    changes = touch(run, desk)
    changes.revision += distance
    before = backend.dump()
    with pytest.raises(LeaseLost):
        await getattr(desk.store, verb)(changes)
    assert backend.dump() == before


@pytest.mark.parametrize("verb", APPLYING)
async def test_a_decision_on_a_run_that_is_not_there_changes_nothing(desk: Desk, backend: Backend, verb: str) -> None:
    run = await desk.start(ONE_CALL)
    changes = touch(run, desk)
    changes.key += 1
    before = backend.dump()
    with pytest.raises(LeaseLost):
        await getattr(desk.store, verb)(changes)
    assert backend.dump() == before


# ---- the lease token


async def test_the_end_of_an_attempt_with_a_stale_token_changes_nothing(desk: Desk, backend: Backend) -> None:
    run = await desk.start(CALL_THEN_GIVE)
    changes = decide(run, [ev.AttemptSucceeded("call", token(run), "late")], desk.context())
    changes.ends[0] = changes.ends[0]._replace(id="att_stale")
    before = backend.dump()
    with pytest.raises(LeaseLost, match="holds no lease"):
        await desk.store.finish_attempt(changes)
    assert backend.dump() == before


async def test_an_attempt_ends_once(desk: Desk, backend: Backend) -> None:
    run = await desk.start(TWO_CALLS)
    first = await desk.succeed(run, "first")
    again = touch(run, desk)
    again.ends = first.ends
    before = backend.dump()
    with pytest.raises(LeaseLost):
        await desk.store.finish_attempt(again)
    assert backend.dump() == before


async def test_a_result_that_comes_after_the_rescue_is_refused(desk: Desk, backend: Backend) -> None:
    run = await desk.start(ONE_CALL)
    late = decide(run, [ev.AttemptSucceeded("call", token(run), "late")], desk.context())
    await desk.store.rescue_leases([desk.owner], desk.clock.now())
    before = backend.dump()
    with pytest.raises(LeaseLost):
        await desk.store.finish_attempt(late)
    # Even with the revision of the rescued run, the token is gone.
    late.revision += 1
    with pytest.raises(LeaseLost, match="holds no lease"):
        await desk.store.finish_attempt(late)
    assert backend.dump() == before


async def test_a_refused_decision_leaves_the_verbs_of_its_group_alone(desk: Desk) -> None:
    runs = [await desk.start(ONE_CALL) for _ in range(10)]
    work = [decide(run, [ev.AttemptSucceeded("call", token(run), i)], desk.context()) for i, run in enumerate(runs)]
    work[4].revision -= 1
    work[7].ends[0] = work[7].ends[0]._replace(id="att_stale")
    answers = await asyncio.gather(*map(desk.store.finish_attempt, work), return_exceptions=True)
    assert [type(answer) for answer in answers] == [LeaseLost if i in (4, 7) else type(None) for i in range(10)]
    states = [(await desk.load(run)).state for run in runs]
    assert states == ["RUNNING" if i in (4, 7) else "SUCCEEDED" for i in range(10)]
    stats = await desk.store.stats(desk.clock.now())
    assert (stats.runs["RUNNING"], stats.runs["SUCCEEDED"]) == (2, 8)
    assert (stats.steps["RUNNING"], stats.steps["SUCCEEDED"]) == (2, 8)


async def test_of_two_decisions_on_one_revision_exactly_one_is_applied(desk: Desk) -> None:
    for _ in range(20):
        run = await desk.start(ONE_CALL)
        other = await desk.load(run)
        finish = decide(run, [ev.AttemptSucceeded("call", token(run), 1)], desk.context())
        cancel = decide(other, [ev.CancelAsked()], desk.context())
        answers = await asyncio.gather(
            desk.store.finish_attempt(finish), desk.store.cancel_run(cancel), return_exceptions=True
        )
        assert sorted(type(answer).__name__ for answer in answers) == ["LeaseLost", "NoneType"]
        state = (await desk.load(run)).state
        assert state == ("SUCCEEDED" if answers[0] is None else "CANCELLED")


# ---- what decisions store


async def test_a_finished_attempt_and_what_follows_are_one_decision(desk: Desk) -> None:
    run = await desk.start(CALL_THEN_GIVE)
    await desk.succeed(run, output={"status": 200})
    rows = await desk.rows(run)
    assert rows.run.record.state == "SUCCEEDED"
    assert [(at.path, at.state, at.output) for at in rows.steps] == [
        ("after", "SUCCEEDED", "true"),
        ("call", "SUCCEEDED", '{"status":200}'),
    ]
    assert [(at.state, at.finished_at) for at in rows.attempts] == [("SUCCEEDED", desk.clock.now())]


async def test_a_retry_makes_a_second_attempt_beside_the_first(desk: Desk) -> None:
    run = await desk.start(ONE_CALL)
    await desk.fail(run)
    rows = await desk.rows(run)
    assert (rows.run.record.owner, rows.run.record.due_at) == (None, desk.clock.now() + 1_000)
    assert (rows.steps[0].state, rows.steps[0].available_at) == ("QUEUED", desk.clock.now() + 1_000)
    desk.clock.advance(1_000)
    run = await desk.take_up(ONE_CALL)
    await desk.succeed(run)
    rows = await desk.rows(run)
    assert [(at.record.number, at.state) for at in rows.attempts] == [(1, "FAILED"), (2, "SUCCEEDED")]
    assert '"code":"CONNECT_REFUSED"' in (rows.attempts[0].error or "")


async def test_a_released_attempt_is_lost_and_its_run_due_at_once(desk: Desk) -> None:
    run = await desk.start(ONE_CALL)
    await desk.apply(desk.store.finish_attempt, run, ev.AttemptReleased("call", token(run)))
    rows = await desk.rows(run)
    assert rows.attempts[0].state == "LOST" and rows.run.record.due_at == desk.clock.now()
    run = await desk.take_up(ONE_CALL)
    await desk.succeed(run)
    assert run.steps["call"].failures == 0


async def test_prepared_steps_are_advanced(desk: Desk) -> None:
    run = await desk.start(plan(step("ask", config="ask the child"), step("call", CALL)))
    assert (await desk.rows(run)).run.record.owner == "node_a"
    await desk.apply(desk.store.advance_run, run, ev.StepPrepared("ask", Prepared({"got": 1})))
    rows = await desk.rows(run)
    assert [(at.path, at.state) for at in rows.steps] == [("ask", "SUCCEEDED"), ("call", "RUNNING")]
    await desk.succeed(run)


async def test_a_time_limit_ends_the_step_and_its_attempt(desk: Desk) -> None:
    limited = plan(step("call", CALL, timeout_ms=5_000))
    run = await desk.start(limited)
    desk.clock.advance(5_000)
    await desk.apply(desk.store.resume_wait, run, ev.TimePassed())
    rows = await desk.rows(run)
    assert (rows.run.record.state, rows.steps[0].state, rows.attempts[0].state) == ("FAILED", "FAILED", "TIMED_OUT")


async def test_a_cancel_ends_run_step_and_attempt(desk: Desk) -> None:
    run = await desk.start(ONE_CALL)
    await desk.apply(desk.store.cancel_run, run, ev.CancelAsked("enough"))
    rows = await desk.rows(run)
    assert (rows.run.record.state, rows.steps[0].state, rows.attempts[0].state) == ("CANCELLED",) * 3
    assert (rows.run.record.owner, rows.run.record.due_at) == (None, None)
    assert rows.run.record.error is not None and "enough" in rows.run.record.error


async def test_a_retry_of_a_person_begins_a_generation_and_keeps_what_succeeded(desk: Desk) -> None:
    run = await desk.start(TWO_CALLS)
    await desk.succeed(run, "first", "kept")
    await desk.fail(run, "second", error_class=None)
    run = await desk.load(run)
    await desk.apply(desk.store.retry_run, run, ev.RetryAsked())
    rows = await desk.rows(run)
    assert (rows.run.record.state, rows.run.record.generation, rows.run.record.finished_at) == ("RUNNING", 2, None)
    assert [(at.path, at.state, at.generation, at.output) for at in rows.steps] == [
        ("first", "SUCCEEDED", 1, '"kept"'),
        ("second", "RUNNING", 2, None),
    ]
    assert [(at.record.path, at.record.generation, at.record.number, at.state) for at in rows.attempts] == [
        ("first", 1, 1, "SUCCEEDED"),
        ("second", 1, 1, "FAILED"),
        ("second", 2, 1, "RUNNING"),
    ]
    await desk.succeed(run, "second")
    assert (await desk.load(run)).state == "SUCCEEDED"


async def test_every_decision_is_one_journal_row_in_the_order_of_commits(desk: Desk) -> None:
    run = await desk.start(TWO_CALLS)
    other = await desk.start(THREE_GIVES)
    await desk.succeed(run, "first")
    await desk.succeed(run, "second")
    rows = await desk.store.list_journal(run.key, 0, 100)
    assert len(rows) == 3 and [row.id for row in rows] == sorted({row.id for row in rows})
    assert '"step":"second"' in rows[1].entries and '"run":"SUCCEEDED"' in rows[2].entries
    everything = await desk.store.list_journal(None, 0, 100)
    assert [row.run_id for row in everything] == [run.id, other.id, run.id, run.id]
    assert [row.id for row in everything] == sorted(row.id for row in everything)
    assert await desk.store.list_journal(None, everything[1].id, 1) == [everything[2]]
    assert await desk.store.list_journal(run.key, rows[0].id, 100) == rows[1:]
    assert await desk.store.last_journal_id() == everything[-1].id


async def test_the_journal_of_an_empty_database_ends_at_zero(store_of_nothing: Store) -> None:
    assert await store_of_nothing.last_journal_id() == 0
    assert await store_of_nothing.list_journal(None, 0, 10) == []


@pytest.fixture
def store_of_nothing(backend: Backend) -> Store:
    return backend.store


async def test_an_output_that_is_null_is_stored_as_none(desk: Desk) -> None:
    run = await desk.start(ONE_CALL)
    await desk.succeed(run, output=None)
    assert (await desk.rows(run)).steps[0].output is None


async def test_text_of_every_kind_comes_back_as_it_was(desk: Desk) -> None:
    odd = {"nul": "a\x00b", "emoji": "\U0001f600", "quote": "'\";--", "int": 12345678901234567890, "": "\u2028"}
    run = await desk.start(ONE_CALL)
    await desk.succeed(run, output=odd)
    assert (await desk.load(run)).steps["call"].output == odd


async def test_a_failure_keeps_its_code_message_and_place(desk: Desk) -> None:
    run = await desk.start(ONE_CALL)
    result = AttemptFailure(Failure("STATUS_UNEXPECTED", "the status is 404", detail={"status": 404}), None, 404)
    await desk.apply(desk.store.finish_attempt, run, ev.AttemptFailed("call", token(run), result))
    loaded = await desk.load(run)
    expected = Failure("STATUS_UNEXPECTED", "the status is 404", "call", 1, {"status": 404})
    assert loaded.error == expected and loaded.steps["call"].error == expected
