"""`concurrency` with `on_limit: cancel_oldest`: a run that finds no place makes the oldest one that has a place go.

Places are the store's; this only asks runs to end, one for each run that waits, and never twice.
"""

from __future__ import annotations

from taskforge.core import events as ev
from taskforge.core.errors import NotFound, RunEnded, TaskForgeError
from taskforge.core.model import Plan
from taskforge.core.snapshot import Changes, RunSnapshot
from taskforge.engine.drivers import Drivers
from taskforge.observe.logs import get_logger
from taskforge.store.protocol import Store

log = get_logger("places")

_BATCH = 500


class Places:
    """Makes room in places, one place at a time."""

    def __init__(self, store: Store, drivers: Drivers) -> None:
        self._store = store
        self._drivers = drivers
        self._busy: dict[str, bool] = {}
        """Places that are being looked at; True: look once more."""

    def moved(self, run: RunSnapshot, changes: Changes) -> None:
        """A decision is stored: it may have made a run wait for a place, or ended one for which several wait."""
        if run.place is not None and _replaces(run.plan) and (changes.claim is not None or run.ended):
            self._look_at(run.place)

    async def catch_up(self) -> None:
        """Make up for what a crash prevented: runs that wait behind one that should have gone."""
        place = ""
        while True:
            queued = await self._store.list_queued(place, _BATCH)
            for place, key in queued:
                run = (await self._store.load_run(key)).run
                if _replaces(await self._drivers.plans.get(run.workflow, run.version)):
                    self._look_at(place)
            if len(queued) < _BATCH:
                return

    def _look_at(self, place: str) -> None:
        if place in self._busy:
            self._busy[place] = True
            return
        self._busy[place] = False
        self._drivers.spawn(self._make_room(place))

    async def _make_room(self, place: str) -> None:
        try:
            while True:
                oldest = await self._store.find_replaced(place)
                if oldest is not None:
                    await self._replace(oldest)
                elif not self._busy[place]:
                    return
                self._busy[place] = False
        except TaskForgeError as error:
            log.warning("place_not_freed", place=place, error=error.message)
        finally:
            del self._busy[place]

    async def _replace(self, key: int) -> None:
        event = ev.CancelAsked("a newer run took this one's place in `concurrency`", "CONCURRENCY_REPLACED")
        try:
            await self._drivers.ask(key, event)
        except (RunEnded, NotFound):
            return


def _replaces(plan: Plan) -> bool:
    return plan.concurrency is not None and plan.concurrency.on_limit == "cancel_oldest"
