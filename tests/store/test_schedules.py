"""Schedules and their slots: kept in step with the definition, moved on once, whoever tries."""

from __future__ import annotations

from dataclasses import replace

import pytest

from taskforge.core.errors import ScheduleMoved, WorkflowDisabled
from taskforge.store.protocol import Store
from taskforge.store.triggered import Firing, ScheduleRow, SlotRow, Start, TriggerSpec
from tests.store.backends import Backend
from tests.store.desk import Desk
from tests.support.plans import ONE_CALL

HOURLY = '{"cron":"0 * * * *"}'
DAILY = '{"cron":"0 9 * * *"}'


def spec(name: str = "tick", config: str = HOURLY, cursor: int = 100, next_at: int | None = 200) -> TriggerSpec:
    return TriggerSpec(name, "cron", config=config, cursor=cursor, next_at=next_at)


async def publish(store: Store, *specs: TriggerSpec, text: str = "{}", name: str = "timed") -> None:
    await store.publish_workflow(name, text, text, "json", None, 1, specs)


async def schedules(store: Store) -> list[ScheduleRow]:
    return await store.list_schedules(None, 0, 100)


async def only(store: Store) -> ScheduleRow:
    (row,) = await schedules(store)
    return row


def start(desk: Desk, name: str = "timed") -> Start:
    new, _, changes = desk.begin(replace(ONE_CALL, name=name), trigger_type="cron")
    return new, changes


def firing(row: ScheduleRow, slot: int, *starts: Start, next_at: int | None = 300) -> Firing:
    slots = [SlotRow(slot, "SLOT_FIRED", slot + 1, slot, run=new.id) for new, _ in starts]
    return Firing(row.id, row.cursor, slot, next_at, slots, [(slot, one) for one in starts])


# ---- in step with the definition


async def test_a_published_schedule_begins_where_its_spec_says(desk: Desk) -> None:
    await publish(desk.store, spec())
    row = await only(desk.store)
    assert (row.workflow, row.trigger, row.config, row.active) == ("timed", "tick", HOURLY, True)
    assert (row.began_at, row.cursor, row.next_at, row.missed) == (100, 100, 200, 0)
    assert await desk.store.next_schedule() == 200
    assert await desk.store.list_due_schedules(199, 10) == []
    assert await desk.store.list_due_schedules(200, 10) == [row]


async def test_a_schedule_that_has_not_changed_goes_on_in_a_new_version(desk: Desk) -> None:
    await publish(desk.store, spec())
    before = await only(desk.store)
    await publish(desk.store, spec(cursor=5_000, next_at=6_000), text='{"v":2}')
    assert await only(desk.store) == before


async def test_a_schedule_with_other_times_begins_anew(desk: Desk) -> None:
    await publish(desk.store, spec())
    before = await only(desk.store)
    await publish(desk.store, spec(config=DAILY, cursor=5_000, next_at=6_000), text='{"v":2}')
    row = await only(desk.store)
    assert (row.id, row.config, row.began_at, row.cursor, row.next_at) == (before.id, DAILY, 5_000, 5_000, 6_000)


async def test_another_policy_keeps_the_cursor_and_is_looked_at_at_once(desk: Desk) -> None:
    await publish(desk.store, spec())
    other = '{"cron":"0 * * * *","catch_up":"all"}'
    await publish(desk.store, spec(config=other, cursor=150, next_at=999), text='{"v":2}')
    row = await only(desk.store)
    assert (row.config, row.cursor, row.next_at) == (other, 100, 150)


async def test_a_schedule_that_is_gone_fires_no_more_and_is_not_listed(desk: Desk) -> None:
    await publish(desk.store, spec(), spec("other"))
    await publish(desk.store, spec("other"), text='{"v":2}')
    assert [row.trigger for row in await schedules(desk.store)] == ["other"]
    assert [row.trigger for row in await desk.store.list_due_schedules(9_999, 10)] == ["other"]


async def test_a_schedule_that_comes_back_begins_anew_and_keeps_its_slots(desk: Desk) -> None:
    await publish(desk.store, spec())
    row = await only(desk.store)
    await desk.store.fire_schedule(firing(row, 200, start(desk)))
    await publish(desk.store, text='{"v":2}')
    await publish(desk.store, spec(cursor=150, next_at=200), text='{"v":3}')
    again = await only(desk.store)
    assert (again.id, again.cursor, again.next_at) == (row.id, 150, 200)
    assert await desk.store.fire_schedule(firing(again, 200, start(desk))) == [None]
    assert (await desk.store.get_run("timed#1")).trigger_type == "cron"


