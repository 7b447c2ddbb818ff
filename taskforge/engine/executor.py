"""Carries out attempts: how many at once, each with its time limit, lease and end.

A slot belongs to one attempt from the decision that leases it to the decision that takes its outcome, so that the next
step of the same run can have it without a gap.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from taskforge.core import events as ev
from taskforge.core.clock import Clock
from taskforge.core.errors import Failure
from taskforge.core.jsontext import JsonError
from taskforge.core.kind import ActionFailed, ActionKind, Suspended
from taskforge.core.model import JSON, AttemptFailure
from taskforge.core.snapshot import RunSnapshot, StepRun, depth_of
from taskforge.engine.evaluation import Expressions
from taskforge.engine.workflow_state import WorkflowState
from taskforge.expressions.errors import EvaluationFailed
from taskforge.observe.logs import get_logger
from taskforge.steps.deadlines import Deadlines

if TYPE_CHECKING:
    from taskforge.engine.driver import Driver

log = get_logger("executor")

NOBODY = -1
"""`Executor.alone` while all attempts in flight are waited for, so that one run can then be alone."""


_LED_TO = ("webhook", "run")
"""Types of triggers behind which there may be another run."""

StartChild = Callable[[RunSnapshot, StepRun, str, JSON, bool, int | None], Awaitable[str]]


async def _no_children(
    run: RunSnapshot, at: StepRun, workflow: str, input: JSON, wait: bool, version: int | None
) -> str:
    raise RuntimeError("app has not said how child runs are started")


class Attempting:
    """What an action may use while it runs (`core.kind.AttemptContext`)."""

    __slots__ = ("_driver", "_executor", "at", "deadline_ms", "idempotency_key", "output_limit", "resources")

    def __init__(self, executor: Executor, driver: Driver, at: StepRun, deadline_ms: int | None) -> None:
        self._executor = executor
        self._driver = driver
        self.at = at
        self.deadline_ms = deadline_ms
        self.idempotency_key = f"{driver.run.id}/{at.idempotency_suffix}"
        self.output_limit = executor.output_limit
        self.resources = executor.resources

    def now(self) -> int:
        return self._executor.clock.now()

    @property
    def depth(self) -> int | None:
        trigger = self._driver.run.trigger
        is_led_to = isinstance(trigger, dict) and (trigger.get("type") in _LED_TO or "depth" in trigger)
        return depth_of(trigger) + 1 if is_led_to else None

    @property
    def effect(self) -> str:
        return self.at.step.effect

    @property
    def workflow(self) -> str:
        return self._driver.run.workflow

    @property
    def path(self) -> str:
        return self.at.path

    @property
    def generation(self) -> int:
        return self.at.generation

    async def start_child(self, workflow: str, input: JSON, *, wait: bool, version: int | None = None) -> str:
        given = self._executor.stored.mask(input)
        return await self._executor.start_child(self._driver.run, self.at, workflow, given, wait, version)

    async def set_state(self, key: str, value: JSON, expected: JSON, *, compare: bool) -> bool:
        state, mask = self._executor.state, self._executor.stored.mask
        # A value that was masked before is expected masked.
        value, expected = mask(value), mask(expected)
        return await state.set(self.workflow, key, value, self.idempotency_key, expected, compare=compare)

    async def evaluate(self, name: str, dot: JSON) -> JSON:
        template = self.at.step.later[name]
        try:
            return await self._executor.expressions.evaluate_later(self._driver.run, self.at, template, dot)
        except EvaluationFailed as error:
            raise ActionFailed(AttemptFailure(Failure(error.code, f"`{name}`: {error.message}"))) from None


class _Carried(NamedTuple):
    """An attempt that runs here, with its evaluated config."""

    task: asyncio.Task[None]
    driver: Driver
    at: StepRun
    value: JSON


class Executor:
    """Runs attempts as tasks. `limit` attempts at once; `resources` is what kinds may use, by name."""

    def __init__(
        self,
        clock: Clock,
        expressions: Expressions,
        resources: Mapping[str, Any],
        *,
        state: WorkflowState,
        limit: int,
        default_timeout_ms: int,
        output_limit: int,
    ) -> None:
        self.clock = clock
        self.expressions = expressions
        self.stored = expressions.stored
        self.resources = resources
        self.output_limit = output_limit
        self.in_flight = 0
        self.stopping = False
        self.backlog = False
        """Stored runs are waiting for a slot: new ones must not overtake them."""
        self.alone: int | None = None
        """The key of the run that has all slots for itself, or NOBODY, or None: everyone may begin."""
        self.on_free: Callable[[], None] = lambda: None
        self.held: frozenset[str] = frozenset()
        """Workflows that are held back; `*` is everything."""
        self.start_child: StartChild = _no_children
        self.state = state
        self._limit = limit
        self._deadlines = Deadlines()
        self._default_timeout_ms = default_timeout_ms
        self._carried: dict[str, _Carried] = {}
        """The attempts that run here, by token, until their outcome is stored."""
        self._is_releasing = False
        self._settling: set[str] = set()
        """Attempts whose outcome is being stored: too late to stop them."""
        self._starved: deque[Driver] = deque()

    def slots_for(self, run: RunSnapshot, *, new: bool = False) -> int:
        """Return how many attempts the run may begin now."""
        key = run.key
        if self.holds(run.workflow):
            return 0
        if self.stopping or (self.alone is not None and self.alone != key) or (new and self.backlog):
            return 0
        return max(0, self._limit - self.in_flight)

    def holds(self, workflow: str) -> bool:
        """Return whether a workflow is held back, by itself or with everything."""
        return bool(self.held) and (workflow in self.held or "*" in self.held)

    @property
    def free(self) -> int:
        return 0 if self.stopping or self.alone is not None else max(0, self._limit - self.in_flight)

    def wait_for_slot(self, driver: Driver) -> None:
        """Have `driver` told when there is a free slot."""
        if driver not in self._starved:
            self._starved.append(driver)

    def give_back(self, slots: int = 1) -> None:
        """Slots are free again: tell who waits, in order."""
        self.in_flight -= slots
        self.offer()

    def offer(self) -> None:
        """Hand free slots to whom waits for one; who is held back waits on."""
        if self.alone is not None:
            if self.in_flight == 0:
                self.on_free()
            return
        free = self.free
        held: list[Driver] = []
        while free > 0 and self._starved:
            driver = self._starved.popleft()
            if driver.is_open and self.holds(driver.run.workflow):
                held.append(driver)
            elif driver.is_open:
                driver.post(ev.TimePassed())
                free -= 1
        self._starved.extendleft(reversed(held))
        if free > 0:
            self.on_free()

    def start(self, driver: Driver, at: StepRun) -> None:
        """Begin the leased attempt of `at`. Its slot was taken by the decision."""
        assert at.attempt is not None
        token, value = at.attempt.id, at.attempt.value
        if self._is_releasing:
            driver.spawn(driver.settle(ev.AttemptReleased(at.path, token)))
            return
        # Of the loop, without a name: half the price of `asyncio.create_task`.
        task = asyncio.get_running_loop().create_task(self._carry_out(driver, at, token, value))
        self._carried[token] = _Carried(task, driver, at, value)

    def carries_out(self, token: str) -> bool:
        """Return whether an attempt runs here, or its outcome is being stored."""
        return token in self._carried

    def find_value(self, token: str) -> JSON:
        """Return the evaluated config of an attempt that runs here, else None."""
        carried = self._carried.get(token)
        return None if carried is None else carried.value

    def abort(self, token: str) -> None:
        """Stop an attempt whose outcome no longer matters."""
        self._cancel(token)

    def _cancel(self, token: str, reason: str | None = None) -> None:
        carried = self._carried.get(token)
        if carried is None or token in self._settling:
            return

        def ended(_: asyncio.Task[None]) -> None:
            if self._carried.pop(token, None) is not None:
                # It was stopped before it had begun.
                carried.driver.spawn(carried.driver.settle(ev.AttemptReleased(carried.at.path, token)))

        carried.task.add_done_callback(ended)
        carried.task.cancel(reason)

    async def stop(self, grace_s: float, storing_s: float) -> None:
        """Begin nothing more; let attempts end for `grace_s` seconds; release the rest, and wait `storing_s` seconds at
        most until every outcome is stored."""
        self.stopping = True
        if self._carried:
            await asyncio.wait([carried.task for carried in self._carried.values()], timeout=grace_s)
        self._is_releasing = True
        rest = [carried.task for carried in self._carried.values()]
        for token in list(self._carried):
            self._cancel(token, "release")
        if rest:
            await asyncio.wait(rest, timeout=storing_s)

    async def _carry_out(self, driver: Driver, at: StepRun, token: str, value: JSON) -> None:
        try:
            try:
                event: ev.Event | None = await self._attempt(driver, at, token, value)
            except asyncio.CancelledError as error:
                # Released: we are shutting down. Else aborted: a decision has ended the attempt already.
                event = ev.AttemptReleased(at.path, token) if error.args == ("release",) else None
            self._settling.add(token)
            if event is None:
                self.give_back()
            else:
                await driver.settle(event)
        finally:
            self._settling.discard(token)
            self._carried.pop(token, None)

    async def _attempt(self, driver: Driver, at: StepRun, token: str, value: JSON) -> ev.Event:
        kind = at.step.kind
        assert isinstance(kind, ActionKind)
        left = None if at.deadline_at is None else max(1, at.deadline_at - self.clock.now())
        context = Attempting(self, driver, at, left)
        limit, scope = 0, None
        try:
            keeps_time = kind.keeps_time(value)
            bound = 0
            if left is not None or not keeps_time:
                bound = kind.attempt_timeout_ms(value) or self._default_timeout_ms
            if keeps_time and (left is None or bound < left):
                output = await kind.run(value, context)
            else:
                limit = bound if left is None else min(bound, left)
                scope = self._deadlines.after(limit / 1000)
                with scope:
                    output = await kind.run(value, context)
            # From here on it is stored and seen by other steps.
            if isinstance(output, Suspended):
                return ev.AttemptSuspended(at.path, token, self.stored.mask_suspended(output))
            return ev.AttemptSucceeded(at.path, token, self.stored.mask(output))
        except ActionFailed as error:
            return ev.AttemptFailed(at.path, token, self.stored.mask_attempt(error.result))
        except TimeoutError:
            if scope is not None and scope.expired:
                return ev.AttemptFailed(at.path, token, _timed_out(limit, by_step=left == limit))
            return self._crashed(at, token)
        except JsonError as error:
            message = f"a value of the step cannot be written as JSON: {error.message}"
            return ev.AttemptFailed(at.path, token, AttemptFailure(Failure("INVALID_CONFIG", message)))
        except Exception:
            return self._crashed(at, token)

    def _crashed(self, at: StepRun, token: str) -> ev.Event:
        log.exception("step_crashed", step=at.path, kind=at.step.kind.name, attempt=token)
        message = f"the `{at.step.kind.name}` step's own code raised an unexpected error; see the log"
        return ev.AttemptFailed(at.path, token, AttemptFailure(Failure("STEP_CRASHED", message)))


def _timed_out(limit_ms: int, *, by_step: bool) -> AttemptFailure:
    if by_step:
        failure = Failure("STEP_TIMEOUT", "the step, with its attempts and pauses, took longer than its `timeout`")
        return AttemptFailure(failure, timed_out=True)
    message = f"the attempt took longer than {limit_ms / 1000:g} s"
    return AttemptFailure(Failure("ATTEMPT_TIMEOUT", message), error_class="timeout", timed_out=True)
