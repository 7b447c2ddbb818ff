"""Drives runs through a store as the engine does: decide, apply, count the revision up. Nothing is faked: the changes
are those of `decide`, the snapshots are loaded by the engine's own loader."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from taskforge.core import events as ev
from taskforge.core.decide import Context, decide
from taskforge.core.errors import Failure
from taskforge.core.jsontext import dumps, loads
from taskforge.core.model import JSON, AttemptFailure, Plan, Prepared
from taskforge.core.snapshot import Changes, RunSnapshot, StepRun
from taskforge.engine.loading import to_snapshot
from taskforge.engine.rates import Rates
from taskforge.store.mirror import RunMirror
from taskforge.store.protocol import NewRun, RunRows, StartedRun, Store
from tests.support.clock import ManualClock
from tests.support.plans import THREE_GIVES

LEASE_MS = 30_000


class Desk:
    """One process at work on a store. `owner` is its node's name."""

    def __init__(self, store: Store, clock: ManualClock, owner: str = "node_a") -> None:
        self.store = store
        self.clock = clock
        self.owner = owner
        self.output_limit = 1_048_576
        self.rates = Rates()
        self.mirrors: dict[RunSnapshot, RunMirror] = {}
        """Of the runs all of whose decisions have gone through this desk."""

    def context(self, slots: int = 64) -> Context:
        return Context(
            now=self.clock.now(),
            ids=self.clock,
            owner=self.owner,
            slots=slots,
            lease_ms=LEASE_MS,
            output_limit=self.output_limit,
            prepare=_prepare,
            reserve=self.rates.reserve,
        )

    async def publish(self, name: str = "flow") -> None:
        await self.store.publish_workflow(
            name, dumps({"name": name}), f"name: {name}\n", "yaml", None, self.clock.now()
        )

    def begin(self, plan: Plan = THREE_GIVES, *, slots: int = 64, **fields: Any) -> tuple[NewRun, RunSnapshot, Changes]:
        """A run that is not stored yet, with its first decision."""
        new = NewRun(
            id=self.clock.new_id("run"),
            workflow=plan.name,
            version=1,
            trigger='{"type":"manual"}',
            trigger_type="manual",
            input="{}",
            created_at=self.clock.now(),
        )
        new = replace(new, **fields)
        run = RunSnapshot(
            new.id, new.workflow, new.version, plan, {"type": "manual"}, loads(new.input), new.created_at,
            priority=new.priority, start_at=new.start_at,
            parent=None if new.parent is None else loads(new.parent),
        )  # fmt: skip
        return new, run, decide(run, [ev.Begun()], self.context(slots))

    async def start(self, plan: Plan = THREE_GIVES, *, slots: int = 64, **fields: Any) -> RunSnapshot:
        """Store a new run and return its snapshot, as it is then."""
        new, run, changes = self.begin(plan, slots=slots, **fields)
        started = await self.store.start_run(new, changes)
        adopt(run, started)
        self.mirrors[run] = RunMirror(new, started)
        self._follow(run, changes)
        return run

    async def apply(
        self, verb: Callable[[Changes], Awaitable[int | None]], run: RunSnapshot, *events: ev.Event, slots: int = 64
    ) -> Changes:
        """Decide on events and store the decision with `verb`."""
        changes = decide(run, events, self.context(slots))
        await verb(changes)
        run.revision += 1
        self._follow(run, changes)
        return changes

    def _follow(self, run: RunSnapshot, changes: Changes) -> None:
        mirror = self.mirrors.get(run)
        if mirror is not None and not mirror.follow(changes):
            del self.mirrors[run]

    async def succeed(self, run: RunSnapshot, path: str = "call", output: JSON = None) -> Changes:
        return await self.apply(self.store.finish_attempt, run, ev.AttemptSucceeded(path, token(run, path), output))

    async def fail(self, run: RunSnapshot, path: str = "call", error_class: str | None = "network") -> Changes:
        """End the attempt with an error that is retried; `error_class` None is one that is not."""
        result = AttemptFailure(Failure("CONNECT_REFUSED", "the connection was refused"), error_class)
        return await self.apply(self.store.finish_attempt, run, ev.AttemptFailed(path, token(run, path), result))

    async def take(self, plan: Plan, *, suspects: bool = False, limit: int = 100) -> list[RunSnapshot]:
        """Lease due runs and load them."""
        rows = await self.store.lease_steps(self.owner, self.clock.now(), limit, suspects=suspects)
        return [to_snapshot(found, plan) for found in rows]

    async def take_up(self, plan: Plan, *, suspects: bool = False) -> RunSnapshot:
        """Lease the one due run and drive it on."""
        (run,) = await self.take(plan, suspects=suspects)
        await self.apply(self.store.advance_run, run, ev.TakenUp())
        return run

    async def load(self, run: RunSnapshot) -> RunSnapshot:
        """The run as the store has it now."""
        return to_snapshot(await self.store.load_run(run.key), run.plan)

    async def rows(self, run: RunSnapshot) -> RunRows:
        return await self.store.load_run(run.key)


def adopt(run: RunSnapshot, started: StartedRun) -> None:
    """What the driver does after the commit of `start_run`."""
    run.key, run.number = started.key, started.number
    run.revision += 1


def token(run: RunSnapshot, path: str = "call") -> str:
    """The lease token of the attempt that runs at `path`."""
    attempt = run.steps[path].attempt
    assert attempt is not None, f"no attempt runs at {path}"
    return attempt.id


def _prepare(run: RunSnapshot, at: StepRun | None, name: str) -> Prepared | None:
    if at is None:
        return Prepared(run.input.get("key") if name == "concurrency" else None)
    return None if at.step.config == "ask the child" else Prepared(at.step.config)
