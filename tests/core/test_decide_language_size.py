"""What a decision costs does not grow with the run: counted in calls and in rows looked at, not in time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from taskforge.core import events as ev
from taskforge.core.decide import decide
from taskforge.core.snapshot import StepRun
from tests.core.driven import WRONG, Driven, act, give


class Counter:
    """Counts Python and C calls while a decision is made."""

    def __init__(self) -> None:
        self.calls = 0

    def __enter__(self) -> Counter:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            self.calls += 1


class Rows(dict[str, StepRun]):
    """The steps of a run; adds up how many are looked at when somebody goes through them."""

    looked_at = 0

    def _all(self) -> None:
        Rows.looked_at += len(self)

    def __iter__(self) -> Iterator[str]:
        self._all()
        return super().__iter__()

    def values(self) -> Any:
        self._all()
        return super().values()

    def items(self) -> Any:
        self._all()
        return super().items()


def cost_of(count: int, *, undo: bool = False) -> tuple[int, int]:
    """Calls and rows looked at, all in all, for a run of so many items."""
    item = act("x", undo=[act("undo_x")]) if undo else act("x")
    items = {"items": list(range(count)), "max_parallel": 16, "steps": [item, give("y", "${{ $x + $item }}")]}
    run = Driven({"id": "each", "foreach": items}, act("last"), begin=False, slots=8, output_limit=1_000_000)
    run.run.steps, Rows.looked_at = Rows(), 0
    under_way: list[StepRun] = []
    counter = Counter()

    def take(*events: ev.Event) -> None:
        context = run.context()
        context.slots = 8 - len(under_way)
        with counter:
            changes = decide(run.run, events, context)
        run.run.revision, run.run.key = run.run.revision + 1, 1
        under_way.extend(changes.starts)

    take(ev.Begun())
    while under_way:
        at = under_way.pop(0)
        assert at.attempt is not None
        if at.step.id == "last":
            take(ev.AttemptFailed(at.path, at.attempt.id, WRONG))
        else:
            take(ev.AttemptSucceeded(at.path, at.attempt.id, 1))
    assert run.run.ended and len(run.run.steps) >= 2 * count
    return counter.calls, Rows.looked_at


@pytest.mark.parametrize(("count", "undo"), [(1_000, False), (300, True)])
def test_ten_times_the_items_cost_ten_times_as_much(count: int, undo: bool) -> None:
    calls, rows = cost_of(count, undo=undo)
    more_calls, more_rows = cost_of(10 * count, undo=undo)
    assert more_calls < 10.2 * calls
    assert more_rows <= 10.2 * rows + 100
