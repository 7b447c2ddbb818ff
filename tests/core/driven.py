"""Drives one run, from a document, through `decide`: expressions are evaluated for real, actions end as the test says.

Every decision is stored in a `StoredRun`, which checks it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, cast

from pydantic import BaseModel

from taskforge.core import events as ev
from taskforge.core.clock import SystemClock
from taskforge.core.decide import decide
from taskforge.core.definition import load_plan
from taskforge.core.errors import Failure
from taskforge.core.kind import ActionKind, Suspended, child_signal
from taskforge.core.model import JSON, AttemptFailure, Plan, Prepared
from taskforge.core.rows import Context
from taskforge.core.snapshot import Changes, RunSnapshot, StepRun
from taskforge.engine.evaluation import Expressions
from taskforge.engine.rates import Rates
from taskforge.engine.values import StoredValues
from taskforge.engine.workflow_state import WorkflowState
from taskforge.expressions.evaluator import Evaluator
from taskforge.expressions.template import parse_template
from taskforge.security.secrets import SecretBox
from taskforge.steps.registry import built_in_kinds
from taskforge.store.protocol import Store
from tests.core.stored_run import StoredRun
from tests.support.clock import ManualClock

OWNER = "node_1"
REFUSED = AttemptFailure(Failure("CONNECT_REFUSED", "refused"), "network", sent=False)
BROKEN = AttemptFailure(Failure("CONNECTION_RESET", "broken"), "network")
WRONG = AttemptFailure(Failure("STATUS_UNEXPECTED", "wrong"), status=400)


class ActKind(ActionKind):
    """An action that the test carries out."""

    name = "act"
    Config: ClassVar[type[BaseModel] | None] = None


KINDS = {**built_in_kinds(), "act": ActKind()}
ACT: dict[str, Any] = {"act": 1, "retry": {"max_attempts": 1}}

InChild = Callable[[str, str], bool]


def act(id: str, **fields: Any) -> dict[str, Any]:
    """An action that is tried once."""
    return {"id": id, **ACT, **_keys(fields)}


def give(id: str, value: JSON = 1, **fields: Any) -> dict[str, Any]:
    return {"id": id, "transform": value, **_keys(fields)}


def _keys(fields: dict[str, Any]) -> dict[str, Any]:
    """`finally_` stands for `finally`, which is a word of Python's own."""
    return {key.rstrip("_"): value for key, value in fields.items()}


def numbered(*steps: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"id": f"s{number}"} | step for number, step in enumerate(steps)]


