"""`start_run` and `start_runs`: numbers, idempotency keys, refusals, batches."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from taskforge.core.errors import IdempotencyMismatch, NotFound, WorkflowDisabled
from taskforge.core.snapshot import Changes
from taskforge.store.protocol import NewRun, StartedRun
from tests.store.backends import Backend
from tests.store.desk import Desk
from tests.support.plans import CALL, CALL_THEN_GIVE, ONE_CALL, THREE_GIVES, plan, step

SEVEN_DAYS = 7 * 24 * 3_600_000


async def test_a_run_is_stored_with_its_steps_journal_and_number(desk: Desk) -> None:
    run = await desk.start(input='{"a":1}', trigger='{"type":"cron"}', trigger_type="cron", priority=3)
    rows = await desk.store.get_run_rows("flow#1")
    stored = rows.run
    assert (stored.key, stored.id, stored.number, stored.workflow, stored.version) == (run.key, run.id, 1, "flow", 1)
    assert (stored.input, stored.trigger, stored.trigger_type) == ('{"a":1}', '{"type":"cron"}', "cron")
    assert (stored.priority, stored.revision, stored.created_at) == (3, 1, desk.clock.now())
    assert stored.record.state == "SUCCEEDED" and stored.record.owner is None and stored.record.due_at is None
    assert [(at.path, at.state, at.output) for at in rows.steps] == [
        ("fetch", "SUCCEEDED", '{"n":1}'),
        ("post", "SUCCEEDED", '"done"'),
        ("shape", "SUCCEEDED", "[1,2]"),
    ]
    assert rows.attempts == []
    (row,) = await desk.store.list_journal(run.key, 0, 10)
    assert row.run_id == run.id and row.at == desk.clock.now() and row.entries.startswith('[{"run":"QUEUED"}')


async def test_an_action_is_leased_in_the_transaction_that_starts_the_run(desk: Desk) -> None:
    run = await desk.start(ONE_CALL)
    rows = await desk.rows(run)
    assert (rows.run.record.state, rows.run.record.owner) == ("RUNNING", "node_a")
    (attempt,) = rows.attempts
    assert attempt.state == "RUNNING" and attempt.record.lease_owner == "node_a" and attempt.record.number == 1
    assert attempt.record.lease_expires_at == desk.clock.now() + 30_000


async def test_numbers_count_up_for_each_workflow_by_itself(desk: Desk) -> None:
    await desk.publish("other")
    numbers = [(await desk.start(plan(step("a"), name=name))).number for name in ("flow", "other", "flow", "other")]
    assert numbers == [1, 1, 2, 2]


async def test_numbers_have_no_holes_after_refusals(desk: Desk) -> None:
    await desk.start(idempotency_key="k", request_hash="a")
    with pytest.raises(IdempotencyMismatch):
        await desk.start(idempotency_key="k", request_hash="b")
    assert (await desk.start()).number == 2


async def test_the_loaded_run_is_the_one_that_was_decided(desk: Desk) -> None:
    run = await desk.start(CALL_THEN_GIVE)
    loaded = await desk.load(run)
    assert (loaded.state, loaded.owner, loaded.revision, loaded.due_at) == ("RUNNING", "node_a", 1, None)
    assert loaded.steps["call"].attempt is not None and run.steps["call"].attempt is not None
    assert loaded.steps["call"].attempt.id == run.steps["call"].attempt.id


async def test_an_unknown_workflow_is_refused_and_nothing_is_stored(desk: Desk, backend: Backend) -> None:
    before = backend.dump()
    with pytest.raises(NotFound, match="there is no workflow nowhere"):
        await desk.start(plan(step("a"), name="nowhere"))
    assert backend.dump() == before


async def test_a_deleted_workflow_is_refused_and_nothing_is_stored(desk: Desk, backend: Backend) -> None:
    await desk.store.delete_workflow("flow", desk.clock.now())
    before = backend.dump()
    with pytest.raises(NotFound):
        await desk.start()
    assert backend.dump() == before


async def test_a_disabled_workflow_is_refused_and_nothing_is_stored(desk: Desk, backend: Backend) -> None:
    await desk.store.set_enabled("flow", False, desk.clock.now())
    before = backend.dump()
    with pytest.raises(WorkflowDisabled, match="enable it with"):
        await desk.start()
    assert backend.dump() == before


# ---- idempotency keys


async def test_a_repeated_key_gives_the_first_run_and_stores_nothing(desk: Desk, backend: Backend) -> None:
    run = await desk.start(ONE_CALL, idempotency_key="k", request_hash="h")
    await desk.succeed(run)
    before = backend.dump()
    new, _, changes = desk.begin(idempotency_key="k", request_hash="h")
    assert await desk.store.start_run(new, changes) == StartedRun(run.id, run.key, 1, "SUCCEEDED", created=False)
    assert backend.dump() == before


async def test_a_repeated_key_with_another_body_is_refused(desk: Desk, backend: Backend) -> None:
    run = await desk.start(idempotency_key="k", request_hash="h")
    before = backend.dump()
    with pytest.raises(IdempotencyMismatch) as refusal:
        await desk.start(idempotency_key="k", request_hash="other")
    assert refusal.value.detail == {"run": run.id}
    assert backend.dump() == before


async def test_a_key_belongs_to_one_workflow(desk: Desk) -> None:
    await desk.publish("other")
    await desk.start(idempotency_key="k", request_hash="h")
    run = await desk.start(plan(step("a"), name="other"), idempotency_key="k", request_hash="x")
    assert run.number == 1


async def test_a_key_of_a_disabled_workflow_still_names_its_run(desk: Desk) -> None:
    run = await desk.start(idempotency_key="k", request_hash="h")
    await desk.store.set_enabled("flow", False, desk.clock.now())
    new, _, changes = desk.begin(idempotency_key="k", request_hash="h")
    assert (await desk.store.start_run(new, changes)).id == run.id


async def test_a_key_is_found_without_a_start_also_of_a_workflow_that_is_gone(desk: Desk) -> None:
    run = await desk.start(idempotency_key="k", request_hash="h")
    await desk.store.delete_workflow("flow", desk.clock.now())
    find, now = desk.store.find_started, desk.clock.now()
    assert await find("flow", "k", "h", now) == StartedRun(run.id, run.key, 1, "SUCCEEDED", created=False)
    assert await find("flow", "other", "h", now) is None and await find("other", "k", "h", now) is None
    with pytest.raises(IdempotencyMismatch):
        await find("flow", "k", "x", now)
    assert await find("flow", "k", "h", now + SEVEN_DAYS + 1) is None


async def test_fifty_equal_requests_at_once_start_one_run(desk: Desk, backend: Backend) -> None:
    work = [desk.begin(ONE_CALL, idempotency_key="k", request_hash="h") for _ in range(50)]
    answers = await asyncio.gather(*(desk.store.start_run(new, changes) for new, _, changes in work))
    assert len({answer.id for answer in answers}) == 1
    assert sum(answer.created for answer in answers) == 1
    assert len(backend.dump()["runs"]) == 1


async def test_a_key_is_kept_seven_days_and_then_starts_anew(desk: Desk) -> None:
    first = await desk.start(idempotency_key="k", request_hash="h")
    desk.clock.advance(SEVEN_DAYS)
    new, _, changes = desk.begin(idempotency_key="k", request_hash="h")
    assert (await desk.store.start_run(new, changes)).id == first.id
    desk.clock.advance(1)
    second = await desk.start(idempotency_key="k", request_hash="another body")
    assert second.number == 2
    assert (await desk.store.get_run("flow#1")).id == first.id
    new, _, changes = desk.begin(idempotency_key="k", request_hash="another body")
    assert (await desk.store.start_run(new, changes)).id == second.id


# ---- batches


async def test_a_batch_gets_consecutive_numbers_in_its_order(desk: Desk) -> None:
    work = [desk.begin(THREE_GIVES if i % 2 else ONE_CALL) for i in range(100)]
    answers = await desk.store.start_runs([(new, changes) for new, _, changes in work])
    assert [answer.number for answer in answers] == list(range(1, 101))
    assert [answer.id for answer in answers] == [new.id for new, _, _ in work]
    assert await desk.store.count_steps(answers[1].key) == 3


LARGE = plan(step("give", config="x" * 2_000), step("call", CALL, {"url": "y" * 2_000}))


@pytest.mark.parametrize("count", [2, 7, 64, 100, 137])
async def test_a_batch_leaves_the_rows_that_its_runs_would_have_left_one_by_one(
    desk: Desk, backend: Backend, count: int
) -> None:
    kinds = [{"plan": ONE_CALL}, {"plan": THREE_GIVES}, {"plan": ONE_CALL, "slots": 0}, {"plan": LARGE}]
    starts: list[tuple[NewRun, Changes]] = []
    for i in range(count):
        new, _, changes = desk.begin(**kinds[i % 4])  # type: ignore[arg-type]
        starts.append((new, changes))
    together = await desk.store.start_runs(starts)
    alone: list[StartedRun] = []
    for new, changes in starts:
        leases = [lease._replace(id=f"{lease.id}_") for lease in changes.leases]
        again = await desk.store.start_run(replace(new, id=f"{new.id}_"), replace(changes, leases=leases))
        alone.append(again)
    for first, second in zip(together, alone, strict=True):
        assert second == first._replace(id=f"{first.id}_", key=second.key, number=second.number)
        rows, others = await desk.store.load_run(first.key), await desk.store.load_run(second.key)
        assert rows.steps == others.steps
        assert rows.run.record == others.run.record
        assert [at.record._replace(id="") for at in rows.attempts] == [
            at.record._replace(id="") for at in others.attempts
        ]
        journal = await desk.store.list_journal(first.key, 0, 10)
        assert [entry.entries for entry in journal] == [
            entry.entries for entry in await desk.store.list_journal(second.key, 0, 10)
        ]


async def test_an_empty_batch_starts_nothing(desk: Desk) -> None:
    assert await desk.store.start_runs([]) == []


@pytest.mark.parametrize("bad", [0, 5, 9])
async def test_a_batch_with_one_refused_run_stores_none(desk: Desk, backend: Backend, bad: int) -> None:
    work = [desk.begin() for _ in range(10)]
    batch = [(new, changes) for new, _, changes in work]
    batch[bad] = (replace(batch[bad][0], workflow="nowhere"), batch[bad][1])
    before = backend.dump()
    with pytest.raises(NotFound):
        await desk.store.start_runs(batch)
    assert backend.dump() == before


async def test_a_refused_batch_leaves_the_verbs_beside_it_alone(desk: Desk, backend: Backend) -> None:
    good = [desk.begin() for _ in range(20)]
    new, _, changes = desk.begin()
    bad: list[tuple[NewRun, object]] = [(new, changes), (replace(new, id="run_x", workflow="nowhere"), changes)]
    tasks = [asyncio.ensure_future(desk.store.start_run(new, changes)) for new, _, changes in good[:10]]
    refused = asyncio.ensure_future(desk.store.start_runs(bad))  # type: ignore[arg-type]
    tasks += [asyncio.ensure_future(desk.store.start_run(new, changes)) for new, _, changes in good[10:]]
    with pytest.raises(NotFound):
        await refused
    assert sorted(answer.number for answer in await asyncio.gather(*tasks)) == list(range(1, 21))
    assert len(backend.dump()["runs"]) == 20


async def test_everything_is_there_after_a_restart(desk: Desk, backend: Backend) -> None:
    await asyncio.gather(*(desk.start(ONE_CALL if i % 3 else THREE_GIVES) for i in range(30)))
    before = backend.dump()
    await backend.reopen()
    assert backend.dump() == before
