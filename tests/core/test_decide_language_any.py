"""Any document of the language, any order of what can happen: what must hold of every decision, and that runs end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskforge.core import events as ev
from taskforge.core.kind import child_signal, resume_signal
from taskforge.core.model import JSON, AttemptFailure, Step
from taskforge.core.progress import AGAIN, ASIDE, is_caught
from taskforge.core.snapshot import Changes, StepRecord
from taskforge.core.states import RUN_TERMINAL, STEP_TERMINAL
from tests.core.any_document import Script, documents
from tests.core.driven import OWNER, WRONG, Driven

SLACK = 700
"""Events within which every run ends when nothing is in its way."""


class Machine(Driven):
    """Drives one run of any document and checks every decision."""

    def __init__(self, document: dict[str, Any], script: Script, *, slots: int = 50, turns: int = 2_000) -> None:
        top = {key: value for key, value in document.items() if key not in ("name", "steps")}
        super().__init__(
            *document["steps"], slots=slots, output_limit=150, in_child=script.in_child, begin=False, turns=turns, **top
        )
        self.script = script
        self.retries = 0
        self.begin_run()

    def begin_run(self) -> None:
        self.decide(ev.Begun())

    @property
    def ended(self) -> bool:
        return self.state in RUN_TERMINAL

    def decide(self, *events: ev.Event) -> Changes:
        was_ended = self.stored.run is not None and self.ended
        changes = super().decide(*events)
        if was_ended and not isinstance(events[0], ev.RetryAsked):
            assert changes.is_empty, "something changed after the end"
        self.check(changes)
        return changes

    # ---- what holds after every decision

    def check(self, changes: Changes) -> None:
        record, rows = self.stored.run, self.stored.steps
        assert record is not None
        live = [row for row in rows.values() if row.state not in STEP_TERMINAL]
        running = self.running()
        assert set(running) <= {row.path for row in live if row.state == "RUNNING"}
        assert len(running) <= self.slots
        if record.state in RUN_TERMINAL:
            assert not live and not running and record.owner is None and record.due_at is None
            assert record.finished_at is not None and record.ending is None
            assert set(self.stored.dead_letters) == self.stored.failed
            self.check_undone()
        else:
            self.check_due(changes, live)
        for row in live:
            self.check_place(row)
        self.check_windows(live)
        self.check_attempts()

    def check_due(self, changes: Changes, live: list[StepRecord]) -> None:
        """Nothing that comes due is missed, and nothing that is due now is left, but for want of a slot (I4)."""
        record, now = self.stored.run, self.clock.now()
        assert record is not None
        times: list[int] = []
        for row in live:
            if row.state == "QUEUED":
                assert row.available_at is not None
            idle = row.path not in self.running() and row.stage is None
            if idle and row.available_at is not None and (row.path, "") not in self.needs:
                times.append(row.available_at)
            limit = self.plan.index[row.step].timeout_ms
            if limit is not None and row.stage != "probe":
                times.append(row.ready_at + limit)
        if self.plan.timeout_ms is not None and record.started_at is not None and record.ending is None:
            times.append(record.started_at + self.plan.timeout_ms)
        overdue = [time for time in times if time <= now]
        if record.owner is None:
            assert not self.running()
            if record.place is not None and not record.placed:
                return
            assert record.due_at is not None and record.due_at <= min(times, default=record.due_at)
            assert record.due_at > now or overdue
        elif changes.wake_at != now:
            assert self.running() or self.needs, "a run is held, and nothing is under way"
            assert changes.is_empty or min((time for time in times if time > now), default=None) == changes.wake_at
        told = changes.starved or changes.wake_at == now or self.given_back
        assert not overdue or told, "something is due and nobody is told"

    given_back = False

    def check_place(self, row: StepRecord) -> None:
        """What is around a live step goes on, and what it comes after has ended."""
        rows, place = self.stored.steps, self.stored.places[row.step]
        prefix = row.path.removesuffix(row.step)
        if place.owner is not None:
            around = rows[self.path_around(row, place.owner)]
            if place.handler == "probe":
                assert (around.state, around.stage) == ("QUEUED", "probe")
            elif place.handler:
                assert around.state in STEP_TERMINAL and around.stage == place.handler
            else:
                assert around.state == "RUNNING", f"{row.path} is live inside a step that is {around.state}"
        for before in self.steps_before(self.plan.index[row.step]):
            earlier = rows.get(prefix + before.id)
            assert earlier is not None and earlier.state in STEP_TERMINAL, f"{row.path} began before {before.id} ended"
            assert earlier.stage not in (AGAIN, ASIDE, *before.handlers)
            assert earlier.state in ("SUCCEEDED", "SKIPPED") or is_caught(self.run.steps[earlier.path])

        needed = self.needed(self.plan.index[row.step])
        failed = [id for id in needed if (at := rows.get(prefix + id)) is not None and at.state == "FAILED"]
        assert all(is_caught(self.run.steps[prefix + id]) for id in failed), f"{row.path} began after a failed need"

    def needed(self, step: Step) -> set[str]:
        """What a step of a `parallel` needs, directly or through others."""
        found: set[str] = set()
        pending = list(step.needs)
        while pending:
            id = pending.pop()
            found.add(id)
            pending += self.plan.index[id].needs
        return found

    def check_undone(self) -> None:
        """What ended last was undone first."""
        ends: list[int] = []
        for entry in self.stored.journal:
            place = self.stored.places.get(entry.get("step", "").rpartition(".")[2])
            if (
                place is not None
                and place.owner is not None
                and place.handler == "undo"
                and entry.get("to") == "QUEUED"
            ):
                owner = self.stored.steps[self.path_around(self.stored.steps[entry["step"]], place.owner)]
                assert (
                    owner.state == "SUCCEEDED" and owner.stage in ("undo", "undone") and owner.finished_at is not None
                )
                ends.append(owner.finished_at)
        assert ends == sorted(ends, reverse=True)

    def path_around(self, row: StepRecord, owner: Step) -> str:
        depth = len(owner.loops)
        parts = row.path.split(".")
        return ".".join([*parts[:depth], owner.id])

    def steps_before(self, step: Step) -> list[Step]:
        """The steps that must have ended when this one begins."""
        for steps, together in self.lists():
            if step in steps:
                if together:
                    return [other for other in steps if other.id in step.needs]
                return list(steps[: steps.index(step)])
        raise AssertionError(step.id)

    def lists(self) -> Iterator[tuple[tuple[Step, ...], bool]]:
        plan = self.plan
        yield plan.steps, False
        yield plan.on_failure, False
        yield plan.finally_, False
        for step in plan.index.values():
            for block in step.blocks:
                yield block.steps, step.kind.name == "parallel"
            for handler in step.handlers.values():
                yield handler, False

    def check_windows(self, live: list[StepRecord]) -> None:
        for row in live:
            inside = {other.path[len(row.path) :].partition(".")[0] for other in live if self.is_item(other, row)}
            if row.kind == "foreach" and row.data is not None:
                assert len(inside) <= self.run.steps[row.path].data["max_parallel"]
            elif row.kind == "repeat":
                assert len(inside) <= 1
            if row.state == "WAITING":
                assert not inside

    @staticmethod
    def is_item(row: StepRecord, loop: StepRecord) -> bool:
        return row.path.startswith(f"{loop.path}[")

    def check_attempts(self) -> None:
        spent: dict[tuple[str, int], list[Any]] = {}
        for row in self.stored.attempts.values():
            spent.setdefault((row.record.path, row.record.generation), []).append(row)
        for (path, _), rows in spent.items():
            step = self.plan.index[path.rpartition(".")[2]]
            count = sum(row.state not in ("LOST", "RUNNING", "CANCELLED") for row in rows)
            assert count <= step.retry.max_attempts
            if step.effect == "once" and "probe" not in step.handlers:
                for row in rows[:-1]:
                    assert row.state == "FAILED" and "CONNECTION_RESET" not in row.error, "sent twice"

    # ---- what moves the run on, the same way each time

    def advance(self) -> None:
        """Let the next thing happen, chosen by the script alone."""
        if self.run.owner is None:
            self.take_up_when_due()
        elif self.last.wake_at is not None and self.last.wake_at <= self.clock.now():
            self.decide(ev.TimePassed())
        elif self.needs:
            self.answer(*min(self.needs))
        else:
            rows = [self.stored.steps[row.record.path] for row in self.stored.running]
            row = min(rows, key=lambda row: (self.script.turn(row.path, row.generation, row.failures), row.path))
            self.finish(row)

    def finish(self, row: StepRecord) -> None:
        outcome = self.script.outcome(row.path, row.generation, row.failures)
        if isinstance(outcome, AttemptFailure):
            self.fail(row.path, outcome)
        elif row.kind == "workflow":
            self.suspend(row.path)
        else:
            self.succeed(row.path, outcome)

    def take_up_when_due(self) -> None:
        record = self.stored.run
        assert record is not None
        if record.place is not None and not record.placed and record.state == "QUEUED":
            self.stored.grant(self.clock.now())
        elif not self.send_what_is_waited_for():
            assert record.due_at is not None
            self.clock.set(max(self.clock.now(), record.due_at))
        else:
            return
        self.take_up()

    def send_what_is_waited_for(self) -> bool:
        """Have a child end, or somebody send a signal, for the first step that waits for that."""
        for at in sorted(self.stored.steps.values()):
            if at.state != "WAITING":
                continue
            if at.kind == "workflow":
                state, output = self.script.child(at.path, at.generation)
                self.signal(child_signal(at.path, at.generation), {"run": "r", "state": state, "output": output})
                return True
            if at.kind == "wait" and at.data is not None and self.script.is_sent(at.path, at.generation):
                self.signal(resume_signal(at.path, at.generation), 1)
                return True
        return False

    def run_to_its_end(self) -> None:
        for _ in range(SLACK):
            if self.ended:
                return
            self.advance()
        raise AssertionError("the run does not end")

    # ---- trouble

    def trouble(self, draw: Any) -> None:
        name = draw(st.sampled_from(TROUBLES))
        if self.ended and name not in ("retried", "lapse"):
            return
        getattr(self, name)(draw)

    def lapse(self, draw: Any) -> None:
        self.clock.advance(draw(st.sampled_from([0, 1, 999, 1_000, 2_000, 70_000])))

    def look(self, draw: Any) -> None:
        if self.run.owner is not None:
            self.decide(ev.TimePassed())

    def crash(self, draw: Any) -> None:
        self.stored.die(self.clock.now())
        self.needs.clear()
        assert self.stored.run is not None
        if self.stored.run.place is None or self.stored.run.placed:
            self.take_up()

    def race(self, draw: Any) -> None:
        """A change was refused; the run is loaded and taken up again, its attempts still ours."""
        if self.run.owner == OWNER:
            self.reload()

    def starve(self, draw: Any) -> None:
        kept, self.slots = self.slots, len(self.running())
        if self.run.owner is not None and self.running():
            path = draw(st.sampled_from(self.running()))
            self.decide(ev.AttemptFailed(path, self.token(path), WRONG))
        self.slots = kept

    def release(self, draw: Any) -> None:
        if self.run.owner is not None and self.running():
            path = draw(st.sampled_from(self.running()))
            self.given_back = True
            self.decide(ev.AttemptReleased(path, self.token(path)))
            self.given_back = False

    def signalled(self, draw: Any) -> None:
        self.signal(draw(st.sampled_from(["go", "stop", "nobody"])), 1)

    def stale(self, draw: Any) -> None:
        if self.run.owner is not None:
            path = draw(st.sampled_from(["nowhere", *sorted(self.stored.steps)]))
            limits = [self.run.deadline_at, *(at.deadline_at for at in self.run.live.values())]
            is_over = any(limit is not None and limit <= self.clock.now() for limit in limits)
            changes = self.decide(ev.AttemptSucceeded(path, "att_stale", 1))
            # A time limit that has come meanwhile ends attempts; what a stale worker brings never does.
            assert is_over or not changes.ends
            assert "SUCCEEDED" not in {end.state for end in changes.ends}

    def cancelled(self, draw: Any) -> None:
        self.cancel()

    def retried(self, draw: Any) -> None:
        record = self.stored.run
        assert record is not None
        if record.state not in ("FAILED", "CANCELLED") or record.undone or self.retries >= 2:
            return
        self.retries += 1
        from_step = draw(st.sampled_from([None, *sorted(self.stored.steps)]))
        self.retry(from_step)
        assert self.stored.run is not None and self.stored.run.generation == record.generation + 1


TROUBLES = [
    "lapse", "lapse", "look", "crash", "race", "starve", "release", "signalled", "stale", "cancelled", "retried",
]  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_happens_states_stay_legal_and_the_run_ends(data: st.DataObject) -> None:
    document = data.draw(documents())
    slots, turns = data.draw(st.sampled_from([1, 2, 50])), data.draw(st.sampled_from([2_000, 1, 4]))
    machine = Machine(document, Script(data.draw(st.integers(0, 2**16))), slots=slots, turns=turns)
    for _ in range(data.draw(st.integers(0, 30))):
        if data.draw(st.integers(0, 2)) == 0:
            machine.trouble(data.draw)
        elif not machine.ended:
            machine.advance()
        elif data.draw(st.booleans()):
            machine.retried(data.draw)
    machine.run_to_its_end()


def final(machine: Machine) -> dict[str, Any]:
    """How a run and its steps have ended; when, and by how many attempts, is not part of it."""
    record = machine.stored.run
    assert record is not None
    found: dict[str, Any] = {
        row.path: (row.state, row.generation, row.output, code_of(row.error), row.stage)
        for row in machine.stored.steps.values()
    }
    return found | {"": (record.state, record.generation, record.output, code_of(record.error), record.undone)}


def code_of(error: str | None) -> JSON:
    return None if error is None else error[: error.index("message")]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_run_that_is_rebuilt_at_any_point_ends_as_one_that_is_not(data: st.DataObject) -> None:
    """Deaths lose attempts, so that limits and effects that count them are left out where there are any."""
    deaths = data.draw(st.booleans())
    document = data.draw(documents(once=not deaths, limited=not deaths, places=False))
    script = Script(data.draw(st.integers(0, 2**16)))
    quiet = Machine(document, script)
    troubled = Machine(document, script, turns=data.draw(st.sampled_from([2_000, 1, 4])))
    for generation in range(2):
        left = 2 if deaths else 1_000
        quiet.run_to_its_end()
        for _ in range(2 * SLACK):
            if troubled.ended:
                break
            troubled.advance()
            if left and troubled.run.owner is not None and data.draw(st.integers(0, 3)) == 0:
                left -= 1
                troubled.crash(data.draw) if deaths else troubled.reload()
        differing = {path for path, _ in final(quiet).items() ^ final(troubled).items()}
        assert not differing, [(path, final(quiet).get(path), final(troubled).get(path)) for path in differing]
        record = quiet.stored.run
        if generation or record is None or record.state == "SUCCEEDED" or record.undone:
            break
        from_step = data.draw(st.sampled_from([None, *sorted(quiet.stored.steps)]))
        quiet.retry(from_step)
        troubled.retry(from_step)
    assert quiet.ended
