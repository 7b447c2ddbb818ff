"""Schedules fire each slot once, by the wall clock, and make up for what was missed as their policy says."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from taskforge.core.clock import from_rfc3339, to_rfc3339
from taskforge.core.errors import StoreFull
from taskforge.store.triggered import Firing, ScheduleRow
from tests.engine.triggers.engine import Engine, open_engine
from tests.support.clock import ManualClock
from tests.support.faulty_store import FaultyStore

HOUR = 3_600_000
MINUTE = 60_000


def document(trigger: str = "cron: '0 * * * *'", name: str = "w", more: str = "") -> str:
    return (
        f"name: {name}\ntriggers: {{tick: {{{trigger}}}}}\nsteps: [{{id: a, transform: '${{{{ $trigger }}}}'}}]\n{more}"
    )


async def slots(engine: Engine, name: str = "w") -> list[str]:
    """The slots of the runs that were started, as `10:00` of the day, `+` for late ones."""
    return [
        run["trigger"]["scheduled_at"][11:16] + ("+" if run["trigger"]["late"] else "")
        for run in await engine.runs(name)
    ]


def codes(schedule: Any) -> list[tuple[str, str, int]]:
    return [(one["slot"][11:16], one["code"], one["slots"]) for one in reversed(schedule["decisions"])]


async def test_a_slot_starts_one_run_at_its_time_and_none_before(engine: Engine) -> None:
    await engine.apply(document())
    await engine.tick(HOUR - 1)
    assert await slots(engine) == []
    await engine.tick(1)
    await engine.tick()
    (run,) = await engine.runs()
    assert run["state"] == "SUCCEEDED"
    assert run["trigger"] == {
        "type": "cron", "name": "tick", "scheduled_at": "2027-01-01T11:00:00.000Z", "late": False,
    }  # fmt: skip
    shown = await engine.schedule()
    assert (shown["next_slot"], shown["last_slot"]) == ("2027-01-01T12:00:00.000Z", "2027-01-01T11:00:00.000Z")
    assert shown["decisions"][0]["run"] == run["id"] and shown["decisions"][0]["code"] == "SLOT_FIRED"


async def test_a_plan_before_the_scheduler_looks_again_says_when_the_schedule_fires(engine: Engine) -> None:
    await engine.apply(document("cron: '0 * * * *', jitter: 10m"))
    at = (await engine.schedule())["next_at"]
    engine.clock.advance(MINUTE)
    await engine.apply(document("cron: '0 * * * *', jitter: 10m, catch_up: none"))
    assert (await engine.schedule())["next_at"] != at, "the row is due at once, for its new policy"
    _, told = await engine.call("POST", "/v1/workflows:plan", {"documents": [], "prune": True, "allow_empty": True})
    assert [move["old"]["at"] for move in told["workflows"][0]["firings"]] == [at]


async def planned(engine: Engine, *documents: str) -> list[tuple[str | None, str | None]]:
    """When the one schedule fires next, and when it would once these were applied; empty: at the same time."""
    given = {"documents": [{"source": one} for one in documents], "prune": not documents, "allow_empty": True}
    _, told = await engine.call("POST", "/v1/workflows:plan", given)
    moves = told["workflows"][0]["firings"]
    return [tuple(move[side] and move[side]["at"] for side in ("old", "new")) for move in moves]


async def test_a_plan_foretells_what_other_jitter_makes_of_the_next_firing(engine: Engine) -> None:
    for period, jitter in (("'0 * * * *'", "50m"), ("'@every 1h'", "50m")):
        await engine.apply(document(f"cron: {period}, jitter: 10m"))
        engine.clock.advance(MINUTE)
        old = (await engine.schedule())["next_at"]
        changed = document(f"cron: {period}, jitter: {jitter}")
        (move,) = await planned(engine, changed)
        await engine.apply(changed)
        await engine.tick()
        assert move == (old, (await engine.schedule())["next_at"]) and move[0] != move[1]
    assert await planned(engine, document("cron: '@every 1h', jitter: 50m, catch_up: all")) == []


async def test_a_plan_never_says_that_a_held_schedule_fires_in_the_past(engine: Engine) -> None:
    await engine.apply(document("cron: '0 * * * *', jitter: 10m"))
    await engine.call("PATCH", "/v1/workflows/w", {"held": True})
    for _ in range(3):
        await engine.tick(HOUR)
    await engine.tick(20 * MINUTE)
    assert await planned(engine) == [((await engine.schedule())["next_at"], None)]
    engine.clock.advance(40 * MINUTE)  # the next slot's time has come, its jitter has not passed
    assert await planned(engine) == [((await engine.schedule())["next_at"], None)]


async def test_the_triggers_input_is_evaluated_and_checked(engine: Engine) -> None:
    inputs = "inputs: {type: object, properties: {at: {type: string}}, required: [at]}\n"
    await engine.apply(document("cron: '0 * * * *', input: {at: '${{ $trigger.scheduled_at }}'}", more=inputs))
    await engine.apply(document("cron: '0 * * * *', input: {at: '${{ $trigger.late }}'}", "bad", inputs))
    await engine.tick(HOUR)
    (run,) = await engine.runs()
    assert run["input"] == {"at": "2027-01-01T11:00:00.000Z"}
    assert await engine.runs("bad") == []
    (failed,) = (await engine.schedule("bad"))["decisions"]
    assert (failed["code"], failed["error"]["code"]) == ("SLOT_FAILED", "INVALID_INPUT")
    await engine.tick(HOUR)
    assert len(await engine.runs()) == 2


@pytest.mark.parametrize(
    ("policy", "expected", "decided"),
    [
        ("latest", ["13:00+", "14:00"], [("11:00", "SLOT_SUPERSEDED", 2), ("13:00", "SLOT_LATE", 1)]),
        ("all", ["11:00+", "12:00+", "13:00+", "14:00"], None),
        ("none", ["14:00"], [("11:00", "SLOT_MISSED", 3)]),
    ],
)
@pytest.mark.parametrize("restart", [True, False], ids=["after a start", "after a suspend"])
async def test_three_missed_slots_are_made_up_for_by_the_policy(
    tmp_path: Path, clock: ManualClock, policy: str, expected: list[str], decided: Any, restart: bool
) -> None:
    path = tmp_path / "taskforge.db"
    async with open_engine(path, clock) as engine:
        await engine.apply(document(f"cron: '0 * * * *', catch_up: {policy}"))
        if not restart:
            await engine.tick(3 * HOUR + 10 * MINUTE)
            await engine.tick(50 * MINUTE)
            assert await slots(engine) == expected
    if restart:
        clock.advance(3 * HOUR + 10 * MINUTE)
        async with open_engine(path, clock) as engine:
            await engine.triggers.schedules._recompute()
            await engine.tick()
            await engine.tick(50 * MINUTE)
            assert await slots(engine) == expected
            shown = await engine.schedule()
            if decided is not None:
                assert codes(shown) == [*decided, ("14:00", "SLOT_FIRED", 1)]
            assert shown["missed"] == {"latest": 2, "all": 0, "none": 3}[policy]


async def test_a_catch_up_of_many_slots_goes_on_over_several_transactions(engine: Engine) -> None:
    await engine.apply(document("cron: '* * * * *', catch_up: all"))
    await engine.tick(250 * MINUTE)
    found = [run["trigger"]["scheduled_at"] for run in await engine.runs()]
    first = from_rfc3339("2027-01-01T10:01:00Z")
    assert found == [to_rfc3339(first + n * MINUTE) for n in range(250)]


async def test_a_clock_that_is_set_back_fires_no_slot_twice(engine: Engine, clock: ManualClock) -> None:
    await engine.apply(document())
    await engine.tick(HOUR)
    clock.set_wall(clock.wall() - HOUR)
    for _ in range(12):
        clock.set_wall(clock.wall() + 5 * MINUTE)
        await engine.tick()
    assert await slots(engine) == ["11:00"]
    clock.set_wall(clock.wall() + HOUR)
    await engine.tick()
    assert await slots(engine) == ["11:00", "12:00"]


async def test_a_clock_that_trembles_fires_no_slot_twice_and_misses_none(engine: Engine, clock: ManualClock) -> None:
    await engine.apply(document("cron: '* * * * *'"))
    began = clock.wall()
    for second in range(0, 601):
        clock.set_wall(began + second * 1000 + (500 if second % 2 else -500))
        await engine.tick()
    clock.set_wall(began + 601_000)
    await engine.tick()
    assert await slots(engine) == [f"10:{minute:02}" for minute in range(1, 11)]


async def test_a_clock_that_jumps_by_a_year_makes_up_for_one_slot(engine: Engine, clock: ManualClock) -> None:
    await engine.apply(document())
    clock.set_wall(clock.wall() + 365 * 24 * HOUR)
    await engine.tick()
    assert await slots(engine) == ["10:00"]
    clock.set_wall(0)
    await engine.tick()
    assert len(await engine.runs()) == 1


async def test_two_schedulers_on_one_database_fire_each_slot_once(engine: Engine) -> None:
    await engine.apply(document("cron: '* * * * *', catch_up: all"))
    engine.clock.advance(20 * MINUTE)
    due = await engine.store.list_due_schedules(engine.clock.wall(), 10)
    fired = [engine.triggers.schedules._fire(due[0]) for _ in range(5)]
    await asyncio.gather(*fired, return_exceptions=True)
    await engine.tick()
    found = await slots(engine)
    assert [slot.rstrip("+") for slot in found] == [f"10:{minute:02}" for minute in range(1, 21)]


async def test_a_schedule_begins_anew_after_a_clock_that_was_wrong(engine: Engine, clock: ManualClock) -> None:
    await engine.apply(document())
    clock.set_wall(clock.wall() + 48 * HOUR + MINUTE)
    await engine.tick()
    assert await slots(engine) == ["10:00+"]
    clock.set_wall(clock.wall() - 48 * HOUR - MINUTE)
    for _ in range(3):
        await engine.tick(HOUR)
    assert await slots(engine) == ["10:00+"]
    for enabled in (False, True):
        await engine.call("PATCH", "/v1/workflows/w", {"enabled": enabled})
    for _ in range(47):
        await engine.tick(HOUR)
    # 10:00 two days later had its run while the clock was wrong; 11:00 to 13:00 were past when it was enabled.
    hours = [hour % 24 for hour in range(14, 14 + 48) if hour != 24 + 24 + 10]
    assert await slots(engine) == ["10:00+", *(f"{hour:02}:00" for hour in hours)][:47]


async def test_why_tells_what_was_decided_on_a_runs_slot_and_on_those_before_it(engine: Engine) -> None:
    await engine.apply(document())
    await engine.tick(HOUR)
    await engine.tick(3 * HOUR + MINUTE)
    reasons = [(await engine.call("GET", f"/v1/runs/w%23{number}/why"))[1]["items"] for number in (1, 2)]
    assert [[item["code"] for item in items] for items in reasons] == [["SLOT_FIRED"], ["SLOT_SUPERSEDED", "SLOT_LATE"]]
    assert reasons[1][0]["message"].startswith(
        "2 slots of 'tick' from 2027-01-01T12:00:00.000Z to 2027-01-01T13:00:00.000Z: nobody was there"
    )
    assert reasons[1][1]["message"].startswith("slot 2027-01-01T14:00:00.000Z of 'tick': the slot's run was started")


@pytest.mark.parametrize(
    ("on_limit", "states"),
    [
        ("skip", ["WAITING", "CANCELLED", "CANCELLED"]),
        ("queue", ["WAITING", "QUEUED", "QUEUED"]),
        ("cancel_oldest", ["CANCELLED", "CANCELLED", "WAITING"]),
    ],
)
async def test_what_overlaps_is_for_concurrency_to_say_and_each_slot_has_its_run(
    engine: Engine, on_limit: str, states: list[str]
) -> None:
    await engine.apply(
        f"name: w\ntriggers: {{tick: {{cron: '*/15 * * * *'}}}}\nconcurrency: {{limit: 1, on_limit: {on_limit}}}\n"
        "steps: [{id: long, wait: {for: 40m}}]\n"
    )
    async with asyncio.timeout(20):
        for slots_so_far in range(1, 4):
            await engine.tick(15 * MINUTE)
            expected = states[:slots_so_far] if on_limit != "cancel_oldest" else states[3 - slots_so_far :]
            # Who waits for a place is told of it by the due loop, which keeps real time.
            while [run["state"] for run in await engine.runs()] != expected:
                await asyncio.sleep(0.01)
    decided = (await engine.schedule())["decisions"]
    assert [one["code"] for one in decided] == ["SLOT_FIRED"] * 3 and len({one["run"] for one in decided}) == 3


async def test_a_held_workflow_fires_nothing_and_makes_up_for_it_by_its_policy(engine: Engine) -> None:
    await engine.apply(document())
    await engine.apply(document("cron: '0 * * * *', catch_up: none", "strict"))
    for name in ("w", "strict"):
        await engine.call("PATCH", f"/v1/workflows/{name}", {"held": True})
    for _ in range(3):
        await engine.tick(HOUR)
    assert await engine.runs() == []
    shown = await engine.schedule()
    assert [code for _, code, _ in codes(shown)] == ["SLOT_HELD"] * 3
    assert (shown["held"], shown["overdue"]) == (True, False)
    engine.clock.advance(10 * MINUTE)
    for name in ("w", "strict"):
        await engine.call("PATCH", f"/v1/workflows/{name}", {"held": False})
    await engine.tick()
    assert await slots(engine) == ["13:00+"]
    assert codes(await engine.schedule()) == [("11:00", "SLOT_SUPERSEDED", 2), ("13:00", "SLOT_LATE", 1)]
    assert await engine.runs("strict") == []
    assert codes(await engine.schedule("strict")) == [("11:00", "SLOT_MISSED", 3)]


async def test_a_disabled_workflow_misses_nothing_that_counts(engine: Engine) -> None:
    await engine.apply(document("cron: '0 * * * *', catch_up: all"))
    await engine.call("PATCH", "/v1/workflows/w", {"enabled": False})
    await engine.tick(5 * HOUR)
    assert not (await engine.schedule())["enabled"]
    await engine.call("PATCH", "/v1/workflows/w", {"enabled": True})
    await engine.tick(HOUR)
    assert await slots(engine) == ["16:00"]


async def test_a_changed_schedule_begins_now_and_an_unchanged_one_goes_on(engine: Engine) -> None:
    await engine.apply(document("cron: '0 * * * *', catch_up: all"))
    engine.clock.advance(2 * HOUR)
    await engine.apply(document("cron: '0 * * * *', catch_up: all", more="description: more\n"))
    await engine.tick()
    assert await slots(engine) == ["11:00+", "12:00"]
    engine.clock.advance(2 * HOUR + MINUTE)
    await engine.apply(document("cron: '30 * * * *', catch_up: all"))
    await engine.tick(HOUR)
    assert await slots(engine) == ["11:00+", "12:00", "14:30+"]


async def test_a_single_time_fires_once(engine: Engine) -> None:
    await engine.apply(document("at: '2027-01-01T12:30'"))
    await engine.tick(2 * HOUR)
    assert await slots(engine) == []
    await engine.tick(HOUR)
    await engine.tick(24 * HOUR)
    assert await slots(engine) == ["12:30+"]
    shown = await engine.schedule()
    assert (shown["next_slot"], shown["next_at"], shown["at"]) == (None, None, "2027-01-01T12:30")


async def test_a_period_counts_from_when_it_was_published(engine: Engine) -> None:
    engine.clock.advance(7_000)
    await engine.apply(document("cron: '@every 90s'"))
    for _ in range(3):
        await engine.tick(90_000)
    found = [run["trigger"]["scheduled_at"][14:19] for run in await engine.runs()]
    assert found == ["01:37", "03:07", "04:37"]


async def test_a_store_that_is_full_keeps_the_slot_for_later(tmp_path: Path, clock: ManualClock) -> None:
    async with open_engine(tmp_path / "taskforge.db", clock) as engine:
        await engine.apply(document())
        faulty = FaultyStore(engine.store)
        engine.triggers.schedules._store = faulty.as_store()
        faulty.refuse("fire_schedule", StoreFull("the disk is full"))
        clock.advance(HOUR)
        with pytest.raises(StoreFull):
            await engine.triggers.schedules.fire_due()
        assert engine.executor.in_flight == 0
        await engine.tick(MINUTE)
        assert await slots(engine) == ["11:00+"]


async def test_a_schedule_that_cannot_be_decided_on_does_not_keep_the_others(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.apply(document(name="broken"))
    await engine.apply(document())
    schedules = engine.triggers.schedules
    fire = schedules._fire

    async def fire_or_break(row: ScheduleRow) -> None:
        if row.workflow == "broken":
            raise RuntimeError("planted")
        await fire(row)

    monkeypatch.setattr(schedules, "_fire", fire_or_break)
    await engine.tick(HOUR)
    assert await slots(engine) == ["11:00"] and await engine.runs("broken") == []
    monkeypatch.undo()
    await engine.tick(MINUTE)
    assert await slots(engine, "broken") == ["11:00+"]


async def test_what_is_overdue_is_shown_everywhere(engine: Engine) -> None:
    await engine.apply(document())
    engine.clock.advance(HOUR + 90_000)
    shown = await engine.schedule()
    assert (shown["overdue"], shown["overdue_s"]) == (True, 90.0)
    _, stats = await engine.call("GET", "/v1/stats")
    assert stats["schedules_overdue"] == 1
    await engine.tick()
    assert (await engine.call("GET", "/v1/stats"))[1]["schedules_overdue"] == 0


async def test_the_rules_of_zones_are_applied_anew_at_each_start(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "taskforge.db"
    async with open_engine(path, clock) as engine:
        await engine.apply(document())
        (row,) = await engine.store.list_schedules(None, 0, 10)
        # As an older rule had it.
        await engine.store.fire_schedule(
            Firing(row.id, row.cursor, row.cursor, row.next_at + HOUR if row.next_at else 0)
        )
    async with open_engine(path, clock) as engine:
        await engine.triggers.schedules._recompute()
        await engine.tick(HOUR)
        assert await slots(engine) == ["11:00"]


async def test_a_thousand_schedules_of_one_second_start_at_once(engine: Engine) -> None:
    for number in range(1000):
        await engine.apply(document(name=f"w{number}"))
    loop = asyncio.get_running_loop()
    engine.clock.advance(HOUR)
    began = loop.time()
    await engine.triggers.schedules.fire_due()
    took = loop.time() - began
    assert (await engine.store.stats(engine.clock.now())).runs["SUCCEEDED"] == 1000
    print(f"1,000 schedules: {took:.2f} s")
