"""Child runs: started once for all attempts of a `workflow` step, told of, and cancelled with their parent.

A parent that waits is told of its child's end by a signal, after the child's last decision is stored. What a crash
prevents in between is made up for from the rows.
"""

from __future__ import annotations

import asyncio

from taskforge.core import events as ev
from taskforge.core.clock import Clock
from taskforge.core.errors import Failure, NotFound, RunEnded, TaskForgeError
from taskforge.core.kind import ActionFailed, child_signal
from taskforge.core.model import JSON, AttemptFailure
from taskforge.core.snapshot import Changes, RunSnapshot, StepRecord, StepRun, depth_of
from taskforge.core.states import StepState
from taskforge.engine.drivers import Drivers
from taskforge.engine.starting import StartRequest, Starts
from taskforge.observe.logs import get_logger
from taskforge.store.protocol import Store

log = get_logger("children")

DEPTH_LIMIT = 10
"""Most runs above a run: a workflow that starts itself ends with RECURSION_LIMIT."""

_BATCH = 500


class Children:
    """Starts child runs and carries ends and cancellations between parents and children."""

    def __init__(self, store: Store, clock: Clock, drivers: Drivers, starts: Starts) -> None:
        self._store = store
        self._clock = clock
        self._drivers = drivers
        self._starts = starts

    async def start_child(
        self, run: RunSnapshot, at: StepRun, workflow: str, input: JSON, wait: bool, version: int | None
    ) -> str:
        """Start the child run of a step and return its id; the same one for every attempt. Raises ActionFailed."""
        above = run.parent or {}
        depth = above.get("depth", 0) + 1
        if depth > DEPTH_LIMIT:
            message = f"{DEPTH_LIMIT} runs are above this one: a workflow may start others, not go round in a circle"
            raise ActionFailed(AttemptFailure(Failure("RECURSION_LIMIT", message), sent=False))
        places = list(above.get("places", ()))
        parent: dict[str, JSON] = {"key": run.key, "run": run.id, "path": at.path, "depth": depth}
        if wait:
            parent["signal"] = child_signal(at.path, at.generation)
            parent["places"] = [*places, run.place] if run.place is not None else places
        trigger: dict[str, JSON] = {"type": "workflow", "run": run.id, "step": at.path}
        if depth_of(run.trigger):
            trigger["depth"] = depth_of(run.trigger)
        request = StartRequest(
            workflow,
            input,
            version=version,
            priority=run.priority or None,
            idempotency_key=f"{run.id}/{at.idempotency_suffix}",
            request_hash="child",
            trigger_type="workflow",
            trigger=trigger,
            parent=parent,
        )
        try:
            return (await self._starts.start_run(request)).id
        except asyncio.CancelledError:
            # The step has ended meanwhile; the child may have begun all the same.
            self._drivers.spawn(self._cancel_orphans())
            raise
        except TaskForgeError as error:
            retried = error.status >= 500
            failure = Failure("CHILD_NOT_STARTED", f"workflow {workflow!r} was not started: {error.message}")
            result = AttemptFailure(failure, error_class="network" if retried else None, sent=False)
            raise ActionFailed(result) from None

    def moved(self, run: RunSnapshot, changes: Changes) -> None:
        """A decision is stored: when the run has ended, tell who waits for it, and stop whom it waited for; when a step
        has ended that waited for a child, stop that."""
        if run.ended:
            if run.parent is not None and "signal" in run.parent:
                self._drivers.spawn(self._tell_parent(run.parent, self._end_of(run)))
            if run.plan.has_children:
                self._drivers.spawn(self._cancel_children(run.key))
        elif run.plan.has_children and any(map(_gave_up, changes.steps)):
            self._drivers.spawn(self._cancel_orphans())

    async def catch_up(self) -> None:
        """Make up for what a crash or a race prevented: tell parents, and stop children that nobody waits for."""
        told: set[int] = set()
        while new := [key for key in await self._store.list_untold_children(_BATCH) if key not in told]:
            for key in new:
                run = await self._drivers.load(key)
                await self._tell_parent(run.parent, self._end_of(run))
            told.update(new)
        await self._cancel_orphans()

    async def _cancel_orphans(self) -> None:
        await self._store.ping()  # what is being stored now has its rows after this
        seen: set[int] = set()
        while new := [key for key in await self._store.list_orphans(_BATCH) if key not in seen]:
            for key in new:
                await self._cancel(key)
            seen.update(new)

    def _end_of(self, run: RunSnapshot) -> ev.SignalSent:
        error = None if run.error is None else run.error.to_json()
        data = {"state": str(run.state), "output": run.output, "error": error, "run": run.id}
        return ev.SignalSent(self._clock.new_id("sig"), run.parent["signal"], data, told_child=run.key)

    async def _tell_parent(self, parent: JSON, end: ev.SignalSent) -> None:
        try:
            await self._drivers.ask(parent["key"], end)
        except NotFound:
            return
        except TaskForgeError as refused:
            log.warning("parent_not_told", run=end.data["run"], parent=parent["run"], error=refused.message)

    async def _cancel_children(self, key: int) -> None:
        for child in await self._store.list_children(key):
            await self._cancel(child)

    async def _cancel(self, key: int) -> None:
        try:
            await self._drivers.ask(key, ev.CancelAsked("what started this run has ended; nobody waits for it"))
        except (RunEnded, NotFound):
            return
        except TaskForgeError as refused:
            log.warning("child_not_cancelled", key=key, error=refused.message)


def _gave_up(step: StepRecord) -> bool:
    """Whether a step has ended otherwise than by the end of its child."""
    if step.kind != "workflow" and "!child:" not in (step.data or ""):
        return False
    timed_out = step.state == StepState.FAILED and "STEP_TIMEOUT" in (step.error or "")
    return timed_out or step.state == StepState.CANCELLED
