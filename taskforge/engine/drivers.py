"""The drivers of this process: one per active run, found by the run's key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from taskforge.core.clock import Clock
from taskforge.core.decide import Context
from taskforge.core.snapshot import Changes, RunSnapshot
from taskforge.engine.driver import Asked, Driver
from taskforge.engine.evaluation import Expressions
from taskforge.engine.executor import NOBODY, Executor
from taskforge.engine.loading import to_snapshot
from taskforge.engine.plans import Plans
from taskforge.engine.rates import Rates
from taskforge.store.audit import recorded
from taskforge.store.protocol import RunRows, Store


class Drivers:
    """What drivers share. `on_due(at)`: an unowned run will be due; `on_change(run, changes)`: a decision is stored;
    `on_failure(error)`: a driver met a bug, and the process must not go on as if nothing were."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        expressions: Expressions,
        executor: Executor,
        plans: Plans,
        node: str,
        lease_ms: int,
        foreach_limit: int = 10_000,
    ) -> None:
        self.store = store
        self.clock = clock
        self.expressions = expressions
        self.executor = executor
        self.plans = plans
        self.node = node
        self.rates = Rates()
        self.context = Context(
            now=0,
            ids=clock,
            owner=node,
            slots=0,
            lease_ms=lease_ms,
            output_limit=executor.output_limit,
            prepare=expressions.prepare,
            reserve=self.rates.reserve,
            enter=self.rates.enter,
            foreach_limit=foreach_limit,
            mask=expressions.stored.mask,
        )
        """Of decisions: each sets the time and the slots anew."""
        self.giving_up = False
        self.on_due: Callable[[int], None] = lambda due_at: None
        self.on_change: Callable[[RunSnapshot, Changes], None] = lambda run, changes: None
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        self._drivers: dict[int, Driver] = {}
        self._loading: dict[int, asyncio.Task[Driver]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._drivers)

    def create(self, run: RunSnapshot) -> Driver:
        """A driver for a run that is not stored yet; `keep` it once it is."""
        return Driver(self, run)

    def keep(self, driver: Driver) -> None:
        self._drivers[driver.run.key] = driver

    def find(self, key: int) -> Driver | None:
        return self._drivers.get(key)

    async def obtain(self, key: int) -> Driver:
        """Return the run's driver, loading the run where it is not active. Raises NotFound."""
        driver = self._drivers.get(key)
        if driver is not None:
            return driver
        loading = self._loading.get(key)
        if loading is None:
            loading = self.spawn(self._load_driver(key))
            self._loading[key] = loading
            loading.add_done_callback(lambda task: self._loading.pop(key, None))
        return await asyncio.shield(loading)

    async def ask(self, key: int, event: Asked) -> RunSnapshot:
        """Decide an event of a run, active or not, and return the run. Raises NotFound, or what refuses it."""
        driver = await self.obtain(key)
        while not driver.is_open:
            driver = await self.obtain(key)
        return await driver.ask(event)

    async def _load_driver(self, key: int) -> Driver:
        run = await self.load(key)
        driver = self._drivers.get(key)
        if driver is None:
            driver = Driver(self, run)
            self._drivers[key] = driver
        return driver

    async def adopt(self, rows: RunRows) -> Driver:
        """Go on with a run that `lease_steps` has given to this node."""
        run = to_snapshot(rows, await self.plans.get(rows.run.workflow, rows.run.version))
        driver = self._drivers.get(run.key)
        if driver is None:
            driver = Driver(self, run)
            self._drivers[run.key] = driver
        driver.replace(run)
        return driver

    async def load(self, key: int) -> RunSnapshot:
        rows = await self.store.load_run(key)
        return to_snapshot(rows, await self.plans.get(rows.run.workflow, rows.run.version))

    def moved(self, driver: Driver, changes: Changes) -> None:
        """A decision is stored."""
        run = driver.run
        if self.executor.alone == run.key and (run.ended or not run.suspect):
            self.executor.alone = NOBODY
            self.on_due(self.clock.now())
        if run.owner is None and run.due_at is not None:
            if changes.starved:
                self.executor.backlog = True
            self.on_due(run.due_at)
        if not changes.is_empty:
            self.on_change(run, changes)

    def note_place(self, due_at: int | None) -> None:
        """A stored decision gave a place in `concurrency` to a run, which is due since then."""
        if due_at is not None:
            self.on_due(due_at)

    def drop(self, driver: Driver) -> None:
        if self._drivers.get(driver.run.key) is driver:
            del self._drivers[driver.run.key]

    def failed(self, error: BaseException) -> None:
        self.on_failure(error)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a task that is kept until it is done. What it changes is no part of the call that spawned it."""
        with recorded(None):
            task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self, timeout_s: float) -> None:
        """Wait until no decision is under way."""
        pending = [task for task in self._tasks if not task.done()]
        if pending:
            await asyncio.wait(pending, timeout=timeout_s)
