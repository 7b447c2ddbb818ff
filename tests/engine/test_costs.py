"""What a run costs in things that can be counted: the same on every machine, however busy.

A figure that rises here is a regression of `docs/performance.md`; one that falls is to be written down there.
"""

from __future__ import annotations

import pytest

from taskforge.engine.starting import StartRequest
from tests.engine.counting import IN_CHILD, REFUSED, REQUESTS, TRANSFORMS, counted
from tests.engine.engine import Engine
from tests.support.garbage import circles

RUNS = 20


@pytest.mark.parametrize(
    ("document", "expected", "turns"),
    [
        (TRANSFORMS, {"transactions": 1, "statements": 8, "jq round trips": 0, "JSON texts": 7}, 8),
        (REQUESTS, {"transactions": 4, "statements": 38, "jq round trips": 0, "JSON texts": 10}, 36),
        (IN_CHILD, {"transactions": 2, "statements": 18, "jq round trips": 1, "JSON texts": 6}, 24),
    ],
    ids=["three transforms", "three requests", "one transform in jq"],
)
async def test_a_run_costs_so_much(engine: Engine, document: str, expected: dict[str, int], turns: int) -> None:
    name = await engine.publish(document)
    await engine.end(await engine.begin(name, input={"name": "x"}))
    with counted(engine) as counts:
        for _ in range(RUNS):
            await engine.end(await engine.begin(name, input={"name": "x"}))
    assert {what: counts[what] / RUNS for what in expected} == expected
    # How often threads and sockets wake the loop is not quite the same each time.
    assert counts["loop iterations"] / RUNS <= turns


async def test_a_batch_shares_its_statements(engine: Engine) -> None:
    name = await engine.publish(TRANSFORMS)
    inputs = [{"name": "x"}] * 128
    await engine.service.start_runs(StartRequest(name), inputs)
    with counted(engine) as counts:
        await engine.service.start_runs(StartRequest(name), inputs)
    # BEGIN, the numbers, 2 inserts of runs, 6 of steps, 2 of journal entries, 2 of statistics, COMMIT.
    assert (counts["transactions"], counts["statements"]) == (1, 15)


@pytest.mark.parametrize(
    "document", [TRANSFORMS, REQUESTS, REFUSED], ids=["three transforms", "three requests", "a refused connection"]
)
async def test_a_run_that_has_ended_leaves_nothing_to_the_garbage_collector(engine: Engine, document: str) -> None:
    name = await engine.publish(document)
    await engine.end(await engine.begin(name, input={"name": "x"}))
    with circles() as left:
        for _ in range(RUNS):
            await engine.end(await engine.begin(name, input={"name": "x"}))
    ours = {"RunSnapshot", "StepRun", "Frame", "Driver", "Changes", "Decision"}
    assert not (ours | {"ConnectionRefusedError", "traceback"}) & left.keys(), left