async def test_what_was_left_out_after_the_new_beginning_comes_again_and_what_fired_does_not(desk: Desk) -> None:
    await publish(desk.store, spec())
    row = await only(desk.store)
    new, changes = start(desk)
    slots = [SlotRow(150, "SLOT_SUPERSEDED", 901, 150), SlotRow(200, "SLOT_SUPERSEDED", 901, 700, covers=6),
             SlotRow(800, "SLOT_LATE", 901, 800, run=new.id)]  # fmt: skip
    await desk.store.fire_schedule(Firing(row.id, row.cursor, 800, 900, slots, [(800, (new, changes))]))
    await desk.store.set_enabled("timed", False, 2)
    await desk.store.set_enabled("timed", True, 3, [spec(cursor=160, next_at=200)])
    again = await only(desk.store)
    assert [slot.slot for slot in await desk.store.list_slots(row.id, 10)] == [800, 150]
    (started,) = await desk.store.fire_schedule(firing(again, 200, start(desk)))
    assert started is not None and started.number == 2
    assert await desk.store.fire_schedule(firing(await only(desk.store), 800, start(desk))) == [None]


async def test_the_decisions_behind_a_run_are_its_own_and_those_left_out_with_it(desk: Desk) -> None:
    await publish(desk.store, spec())
    row = await only(desk.store)
    ones = [start(desk) for _ in range(3)]
    left = [SlotRow(200, "SLOT_TOO_OLD", 901, 300, covers=2), SlotRow(350, "SLOT_FAILED", 901, 350, error="{}")]
    fired = [SlotRow(at, "SLOT_LATE", 901, at, run=new.id) for at, (new, _) in zip((400, 500), ones, strict=False)]
    pairs = list(zip((400, 500), ones, strict=False))
    started = await desk.store.fire_schedule(Firing(row.id, row.cursor, 500, 900, [*left, *fired], pairs))
    await desk.store.fire_schedule(firing(await only(desk.store), 900, ones[2]))
    first, second = (one.id for one in started if one is not None)
    found = desk.store.list_slots_of_run
    assert await found(first, "timed", "tick", 400) == [*left, fired[0]]
    assert await found(second, "timed", "tick", 500) == [fired[1]]
    assert [slot.slot for slot in await found(ones[2][0].id, "timed", "tick", 900)] == [900]


async def test_a_disabled_workflow_fires_no_more_and_begins_anew_when_it_is_enabled(desk: Desk) -> None:
    await publish(desk.store, spec())
    await desk.store.set_enabled("timed", False, 2)
    row = await only(desk.store)
    assert (row.active, row.next_at) == (False, None)
    await publish(desk.store, spec(cursor=300, next_at=400), text='{"v":2}')
    assert not (await only(desk.store)).active
    await desk.store.set_enabled("timed", True, 3, [spec(cursor=5_000, next_at=6_000)])
    row = await only(desk.store)
    assert (row.active, row.cursor, row.next_at) == (True, 5_000, 6_000)
    await desk.store.set_enabled("timed", True, 4, [spec(cursor=7_000, next_at=8_000)])
    assert await only(desk.store) == row


async def test_a_deleted_workflow_has_no_schedules(desk: Desk) -> None:
    await publish(desk.store, spec())
    await desk.store.delete_workflow("timed", 2)
    assert await schedules(desk.store) == []
    assert await desk.store.next_schedule() is None
    await publish(desk.store, spec(cursor=5_000, next_at=6_000))
    assert (await only(desk.store)).cursor == 5_000


# ---- firing


async def test_a_slot_starts_its_run_and_moves_the_schedule_in_one_transaction(desk: Desk) -> None:
    await publish(desk.store, spec())
    row = await only(desk.store)
    one = start(desk)
    (started,) = await desk.store.fire_schedule(firing(row, 200, one))
    assert started is not None and started.number == 1 and started.created
    row = await only(desk.store)
    assert (row.cursor, row.next_at, row.last_slot) == (200, 300, 200)
    (slot,) = await desk.store.list_slots(row.id, 10)
    assert slot == SlotRow(200, "SLOT_FIRED", 201, 200, run=started.id)
    assert await desk.store.list_slots_of_run(started.id, "timed", "tick", 200) == [slot]
    assert await desk.store.list_slots_of_run("run_other", "timed", "tick", 200) == []


