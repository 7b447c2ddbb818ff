"""The inbox: a delivery and its run in one transaction, one run for each delivery id; and the ends of runs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from taskforge.core import events as ev
from taskforge.core.errors import NotFound, WorkflowDisabled
from taskforge.core.model import Plan
from taskforge.store.triggered import Delivered, DeliveryFilter, EndRow, NewDelivery, Start, TriggerSpec
from tests.store.backends import Backend
from tests.store.desk import Desk
from tests.support.plans import ONE_CALL, THREE_GIVES, plan, step


def delivery(desk: Desk, **fields: Any) -> NewDelivery:
    new = NewDelivery(
        id=desk.clock.new_id("dlv"),
        workflow="flow",
        trigger="hook",
        version=1,
        state="ACCEPTED",
        received_at=desk.clock.now(),
        method="POST",
        query="[]",
        headers='[["x-id","1"]]',
        body=b'{"a":1}',
    )
    return replace(new, **fields)


def start(desk: Desk, plan: Plan = THREE_GIVES, **fields: Any) -> Start:
    new, _, changes = desk.begin(plan, trigger_type="webhook", **fields)
    return new, changes


async def accept(desk: Desk, plan: Plan = THREE_GIVES, **fields: Any) -> Delivered:
    return await desk.store.accept_delivery(delivery(desk, **fields), start(desk, plan))


async def test_a_delivery_is_stored_as_it_came_with_its_run(desk: Desk) -> None:
    body = bytes(range(256)) * 300
    found = await accept(desk, dedupe="d1", body=body)
    assert found.state == "ACCEPTED" and found.run is not None and found.run.number == 1 and found.run.created
    row = await desk.store.get_delivery(found.id)
    assert (row.state, row.run_id, row.run_number, row.dedupe) == ("ACCEPTED", found.run.id, 1, "d1")
    assert (row.body_bytes, row.has_body) == (len(body), True)
    assert await desk.store.find_delivery_body(found.id) == body
    assert await desk.store.find_delivery("flow", "hook", "d1") == row
    assert (await desk.store.get_run("flow#1")).id == found.run.id


async def test_a_delivery_id_starts_one_run_however_often_it_comes_at_once(desk: Desk) -> None:
    found = await asyncio.gather(*(accept(desk, dedupe="same") for _ in range(50)))
    assert sorted(one.state for one in found) == ["ACCEPTED"] + ["DUPLICATE"] * 49
    assert len({one.run.id for one in found if one.run is not None}) == 1
    assert len({one.id for one in found}) == 50
    with pytest.raises(NotFound):
        await desk.store.get_run("flow#2")
    first = next(one for one in found if one.state == "ACCEPTED")
    page = await desk.store.list_deliveries(DeliveryFilter(state="DUPLICATE", limit=100))
    assert len(page.items) == 49 and {row.earlier for row in page.items} == {first.id}


async def test_a_delivery_id_belongs_to_one_trigger_of_one_workflow(desk: Desk) -> None:
    await desk.publish("other")
    await accept(desk, dedupe="d1")
    assert (await accept(desk, dedupe="d1", trigger="second")).state == "ACCEPTED"
    other = await accept(desk, plan(step("a"), name="other"), dedupe="d1", workflow="other")
    assert other.state == "ACCEPTED"


async def test_deliveries_without_an_id_start_a_run_each(desk: Desk) -> None:
    assert [(await accept(desk)).state for _ in range(3)] == ["ACCEPTED"] * 3


async def test_a_delivery_that_started_nothing_does_not_keep_its_id(desk: Desk) -> None:
    for state in ("FILTERED", "FAILED"):
        new = delivery(desk, dedupe="d1", state=state, error='{"code":"X","message":"m"}')
        found = await desk.store.accept_delivery(new, None)
        assert (found.state, found.run) == (state, None)
    assert (await accept(desk, dedupe="d1")).state == "ACCEPTED"
    again = await desk.store.accept_delivery(delivery(desk, dedupe="d1", state="FILTERED"), None)
    assert again.state == "DUPLICATE" and again.run is not None


async def test_a_refused_start_stores_no_delivery(desk: Desk, backend: Backend) -> None:
    await desk.store.set_enabled("flow", False, 2)
    before = backend.dump()
    with pytest.raises(WorkflowDisabled):
        await accept(desk, dedupe="d1")
    assert backend.dump() == before


# ---- bursts


async def test_a_burst_makes_one_run_with_the_last_ones_input(desk: Desk) -> None:
    later = desk.clock.now() + 5_000
    first = await desk.store.accept_delivery(
        delivery(desk, debounce="k"), start(desk, ONE_CALL, start_at=later, input='{"n":1}')
    )
    big = '{"n":"' + "x" * 5_000 + '"}'
    second = await desk.store.accept_delivery(
        delivery(desk, debounce="k"), start(desk, ONE_CALL, start_at=later + 1_000, input=big, trigger='{"n":2}')
    )
    assert first.run is not None and second.run is not None
    assert (second.run.id, second.run.created, second.run.due_at) == (first.run.id, False, later + 1_000)
    row = await desk.store.get_run("flow#1")
    assert (row.input, row.trigger, row.start_at, row.record.due_at) == (big, '{"n":2}', later + 1_000, later + 1_000)
    third = await desk.store.accept_delivery(
        delivery(desk, debounce="k"), start(desk, ONE_CALL, start_at=later + 2_000, input='{"n":3}')
    )
    assert third.run is not None and third.run.id == first.run.id
    assert (await desk.store.get_run("flow#1")).input == '{"n":3}'
    other = await desk.store.accept_delivery(
        delivery(desk, debounce="other"), start(desk, ONE_CALL, start_at=later, input='{"n":4}')
    )
    assert other.run is not None and other.run.number == 2


async def test_a_run_that_has_begun_is_not_replaced(desk: Desk) -> None:
    first = await desk.store.accept_delivery(
        delivery(desk, debounce="k"), start(desk, ONE_CALL, start_at=desk.clock.now() + 1_000)
    )
    desk.clock.advance(1_000)
    await desk.take_up(ONE_CALL)
    second = await desk.store.accept_delivery(
        delivery(desk, debounce="k"), start(desk, ONE_CALL, start_at=desk.clock.now() + 1_000)
    )
    assert first.run is not None and second.run is not None and second.run.id != first.run.id


# ---- lists and retention


async def test_deliveries_are_listed_newest_first_by_workflow_trigger_and_state(desk: Desk) -> None:
    await desk.publish("other")
    ids = [(await accept(desk)).id for _ in range(3)]
    ids.append((await accept(desk, trigger="second")).id)
    ids.append((await accept(desk, plan(step("a"), name="other"), workflow="other")).id)
    ids.append((await desk.store.accept_delivery(delivery(desk, state="FILTERED"), None)).id)
    ids.reverse()

    async def found(**fields: Any) -> list[str]:
        page = await desk.store.list_deliveries(DeliveryFilter(**fields))
        assert page.following is None
        return [row.id for row in page.items]

    assert await found() == ids
    assert await found(workflow="other") == [ids[1]]
    assert await found(workflow="flow", trigger="second") == [ids[2]]
    assert await found(state="FILTERED") == [ids[0]]
    page = await desk.store.list_deliveries(DeliveryFilter(limit=4))
    assert [row.id for row in page.items] == ids[:4]
    assert await found(cursor=page.following) == ids[4:]


async def test_a_search_looks_at_headers_query_and_body_in_either_case(desk: Desk) -> None:
    body = await accept(desk, body='{"name":"Ünïcode","City":"BERLIN"}'.encode())
    header = await accept(desk, headers='[["x-event","Berlin"]]')
    query = await accept(desk, query='[["q","berlin"]]')
    await accept(desk, body=b"\x00\xff\x00")

    async def found(text: str) -> list[str]:
        return [row.id for row in (await desk.store.list_deliveries(DeliveryFilter(text=text))).items]

    assert await found("berlin") == [query.id, header.id, body.id]
    assert await found("Ünïcode") == [body.id]
    assert await found("nowhere") == []


async def test_old_deliveries_go_and_too_many_bytes_lose_their_bodies_oldest_first(desk: Desk) -> None:
    old = [(await accept(desk, dedupe=f"old{n}", body=b"x" * 100)).id for n in range(3)]
    desk.clock.advance(1_000)
    new = [(await accept(desk, dedupe=f"new{n}", body=b"x" * 100)).id for n in range(5)]
    assert await desk.store.prune_deliveries(desk.clock.now(), 250, 2) == 2
    assert await desk.store.prune_deliveries(desk.clock.now(), 250, 100) == 1 + 3
    assert await desk.store.prune_deliveries(desk.clock.now(), 250, 100) == 0
    for id in old:
        with pytest.raises(NotFound):
            await desk.store.get_delivery(id)
    assert [(await desk.store.get_delivery(id)).has_body for id in new] == [False, False, False, True, True]
    assert await desk.store.find_delivery_body(new[0]) is None
    assert (await accept(desk, dedupe="new0")).state == "DUPLICATE"


async def test_queued_runs_are_counted(desk: Desk) -> None:
    assert await desk.store.count_queued() == 0
    await desk.start(ONE_CALL, start_at=desk.clock.now() + 1_000)
    assert await desk.store.count_queued() == 1


# ---- ends of runs


async def follow(desk: Desk, states: str = '["FAILED"]', name: str = "follower") -> None:
    spec = TriggerSpec("end", "on_run", source="flow", states=states)
    await desk.store.publish_workflow(name, '{"f":1}', "", "json", None, 1, [spec])


async def test_the_end_of_a_run_leaves_an_entry_that_starts_one_run(desk: Desk) -> None:
    await follow(desk, '["SUCCEEDED"]')
    assert await desk.store.list_sources() == {"flow"}
    run = await desk.start()
    (end,) = await desk.store.list_ends(run.key, 10)
    assert end == EndRow(run.key, "follower", "end", 1)
    assert await desk.store.list_ends(None, 10) == [end]
    follower = replace(THREE_GIVES, name="follower")
    first = await desk.store.start_on_end(end, start(desk, follower))
    second = await desk.store.start_on_end(end, start(desk, follower))
    assert first is not None and second is None
    assert await desk.store.list_ends(None, 10) == []


async def test_only_the_states_that_were_asked_for_leave_an_entry(desk: Desk) -> None:
    await follow(desk)
    await desk.start()
    assert await desk.store.list_ends(None, 10) == []
    run = await desk.start(ONE_CALL)
    await desk.fail(run, error_class=None)
    assert [end.run for end in await desk.store.list_ends(None, 10)] == [run.key]


async def test_a_retried_run_leaves_an_entry_for_its_last_end(desk: Desk) -> None:
    await follow(desk)
    run = await desk.start(ONE_CALL)
    await desk.fail(run, error_class=None)
    await desk.apply(desk.store.retry_run, run, ev.RetryAsked())
    await desk.fail(run, error_class=None)
    (end,) = await desk.store.list_ends(None, 10)
    assert end.generation == 2
    assert await desk.store.start_on_end(end._replace(generation=1), None) is None
    assert await desk.store.list_ends(None, 10) == [end]


async def test_disabled_and_deleted_followers_get_no_entry(desk: Desk) -> None:
    await follow(desk, '["SUCCEEDED"]')
    await follow(desk, '["SUCCEEDED"]', "second")
    await desk.store.set_enabled("follower", False, 2)
    await desk.store.delete_workflow("second", 2)
    await desk.start()
    assert await desk.store.list_ends(None, 10) == []


async def test_ends_are_noted_from_the_moment_in_which_somebody_follows_them(desk: Desk) -> None:
    before = await desk.start()
    await follow(desk, '["SUCCEEDED"]')
    first = await desk.start()
    await desk.store.set_enabled("follower", False, desk.clock.now())
    second = await desk.start()
    follows = TriggerSpec("end", "on_run", source="flow", states='["SUCCEEDED"]')
    await desk.store.set_enabled("follower", True, desk.clock.now(), [follows])
    third = await desk.start()
    noted = [bool(await desk.store.list_ends(run.key, 10)) for run in (before, first, second, third)]
    assert noted == [False, True, False, True]
