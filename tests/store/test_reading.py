"""Reading runs: references, pages, filters, steps and large values."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from taskforge.core import events as ev
from taskforge.core.decide import Decision
from taskforge.core.errors import NotFound
from taskforge.core.jsontext import dumps
from taskforge.core.snapshot import Changes, RunSnapshot
from taskforge.store.protocol import RunFilter, RunRow
from tests.store.desk import Desk
from tests.support.plans import CALL, ONE_CALL, plan, step

# ---- references


async def test_a_run_is_found_by_its_id_and_by_its_name_and_number(desk: Desk) -> None:
    run = await desk.start()
    by_id, by_number = await desk.store.get_run(run.id), await desk.store.get_run("flow#1")
    assert by_id == by_number and by_id.key == run.key


@pytest.mark.parametrize(
    "ref",
    ["run_x", "flow#2", "flow#0", "flow#", "#1", "other#1", "flow#-1", "flow#1.0", "flow#x", "", "#", "flow#1 ", "flow",
     "flow#" + "9" * 40, "flow#\u0661", "flow##1", "\x00"],
)  # fmt: skip
async def test_a_reference_to_nothing_is_not_found(desk: Desk, ref: str) -> None:
    await desk.start()
    with pytest.raises(NotFound):
        await desk.store.get_run(ref)
    with pytest.raises(NotFound):
        await desk.store.get_run_rows(ref)


# ---- the steps of a run

EIGHT = plan(*(step(f"s{i}", CALL, max_attempts=2, initial_ms=0, continue_on_error=True) for i in range(8)))


async def eight_steps(desk: Desk) -> str:
    """A run whose odd steps are FAILED after two attempts, and whose even ones succeeded in the first."""
    run = await desk.start(EIGHT)
    for i in range(8):
        if i % 2:
            await desk.fail(run, f"s{i}")
            await desk.fail(run, f"s{i}")
        else:
            await desk.succeed(run, f"s{i}", i)
    return run.id


async def test_steps_come_in_pages_by_path_each_with_its_attempts(desk: Desk) -> None:
    ref = await eight_steps(desk)
    seen: list[str] = []
    cursor = None
    while True:
        page = await desk.store.get_run_rows(ref, cursor=cursor, limit=3)
        if not page.steps:
            break
        paths = [at.path for at in page.steps]
        assert len(paths) <= 3 and {at.record.path for at in page.attempts} == set(paths)
        assert [(at.record.path, at.record.number) for at in page.attempts] == [
            (path, number) for path in paths for number in ((1, 2) if int(path[1]) % 2 else (1,))
        ]
        seen += paths
        cursor = paths[-1]
    assert seen == [f"s{i}" for i in range(8)]


async def test_failed_steps_alone_come_in_pages_too(desk: Desk) -> None:
    ref = await eight_steps(desk)
    first = await desk.store.get_run_rows(ref, steps="failed", limit=3)
    assert [at.path for at in first.steps] == ["s1", "s3", "s5"]
    assert [(at.record.path, at.state) for at in first.attempts] == [
        (path, "FAILED") for path in ("s1", "s3", "s5") for _ in range(2)
    ]
    rest = await desk.store.get_run_rows(ref, steps="failed", cursor="s5", limit=3)
    assert [at.path for at in rest.steps] == ["s7"]


async def test_a_run_can_be_read_without_its_steps(desk: Desk) -> None:
    ref = await eight_steps(desk)
    rows = await desk.store.get_run_rows(ref, steps="none")
    assert rows.steps == [] and rows.attempts == [] and rows.run.id == ref
    assert await desk.store.count_steps(rows.run.key) == 8


# ---- lists


async def some_runs(desk: Desk) -> list[RunRow]:
    """Sixty runs of two workflows in several states, a second apart; newest first."""
    await desk.publish("other")
    for i in range(60):
        kind = CALL if i % 3 else None
        name = "other" if i % 5 == 0 else "flow"
        made = plan(step("call", CALL) if kind else step("call"), name=name)
        run = await desk.start(made, trigger_type="cron" if i % 4 == 0 else "manual")
        if i % 3 == 1:
            await desk.fail(run, error_class=None)
        desk.clock.advance(1_000)
    rows = [await desk.store.load_run(key) for key in range(60, 0, -1)]
    return [found.run for found in rows]


FILTERS: list[dict[str, Any]] = [
    {},
    {"workflow": "flow"},
    {"workflow": "other"},
    {"workflow": "nowhere"},
    {"states": ("SUCCEEDED",)},
    {"states": ("FAILED", "RUNNING")},
    {"states": ("FAILED", "FAILED")},
    {"states": ("WAITING",)},
    {"workflow": "flow", "states": ("FAILED",)},
    {"workflow": "other", "states": ("SUCCEEDED", "RUNNING", "QUEUED")},
    {"trigger_type": "cron"},
    {"trigger_type": "cron", "workflow": "flow", "states": ("RUNNING",)},
    {"since": 1_800_000_030_000},
    {"until": 1_800_000_029_999},
    {"since": 1_800_000_010_000, "until": 1_800_000_020_000},
    {"since": 1_800_000_010_000, "until": 1_800_000_020_000, "workflow": "flow"},
    {"since": 1_800_000_010_000, "until": 1_800_000_050_000, "states": ("FAILED",)},
    {"since": 1_800_000_020_000, "until": 1_800_000_010_000},
    {"since": 1_900_000_000_000},
    {"until": 0},
]


def admitted(row: RunRow, wanted: dict[str, Any]) -> bool:
    return (
        wanted.get("workflow") in (None, row.workflow)
        and (not wanted.get("states") or row.record.state in wanted["states"])
        and wanted.get("trigger_type") in (None, row.trigger_type)
        and wanted.get("since", 0) <= row.created_at <= wanted.get("until", 2**60)
    )


async def test_every_filter_gives_the_runs_it_names_newest_first_in_pages_of_every_size(desk: Desk) -> None:
    everything = await some_runs(desk)
    assert {row.record.state for row in everything} == {"SUCCEEDED", "FAILED", "RUNNING"}
    for wanted in FILTERS:
        expected = [row for row in everything if admitted(row, wanted)]
        for limit in (1, 7, 500):
            seen: list[RunRow] = []
            cursor = None
            while page := await desk.store.list_runs(RunFilter(**wanted, cursor=cursor, limit=limit)):
                assert len(page) <= limit
                seen += page
                cursor = page[-1].key
                if len(seen) > len(expected):
                    break
            assert [row.key for row in seen] == [row.key for row in expected], wanted
            assert seen == expected


async def test_a_page_goes_on_after_a_run_that_is_gone_meanwhile(desk: Desk) -> None:
    await some_runs(desk)
    first = await desk.store.list_runs(RunFilter(workflow="flow", states=(), limit=5))
    cursor = first[-1].key
    # A cursor that is no run of this workflow any more: what follows is still older than it.
    for gone in (cursor, cursor - 1):
        page = await desk.store.list_runs(RunFilter(workflow="flow", cursor=gone, limit=100))
        assert page and all(row.key < gone for row in page)
        assert all(a.key > b.key for a, b in pairwise(page))


# ---- large values

SIZES = [0, 1, 780, 790, 800, 810, 4_000, 4_090, 4_100, 40_000, 300_000, 600_000]


@pytest.mark.parametrize("size", SIZES)
async def test_an_output_of_any_size_comes_back_as_it_was(desk: Desk, size: int) -> None:
    run = await desk.start(ONE_CALL)
    output = {"text": "aé" * (size // 2), "id": run.id}
    await desk.succeed(run, output=output)
    rows = await desk.rows(run)
    assert rows.steps[0].output == dumps(output)
    assert (await desk.store.get_run_rows(run.id)).steps == rows.steps


@pytest.mark.parametrize("size", SIZES)
async def test_inputs_triggers_and_run_outputs_of_any_size_come_back_as_they_were(desk: Desk, size: int) -> None:
    text = dumps("x" * size)
    new, run, changes = desk.begin(ONE_CALL, input=text, trigger=dumps({"body": "y" * size}))
    changes.run = changes.run._replace(output=dumps("z" * size))
    run.key = (await desk.store.start_run(new, changes)).key
    row = await desk.store.get_run(new.id)
    assert row.input == text and row.trigger == dumps({"body": "y" * size}) and row.record.output == dumps("z" * size)
    (listed,) = await desk.store.list_runs(RunFilter(limit=1))
    assert listed == row
    # The output of the run is replaced by a later decision; its input stays.
    run.revision, run.output = 1, "short"
    await desk.apply(desk.store.advance_run, run, ev.TimePassed())
    row = await desk.store.get_run(new.id)
    assert row.record.output == '"short"' and row.input == text


async def test_what_a_block_remembers_may_be_large_and_may_become_small_again(desk: Desk) -> None:
    run = await desk.start(ONE_CALL)
    for remembered in (list(range(5_000)), "small", ["x" * 900], None, "y" * 10_000):
        at = run.steps["call"]
        at.data = remembered
        changes = await _touching(desk, run)
        assert changes.steps[0].data == (None if remembered is None else dumps(remembered))
        assert (await desk.load(run)).steps["call"].data == remembered


async def _touching(desk: Desk, run: RunSnapshot) -> Changes:
    decision = Decision(run, desk.context())
    decision.remember(run.steps["call"], run.steps["call"].data)
    changes = decision.take([])
    await desk.store.advance_run(changes)
    run.revision += 1
    return changes
