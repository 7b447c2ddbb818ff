"""An engine in this process: the real parts on a real file, with a hand on the store and on the clock."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from taskforge.app import Reader, inbox_limits
from taskforge.config import Settings
from taskforge.core.clock import Clock, SystemClock
from taskforge.core.jsontext import loads
from taskforge.engine.children import Children
from taskforge.engine.drivers import Drivers
from taskforge.engine.evaluation import Expressions
from taskforge.engine.executor import Executor
from taskforge.engine.places import Places
from taskforge.engine.plans import Plans
from taskforge.engine.service import Service
from taskforge.engine.starting import StartRequest, Starts
from taskforge.engine.timers import Timers
from taskforge.engine.trials import Trials
from taskforge.engine.triggers import Triggers
from taskforge.engine.upkeep import RetentionLimits, Upkeep
from taskforge.engine.values import StoredValues
from taskforge.engine.workflow_state import WorkflowState
from taskforge.expressions.evaluator import Evaluator, Limits
from taskforge.security.egress import EgressPolicy
from taskforge.security.resume_links import ResumeLinks
from taskforge.security.secrets import SecretBox
from taskforge.steps.http_client import HttpClient
from taskforge.store.protocol import RunRow, RunRows
from taskforge.store.sqlite.store import SqliteStore
from tests.support.faulty_store import FaultyStore
from tests.support.target import Target

_PATIENCE_S = 20.0


class Engine:
    """One node at work. `faults` is the store as the engine sees it, `store` the one behind it."""

    def __init__(self, store: SqliteStore, clock: Clock, target: Target, **settings: Any) -> None:
        self.store, self.clock, self.target = store, clock, target
        self.faults = FaultyStore(store)
        self.node = clock.new_id("node")
        self.failures: list[BaseException] = []
        self._is_second = settings.get("is_second", False)
        self.evaluator = Evaluator(None, Limits(), children=2)
        self.http = HttpClient(EgressPolicy())
        links = ResumeLinks(b"k" * 32, "http://127.0.0.1")
        state = WorkflowState(self.faults.as_store(), clock)
        values = StoredValues(self.faults.as_store(), clock, SecretBox(b"k" * 32))
        expressions = Expressions(self.evaluator, state, values, links)
        reader = Reader(Settings(Path("unused")), self.evaluator)
        plans = Plans(self.faults.as_store(), reader.load)
        self.executor = Executor(
            clock,
            expressions,
            {"http": self.http, "http_timeout_ms": settings.get("timeout_ms", 30_000)},
            state=state,
            limit=settings.get("slots", 64),
            default_timeout_ms=settings.get("timeout_ms", 30_000),
            output_limit=1_048_576,
        )
        lease_ms = settings.get("lease_ms", 30_000)
        self.drivers = Drivers(self.faults.as_store(), clock, expressions, self.executor, plans, self.node, lease_ms)
        self.timers = Timers(
            self.faults.as_store(),
            clock,
            self.drivers,
            self.executor,
            node=self.node,
            lease_ms=lease_ms,
            poll_s=settings.get("poll_s", 60.0),
        )
        self.drivers.on_failure = self.timers.on_failure = self.failures.append
        starts = Starts(self.faults.as_store(), clock, self.drivers, plans, 1_048_576)
        children = Children(self.faults.as_store(), clock, self.drivers, starts)
        self.executor.start_child = children.start_child
        self.timers.on_upkeep = children.catch_up
        triggers = Triggers(
            self.faults.as_store(),
            clock,
            self.drivers,
            starts,
            expressions,
            values,
            inbox_limits(Settings(Path("unused"))),
            held=lambda: self.executor.held,
        )
        self.service = Service(
            self.faults.as_store(),
            clock,
            self.drivers,
            plans,
            reader,
            self.timers,
            starts=starts,
            children=children,
            links=links,
            values=values,
            upkeep=Upkeep(self.faults.as_store(), clock, Path("unused"), RetentionLimits()),
            triggers=triggers,
            trials=Trials(self.evaluator, expressions),
            places=Places(self.faults.as_store(), self.drivers),
        )

    # ---- its life

    async def start(self) -> None:
        await self.http.start()
        if self._is_second:
            # A file has one node, which takes all others for dead; a test of leases needs a second one that does not.
            self.faults.skip("register_node", [])
        await self.timers.start()

    async def stop(self, grace_s: float = 0.0) -> None:
        """End as a server does that was asked to."""
        self.service.stop()
        await self.timers.stop()
        await self.executor.stop(grace_s, 1.0)
        self.drivers.giving_up = True
        await self.drivers.drain(1.0)
        self.timers.close()
        await self.http.close()
        await self.evaluator.close()

    # ---- what a test asks of it

    async def publish(self, text: str) -> str:
        """Publish a document in which `URL` is the target's; returns the workflow's name."""
        published, _ = await self.service.publish_workflow(text.replace("URL", self.target.url).encode(), "yaml")
        return published.name

    async def begin(self, workflow: str, **more: Any) -> str:
        """Start a run and return its id."""
        return (await self.service.start_run(StartRequest(workflow, **more))).id

    async def end(self, run: str) -> RunRow:
        """Wait until the run has ended."""
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                await self.service.wait_run(run, 1000)
                row = await self.store.get_run(run)
                if row.record.state in ("SUCCEEDED", "FAILED", "CANCELLED"):
                    return row

    async def rows(self, run: str) -> RunRows:
        return await self.store.get_run_rows(run)

    async def until(self, path: str, count: int = 1) -> list[Any]:
        """Wait until the target has got `count` requests to `path`."""
        return list(await asyncio.to_thread(self.target.await_requests, count, path))

    async def becomes(self, run: str, state: str, step: str | None = None) -> None:
        """Wait until the run, or its step, is in a state."""
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                rows = await self.rows(run)
                found = [row.state for row in rows.steps if row.path == step] if step else [rows.run.record.state]
                if found == [state]:
                    return
                await self.service.wait_change(run, 50)


def attempts(rows: RunRows) -> list[tuple[str, int, str, str | None]]:
    """(path, number, state, error's code) of every attempt."""
    return [
        (row.record.path, row.record.number, row.state, row.error and loads(row.error)["code"]) for row in rows.attempts
    ]


def states(rows: RunRows) -> dict[str, str]:
    return {row.path: row.state for row in rows.steps}


@contextlib.asynccontextmanager
async def running_engine(
    tmp_path: Path, target: Target, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[Engine]:
    """An engine on `tmp_path/taskforge.db`, stopped at the end. It must not have met a fault of its own."""
    clock = clock or SystemClock()
    store = await SqliteStore.open(tmp_path / "taskforge.db", clock=clock)
    engine = Engine(store, clock, target, **settings)
    try:
        await engine.start()
        yield engine
    finally:
        await engine.stop()
        await store.close()
    assert engine.failures == []
