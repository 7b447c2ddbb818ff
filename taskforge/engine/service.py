"""What people ask for: the calls behind API and CLI. One word per act, from the route to the SQL."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Literal

from taskforge.core import events as ev
from taskforge.core.clock import Clock
from taskforge.core.errors import (
    DeadLetterClosed,
    InvalidInput,
    NotFound,
    ShuttingDown,
    StateConflict,
    StepUnknown,
    TooLarge,
    Unavailable,
)
from taskforge.core.inputs import check_input
from taskforge.core.jsontext import dumps, loads
from taskforge.core.kind import resume_signal
from taskforge.core.model import JSON, Plan
from taskforge.core.problem import suggest
from taskforge.core.reasons import Reason
from taskforge.core.snapshot import Changes, RunSnapshot
from taskforge.core.states import RUN_TERMINAL
from taskforge.engine.applying import ApplyCalls, Applying
from taskforge.engine.auditing import AuditCalls
from taskforge.engine.children import Children
from taskforge.engine.defining import DefinitionCalls, DefinitionReader
from taskforge.engine.driver import Asked
from taskforge.engine.drivers import Drivers
from taskforge.engine.places import Places
from taskforge.engine.plans import Plans
from taskforge.engine.resuming import Resumable, awaited_signal, check_resumable, step_of
from taskforge.engine.rotation import KeyRotation, Rotated
from taskforge.engine.starting import StartRequest, Starts
from taskforge.engine.timers import Timers
from taskforge.engine.trials import Trials
from taskforge.engine.triggers import TriggerCalls, Triggers
from taskforge.engine.upkeep import DataCalls, Upkeep
from taskforge.engine.values import StoredValues, ValueCalls
from taskforge.engine.watching import Leaving, Watchers
from taskforge.engine.why import Surroundings, missing_reason, present_reasons
from taskforge.security.resume_links import ResumeLinks, ResumeTarget
from taskforge.steps.wait import signal_schema
from taskforge.store.protocol import (
    DeadLetterRow,
    JournalRow,
    RunFilter,
    RunRow,
    RunRows,
    StartedRun,
    Stats,
    Store,
)
from taskforge.store.values import TokenRow


class Service(DefinitionCalls, ValueCalls, TriggerCalls, ApplyCalls, AuditCalls, DataCalls):
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
        starts: Starts,
        children: Children,
        places: Places,
        links: ResumeLinks,
        values: StoredValues,
        triggers: Triggers,
        trials: Trials,
        upkeep: Upkeep,
        keys: KeyRotation | None = None,
    ) -> None:
        self._trials = trials
        self._upkeep = upkeep
        self._keys = keys
        self._triggers = triggers
        self._values = values
        self._store = store
        self._clock = clock
        self._drivers = drivers
        self._plans = plans
        self._reader = reader
        self._timers = timers
        self._starts = starts
        self._children = children
        self._places = places
        self._links = links
        self._watchers = Watchers()
        self._applying = Applying(store, clock, plans, values, triggers, self._read, self._changing)
        self.stopping = False
        drivers.on_change = self._on_change

    # ---- starting runs

    async def start_run(self, request: StartRequest) -> StartedRun:
        """Start a run (`engine.starting`)."""
        return await self._starts.start_run(request)

    async def start_runs(self, request: StartRequest, inputs: Sequence[JSON]) -> list[StartedRun]:
        """Start many runs in one transaction: all or none."""
        return await self._starts.start_runs(request, inputs)

    # ---- runs

    async def wait_run(self, ref: str, timeout_ms: int, leaving: Leaving | None = None) -> None:
        """Return when the run has ended, the time is over, or whoever waits has left. Raises NotFound."""
        row = await self._store.get_run(ref)
        if row.record.state in RUN_TERMINAL:
            return
        with self._watchers.watch_end(row.id) as watch:
            # It may have ended between the read and the registration.
            if (await self._store.get_run(row.id)).record.state not in RUN_TERMINAL and not self.stopping:
                await watch.wait(timeout_ms, leaving)

    async def start_and_wait(
        self, request: StartRequest, timeout_ms: int, leaving: Leaving | None = None
    ) -> tuple[StartedRun, RunRows | None]:
        """`start_run`, then `wait_run`. Returns the rows of a run that has ended, too, where they are known here:
        nothing is read."""
        started, driver = await self._starts.start_mirrored(request)
        if started.state not in RUN_TERMINAL:
            with self._watchers.watch_end(started.id) as watch:
                is_active = driver is not None and driver.is_open and not driver.run.ended
                if is_active and not self.stopping:
                    await watch.wait(timeout_ms, leaving)
            if not is_active:
                await self.wait_run(started.id, timeout_ms, leaving)
        mirror = None if driver is None else driver.mirror
        return started, mirror.rows() if mirror is not None and mirror.ended else None

    async def wait_change(self, run_id: str | None, timeout_ms: int) -> None:
        """Return at the next stored decision of the run (None: of any run), or when the time is over."""
        with self._watchers.watch_change(run_id) as watch:
            if not self.stopping:
                await watch.wait(timeout_ms)

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
        # Where the page has all steps there is nothing to count.
        has_all = steps == "all" and cursor is None and len(rows.steps) < limit
        total = len(rows.steps) if has_all else await self._store.count_steps(rows.run.key)
        more = steps != "none" and len(rows.steps) == limit
        return rows, total, rows.steps[-1].path if more else None

    async def list_runs(self, chosen: RunFilter) -> list[RunRow]:
        return await self._store.list_runs(chosen)

    async def cancel_run(self, ref: str, reason: str | None = None) -> RunRow:
        """Raises NotFound, RunEnded."""
        return await self._ask(ref, ev.CancelAsked(reason))

    async def retry_run(self, ref: str, from_step: str | None = None) -> RunRow:
        """Take a run up where it failed, or at `from_step`; what came before is kept.

        Raises NotFound, RunNotEnded, NothingToRetry, RunUndone, StepUnknown.
        """
        if self.stopping:
            raise ShuttingDown("the server is shutting down; try again when it is back")
        return await self._ask(ref, ev.RetryAsked(from_step))

    async def replay_run(
        self, ref: str, *, version: int | None, input: JSON, with_input: bool, key: tuple[str, str] | None = None
    ) -> StartedRun:
        """Start a new run with another one's input, or an edited one, on its version or another. `key` is the
        Idempotency-Key and the hash of the request. Raises NotFound, IdempotencyMismatch."""
        row = await self._store.get_run_rows(ref, steps="none")
        run = row.run
        request = StartRequest(
            run.workflow,
            input if with_input else loads(run.input),
            version=version if version is not None else run.version,
            priority=run.priority,
            trigger_type=run.trigger_type,
            trigger=loads(run.trigger),
            lineage=run.id,
            idempotency_key=None if key is None else key[0],
            request_hash=None if key is None else f"{run.id} {key[1]}",
        )
        return await self._starts.start_run(request)

    async def send_signal(self, ref: str, name: str, data: JSON) -> RunRow:
        """Send a signal: who waits for it goes on, else it is kept. Raises NotFound, RunEnded, InvalidInput."""
        row = await self._store.get_run(ref)
        plan = await self._plans.get(row.workflow, row.version)
        schema = signal_schema(plan, name)
        self._check_signal(schema, data, f"signal {name!r}")
        return await self._ask(row.id, ev.SignalSent(self._clock.new_id("sig"), name, data))

    async def get_resumable(self, token: str) -> Resumable:
        """Return what a one-time link resumes. Raises NotFound for what is no link of ours, ResumeLinkUsed."""
        target = self._links.read(token)
        if target is None:
            raise NotFound("this link is not valid; it may have been cut off or changed on its way")
        row = await self._store.get_run(target.run)
        run = await self._drivers.load(row.key)
        check_resumable(run, target)
        return Resumable(f"{row.workflow}#{row.number}", target.path, self._schema_of(run.plan, target))

    async def use_resume_link(self, token: str, data: JSON) -> RunRow:
        """Resume the step of a one-time link. Raises NotFound, ResumeLinkUsed, InvalidInput, TooLarge."""
        target = self._links.read(token)
        if target is None:
            raise NotFound("this link is not valid; it may have been cut off or changed on its way")
        row = await self._store.get_run(target.run)
        plan = await self._plans.get(row.workflow, row.version)
        self._check_signal(self._schema_of(plan, target), data, f"step {target.path!r}")
        name = resume_signal(target.path, target.generation)
        resumes = (target.path, target.generation)
        return await self._ask(row.id, ev.SignalSent(self._clock.new_id("sig"), name, data, resumes=resumes))

    @staticmethod
    def _schema_of(plan: Plan, target: ResumeTarget) -> JSON:
        step = step_of(plan, target.path)
        awaited = None if step is None else awaited_signal(step)
        if awaited is None:
            raise NotFound(f"the workflow has no step {target.path!r} that waits for a signal")
        return awaited.schema

    def _check_signal(self, schema: JSON, data: JSON, receiver: str) -> None:
        size = len(dumps(data).encode())
        if size > self._starts.input_limit:
            raise TooLarge(f"the data has {size} bytes; the limit is {self._starts.input_limit}")
        problems = [] if schema is None else check_input(schema, data)
        if problems:
            raise InvalidInput(f"the data does not fit the schema of {receiver}", problems=problems)

    async def _ask(self, ref: str, event: Asked) -> RunRow:
        row = await self._store.get_run(ref)
        await self._drivers.ask(row.key, event)
        return await self._store.get_run(row.id)

    # ---- holding

    async def set_hold(self, workflow: str | None, held: bool) -> None:
        """Hold a workflow (None: everything) back: no attempt begins. Runs are still accepted. Raises NotFound."""
        await self._store.set_hold(workflow, held, self._clock.now())
        self._timers.set_holds(await self._store.list_holds())
        await self._triggers.changed()

    async def list_holds(self) -> list[str]:
        return await self._store.list_holds()

    @property
    def held(self) -> frozenset[str]:
        """What this process holds back, as it stands in memory; `*` is everything."""
        return self._drivers.executor.held

    # ---- a workflow's state

    async def get_state(self, workflow: str) -> dict[str, str]:
        """The workflow's state: key → JSON text. Raises NotFound."""
        await self._store.get_workflow(workflow)
        return await self._store.get_state(workflow)

    async def set_state(self, workflow: str, key: str, value: JSON, expected: JSON, *, compare: bool) -> str | None:
        """Store a value (None removes it), with `compare` only where it is `expected` now; return its JSON text.

        Raises NotFound, StateConflict, TooLarge.
        """
        writer = self._clock.new_id("write")
        state = self._drivers.executor.state
        if not await state.set(workflow, key, value, writer, expected, compare=compare):
            raise StateConflict(f"the value of {key!r} is not the one that was expected; read it and try again")
        return None if value is None else dumps(value)

    # ---- why, and the journal

    async def explain_run(self, ref: str, step: str | None) -> tuple[RunRow, list[Reason]]:
        """Return the run and what holds it, or one of its steps, now. Raises NotFound, also for an unknown step."""
        row, run = await self._look_at(ref)
        holder = None
        if run.place is not None and not run.placed:
            oldest = await self._store.find_oldest_placed(run.place)
            if oldest is not None:
                other = (await self._store.load_run(oldest)).run
                holder = f"{other.workflow}#{other.number}"
        around = Surroundings(self._clock.now(), self._drivers.executor, holder)
        found = list(present_reasons(run, around))
        if step is None:
            return row, found
        found = [reason for reason in found if reason.step in (None, step)]
        if step not in run.steps:
            _check_known(run, step)
            found.append(missing_reason(run, step))
        return row, found

    async def _look_at(self, ref: str) -> tuple[RunRow, RunSnapshot]:
        """The run as it is in memory, else as it is stored: to look at, not to change."""
        row = await self._store.get_run(ref)
        driver = self._drivers.find(row.key)
        return row, driver.run if driver is not None else await self._drivers.load(row.key)

    # ---- expressions that people try out

    async def evaluate_expression(self, text: str, dot: JSON, variables: Mapping[str, JSON]) -> list[JSON]:
        """Every result of a jq program. Raises InvalidExpression, ExpressionFailed, TooManyRequests."""
        return await self._trials.evaluate(text, dot, variables, self._clock.wall())

    async def evaluate_in_run(
        self, ref: str, step: str | None, text: str, dot: JSON, *, with_values: bool
    ) -> list[JSON]:
        """The same against what a run, or one of its steps, saw; `$vars` and `$secrets` only `with_values`. Raises
        NotFound and StepUnknown, too."""
        _, run = await self._look_at(ref)
        at = None if step is None else run.steps.get(step)
        if step is not None and at is None:
            _check_known(run, step)
            raise StepUnknown(f"the step {step!r} has not begun, so that it has seen nothing yet")
        return await self._trials.evaluate_in_run(run, at, text, dot, self._clock.wall(), with_values=with_values)

    async def list_journal(self, ref: str | None, after: int, limit: int) -> list[JournalRow]:
        key = None if ref is None else (await self._store.get_run(ref)).key
        return await self._store.list_journal(key, after, limit)

    async def last_journal_id(self) -> int:
        """The newest decision's id; 0 when there is none."""
        return await self._store.last_journal_id()

    # ---- dead letters

    async def list_dead_letters(
        self, state: str | None, cursor: str | None, limit: int, workflow: str | None = None
    ) -> list[DeadLetterRow]:
        return await self._store.list_dead_letters(state, cursor, limit, workflow)

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

    async def rotate_key(self, *, keep_links: bool) -> Rotated:
        """Change the home's key (`engine.rotation`)."""
        if self._keys is None:
            raise Unavailable("this server has no key of its own")
        return await self._keys.rotate(keep_links=keep_links)

    async def stats(self) -> Stats:
        stats = await self._store.stats(self._clock.now())
        return self._upkeep.add_stats(await self._triggers.add_stats(stats))

    def liveness(self) -> str | None:
        """Return why this process is not doing its work, or None. Never waits."""
        return self._timers.stuck() or self._triggers.schedules.stuck()

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
        return self.liveness()

    @property
    def in_flight(self) -> int:
        """How many attempts run now."""
        return self._drivers.executor.in_flight

    def stop(self) -> None:
        """Refuse new runs from now on; whoever waits for a run or a change is answered."""
        self.stopping = self._starts.stopping = True
        self._watchers.release_all()

    # ---- changes

    def _on_change(self, run: RunSnapshot, changes: Changes) -> None:
        self._watchers.moved(run)
        self._children.moved(run, changes)
        self._places.moved(run, changes)
        self._triggers.run_ends.moved(run)


def _check_known(run: RunSnapshot, step: str) -> None:
    if step_of(run.plan, step) is None:
        near = suggest(step, (*run.steps, *run.plan.index))
        raise NotFound(f"the run has no step {step!r}" + (f"; {near}" if near else ""))


def _check_open(row: DeadLetterRow) -> None:
    if row.state != "OPEN":
        raise DeadLetterClosed(f"the dead letter is {row.state}", detail={"state": row.state})
