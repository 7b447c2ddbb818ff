"""Drives one run, from event to event: decide, apply in one store verb, then act on what was decided.

A driver is the only one in this process that moves its run. It lives while the run is active here; what waits for a
time lives in the store alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from taskforge.core import events as ev
from taskforge.core.decide import decide
from taskforge.core.errors import (
    Conflict,
    LeaseLost,
    NothingToRetry,
    RunEnded,
    RunNotEnded,
    RunUndone,
    StepUnknown,
    TaskForgeError,
    Unavailable,
)
from taskforge.core.model import Prepared
from taskforge.core.record import dataclass
from taskforge.core.snapshot import Changes, RunSnapshot
from taskforge.core.states import RunState
from taskforge.engine.resuming import check_resumable
from taskforge.observe.logs import get_logger
from taskforge.security.resume_links import ResumeTarget
from taskforge.store.audit import RECORDED, AuditEntry, recorded
from taskforge.store.mirror import RunMirror

if TYPE_CHECKING:
    from taskforge.engine.drivers import Drivers

log = get_logger("driver")

_ENDS = (ev.AttemptSucceeded, ev.AttemptSuspended, ev.AttemptFailed, ev.AttemptReleased)
_MOST_SIGNALS = 1000
_PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses between tries to store an outcome while the store cannot take it (a full disk); the last one repeats."""


Asked = ev.CancelAsked | ev.RetryAsked | ev.SignalSent
"""Events that somebody waits for."""


Verb = Callable[[Changes], Awaitable[int | None]]
"""A verb of the store that applies a decision."""


@dataclass(slots=True)
class _Question:
    """An event that somebody waits for: it is decided alone, and they get the run or the refusal."""

    event: Asked
    answer: asyncio.Future[RunSnapshot]
    entry: AuditEntry | None