class Driven:
    """A run that a test drives. `in_child(path, name)` chooses the evaluations that the jq child is asked for; their
    answers come by `answer`."""

    def __init__(
        self,
        *steps: dict[str, Any],
        slots: int = 8,
        output_limit: int = 10_000,
        foreach_limit: int = 10_000,
        in_child: InChild = lambda path, name: False,
        begin: bool = True,
        turns: int = 2_000,
        **top: Any,
    ) -> None:
        self.plan: Plan = load_plan({"name": "w", "steps": numbered(*steps), **_keys(top)}, KINDS, parse_template)
        self.clock = ManualClock()
        self.slots = slots
        self.foreach_limit = foreach_limit
        self.turns = turns
        self.in_child = in_child
        self.rates = Rates()
        self.stored = StoredRun(self.plan, self.clock.now(), output_limit)
        self.run = RunSnapshot("run_1", "w", 1, self.plan, {"type": "manual"}, {}, self.clock.now(), number=1)
        self.needs: list[tuple[str, str]] = []
        self.last: Changes
        if begin:
            self.decide(ev.Begun())

    # ---- deciding

    def context(self) -> Context:
        return Context(
            self.clock.now(),
            self.clock,
            OWNER,
            max(0, self.slots - len(self.stored.running)),
            30_000,
            self.stored.output_limit,
            self._prepare,
            reserve=self.rates.reserve,
            enter=self.rates.enter,
            foreach_limit=self.foreach_limit,
            turns=self.turns,
        )

    def _prepare(self, run: RunSnapshot, at: StepRun | None, name: str) -> Prepared | None:
        if self.in_child("" if at is None else at.path, name):
            return None
        return self._evaluate(run, at, name)

    @staticmethod
    def _evaluate(run: RunSnapshot, at: StepRun | None, name: str) -> Prepared:
        # Every expression of these tests compiles in process: there is no jq child to ask.
        stored = StoredValues(cast(Store, None), SystemClock(), SecretBox(b"k" * 32))
        expressions = Expressions(cast(Evaluator, None), cast(WorkflowState, None), stored)
        prepared = expressions.prepare(run, at, name)
        assert prepared is not None
        return prepared

    def decide(self, *events: ev.Event) -> Changes:
        ends = ev.AttemptSucceeded | ev.AttemptFailed | ev.AttemptSuspended
        tokens = {row.record.id for row in self.stored.running}
        freed = sum(isinstance(event, ends) and event.token in tokens for event in events)
        context = self.context()
        context.slots = min(self.slots, context.slots + freed)
        self.last = decide(self.run, events, context)
        if not self.last.is_empty:
            self.stored.apply(self.last)
            self.run.revision, self.run.key = self.stored.revision, 1
        self.needs += self.last.needs
        if self.run.owner is None:
            self.needs.clear()
        return self.last

    def answer(self, path: str, name: str = "") -> Changes:
        """The jq child has answered."""
        self.needs.remove((path, name))
        prepared = self._evaluate(self.run, self.run.steps[path] if path else None, name)
        return self.decide(ev.StepPrepared(path, prepared, name))

    # ---- what happens

    def token(self, path: str) -> str:
        (found,) = [row.record.id for row in self.stored.running if row.record.path == path]
        return found

    def succeed(self, path: str, output: JSON = None) -> Changes:
        return self.decide(ev.AttemptSucceeded(path, self.token(path), output))

    def fail(self, path: str, result: AttemptFailure = WRONG) -> Changes:
        return self.decide(ev.AttemptFailed(path, self.token(path), result))

    def suspend(self, path: str) -> Changes:
        """The attempt of a `workflow` step has started its child."""
        suspended = Suspended(child_signal(path, self.run.steps[path].generation), {"run": "run_9"})
        return self.decide(ev.AttemptSuspended(path, self.token(path), suspended))

    def signal(self, name: str, data: JSON = None) -> Changes:
        if self.run.owner is None:
            self.run = self.stored.load()
        return self.decide(ev.SignalSent(self.clock.new_id("sig"), name, data))

    def child_ended(self, path: str, state: str, output: JSON = None, error: JSON = None) -> Changes:
        data = {"run": "run_9", "state": state, "output": output, "error": error}
        return self.signal(child_signal(path, self.run.steps[path].generation), data)

    def cancel(self) -> Changes:
        if self.run.owner is None:
            self.run = self.stored.load()
        return self.decide(ev.CancelAsked())

    def pass_time(self, ms: int = 0) -> Changes:
        """Let time pass; when the run waits in the store, it is taken up where something is due."""
        self.clock.advance(ms)
        if self.run.owner is None:
            assert self.run.due_at is not None
            if self.run.due_at > self.clock.now():
                return self.last
            return self.take_up()
        return self.decide(ev.TimePassed())

    def pass_until_due(self) -> Changes:
        due = self.run.due_at if self.run.owner is None else self.last.wake_at
        assert due is not None
        return self.pass_time(max(0, due - self.clock.now()))

    def take_up(self) -> Changes:
        self.stored.take(OWNER)
        self.run = self.stored.load()
        return self.decide(ev.TakenUp())

    def die(self) -> Changes:
        """The process dies; another takes the run up. Attempts are lost."""
        if self.run.ended:
            return self.last
        self.stored.die(self.clock.now())
        self.needs.clear()
        return self.take_up()

    def reload(self) -> Changes:
        """The run is loaded and taken up in the same process: its attempts go on."""
        self.needs.clear()
        self.run = self.stored.load()
        return self.decide(ev.TakenUp())

    def retry(self, from_step: str | None = None) -> Changes:
        self.run = self.stored.load()
        return self.decide(ev.RetryAsked(from_step))

    # ---- what there is

    @property
    def state(self) -> str:
        assert self.stored.run is not None
        return str(self.stored.run.state)

    @property
    def error(self) -> Failure | None:
        return self.run.error

    def states(self) -> dict[str, str]:
        return {path: str(row.state) for path, row in self.stored.steps.items()}

    def state_of(self, path: str) -> str | None:
        row = self.stored.steps.get(path)
        return None if row is None else str(row.state)

    def output_of(self, path: str) -> JSON:
        return self.run.steps[path].output

    def running(self) -> list[str]:
        """The paths of the actions that are being carried out, in the order in which they began."""
        return [row.record.path for row in self.stored.running]

    def codes(self, path: str) -> list[str]:
        """The codes that the journal has of a step."""
        return [entry["code"] for entry in self.stored.journal if entry.get("step") == path and "code" in entry]
