"""Random plans, outcomes, deaths, cancels, retries and times: what must hold of every decision, and that runs end."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any, ClassVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from taskforge.core import events as ev
from taskforge.core.decide import decide
from taskforge.core.definition import load_plan
from taskforge.core.errors import Failure
from taskforge.core.kind import ActionKind
from taskforge.core.model import JSON, SKIPPED, AttemptFailure, Plan, Prepared, Step
from taskforge.core.rows import Context
from taskforge.core.snapshot import Changes, RunSnapshot, StepRun
from taskforge.core.states import RUN_TERMINAL, STEP_TERMINAL
from taskforge.expressions.template import parse_template
from taskforge.steps.registry import built_in_kinds
from tests.core.stored_run import StoredRun
from tests.support.clock import ManualClock

OWNER = "node_1"
LEASE_MS = 30_000
OUTPUT_LIMIT = 100


class ActKind(ActionKind):
    """An action that a test carries out."""

    name = "act"
    Config: ClassVar[type[BaseModel] | None] = None


KINDS = {**built_in_kinds(), "act": ActKind()}

# ---- any plan


@st.composite
def step_lists(draw: st.DrawFn, depth: int = 0, least: int = 1) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(least, 3))):
        step: dict[str, Any] = {}
        kinds = ["act", "act", "act", "transform", "fail", "succeed"] + (["switch", "switch"] if depth < 2 else [])
        kind = draw(st.sampled_from(kinds))
        if kind == "switch":
            branches = draw(st.lists(step_lists(depth + 1, 0), min_size=1, max_size=2))
            step["switch"] = [{"when": True, "steps": branch} for branch in branches]
            if draw(st.booleans()):
                step["switch"].append({"else": draw(step_lists(depth + 1, 0))})
        else:
            step[kind] = {} if kind in ("fail", "succeed") else 1
        if draw(st.integers(0, 3)) == 0:
            step["continue_on_error"] = True
        if draw(st.integers(0, 4)) == 0:
            step["timeout"] = draw(st.sampled_from([1, 5, 60]))
        if kind == "act":
            jitter = draw(st.sampled_from(["full", "none"]))
            step["retry"] = {"max_attempts": draw(st.integers(1, 3)), "jitter": jitter}
        steps.append(step)
    return steps


def numbered(steps: list[dict[str, Any]], count: list[int]) -> list[dict[str, Any]]:
    for step in steps:
        step["id"] = f"s{count[0]}"
        count[0] += 1
        for branch in step.get("switch", ()):
            numbered(branch.get("steps", branch.get("else", [])), count)
    return steps


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    document: dict[str, Any] = {"name": "w", "steps": numbered(copy.deepcopy(draw(step_lists())), [0])}
    if draw(st.booleans()):
        document["output"] = 1
    if draw(st.integers(0, 3)) == 0:
        document["timeout"] = draw(st.sampled_from([2, 30, 600]))
    return document


def plan_of(document: dict[str, Any]) -> Plan:
    return load_plan(document, KINDS, parse_template)


FAILURE = Failure("EXPRESSION_ERROR", "no")


@st.composite
def behaviours(draw: st.DrawFn, plan: Plan) -> dict[str, tuple[bool, Prepared]]:
    """For every step, and "" for the output: whether the jq child is needed, and what the evaluation gives."""
    found: dict[str, tuple[bool, Prepared]] = {}
    for id in (*sorted(plan.index), ""):
        choice = draw(st.integers(0, 9))
        value: JSON = draw(st.sampled_from([None, 1, {"a": 1}, "x" * 200]))
        if id and plan.index[id].kind.name == "switch":
            value = draw(st.sampled_from([None, *range(sum("when" in b for b in plan.index[id].config))]))
        elif id and plan.index[id].kind.name in ("fail", "succeed"):
            value = draw(st.sampled_from([{}, {"output": "x" * 200}]))
        prepared = SKIPPED if choice == 0 and id else Prepared(failure=FAILURE) if choice == 1 else Prepared(value)
        found[id] = (draw(st.integers(0, 3)) == 0, prepared)
    return found


# ---- driving it


class Machine:
    """Drives one run against its stored rows; checks every decision."""

    def __init__(self, plan: Plan, behaviour: dict[str, tuple[bool, Prepared]], draw: Any) -> None:
        self.plan = plan
        self.behaviour = behaviour
        self.draw = draw
        self.clock = ManualClock()
        self.stored = StoredRun(plan, self.clock.now(), OUTPUT_LIMIT)
        self.run: RunSnapshot | None = RunSnapshot("run_1", "w", 1, plan, {"type": "manual"}, {}, self.clock.now())
        self.needs: set[tuple[str, str]] = set()
        self.retries = 0
        self.around = around_of(plan)
        self.decide(ev.Begun())

    @property
    def ended(self) -> bool:
        return self.stored.run is not None and self.stored.run.state in RUN_TERMINAL

    def context(self, clock: ManualClock, slots: int) -> Context:
        def prepare(run: RunSnapshot, at: StepRun | None, name: str) -> Prepared | None:
            in_child, prepared = self.behaviour["" if at is None else at.step.id]
            return None if in_child else prepared

        return Context(clock.now(), clock, OWNER, slots, LEASE_MS, OUTPUT_LIMIT, prepare)

    def decide(self, *events: ev.Event, apply: bool = True) -> Changes:
        """Decide twice, on copies too, and apply once."""
        assert self.run is not None
        slots = self.draw(st.sampled_from([1, 1, 1, 0, 2]))
        twin, twin_clock = copy.deepcopy(self.run), copy.deepcopy(self.clock)
        was_ended = self.run.ended
        changes = decide(self.run, events, self.context(self.clock, slots))
        again = decide(twin, events, self.context(twin_clock, slots))
        assert plain(changes) == plain(again), "the same decision came out differently"
        if was_ended and not isinstance(events[0], ev.RetryAsked):
            assert changes.is_empty, "something changed after the end"
        if not apply:
            return changes
        if not changes.is_empty:
            self.stored.apply(changes)
            self.run.revision, self.run.key = self.stored.revision, 1
        self.needs |= set(changes.needs)
        self.check()
        if self.stored.run is not None and self.stored.run.owner is None:
            self.run, self.needs = None, set()
        return changes

    def check(self) -> None:
        stored, record = self.stored, self.stored.run
        assert record is not None
        live = [row for row in stored.steps.values() if row.state not in STEP_TERMINAL]
        running = stored.running
        assert {row.record.path for row in running} <= {row.path for row in live if row.state == "RUNNING"}
        if record.state in RUN_TERMINAL:
            assert not live and not running and record.owner is None and record.due_at is None
            assert record.finished_at is not None
            assert set(stored.dead_letters) == stored.failed
        elif record.owner is None:
            assert record.due_at is not None and not running
        else:
            assert running or self.needs, "a run is held, and nothing is under way"
        for row in live:
            if row.state == "QUEUED":
                assert row.available_at is not None
            around = [stored.steps[id].state for id in self.around[row.step]]
            assert all(state == "RUNNING" for state in around), f"{row.path} is live inside steps that are {around}"
        for row in stored.steps.values():
            if row.state == "CANCELLED" and record.state == "SUCCEEDED":
                around = [stored.steps[id].state for id in self.around[row.step]]
                kinds = {step.kind for step in stored.steps.values()}
                assert "FAILED" in around or "succeed" in kinds, f"{row.path} was passed over"
        self.check_attempts()
        self.check_order(self.plan.steps)

    def check_attempts(self) -> None:
        spent: dict[tuple[str, int], int] = {}
        for row in self.stored.attempts.values():
            if row.state not in ("LOST", "RUNNING", "CANCELLED"):
                key = (row.record.path, row.record.generation)
                spent[key] = spent.get(key, 0) + 1
        for (path, _), count in spent.items():
            assert count <= self.plan.index[path].retry.max_attempts

    def check_order(self, steps: tuple[Any, ...]) -> None:
        """A step has begun only when the one before it has ended; only one branch of a switch has begun."""
        rows = self.stored.steps
        for before, after in pairwise(steps):
            if after.id in rows:
                assert before.id in rows and rows[before.id].state in STEP_TERMINAL
        for step in steps:
            begun = [block for block in step.blocks if any(inner.id in rows for inner in block.steps)]
            assert len(begun) <= 1
            for block in step.blocks:
                self.check_order(block.steps)
                if rows.get(step.id) and rows[step.id].state in STEP_TERMINAL:
                    inner = [rows[child.id] for child in block.steps if child.id in rows]
                    assert all(row.state in STEP_TERMINAL for row in inner)

    # ---- what can happen

    def take_up(self) -> None:
        """Time comes for an unowned run: some process takes it from the store."""
        record = self.stored.run
        assert record is not None and record.due_at is not None
        self.clock.set(max(self.clock.now(), record.due_at))
        self.stored.take(OWNER)
        self.run = self.stored.load()
        self.decide(ev.TakenUp())

    def step(self, *, trouble: bool) -> None:
        """Let one thing happen that moves the run on, or, with `trouble`, anything at all."""
        if trouble:
            chosen = self.draw(st.sampled_from(TROUBLES))
            getattr(self, chosen)()
            return
        if self.ended:
            return
        if self.run is None:
            self.take_up()
        elif self.needs and (not self.stored.running or self.draw(st.booleans())):
            path, name = self.draw(st.sampled_from(sorted(self.needs)))
            self.needs.discard((path, name))
            id = "" if path == "" else self.stored.steps[path].step
            self.decide(ev.StepPrepared(path, self.behaviour[id][1], name))
        else:
            self.finish()

    def finish(self) -> None:
        if not self.stored.running or self.run is None:
            return
        record = self.draw(st.sampled_from(self.stored.running)).record
        outcome = self.draw(st.sampled_from(["ok", "ok", "ok", "big", "network", "timeout", "refused", "release"]))
        path, token = record.path, record.id
        if outcome in ("ok", "big"):
            self.decide(ev.AttemptSucceeded(path, token, "x" * 200 if outcome == "big" else {"status": 200}))
        elif outcome == "release":
            self.decide(ev.AttemptReleased(path, token))
        else:
            error_class = None if outcome == "refused" else outcome
            result = AttemptFailure(Failure("CONNECT_REFUSED", "no"), error_class, timed_out=outcome == "timeout")
            self.decide(ev.AttemptFailed(path, token, result))

    def pass_time(self) -> None:
        self.clock.advance(self.draw(st.sampled_from([0, 1, 500, 2_000, 70_000])))
        if self.run is not None:
            self.decide(ev.TimePassed())

    def die(self) -> None:
        if not self.ended:
            self.stored.die(self.clock.now())
            self.run, self.needs = None, set()

    def lose_the_race(self) -> None:
        """A change is refused; the run is loaded and taken up again, its attempts still ours."""
        if self.run is None or self.ended:
            return
        self.decide(ev.TimePassed(), apply=False)
        self.run, self.needs = self.stored.load(), set()
        self.decide(ev.TakenUp())

    def send_stale(self) -> None:
        if self.run is not None:
            for path in list(self.stored.steps)[:2]:
                changes = self.decide(ev.AttemptSucceeded(path, "att_stale", 1))
                assert not changes.ends and not changes.steps

    def cancel(self) -> None:
        if self.run is None:
            self.run = self.stored.load()
        before = self.ended
        self.decide(ev.CancelAsked())
        assert self.ended
        if not before:
            assert self.stored.run is not None and self.stored.run.state == "CANCELLED"

    def retry(self) -> None:
        record = self.stored.run
        if record is None or record.state not in ("FAILED", "CANCELLED") or self.retries >= 2:
            return
        self.retries += 1
        kept = {path: row for path, row in self.stored.steps.items() if row.state == "SUCCEEDED"}
        self.run = self.stored.load()
        self.decide(ev.RetryAsked())
        assert self.stored.run is not None and self.stored.run.generation == record.generation + 1
        assert all(self.stored.steps[path] == row for path, row in kept.items() if row.kind != "switch")
        assert "OPEN" not in {s for k, s in self.stored.dead_letters.items() if k[1] < record.generation + 1}


def around_of(plan: Plan) -> dict[str, tuple[str, ...]]:
    """The ids of the blocks around every step, outermost first."""
    found: dict[str, tuple[str, ...]] = {}

    def walk(steps: tuple[Step, ...], around: tuple[str, ...]) -> None:
        for step in steps:
            found[step.id] = around
            for block in step.blocks:
                walk(block.steps, (*around, step.id))

    walk(plan.steps, ())
    return found


TROUBLES = ["finish", "pass_time", "pass_time", "die", "lose_the_race", "send_stale", "cancel", "retry"]


def plain(changes: Changes) -> Any:
    """A decision without the objects that differ between copies."""
    return (
        changes.run, changes.steps, changes.leases, changes.ends, changes.dead_letters, changes.dead_letters_to,
        changes.journal, changes.counts, [at.path for at in changes.starts], changes.aborts, changes.needs,
        changes.wake_at, changes.starved, changes.is_empty,
    )  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_happens_states_stay_legal_and_the_run_ends(data: st.DataObject) -> None:
    plan = plan_of(data.draw(documents()))
    machine = Machine(plan, data.draw(behaviours(plan)), data.draw)
    for _ in range(data.draw(st.integers(0, 25))):
        machine.step(trouble=data.draw(st.integers(0, 2)) == 0)
        if machine.ended and data.draw(st.booleans()):
            machine.retry()
    for _ in range(400):
        if machine.ended:
            break
        machine.step(trouble=False)
    assert machine.ended, "the run does not end"


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_run_that_is_loaded_decides_as_the_one_in_memory_does(data: st.DataObject) -> None:
    """After every event, the snapshot from the rows and the one in memory come to the same rows from the next event."""
    plan = plan_of(data.draw(documents()))
    machine = Machine(plan, data.draw(behaviours(plan)), data.draw)
    for _ in range(30):
        if machine.ended:
            break
        if machine.run is not None and machine.stored.running:
            record = machine.stored.running[0].record
            event = ev.AttemptSucceeded(record.path, record.id, {"status": 200})
            kept = copy.deepcopy(machine.run)
            clocks = copy.deepcopy(machine.clock), copy.deepcopy(machine.clock)
            loaded = machine.stored.load()
            decide(loaded, [ev.TakenUp()], machine.context(clocks[0], 1))
            first = decide(loaded, [event], machine.context(copy.deepcopy(machine.clock), 1))
            second = decide(kept, [event], machine.context(clocks[1], 1))
            assert [row[:9] for row in first.steps] == [row[:9] for row in second.steps]
            assert first.run.state == second.run.state and first.run.owner == second.run.owner
        machine.step(trouble=False)