class _Undecidable(Exception):
    """`decide` itself failed. It is pure, so it would fail again: the run must end, or it would end every server."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(f"{type(reason).__name__}: {reason}")
        self.reason = reason


class Driver:
    """One run in memory. `post` and `ask` may be called at any time; decisions are made one after the other."""

    __slots__ = (
        "_asked", "_drivers", "_epoch", "_events", "_is_stale", "_preparing", "_pumping", "_timer", "is_open", "mirror",
        "run",
    )  # fmt: skip

    def __init__(self, drivers: Drivers, run: RunSnapshot) -> None:
        self.run = run
        self.is_open = True
        self.mirror: RunMirror | None = None
        """The run's rows, while somebody will ask for them when it ends."""
        self._drivers = drivers
        self._events: list[ev.Event] = []
        self._asked: list[_Question] = []
        self._pumping = False
        self._is_stale = False
        self._timer: asyncio.TimerHandle | None = None
        self._preparing: set[asyncio.Task[None]] = set()
        self._epoch = 0

    # ---- from outside

    def post(self, event: ev.Event) -> None:
        """Have the event decided soon."""
        if not self.is_open:
            return
        self._events.append(event)
        if not self._pumping:
            self._pumping = True
            self._drivers.spawn(self._pump())

    async def settle(self, event: ev.Event) -> None:
        """Have the event decided, and return when it is applied or somebody else is at it."""
        if not self.is_open:
            self._drivers.executor.give_back()
            return
        self._events.append(event)
        if not self._pumping:
            self._pumping = True
            await self._pump()

    async def ask(self, event: Asked) -> RunSnapshot:
        """Decide the event alone. Raises RunEnded, RunNotEnded, NothingToRetry, RunUndone, or a store's refusal."""
        answer: asyncio.Future[RunSnapshot] = asyncio.get_running_loop().create_future()
        self._asked.append(_Question(event, answer, RECORDED.get()))
        if not self._pumping:
            self._pumping = True
            self._drivers.spawn(self._pump())
        return await answer

    def begin(self) -> Changes:
        """Decide a new run before it is stored. `committed` or `forget` must follow."""
        self._pumping = True
        changes = self._decide([ev.Begun()], new=True)
        if self.run.ended:
            # A batch would keep all its steps in memory until they are stored, and be slower for it.
            self.run.let_go()
            self.run.steps.clear()
        return changes

    def committed(self, changes: Changes) -> None:
        """The new run is stored: act on what was decided."""
        self._after(changes)
        self._pumping = False
        if self._events or self._asked:
            self._pumping = True
            self._drivers.spawn(self._pump())
        else:
            self._rest()

    def forget(self, changes: Changes) -> None:
        """The new run was not stored: give back the slots that the decision took."""
        self.is_open = False
        if changes.starts:
            self._drivers.executor.give_back(len(changes.starts))

    def replace(self, run: RunSnapshot) -> None:
        """The store has given this run to us anew: go on from its rows."""
        if self._pumping:
            # A decision is on its way to the store, and the rows may be older than it: they are loaded again after it.
            self._is_stale = True
        else:
            self._adopt(run)
        self.post(ev.TakenUp())

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run a task that a shutdown waits for."""
        self._drivers.spawn(work)

    # ---- the pump

    async def _pump(self) -> None:
        try:
            while self._events or self._asked:
                if self._is_stale:
                    self._is_stale = False
                    await self._reload(keep=True)
                if self._asked:
                    await self._answer(self._asked.pop(0))
                else:
                    events, self._events = self._events, []
                    await self._step(events)
        except Unavailable:
            # Only when the process gives up; what was not stored is found again at the next start.
            self._close()
        except Exception as error:
            log.exception("driver_failed", run=self.run.id)
            if isinstance(error, _Undecidable):
                await self._fail_run(error.reason)
            else:
                self._close()
                self._drivers.failed(error)
        finally:
            self._pumping = False
        self._rest()

    async def _fail_run(self, error: Exception) -> None:
        """End a run that the engine cannot drive. When even that fails, the process must not go on."""
        try:
            await self._reload(keep=True)
            changes = self._decide([ev.Broken(_fault(error))])
            await self._apply(changes, self._drivers.store.cancel_run)
            self._after(changes)
        except Exception as second:
            log.exception("run_not_ended", run=self.run.id)
            self._drivers.failed(second)
        self._close()

    async def _step(self, events: list[ev.Event]) -> None:
        """Decide events and apply the decision; when the run has moved meanwhile, load it and decide again."""
        for event in events:
            if isinstance(event, _ENDS):
                self._drivers.executor.in_flight -= 1
        if self.run.owner not in (None, self._drivers.node):
            self._close()
            return
        if self.run.owner is None and all(isinstance(event, ev.TimePassed) for event in events):
            # Its timer rang while it was given back to the store, which says when it is due: the due loop takes it up.
            return
        while True:
            for event in events:
                if isinstance(event, ev.TakenUp):
                    events = [*self._orphans(events), *events]
                    break
            changes = self._decide(events)
            try:
                await self._apply(changes, _verb(self._drivers, events, changes))
            except LeaseLost:
                self._undo(changes)
                log.warning("lease_lost", run=self.run.id, events=[type(event).__name__ for event in events])
                if not await self._reload():
                    return
                events = [ev.TakenUp(), *(event for event in events if not isinstance(event, ev.TakenUp))]
                continue
            except BaseException:
                self._undo(changes)
                raise
            self._after(changes)
            return

    def _orphans(self, events: list[ev.Event]) -> list[ev.Event]:
        """A run that was loaded may hold attempts that nobody carries out: they were stored, but the answer to that did
        not reach us. They are LOST, and tried again."""
        if self.run.owner != self._drivers.node:
            return []
        ended = {event.token for event in events if isinstance(event, _ENDS)}
        begun = [(at.path, at.attempt.id) for at in self.run.live.values() if at.attempt is not None]
        carried_out = self._drivers.executor.carries_out
        return [
            ev.AttemptReleased(path, token) for path, token in begun if token not in ended and not carried_out(token)
        ]

    async def _answer(self, asked: _Question) -> None:
        """Decide what somebody asked for. A refusal changes nothing."""
        try:
            for _ in range(20):
                self._check(asked.event)
                changes = self._decide([asked.event])
                verb = self._verb_of(asked.event)
                try:
                    with recorded(asked.entry):
                        self._drivers.note_place(await verb(changes))
                except LeaseLost:
                    self._undo(changes)
                    await self._take_back()
                    continue
                except BaseException:
                    self._undo(changes)
                    await self._take_back()
                    raise
                self._after(changes)
                if not asked.answer.done():
                    asked.answer.set_result(self.run)
                return
            raise Unavailable("the run is being changed by others; try again")
        except TaskForgeError as error:
            if not asked.answer.done():
                asked.answer.set_exception(error)

    async def _take_back(self) -> None:
        """Forget a decision that was not stored, and go on with the run where it is active here."""
        await self._reload(keep=True)
        if self.run.owner == self._drivers.node:
            self._events.append(ev.TakenUp())

    def _verb_of(self, event: Asked) -> Verb:
        store = self._drivers.store
        if isinstance(event, ev.CancelAsked):
            return store.cancel_run
        return store.retry_run if isinstance(event, ev.RetryAsked) else store.send_signal

    def _check(self, event: Asked) -> None:
        run, detail = self.run, {"state": str(self.run.state)}
        if isinstance(event, ev.CancelAsked):
            if run.ended:
                raise RunEnded(f"the run has ended ({run.state}); only a run in progress is cancelled", detail=detail)
        elif isinstance(event, ev.SignalSent):
            self._check_signal(event, detail)
        else:
            self._check_retry(event, detail)

    def _check_signal(self, event: ev.SignalSent, detail: dict[str, str]) -> None:
        run = self.run
        if event.resumes is not None:
            check_resumable(run, ResumeTarget(run.id, *event.resumes))
        elif event.told_child is None and run.ended:
            raise RunEnded(f"the run has ended ({run.state}); it takes no signals any more", detail=detail)
        if event.told_child is None and len(run.signals) >= _MOST_SIGNALS:
            message = f"the run keeps {_MOST_SIGNALS} signals that no step has taken; it takes no more"
            raise Conflict(message, detail=detail)

    def _check_retry(self, event: ev.RetryAsked, detail: dict[str, str]) -> None:
        run = self.run
        if not run.ended:
            raise RunNotEnded(f"the run is {run.state}; only a run that has ended is retried", detail=detail)
        if run.undone:
            raise RunUndone("the run's undo steps have run; it can be replayed, not retried", detail=detail)
        if event.from_step is not None:
            if event.from_step not in run.steps:
                raise StepUnknown(f"the run has no step {event.from_step!r} that has begun", detail=detail)
        elif run.state is RunState.SUCCEEDED:
            raise NothingToRetry("the run SUCCEEDED; say from which step to run it again, or use replay", detail=detail)

    def _decide(self, events: list[ev.Event], *, new: bool = False) -> Changes:
        drivers, executor = self._drivers, self._drivers.executor
        # One for all decisions: only these two differ, and none is made while another one is.
        context = drivers.context
        context.now, context.slots = drivers.clock.now(), executor.slots_for(self.run, new=new)
        try:
            changes = decide(self.run, events, context)
        except Exception as error:
            raise _Undecidable(error) from error
        executor.in_flight += len(changes.starts)
        return changes

    async def _apply(self, changes: Changes, verb: Verb) -> None:
        """Store the changes; an outcome is never dropped because the store is full or busy."""
        if changes.is_empty:
            return
        tries = 0
        while True:
            try:
                self._drivers.note_place(await verb(changes))
            except Unavailable as error:
                if self._drivers.giving_up:
                    raise
                pause = _PAUSES_S[min(tries, len(_PAUSES_S) - 1)]
                log.warning("store_unavailable", run=self.run.id, error=error.message, pause_s=pause)
                await asyncio.sleep(pause)
                tries += 1
            else:
                return

    def _undo(self, changes: Changes) -> None:
        if changes.starts:
            self._drivers.executor.give_back(len(changes.starts))

    async def _reload(self, *, keep: bool = False) -> bool:
        """Load the run anew. Returns False, and closes the driver, when another node drives it now (unless `keep`)."""
        run = await self._drivers.load(self.run.key)
        self._adopt(run)
        if not keep and run.owner not in (None, self._drivers.node):
            self._close()
            return False
        return True

    def _adopt(self, run: RunSnapshot) -> None:
        for at in run.live.values():
            if at.attempt is not None:
                at.attempt.value = self._drivers.executor.find_value(at.attempt.id)
        self.run = run
        self.mirror = None
        self._epoch += 1

    # ---- after the commit

    def _after(self, changes: Changes) -> None:
        run, drivers = self.run, self._drivers
        if not changes.is_empty:
            run.revision += 1
            if self.mirror is not None and not self.mirror.follow(changes):
                self.mirror = None
        for token in changes.aborts:
            drivers.executor.abort(token)
        for at in changes.starts:
            drivers.executor.start(self, at)
        for path, name in changes.needs:
            self._prepare(path, name)
        if changes.starved and run.owner is not None:
            drivers.executor.wait_for_slot(self)
        self._set_timer(changes)
        drivers.moved(self, changes)
        drivers.executor.offer()

    def _prepare(self, path: str, name: str) -> None:
        """Evaluate in process what only lacked the run's number, else ask the jq child."""
        run = self.run
        prepared = self._drivers.expressions.prepare(run, run.steps[path] if path else None, name)
        if prepared is not None:
            self.post(ev.StepPrepared(path, prepared, name))
            return
        task = self._drivers.spawn(self._prepare_in_child(path, name, self._epoch))
        self._preparing.add(task)
        task.add_done_callback(self._preparing.discard)

    async def _prepare_in_child(self, path: str, name: str, epoch: int) -> None:
        at = self.run.steps[path] if path else None
        try:
            prepared: Prepared = await self._drivers.expressions.prepare_in_child(self.run, at, name)
        except Exception as error:
            log.exception("evaluation_failed", run=self.run.id, step=path)
            self.post(ev.Broken(_fault(error)))
            return
        if self.is_open and epoch == self._epoch:
            self.post(ev.StepPrepared(path, prepared, name))

    def _set_timer(self, changes: Changes) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if changes.wake_at is not None and self.run.owner is not None:
            pause = max(0, changes.wake_at - self._drivers.clock.now()) / 1000
            self._timer = asyncio.get_running_loop().call_later(pause, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.post(ev.TimePassed())

    def _rest(self) -> None:
        """Leave memory when nothing of the run is active here."""
        if self.is_open and not self._pumping and self.run.owner is None:
            self._close()

    def _close(self) -> None:
        self.is_open = False
        self.run.let_go()
        if self._timer is not None:
            self._timer.cancel()
        self._drivers.drop(self)
        ended = sum(1 for event in self._events if isinstance(event, _ENDS))
        self._events.clear()
        if ended:
            self._drivers.executor.give_back(ended)
        for asked in self._asked:
            if not asked.answer.done():
                asked.answer.set_exception(Unavailable("the run is no longer driven here; try again"))
        self._asked.clear()


def _fault(error: Exception) -> str:
    return f"the engine met a fault of its own ({type(error).__name__}); the server's log has it"


def _verb(drivers: Drivers, events: list[ev.Event], changes: Changes) -> Verb:
    if changes.ends:
        return drivers.store.finish_attempt
    if all(isinstance(event, ev.TimePassed) for event in events):
        return drivers.store.resume_wait
    return drivers.store.advance_run