async def test_a_schedule_moves_once_whoever_tries(desk: Desk, backend: Backend) -> None:
    await publish(desk.store, spec())
    row = await only(desk.store)
    await desk.store.fire_schedule(firing(row, 200, start(desk)))
    before = backend.dump()
    with pytest.raises(ScheduleMoved):
        await desk.store.fire_schedule(firing(row, 200, start(desk)))
    assert backend.dump() == before


async def test_a_refused_start_leaves_no_trace(desk: Desk, backend: Backend) -> None:
    await publish(desk.store, spec())
    row = await only(desk.store)
    await desk.store.set_enabled("timed", False, 2)
    before = backend.dump()
    with pytest.raises(ScheduleMoved):
        await desk.store.fire_schedule(firing(row, 200, start(desk)))
    assert backend.dump() == before
    await desk.store.set_enabled("timed", True, 2, [spec()])
    await publish(desk.store, name="off", text='{"x":1}')
    await desk.store.set_enabled("off", False, 2)
    before = backend.dump()
    with pytest.raises(WorkflowDisabled):
        await desk.store.fire_schedule(firing(row, 200, start(desk), start(desk, "off")))
    assert backend.dump() == before


async def test_missed_slots_are_counted_and_shown(desk: Desk) -> None:
    await publish(desk.store, spec())
    row = await only(desk.store)
    missed = SlotRow(200, "SLOT_MISSED", 1_000, 900, covers=8)
    await desk.store.fire_schedule(Firing(row.id, 100, 900, 1_100, [missed]))
    row = await only(desk.store)
    assert (row.missed, row.cursor, row.last_slot) == (8, 900, None)
    assert await desk.store.list_slots(row.id, 10) == [missed]


async def test_a_held_slot_is_decided_when_the_workflow_goes_on(desk: Desk) -> None:
    await publish(desk.store, spec())
    row = await only(desk.store)
    await desk.store.set_hold("timed", True, 2)
    for slot in (200, 300, 400):
        row = await only(desk.store)
        held = [SlotRow(slot, "SLOT_HELD", slot + 1, slot)]
        await desk.store.fire_schedule(Firing(row.id, row.cursor, row.cursor, slot + 100, held, held_at=slot))
    row = await only(desk.store)
    assert (row.cursor, row.next_at, row.held_at) == (100, 500, 200)
    await desk.store.set_hold("timed", False, 3)
    row = await only(desk.store)
    assert (row.cursor, row.next_at, row.held_at) == (100, 200, None)
    missed = SlotRow(200, "SLOT_SUPERSEDED", 450, 300, covers=2)
    one = start(desk)
    late = SlotRow(400, "SLOT_LATE", 450, 400, run=one[0].id)
    (started,) = await desk.store.fire_schedule(Firing(row.id, 100, 400, 500, [missed, late], [(400, one)]))
    assert started is not None
    assert await desk.store.list_slots(row.id, 10) == [late, missed]


async def test_letting_everything_go_on_wakes_every_held_schedule(desk: Desk) -> None:
    await publish(desk.store, spec())
    row = await only(desk.store)
    await desk.store.set_hold(None, True, 2)
    await desk.store.fire_schedule(Firing(row.id, 100, 100, 300, (), held_at=200))
    await desk.store.set_hold(None, False, 2)
    assert (await only(desk.store)).next_at == 200


async def test_overdue_schedules_are_counted(desk: Desk) -> None:
    await publish(desk.store, spec(), spec("other", next_at=500), spec("never", next_at=None))
    assert await desk.store.count_overdue(200) == (0, None)
    assert await desk.store.count_overdue(501) == (2, 200)


async def test_old_decisions_are_pruned_and_the_schedule_goes_on(desk: Desk) -> None:
    await publish(desk.store, spec())
    row = await only(desk.store)
    await desk.store.fire_schedule(Firing(row.id, 100, 200, 300, [SlotRow(200, "SLOT_MISSED", 201, 200)]))
    await desk.store.fire_schedule(Firing(row.id, 200, 300, 400, [SlotRow(300, "SLOT_MISSED", 301, 300)]))
    assert await desk.store.prune_slots(250, 0, 100) is None
    assert [slot.slot for slot in await desk.store.list_slots(row.id, 10)] == [300]
    assert await desk.store.prune_slots(250, 0, 1) == row.id
