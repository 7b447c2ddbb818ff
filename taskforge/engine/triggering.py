"""What all triggers have in common: their rows in the store, how many runs led to a run, and the runs they prepare."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from taskforge.core.errors import LoopRefused
from taskforge.core.jsontext import dumps
from taskforge.core.model import Plan, RunTrigger, TimeTrigger, Trigger
from taskforge.engine.evaluation import Expressions
from taskforge.engine.starting import Pending, StartRequest, Starts
from taskforge.engine.values import StoredValues
from taskforge.expressions.errors import EvaluationFailed
from taskforge.store.triggered import TriggerSpec
from taskforge.triggers.schedule import Schedule, seed_of

DEPTH_LIMIT: Final = 10
"""Most runs that lead to one another by webhooks and ends of runs: a circle of workflows ends here."""

DEPTH_HEADER: Final = "taskforge-depth"
"""Tells a hook how many runs led to the request; sent by http steps of runs that a trigger has started."""


def specs_of(plan: Plan, now: int) -> list[TriggerSpec]:
    """The rows of a version's triggers; schedules begin at `now` of the wall clock."""
    return [_spec(plan.name, trigger, now) for trigger in plan.triggers.values()]


def _spec(workflow: str, trigger: Trigger, now: int) -> TriggerSpec:
    if isinstance(trigger, TimeTrigger):
        schedule: Schedule = trigger.schedule.anchored(now)
        next_at = schedule.next_due(now, seed_of(workflow, trigger.name))
        return TriggerSpec(trigger.name, "cron", config=dumps(trigger.config), cursor=now, next_at=next_at)
    if isinstance(trigger, RunTrigger):
        return TriggerSpec(trigger.name, "on_run", source=trigger.workflow, states=dumps(list(trigger.states)))
    return TriggerSpec(trigger.name, "webhook" if type(trigger) is not Trigger else "manual")


def check_depth(depth: int) -> None:
    """Raises LoopRefused."""
    if depth > DEPTH_LIMIT:
        raise LoopRefused(
            f"{DEPTH_LIMIT} runs have led to this one, each started by the one before: workflows may start one "
            "another, not go round in a circle",
            detail={"depth": depth},
        )


@contextmanager
def named(setting: str) -> Iterator[None]:
    """An EvaluationFailed within says of which of the trigger's settings it is."""
    try:
        yield
    except EvaluationFailed as failure:
        raise EvaluationFailed(failure.code, f"in the trigger's `{setting}`: {failure.message}") from None


class TriggerStarts:
    """Prepares runs for triggers: evaluates the trigger's `input`, and masks what is stored."""

    def __init__(self, starts: Starts, expressions: Expressions, values: StoredValues) -> None:
        self._starts = starts
        self._expressions = expressions
        self._values = values

    async def prepare(
        self,
        workflow: str,
        version: int,
        trigger: Trigger,
        kind: str,
        seen: dict[str, Any],
        now: int,
        *,
        delay_ms: int | None = None,
        lineage: str | None = None,
    ) -> Pending:
        """Decide a run; `seen` is its `$trigger`. Raises EvaluationFailed, and as `Starts.prepare` does."""
        input = None
        if trigger.input is not None:
            with named("input"):
                input = self._values.mask(await self._expressions.evaluate_apart(trigger.input, {"trigger": seen}, now))
        return await self._starts.prepare(
            StartRequest(
                workflow,
                input,
                version=version,
                delay_ms=delay_ms,
                trigger_type=kind,
                trigger=self._values.mask(seen),
                lineage=lineage,
            )
        )
