"""Runs that begin when another workflow's run ends (`on_run`).

The end leaves an entry in the transaction that stores it, and the entry is taken away in the one that starts the run:
each end starts one, whatever happens in between.
"""

from __future__ import annotations

from taskforge.core.clock import Clock
from taskforge.core.errors import NotFound, ShuttingDown, TaskForgeError, Unavailable
from taskforge.core.model import JSON, RunTrigger
from taskforge.core.snapshot import RunSnapshot, depth_of
from taskforge.engine.drivers import Drivers
from taskforge.engine.starting import Pending, Starts
from taskforge.engine.triggering import TriggerStarts, check_depth
from taskforge.expressions.errors import EvaluationFailed
from taskforge.observe.logs import get_logger
from taskforge.store.protocol import Store
from taskforge.store.triggered import EndRow

log = get_logger("run_ends")

_BATCH = 500


class RunEnds:
    """Starts what waits for the ends of runs."""

    def __init__(
        self, store: Store, clock: Clock, drivers: Drivers, starts: Starts, trigger_starts: TriggerStarts
    ) -> None:
        self._store = store
        self._clock = clock
        self._drivers = drivers
        self._starts = starts
        self._trigger_starts = trigger_starts
        self._sources: set[str] = set()

    async def start(self) -> None:
        """Make up for what a dead process left, and follow the ends from now on."""
        await self.refresh()
        self._drivers.spawn(self.catch_up())

    async def refresh(self) -> None:
        """Definitions have changed: know anew whose ends matter."""
        self._sources = await self._store.list_sources()

    def moved(self, run: RunSnapshot) -> None:
        """A decision of the run is stored."""
        if run.ended and run.workflow in self._sources:
            self._drivers.spawn(self._follow(run.key))

    async def catch_up(self) -> None:
        """Start what a crash has kept from being started."""
        before: list[EndRow] = []
        while (ends := await self._follow(None)) and ends != before:
            before = ends

    async def _follow(self, run: int | None) -> list[EndRow]:
        """Start what waits for the end of the run, or for any; returns which ends those were, none where it gave up."""
        try:
            ends = await self._store.list_ends(run, _BATCH)
            for end in ends:
                await self._start(end)
        except ShuttingDown:
            return []  # thousands may wait; they are found again at the next start
        except Unavailable as error:
            log.warning("store_unavailable", error=error.message)
            return []
        return ends

    async def _start(self, end: EndRow) -> None:
        pending: Pending | None = None
        try:
            run = await self._drivers.load(end.run)
            if not run.ended:
                # It was retried meanwhile: its next end counts.
                return
            pending = await self._prepare(end, run)
        except Unavailable:
            raise
        except NotFound as error:
            log.warning("on_run_dropped", workflow=end.workflow, trigger=end.trigger, error=error.message)
        except (TaskForgeError, EvaluationFailed) as error:
            log.error(
                "on_run_failed",
                workflow=end.workflow,
                trigger=end.trigger,
                run=end.run,
                code=error.code,
                error=error.message,
            )
        if pending is None:
            await self._store.start_on_end(end, None)
            return
        try:
            started = await self._store.start_on_end(end, pending.start)
        except BaseException as error:
            self._starts.not_stored(pending, error)
            if isinstance(error, TaskForgeError) and not isinstance(error, Unavailable):
                log.warning("on_run_dropped", workflow=end.workflow, trigger=end.trigger, error=error.message)
                await self._store.start_on_end(end, None)
                return
            raise
        self._starts.stored(pending, started)

    async def _prepare(self, end: EndRow, run: RunSnapshot) -> Pending | None:
        version, plan = await self._starts.resolve(end.workflow)
        trigger = plan.triggers.get(end.trigger)
        if not isinstance(trigger, RunTrigger):
            return None
        depth = depth_of(run.trigger) + 1
        check_depth(depth)
        seen: dict[str, JSON] = {
            "type": "run",
            "name": end.trigger,
            "run": run.id,
            "number": run.number,
            "workflow": run.workflow,
            "state": str(run.state),
            "output": run.output,
            "error": None if run.error is None else run.error.to_json(),
            "depth": depth,
        }
        return await self._trigger_starts.prepare(end.workflow, version, trigger, "run", seen, self._clock.now())
