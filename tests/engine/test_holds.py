"""Holding a workflow back while a run of it is active: the loop must rest, and a release lets it go on."""

from __future__ import annotations

import asyncio

import pytest

from taskforge.core import decide
from tests.engine.engine import Engine
from tests.support.target import Answer

BOTH = """
name: both
steps:
  - id: together
    parallel:
      - {id: long, http: {url: "URL/long"}}
      - {id: pause, wait: {for: 50ms}}
      - {id: late, needs: [pause], http: {url: "URL/late"}}
"""


async def test_a_held_run_that_is_active_waits_without_turning_and_goes_on_when_it_is_released(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    decisions = 0
    inner = decide.Decision.take

    def counted(self: decide.Decision, events: list[object]) -> object:
        nonlocal decisions
        decisions += 1
        return inner(self, events)  # type: ignore[arg-type]

    await engine.publish(BOTH)
    engine.target.answer("/long", Answer(hold=True))
    run = await engine.begin("both")
    await engine.until("/long")
    await engine.service.set_hold("both", True)
    monkeypatch.setattr(decide.Decision, "take", counted)
    await asyncio.sleep(0.2)
    assert decisions < 10
    assert engine.target.keys("/late") == []
    await engine.service.set_hold("both", False)
    await engine.until("/late")
    engine.target.release("/long")
    assert (await engine.end(run)).record.state == "SUCCEEDED"
