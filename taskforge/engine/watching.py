"""Who waits for a run to change or to end: woken by the decision that does it, with no polling."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

from taskforge.core.snapshot import RunSnapshot

ANY = ""
"""Stands for every run."""

_Futures = dict[str, list["asyncio.Future[bool]"]]

Leaving = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes what is to be called when whoever waits has gone away; returns what takes that back."""


class Watchers:
    """Futures by run id."""

    def __init__(self) -> None:
        self._ended: _Futures = defaultdict(list)
        self._changed: _Futures = defaultdict(list)

    def watch_end(self, run_id: str) -> Watch:
        """Register for the end of a run. Register first, then look whether it has ended already."""
        return Watch(self._ended, run_id)

    def watch_change(self, run_id: str | None) -> Watch:
        """Register for the next stored decision of a run, or of any."""
        return Watch(self._changed, run_id or ANY)

    def moved(self, run: RunSnapshot) -> None:
        """A decision of the run is stored."""
        if self._changed:
            _resolve(self._changed, run.id)
            _resolve(self._changed, ANY)
        if run.ended and self._ended:
            _resolve(self._ended, run.id)

    def release_all(self) -> None:
        """Let everybody go: the server shuts down."""
        for futures in (self._ended, self._changed):
            for run_id in list(futures):
                _resolve(futures, run_id)


class Watch:
    """One registration, taken back when the `with` block ends."""

    def __init__(self, futures: _Futures, run_id: str) -> None:
        self._futures = futures
        self._run_id = run_id
        self._future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def __enter__(self) -> Watch:
        self._futures.setdefault(self._run_id, []).append(self._future)
        return self

    def __exit__(self, *error: object) -> None:
        waiting = self._futures.get(self._run_id)
        if waiting is not None:
            if self._future in waiting:
                waiting.remove(self._future)
            if not waiting:
                del self._futures[self._run_id]

    async def wait(self, timeout_ms: int, leaving: Leaving | None = None) -> bool:
        """Return True when it happened, False when the time is over or whoever waited has left."""
        timer = asyncio.get_running_loop().call_later(timeout_ms / 1000, self._give_up)
        stay = None if leaving is None else leaving(self._give_up)
        try:
            return await self._future
        finally:
            timer.cancel()
            if stay is not None:
                stay()

    def _give_up(self) -> None:
        if not self._future.done():
            self._future.set_result(False)


def _resolve(futures: _Futures, run_id: str) -> None:
    for future in futures.pop(run_id, ()):
        if not future.done():
            future.set_result(True)
