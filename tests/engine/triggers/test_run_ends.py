"""`on_run`: the end of a run starts another workflow's run, once, and circles come to an end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine.triggers.engine import Engine, open_engine
from tests.support.clock import ManualClock

SOURCE = "name: w\nsteps: [{{id: a, {step}}}]\noutput: 7\n"
FOLLOWER = (
    "name: follower\ntriggers: {{end: {{on_run: {{workflow: {source}, states: [{states}]}}, "
    "input: '${{{{ $trigger }}}}'}}}}\nsteps: [{{id: a, transform: 1}}]\n"
)


async def start(engine: Engine, workflow: str = "w") -> Any:
    status, answer = await engine.call("POST", f"/v1/workflows/{workflow}/runs", {})
    assert status == 202
    return answer


@pytest.mark.parametrize(
    ("step", "states", "expected"),
    [
        ("transform: 1", "SUCCEEDED", True),
        ("transform: 1", "FAILED, CANCELLED", False),
        ("fail: {message: no}", "FAILED", True),
        ("fail: {message: no}", "SUCCEEDED", False),
    ],
)
async def test_an_end_in_one_of_the_states_starts_a_run_that_sees_it(
    engine: Engine, step: str, states: str, expected: bool
) -> None:
    await engine.apply(SOURCE.format(step=step))
    await engine.apply(FOLLOWER.format(source="w", states=states))
    run = await start(engine)
    found = await engine.runs("follower")
    assert len(found) == expected
    if expected:
        trigger = found[0]["trigger"]
        assert found[0]["input"] == trigger and found[0]["state"] == "SUCCEEDED"
        assert (trigger["type"], trigger["run"], trigger["workflow"]) == ("run", run["id"], "w")
        failed = step.startswith("fail")
        assert trigger["state"] == ("FAILED" if failed else "SUCCEEDED")
        assert (trigger["output"], trigger["error"] is None) == ((None, False) if failed else (7, True))


async def test_an_end_that_a_crash_left_behind_starts_its_run_at_the_next_start(
    tmp_path: Path, clock: ManualClock
) -> None:
    path = tmp_path / "taskforge.db"
    async with open_engine(path, clock) as engine:
        await engine.apply(SOURCE.format(step="transform: 1"))
        await engine.apply(FOLLOWER.format(source="w", states="SUCCEEDED"))
        engine.triggers.run_ends._sources = set()
        await start(engine)
        assert await engine.runs("follower") == []
    async with open_engine(path, clock) as engine:
        assert len(await engine.runs("follower")) == 1
    async with open_engine(path, clock) as engine:
        await engine.triggers.run_ends.catch_up()
        assert len(await engine.runs("follower")) == 1


async def test_however_many_ends_were_left_behind_all_start_their_runs_at_the_next_start(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskforge.engine.run_ends._BATCH", 2)
    path = tmp_path / "taskforge.db"
    async with open_engine(path, clock) as engine:
        await engine.apply(SOURCE.format(step="transform: 1"))
        await engine.apply(FOLLOWER.format(source="w", states="SUCCEEDED"))
        engine.triggers.run_ends._sources = set()
        for _ in range(5):
            await start(engine)
    async with open_engine(path, clock) as engine:
        assert len(await engine.runs("follower")) == 5
        assert await engine.store.list_ends(None, 10) == []


async def test_ends_that_a_shutdown_leaves_for_the_next_start_are_no_warnings(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    await engine.apply(SOURCE.format(step="transform: 1"))
    await engine.apply(FOLLOWER.format(source="w", states="SUCCEEDED"))
    engine.triggers.run_ends._sources = set()
    await start(engine)
    engine.service.stop()
    await engine.triggers.run_ends.catch_up()
    assert len(await engine.store.list_ends(None, 10)) == 1
    assert "store_unavailable" not in caplog.text


async def test_a_circle_of_workflows_comes_to_an_end(engine: Engine) -> None:
    for name, source in (("ping", "pong"), ("pong", "ping")):
        await engine.apply(
            f"name: {name}\ntriggers: {{end: {{on_run: {{workflow: {source}}}}}}}\nsteps: [{{id: a, transform: 1}}]\n"
        )
    await start(engine, "ping")
    depths = [run["trigger"].get("depth", 0) for name in ("ping", "pong") for run in await engine.runs(name)]
    assert sorted(depths) == list(range(11))
    assert await engine.store.list_ends(None, 10) == []


async def test_a_run_that_cannot_be_started_is_dropped_and_the_others_go_on(engine: Engine) -> None:
    schema = "inputs: {type: object, properties: {run: {type: integer}}}\n"
    await engine.apply(SOURCE.format(step="transform: 1"))
    await engine.apply(FOLLOWER.format(source="w", states="SUCCEEDED") + schema)
    await engine.apply(FOLLOWER.format(source="w", states="SUCCEEDED").replace("name: follower", "name: second"))
    await start(engine)
    assert len(await engine.runs("second")) == 1 and await engine.runs("follower") == []
    assert await engine.store.list_ends(None, 10) == []


async def test_a_disabled_follower_is_not_started(engine: Engine) -> None:
    await engine.apply(SOURCE.format(step="transform: 1"))
    await engine.apply(FOLLOWER.format(source="w", states="SUCCEEDED"))
    await engine.call("PATCH", "/v1/workflows/follower", {"enabled": False})
    await start(engine)
    await engine.call("PATCH", "/v1/workflows/follower", {"enabled": True})
    assert await engine.runs("follower") == []
    await start(engine)
    assert len(await engine.runs("follower")) == 1
