"""Child runs: started once for all attempts of a `workflow` step, told of, and cancelled with their parent.

A parent that waits is told of its child's end by a signal, after the child's last decision is stored. What a crash
prevents in between is made up for from the rows.
"""

from __future__ import annotations

from taskforge.core import events as ev
from taskforge.core.clock import Clock
from taskforge.core.errors import Failure, NotFound, RunEnded, TaskForgeError
from taskforge.core.kind import ActionFailed, child_signal
from taskforge.core.model import JSON, AttemptFailure
from taskforge.core.snapshot import RunSnapshot, StepRun, depth_of
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
        except TaskForgeError as error:
            retried = error.status >= 500
            failure = Failure("CHILD_NOT_STARTED", f"workflow {workflow!r} was not started: {error.message}")
            result = AttemptFailure(failure, error_class="network" if retried else None, sent=False)
            raise ActionFailed(result) from None

    def moved(self, run: RunSnapshot) -> None:
        """A decision is stored: when it ended the run, tell who waits for it, and stop whom it waited for."""
        if not run.ended:
            return
        if run.parent is not None and "signal" in run.parent:
            self._drivers.spawn(self._tell_parent(run))
        if run.plan.has_children:
            self._drivers.spawn(self._cancel_children(run.key))

    async def catch_up(self) -> None:
        """Make up for what a crash or a race prevented: tell parents, and stop children whose parent has ended."""
        for key in await self._store.list_untold_children(_BATCH):
            await self._tell_parent(await self._drivers.load(key))
        for key in await self._store.list_orphans(_BATCH):
            await self._cancel(key)

    async def _tell_parent(self, run: RunSnapshot) -> None:
        error = None if run.error is None else run.error.to_json()
        data = {"state": str(run.state), "output": run.output, "error": error, "run": run.id}
        signal = ev.SignalSent(self._clock.new_id("sig"), run.parent["signal"], data, told_child=run.key)
        try:
            await self._drivers.ask(run.parent["key"], signal)
        except NotFound:
            return
        except TaskForgeError as refused:
            log.warning("parent_not_told", run=run.id, parent=run.parent["run"], error=refused.message)

    async def _cancel_children(self, key: int) -> None:
        for child in await self._store.list_children(key):
            await self._cancel(child)

    async def _cancel(self, key: int) -> None:
        try:
            await self._drivers.ask(key, ev.CancelAsked("the run that started this one has ended"))
        except (RunEnded, NotFound):
            return
        except TaskForgeError as refused:
            log.warning("child_not_cancelled", key=key, error=refused.message)
