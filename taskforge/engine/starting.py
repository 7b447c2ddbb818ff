"""Starting runs: check the input, decide the first steps, store all of it in one transaction, then act on it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from taskforge.core import events as ev
from taskforge.core.clock import Clock
from taskforge.core.errors import InvalidInput, NotFound, ShuttingDown, TooLarge, Unavailable, WorkflowDisabled
from taskforge.core.inputs import apply_defaults, check_input
from taskforge.core.jsontext import dumps
from taskforge.core.model import JSON, Plan
from taskforge.core.problem import Problem
from taskforge.core.snapshot import Changes, RunSnapshot
from taskforge.engine.driver import Driver
from taskforge.engine.drivers import Drivers
from taskforge.engine.plans import Plans
from taskforge.store.mirror import RunMirror
from taskforge.store.protocol import NewRun, StartedRun, Store, WorkflowRow


class StartRequest(NamedTuple):
    """What somebody asks to be started. `input` None stands for `{}`; `parent` see `NewRun.parent`."""

    workflow: str
    input: JSON = None
    version: int | None = None
    delay_ms: int | None = None
    priority: int | None = None
    idempotency_key: str | None = None
    request_hash: str | None = None
    trigger_type: str = "manual"
    trigger: JSON = None
    lineage: str | None = None
    parent: JSON = None


class Pending(NamedTuple):
    """A run that is decided and not stored yet."""

    new: NewRun
    driver: Driver
    changes: Changes

    @property
    def start(self) -> tuple[NewRun, Changes]:
        """What the store takes."""
        return self.new, self.changes


_AT_ONCE = 64
"""Runs of a batch that are decided before others get their turn."""

_PAUSE_S = 1.0
"""Pause before the store is asked again whether it has stored a run whose caller has gone away."""


class Starts:
    """Starts runs. Workflow rows are cached: this process is the only one that changes them on SQLite."""

    def __init__(self, store: Store, clock: Clock, drivers: Drivers, plans: Plans, input_limit: int) -> None:
        self._store = store
        self._clock = clock
        self._drivers = drivers
        self._plans = plans
        self.input_limit = input_limit
        self._workflows: dict[str, WorkflowRow] = {}
        self._changes = 0
        """How often a workflow was changed: what was read before the last time is not kept."""
        self.stopping = False

    def forget_workflow(self, name: str) -> None:
        """The workflow has changed: read it anew."""
        self._changes += 1
        self._workflows.pop(name, None)

    async def start_run(self, request: StartRequest) -> StartedRun:
        """Start a run. On return it is on disk, and its first steps have begun where slots were free.

        Raises NotFound, WorkflowDisabled, InvalidInput, TooLarge, IdempotencyMismatch, Unavailable.
        """
        return (await self._start_run(request))[0]

    async def start_mirrored(self, request: StartRequest) -> tuple[StartedRun, Driver | None]:
        """`start_run` for somebody who will ask for the run's rows when it ends: they are in the driver's mirror, if
        they are few. Without a driver the run is not new, or has been taken up by another one."""
        return await self._start_run(request, is_mirrored=True)

    async def _start_run(self, request: StartRequest, *, is_mirrored: bool = False) -> tuple[StartedRun, Driver | None]:
        try:
            pending = await self.prepare(request)
        except (NotFound, WorkflowDisabled, InvalidInput, TooLarge):
            earlier = await self._find_started(request)
            if earlier is None:
                raise
            return earlier, None
        try:
            started = await self._store.start_run(*pending.start)
        except BaseException as error:
            self.not_stored(pending, error)
            raise
        driver = pending.driver
        if is_mirrored:
            driver.mirror = RunMirror(pending.new, started)
        return started, driver if self._stored(driver, pending.changes, started) else None

    async def _find_started(self, request: StartRequest) -> StartedRun | None:
        """The run that the request's Idempotency-Key has started: whoever asks again is told of it, also when the
        workflow, as it is now, would refuse to start one."""
        if request.idempotency_key is None:
            return None
        return await self._store.find_started(
            request.workflow, request.idempotency_key, _request_hash(request), self._clock.now()
        )

    async def prepare(self, request: StartRequest) -> Pending:
        """Decide a run that another verb than `start_run` stores. `stored` or `not_stored` must follow. Raises as
        `start_run` does."""
        version, plan = await self.resolve(request.workflow, request.version, is_child=request.parent is not None)
        new, driver = self._prepare(plan, version, request)
        return Pending(new, driver, driver.begin())

    def stored(self, pending: Pending, started: StartedRun | None) -> None:
        """The verb has stored the run, or (None, or not `created`) there was no need to."""
        if started is None:
            pending.driver.forget(pending.changes)
        else:
            self._stored(pending.driver, pending.changes, started)

    def not_stored(self, pending: Pending, error: BaseException) -> None:
        """The verb was refused, or nobody knows what became of it."""
        self._not_stored(pending.driver, pending.changes, error)

    async def start_runs(self, request: StartRequest, inputs: Sequence[JSON]) -> list[StartedRun]:
        """Start many runs in one transaction: all or none. An Idempotency-Key stands for all of them."""
        requests = [_of_batch(request, index, input) for index, input in enumerate(inputs)]
        try:
            return await self._start_runs(request, requests)
        except (NotFound, WorkflowDisabled, InvalidInput, TooLarge):
            found = [await self._find_started(one) for one in requests if one.idempotency_key is not None]
            earlier = [one for one in found if one is not None]
            if not earlier or len(earlier) < len(requests):
                raise
            return earlier

    async def _start_runs(self, request: StartRequest, requests: Sequence[StartRequest]) -> list[StartedRun]:
        version, plan = await self.resolve(request.workflow, request.version, is_child=request.parent is not None)
        problems: list[Problem] = []
        decided: list[tuple[NewRun, Driver, Changes]] = []
        try:
            for index, one in enumerate(requests):
                try:
                    new, driver = self._prepare(plan, version, one)
                except InvalidInput as error:
                    problems += [_inside(problem, f"inputs[{index}]") for problem in error.problems]
                    continue
                except TooLarge as error:
                    raise TooLarge(f"inputs[{index}]: {error.message}") from None
                if not problems:
                    decided.append((new, driver, driver.begin()))
                if index % _AT_ONCE == _AT_ONCE - 1:
                    await asyncio.sleep(0)
            if problems:
                raise InvalidInput("inputs do not fit the workflow; none of the runs was started", problems=problems)
            started = await self._store.start_runs([(new, changes) for new, _, changes in decided])
        except BaseException as error:
            for _, driver, changes in decided:
                self._not_stored(driver, changes, error)
            raise
        for (_, driver, changes), stored in zip(decided, started, strict=True):
            self._stored(driver, changes, stored)
        return started

    async def resolve(self, name: str, version: int | None = None, *, is_child: bool = False) -> tuple[int, Plan]:
        """Return the version that a start would run, and its plan. Raises NotFound, WorkflowDisabled, ShuttingDown."""
        if self.stopping and not is_child:
            # A child belongs to an attempt that has its grace time; it is stored, and begins at the next start.
            raise ShuttingDown("the server is shutting down; try again when it is back")
        row = self._workflows.get(name)
        if row is None:
            changes = self._changes
            row = await self._store.get_workflow(name)
            if changes == self._changes:
                self._workflows[name] = row
        if not row.enabled:
            raise WorkflowDisabled(f"workflow {name!r} is disabled; enable it to start runs")
        version = version if version is not None else row.version
        return version, await self._plans.get(name, version)

    def _prepare(self, plan: Plan, version: int, request: StartRequest) -> tuple[NewRun, Driver]:
        now = self._clock.now()
        given = {} if request.input is None else request.input
        if plan.inputs is not None:
            self._check_size(dumps(given))
            given = apply_defaults(plan.inputs, given)
            problems = check_input(plan.inputs, given)
            if problems:
                raise InvalidInput(f"the input does not fit workflow {plan.name!r}", problems=problems)
        text = dumps(given)
        self._check_size(text)
        trigger = request.trigger if request.trigger is not None else {"type": request.trigger_type}
        priority = plan.priority if request.priority is None else request.priority
        new = NewRun(
            id=self._clock.new_id("run"),
            workflow=plan.name,
            version=version,
            trigger=dumps(trigger),
            trigger_type=request.trigger_type,
            input=text,
            created_at=now,
            priority=priority,
            start_at=None if not request.delay_ms else now + request.delay_ms,
            idempotency_key=request.idempotency_key,
            request_hash=_request_hash(request),
            lineage=request.lineage,
            parent=None if request.parent is None else dumps(request.parent),
            parent_key=None if request.parent is None else request.parent["key"],
        )
        run = RunSnapshot(
            id=new.id,
            workflow=plan.name,
            version=version,
            plan=plan,
            trigger=trigger,
            input=given,
            created_at=now,
            priority=priority,
            start_at=new.start_at,
            parent=request.parent,
        )
        return new, self._drivers.create(run)

    def _check_size(self, text: str) -> None:
        size = len(text) if text.isascii() else len(text.encode())
        if size > self.input_limit:
            raise TooLarge(f"the input has {size} bytes; the limit is {self.input_limit}")

    def _stored(self, driver: Driver, changes: Changes, started: StartedRun) -> bool:
        """Go on with a run that is stored; False where this driver does not."""
        if not started.created:
            driver.forget(changes)
            self._drivers.note_place(started.due_at)
            return False
        driver.run.key, driver.run.number = started.key, started.number
        self._drivers.note_place(started.due_at)
        if driver.run.owner is None and self._drivers.find(started.key) is not None:
            # It was due at once, and has been taken up before we came to hear that it is stored.
            driver.forget(changes)
            return False
        self._drivers.keep(driver)
        driver.committed(changes)
        return True

    def _not_stored(self, driver: Driver, changes: Changes, error: BaseException) -> None:
        driver.forget(changes)
        if isinstance(error, NotFound | WorkflowDisabled):
            self.forget_workflow(driver.run.workflow)
        elif isinstance(error, asyncio.CancelledError):
            # Whoever asked has gone away, but the run may be stored all the same, and then it is ours to drive.
            self._drivers.spawn(self._take_over(driver.run.id))

    async def _take_over(self, run_id: str) -> None:
        while True:
            try:
                # What was queued before this is stored, or it never will be.
                await self._store.ping()
                row = await self._store.get_run(run_id)
            except NotFound:
                return
            except Unavailable:
                if self._drivers.giving_up:
                    return
                await asyncio.sleep(_PAUSE_S)
            else:
                break
        if row.record.owner is not None:
            driver = await self._drivers.obtain(row.key)
            driver.post(ev.TakenUp())
        elif row.record.due_at is not None:
            self._drivers.on_due(row.record.due_at)


def _of_batch(request: StartRequest, index: int, input: JSON) -> StartRequest:
    """The start of one run of a batch. Its key is the batch's with its place, behind a character that no key has."""
    key = None if request.idempotency_key is None else f"{request.idempotency_key}\x1f{index}"
    return request._replace(input=input, idempotency_key=key)


def _request_hash(request: StartRequest) -> str | None:
    if request.idempotency_key is None or request.request_hash is not None:
        return request.request_hash
    value = [request.input, request.version, request.delay_ms, request.priority]
    return hashlib.sha256(dumps(value).encode()).hexdigest()


def _inside(problem: Problem, prefix: str) -> Problem:
    return replace(problem, path=f"{prefix}.{problem.path}" if problem.path else prefix)
