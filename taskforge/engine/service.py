"""What people ask for: the calls behind API and CLI. One word per act, from the route to the SQL."""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, Protocol

from taskforge.core import events as ev
from taskforge.core.clock import Clock
from taskforge.core.definition import Definition, in_order
from taskforge.core.errors import (
    DeadLetterClosed,
    InvalidDefinition,
    InvalidInput,
    NameMismatch,
    NotFound,
    ShuttingDown,
    TooLarge,
    Unavailable,
    WorkflowDisabled,
)
from taskforge.core.inputs import apply_defaults, check_input
from taskforge.core.jsontext import dumps, loads
from taskforge.core.model import JSON, Plan
from taskforge.core.problem import Problem
from taskforge.core.snapshot import Changes, RunSnapshot
from taskforge.core.states import RUN_TERMINAL
from taskforge.engine.driver import Driver
from taskforge.engine.drivers import Drivers
from taskforge.engine.plans import Plans
from taskforge.engine.timers import Timers
from taskforge.store.protocol import (
    DeadLetterRow,
    JournalRow,
    NewRun,
    Published,
    RunFilter,
    RunRow,
    RunRows,
    StartedRun,
    Stats,
    Store,
    TokenRow,
    VersionRow,
    WorkflowRow,
)

Media = Literal["yaml", "json"]


class DefinitionReader(Protocol):
    """Reads and checks documents (`app` composes it of core, steps and expressions)."""

    def parse(self, source: bytes, media: Media) -> Definition:
        """Raises InvalidDefinition with every problem."""
        ...

    async def check_syntax(self, definition: Definition) -> list[Problem]:
        """What only jq itself finds wrong in the expressions."""
        ...


