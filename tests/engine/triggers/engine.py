"""A whole server in this process, but for sockets and HTTP steps: a real store, jq children, and a clock that a test
steers. Schedules fire when the test says `tick`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson

from taskforge.api.server import Api, create_api
from taskforge.app import Reader
from taskforge.config.settings import AuthSettings, LimitSettings, Settings
from taskforge.engine.children import Children
from taskforge.engine.drivers import Drivers
from taskforge.engine.evaluation import Expressions
from taskforge.engine.executor import Executor
from taskforge.engine.places import Places
from taskforge.engine.plans import Plans
from taskforge.engine.service import Service
from taskforge.engine.starting import Starts
from taskforge.engine.timers import Timers
from taskforge.engine.trials import Trials
from taskforge.engine.triggers import Triggers
from taskforge.engine.upkeep import RetentionLimits, Upkeep
from taskforge.engine.values import StoredValues
from taskforge.engine.webhooks import InboxLimits
from taskforge.engine.workflow_state import WorkflowState
from taskforge.expressions.evaluator import Evaluator
from taskforge.security.resume_links import ResumeLinks
from taskforge.security.secrets import SecretBox
from taskforge.store.protocol import Store
from taskforge.store.sqlite.store import SqliteStore
from tests.api.asgi import Reply, request
from tests.support.clock import ManualClock

ADMIN = "tf_admin_0123456789"
KEY = bytes(range(32))
DAY_MS = 86_400_000


class Engine:
    """One life of a server on a database. Make it with `open_engine`."""

    def __init__(self, store: Store, clock: ManualClock, evaluator: Evaluator, home: Path, **limits: int) -> None:
        self.store = store
        self.clock = clock
        self.settings = Settings(home, AuthSettings(ADMIN), limits=LimitSettings(**limits))
        reader = Reader(self.settings, evaluator)
        plans = Plans(store, reader.load)
        state = WorkflowState(store, clock)
        self.values = StoredValues(store, clock, SecretBox(KEY))
        links = ResumeLinks(KEY, "http://127.0.0.1:7788")
        expressions = Expressions(evaluator, state, self.values, links)
        self.executor = Executor(
            clock, expressions, {}, state=state, limit=64, default_timeout_ms=30_000, output_limit=1_048_576
        )
        node = clock.new_id("node")
        self.drivers = Drivers(store, clock, expressions, self.executor, plans, node, 30_000)
        self.timers = Timers(store, clock, self.drivers, self.executor, node=node, lease_ms=30_000, poll_s=0.05)
        starts = Starts(store, clock, self.drivers, plans, self.settings.limits.input_bytes)
        children = Children(store, clock, self.drivers, starts)
        self.executor.start_child = children.start_child
        self.inbox = InboxLimits(
            queued_runs=self.settings.limits.queued_runs,
            free_bytes=0,
            keep_ms=30 * DAY_MS,
            keep_bytes=10_000_000,
            directory=home,
        )
        self.triggers = Triggers(
            store, clock, self.drivers, starts, expressions, self.values, self.inbox, lambda: self.executor.held
        )
        self.service = Service(
            store, clock, self.drivers, plans, reader, self.timers,
            starts=starts, children=children, places=Places(store, self.drivers),
            links=links, values=self.values, triggers=self.triggers, trials=Trials(evaluator, expressions),
            upkeep=Upkeep(store, clock, Path("unused"), RetentionLimits()),
        )  # fmt: skip
        self.api: Api = create_api(self.service, self.settings, clock)

    async def call(self, method: str, path: str, value: Any = None, **headers: str) -> tuple[int, Any]:
        """A call with the token. `value` is a document (text) or JSON."""
        is_text = isinstance(value, str)
        body = b"" if value is None else value.encode() if is_text else orjson.dumps(value)
        given = [("content-type", "application/yaml" if is_text else "application/json"), *headers.items()]
        reply = await request(self.api, method, path, headers=given, token=ADMIN, body=body)
        return reply.status, reply.json() if reply.body else None

    async def apply(self, document: str) -> Any:
        """Publish a workflow."""
        status, answer = await self.call("POST", "/v1/workflows", document)
        assert status in (200, 201), answer
        return answer

    async def post(self, path: str, body: bytes | Any = b"", *, method: str = "POST", **headers: str) -> Reply:
        """A delivery to a hook, as JSON or as raw bytes, without a token. `x_id="1"` is the header `x-id`."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if not isinstance(body, bytes):
            body = orjson.dumps(body)
            given.setdefault("content-type", "application/json")
        return await request(self.api, method, path, headers=list(given.items()), body=body)

    async def tick(self, ms: int = 0) -> None:
        """Let time pass, then have the scheduler decide on what is due."""
        self.clock.advance(ms)
        await self.triggers.schedules.fire_due()

    async def runs(self, workflow: str = "w") -> list[dict[str, Any]]:
        """All runs, oldest first, when each has ended that can end now."""
        await self.settle()
        _, page = await self.call("GET", f"/v1/runs?workflow={workflow}&limit=500")
        found: list[dict[str, Any]] = page["items"]
        return found[::-1]

    async def settle(self) -> None:
        """Return when no decision is under way."""
        while self.drivers._tasks:
            await self.drivers.drain(5)
            await asyncio.sleep(0)

    async def schedule(self, workflow: str = "w") -> Any:
        _, page = await self.call("GET", f"/v1/schedules?workflow={workflow}")
        (found,) = page["items"]
        return found


@contextlib.asynccontextmanager
async def open_engine(path: Path, clock: ManualClock, **limits: int) -> AsyncIterator[Engine]:
    """A server on the database at `path`; afterwards the database is whole."""
    store = await SqliteStore.open(path, clock=clock)
    evaluator = Evaluator()
    engine = Engine(store, clock, evaluator, path.parent, **limits)
    await engine.values.load()
    await engine.timers.start()
    await engine.triggers.run_ends.start()
    try:
        yield engine
        await engine.settle()
    finally:
        await engine.timers.stop()
        engine.timers.close()
        await evaluator.close()
        findings = await store.check()
        await store.close()
    assert findings == []


def github_signature(secret: str, body: bytes) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