class Service:
    """All calls. Refusals are errors of `core.errors`; what returns is durable."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        drivers: Drivers,
        plans: Plans,
        reader: DefinitionReader,
        timers: Timers,
        *,
        input_limit: int,
    ) -> None:
        self._store = store
        self._clock = clock
        self._drivers = drivers
        self._plans = plans
        self._reader = reader
        self._timers = timers
        self._input_limit = input_limit
        self._workflows: dict[str, WorkflowRow] = {}
        self._ended: dict[str, list[asyncio.Future[None]]] = defaultdict(list)
        self._changed: dict[str, list[asyncio.Future[None]]] = defaultdict(list)
        self.stopping = False
        drivers.on_change = self._on_change

    # ---- definitions

    async def validate_workflow(self, source: bytes, media: Media) -> Definition:
        """Read and check a document; nothing is stored. Raises InvalidDefinition."""
        definition = await asyncio.to_thread(self._reader.parse, source, media)
        problems = await self._reader.check_syntax(definition)
        if problems:
            raise InvalidDefinition("the document has errors", problems=problems)
        return definition

    async def publish_workflow(
        self, source: bytes, media: Media, name: str | None = None
    ) -> tuple[Published, list[Problem]]:
        """Store the document as the newest version, unless nothing changed. Returns the warnings as well."""
        definition = await self.validate_workflow(source, media)
        plan = definition.plan
        if name is not None and plan.name != name:
            raise NameMismatch(f"the document is named {plan.name!r}, the request says {name!r}; make them the same")
        document = await self._same_as_newest(plan.name, definition.document) or dumps(definition.document)
        published = await self._store.publish_workflow(
            plan.name, document, definition.source, media, plan.description, self._clock.now()
        )
        self._workflows.pop(plan.name, None)
        if published.changed:
            self._plans.keep(plan.name, published.version, plan)
        return published, list(definition.warnings)

    async def _same_as_newest(self, name: str, document: JSON) -> str | None:
        """Return the newest version's text where it means the same: comments and the order of keys do not count."""
        try:
            row = await self._store.get_workflow(name)
        except NotFound:
            return None
        newest = (await self._store.get_version(name, row.version)).document
        return newest if dumps(in_order(loads(newest))) == dumps(in_order(document)) else None

    async def set_enabled(self, name: str, enabled: bool) -> WorkflowRow:
        row = await self._store.set_enabled(name, enabled, self._clock.now())
        self._workflows.pop(name, None)
        return row

    async def delete_workflow(self, name: str) -> None:
        await self._store.delete_workflow(name, self._clock.now())
        self._workflows.pop(name, None)

    async def get_workflow(self, name: str) -> tuple[WorkflowRow, VersionRow]:
        row = await self._store.get_workflow(name)
        return row, await self._store.get_version(name, row.version)

    async def list_workflows(self, cursor: str | None, limit: int) -> list[WorkflowRow]:
        return await self._store.list_workflows(cursor, limit)

    async def get_version(self, name: str, version: int) -> VersionRow:
        return await self._store.get_version(name, version)

    async def list_versions(self, name: str, cursor: int | None, limit: int) -> list[VersionRow]:
        return await self._store.list_versions(name, cursor, limit)

    async def get_plan(self, workflow: str, version: int) -> Plan:
        return await self._plans.get(workflow, version)

    # ---- starting runs

    async def start_run(
        self,
        workflow: str,
        *,
        input: JSON = None,
        version: int | None = None,
        delay_ms: int | None = None,
        priority: int = 0,
        idempotency_key: str | None = None,
        request_hash: str | None = None,
        trigger_type: str = "manual",
    ) -> StartedRun:
        """Start a run. On return it is on disk, and its first steps have begun where slots were free.

        Raises NotFound, WorkflowDisabled, InvalidInput, TooLarge, IdempotencyMismatch, Unavailable.
        """
        number, plan = await self._startable(workflow, version)
        if idempotency_key is not None and request_hash is None:
            request_hash = _hash([input, version, delay_ms, priority])
        new, driver = self._prepare_run(
            plan, number, input, delay_ms, priority, idempotency_key, request_hash, trigger_type
        )
        changes = driver.begin()
        try:
            started = await self._store.start_run(new, changes)
        except BaseException as error:
            self._not_stored(driver, changes, workflow, error)
            raise
        self._stored(driver, changes, started)
        return started

    async def start_runs(
        self,
        workflow: str,
        inputs: Sequence[JSON],
        *,
        version: int | None = None,
        priority: int = 0,
        trigger_type: str = "manual",
    ) -> list[StartedRun]:
        """Start many runs in one transaction: all or none."""
        number, plan = await self._startable(workflow, version)
        pairs: list[tuple[NewRun, Driver]] = []
        problems: list[Problem] = []
        for index, input in enumerate(inputs):
            try:
                pairs.append(self._prepare_run(plan, number, input, None, priority, None, None, trigger_type))
            except InvalidInput as error:
                problems += [_inside(problem, f"inputs[{index}]") for problem in error.problems]
        if problems:
            raise InvalidInput("inputs do not fit the workflow; none of the runs was started", problems=problems)
        decided = [(new, driver, driver.begin()) for new, driver in pairs]
        try:
            started = await self._store.start_runs([(new, changes) for new, _, changes in decided])
        except BaseException as error:
            for _, driver, changes in decided:
                self._not_stored(driver, changes, workflow, error)
            raise
        for (_, driver, changes), one in zip(decided, started, strict=True):
            self._stored(driver, changes, one)
        return started

    async def _startable(self, workflow: str, version: int | None) -> tuple[int, Plan]:
        if self.stopping:
            raise ShuttingDown("the server is shutting down; try again when it is back")
        row = self._workflows.get(workflow)
        if row is None:
            row = await self._store.get_workflow(workflow)
            self._workflows[workflow] = row
        if not row.enabled:
            raise WorkflowDisabled(f"workflow {workflow!r} is disabled; enable it to start runs")
        number = version if version is not None else row.version
        return number, await self._plans.get(workflow, number)

    def _prepare_run(
        self,
        plan: Plan,
        version: int,
        input: JSON,
        delay_ms: int | None,
        priority: int,
        idempotency_key: str | None,
        request_hash: str | None,
        trigger_type: str,
    ) -> tuple[NewRun, Driver]:
        now = self._clock.now()
        given = {} if input is None else input
        if plan.inputs is not None:
            self._check_size(dumps(given))
            given = apply_defaults(plan.inputs, given)
            problems = check_input(plan.inputs, given)
            if problems:
                raise InvalidInput(f"the input does not fit workflow {plan.name!r}", problems=problems)
        text = dumps(given)
        self._check_size(text)
        trigger = {"type": trigger_type}
        new = NewRun(
            id=self._clock.new_id("run"),
            workflow=plan.name,
            version=version,
            trigger=dumps(trigger),
            trigger_type=trigger_type,
            input=text,
            created_at=now,
            priority=priority,
            start_at=None if not delay_ms else now + delay_ms,
            idempotency_key=idempotency_key,
            request_hash=request_hash,
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
        )
        return new, self._drivers.create(run)

    def _check_size(self, text: str) -> None:
        if len(text) > self._input_limit:
            raise TooLarge(f"the input has {len(text)} bytes; the limit is {self._input_limit}")

    def _stored(self, driver: Driver, changes: Changes, started: StartedRun) -> None:
        if not started.created:
            driver.forget(changes)
            return
        driver.run.key, driver.run.number = started.key, started.number
        self._drivers.keep(driver)
        driver.committed(changes)

    def _not_stored(self, driver: Driver, changes: Changes, workflow: str, error: BaseException) -> None:
        driver.forget(changes)
        if isinstance(error, NotFound | WorkflowDisabled):
            self._workflows.pop(workflow, None)
        elif isinstance(error, asyncio.CancelledError):
            # Whoever asked has gone away, but the run may be stored all the same, and then it is ours to drive.
            self._drivers.spawn(self._take_over(driver.run.id))

    async def _take_over(self, run_id: str) -> None:
        try:
            await self._store.ping()
            row = await self._store.get_run(run_id)
        except (NotFound, Unavailable):
            return
        if row.record.owner is not None:
            driver = await self._drivers.obtain(row.key)
            driver.post(ev.TakenUp())
        elif row.record.due_at is not None:
            self._drivers.on_due(row.record.due_at)

    # ---- runs

    async def wait_run(self, ref: str, timeout_ms: int) -> None:
        """Return when the run has ended or the time is over. Raises NotFound."""
        row = await self._store.get_run(ref)
        if row.record.state in RUN_TERMINAL:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended[row.id].append(future)
        try:
            # It may have ended between the read and the registration.
            if (await self._store.get_run(row.id)).record.state in RUN_TERMINAL:
                return
            async with asyncio.timeout(timeout_ms / 1000):
                await future
        except TimeoutError:
            return
        finally:
            self._forget_future(self._ended, row.id, future)

    async def wait_change(self, run_id: str | None, timeout_ms: int) -> None:
        """Return at the next stored decision of the run (None: of any run), or when the time is over."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        key = run_id or ""
        self._changed[key].append(future)
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await future
        except TimeoutError:
            return
        finally:
            self._forget_future(self._changed, key, future)

    async def get_run(
        self,
        ref: str,
        *,
        steps: Literal["none", "failed", "all"] = "all",
        cursor: str | None = None,
        limit: int = 500,
    ) -> tuple[RunRows, int, str | None]:
        """Return the rows, the number of steps that have a row, and the cursor of the next page of steps."""
        rows = await self._store.get_run_rows(ref, steps=steps, cursor=cursor, limit=limit)
        total = await self._store.count_steps(rows.run.key)
        more = steps != "none" and len(rows.steps) == limit
        return rows, total, rows.steps[-1].path if more else None

    async def list_runs(self, chosen: RunFilter) -> list[RunRow]:
        return await self._store.list_runs(chosen)

    async def cancel_run(self, ref: str, reason: str | None = None) -> RunRow:
        """Raises NotFound, RunEnded."""
        return await self._ask(ref, ev.CancelAsked(reason))

    async def retry_run(self, ref: str) -> RunRow:
        """Take a run up where it failed; what succeeded is kept. Raises NotFound, RunNotEnded, NothingToRetry."""
        if self.stopping:
            raise ShuttingDown("the server is shutting down; try again when it is back")
        return await self._ask(ref, ev.RetryAsked())

    async def _ask(self, ref: str, event: ev.CancelAsked | ev.RetryAsked) -> RunRow:
        row = await self._store.get_run(ref)
        driver = await self._drivers.obtain(row.key)
        while not driver.is_open:
            driver = await self._drivers.obtain(row.key)
        await driver.ask(event)
        return await self._store.get_run(row.id)

    async def list_journal(self, ref: str | None, after: int, limit: int) -> list[JournalRow]:
        key = None if ref is None else (await self._store.get_run(ref)).key
        return await self._store.list_journal(key, after, limit)

    async def last_journal_id(self) -> int:
        """The newest decision's id; 0 when there is none."""
        return await self._store.last_journal_id()

    # ---- dead letters

    async def list_dead_letters(self, state: str | None, cursor: str | None, limit: int) -> list[DeadLetterRow]:
        return await self._store.list_dead_letters(state, cursor, limit)

    async def get_dead_letter(self, id: str) -> DeadLetterRow:
        return await self._store.get_dead_letter(id)

    async def retry_dead_letter(self, id: str) -> RunRow:
        """Retry the letter's run at its failed steps. Raises NotFound, DeadLetterClosed, RunNotEnded."""
        row = await self._store.get_dead_letter(id)
        _check_open(row)
        return await self.retry_run(row.run_id)

    async def discard_dead_letter(self, id: str) -> DeadLetterRow:
        return await self._store.discard_dead_letter(id, self._clock.now())

    # ---- tokens and state

    async def find_token(self, hash: str) -> TokenRow | None:
        return await self._store.find_token(hash)

    async def list_tokens(self) -> list[TokenRow]:
        return await self._store.list_tokens()

    async def create_token(self, row: TokenRow) -> None:
        await self._store.create_token(row)

    async def revoke_token(self, id: str) -> None:
        await self._store.revoke_token(id)

    async def stats(self) -> Stats:
        return await self._store.stats(self._clock.now())

    def liveness(self) -> str | None:
        """Return why this process is not doing its work, or None. Never waits."""
        return self._timers.stuck()

    async def readiness(self) -> str | None:
        """Return why calls cannot be served now, or None."""
        if self.stopping:
            return "the server is shutting down"
        try:
            async with asyncio.timeout(2):
                await self._store.ping()
        except TimeoutError:
            return "the store has not answered for 2 s"
        except Unavailable as error:
            return f"the store does not answer: {error.message}"
        return self._timers.stuck()

    @property
    def in_flight(self) -> int:
        """How many attempts run now."""
        return self._drivers.executor.in_flight

    def stop(self) -> None:
        """Refuse new runs from now on; whoever waits for a run or a change is answered."""
        self.stopping = True
        for waiting in (self._ended, self._changed):
            for futures in list(waiting.values()):
                for future in futures:
                    if not future.done():
                        future.set_result(None)

    # ---- changes

    def _on_change(self, run: RunSnapshot, changes: Changes) -> None:
        if self._changed:
            for key in (run.id, ""):
                for future in self._changed.pop(key, ()):
                    if not future.done():
                        future.set_result(None)
        if run.ended and run.id in self._ended:
            for future in self._ended.pop(run.id):
                if not future.done():
                    future.set_result(None)

    @staticmethod
    def _forget_future(futures: dict[str, list[asyncio.Future[None]]], key: str, future: asyncio.Future[None]) -> None:
        waiting = futures.get(key)
        if waiting is not None:
            if future in waiting:
                waiting.remove(future)
            if not waiting:
                del futures[key]


def _check_open(row: DeadLetterRow) -> None:
    if row.state != "OPEN":
        raise DeadLetterClosed(f"the dead letter is {row.state}", detail={"state": row.state})


def _hash(value: JSON) -> str:
    return hashlib.sha256(dumps(value).encode()).hexdigest()


def _inside(problem: Problem, prefix: str) -> Problem:
    path = f"{prefix}.{problem.path}" if problem.path else prefix
    return Problem(path, problem.message, problem.line, problem.column, problem.hint, problem.severity, problem.code)
