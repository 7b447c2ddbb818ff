"""The rows of one run as a store keeps them, with its guards, so that decisions can be tried without a database.

What the real stores do is tested in `tests/store`; this model only keeps a test of `decide` honest.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from taskforge.core.jsontext import loads
from taskforge.core.model import Plan
from taskforge.core.retrying import Place, plan_places
from taskforge.core.rows import ALONE, CONVICTED, CRASH_LIMIT, SUSPECT
from taskforge.core.snapshot import AttemptEnd, AttemptRecord, Changes, RunRecord, RunSnapshot, SignalRecord, StepRecord
from taskforge.core.states import ATTEMPT_TRANSITIONS, RUN_TRANSITIONS, STEP_TERMINAL, STEP_TRANSITIONS
from taskforge.engine.loading import to_snapshot
from taskforge.store.protocol import AttemptRow, RunRow, RunRows


@dataclass
class StoredRun:
    plan: Plan
    created_at: int
    output_limit: int
    run: RunRecord | None = None
    revision: int = 0
    steps: dict[str, StepRecord] = field(default_factory=dict)
    attempts: dict[str, AttemptRow] = field(default_factory=dict)
    signals: dict[str, SignalRecord] = field(default_factory=dict)
    rates: dict[str, int] = field(default_factory=dict)
    dead_letters: dict[tuple[str, int], str] = field(default_factory=dict)
    """(path, generation) → state."""
    failed: set[tuple[str, int]] = field(default_factory=set)
    """Every (path, generation) of an action that the journal shows FAILED and that nothing takes."""
    ended: set[tuple[str, int]] = field(default_factory=set)
    """Every (path, generation) that has ended."""
    journal: list[dict[str, Any]] = field(default_factory=list)
    start_at: int | None = None

    @cached_property
    def places(self) -> dict[str, Place]:
        return plan_places(self.plan)

    def apply(self, changes: Changes) -> None:
        """Apply a decision as the store does, and check everything that must hold of it."""
        assert changes.revision == self.revision
        before = self.counts()
        self._check_journal(changes)
        for row in changes.steps:
            assert row.output is None or len(row.output) <= self.output_limit
            self.steps[row.path] = row
        for end in changes.ends:
            self._end(end)
        for lease in changes.leases:
            self._lease(lease)
        for id in changes.signals_taken:
            del self.signals[id]
        for sent in changes.signals:
            assert sent.id not in self.signals
            self.signals[sent.id] = sent
        self.rates |= changes.rates
        if changes.dead_letters_to:
            self.dead_letters = {
                key: changes.dead_letters_to if state == "OPEN" else state for key, state in self.dead_letters.items()
            }
        for letter in changes.dead_letters:
            key = (letter.path, letter.generation)
            assert key not in self.dead_letters, f"two dead letters for {key}"
            self.dead_letters[key] = "OPEN"
        self.run = changes.run
        self.revision += 1
        self.journal += loads(changes.journal or "[]")
        after = self.counts()
        difference = {key: after[key] - before[key] for key in {*before, *after} if after[key] != before[key]}
        assert difference == {key: value for key, value in changes.counts.items() if value}

    def _check_journal(self, changes: Changes) -> None:
        """Every hop is in the table, and the hops lead from the stored states to the new ones."""
        state = None if self.run is None else self.run.state
        steps = {path: row.state for path, row in self.steps.items()}
        generations = {path: row.generation for path, row in self.steps.items()}
        failed: set[tuple[str, int]] = set()
        for entry in loads(changes.journal or "[]"):
            if "run" in entry:
                assert entry["run"] in RUN_TRANSITIONS["NEW" if state is None else state], entry
                state = entry["run"]
            elif "to" in entry:
                path = entry["step"]
                assert entry["to"] in STEP_TRANSITIONS[steps.get(path, "NEW")], entry
                steps[path] = entry["to"]
                generation = generations[path] = entry.get("generation", generations.get(path, 1))
                if entry["to"] in STEP_TERMINAL:
                    assert (path, generation) not in self.ended, f"{path} ended twice in generation {generation}"
                    self.ended.add((path, generation))
                if entry["to"] == "FAILED":
                    failed.add((path, generation))
        assert state == changes.run.state
        rows = {row.path: row for row in changes.steps}
        for path, row in rows.items():
            assert steps[path] == row.state
            assert generations[path] == row.generation
        unchanged = {path for path in steps if path not in rows}
        assert all(steps[path] == self.steps[path].state for path in unchanged)
        for path, generation in failed:
            id = path.rpartition(".")[2]
            if self.plan.index[id].kind.role == "action" and not self._is_taken(id):
                self.failed.add((path, generation))

    def _is_taken(self, id: str) -> bool:
        """Whether the step or a block around it lets the run go on."""
        while True:
            step, place = self.plan.index[id], self.places[id]
            if step.continue_on_error or "catch" in step.handlers:
                return True
            if place.owner is None or place.handler:
                return False
            id = place.owner.id

    def _lease(self, lease: AttemptRecord) -> None:
        assert lease.id not in self.attempts
        numbers = [
            row.record.number
            for row in self.attempts.values()
            if (row.record.path, row.record.generation) == (lease.path, lease.generation)
        ]
        assert lease.number == len(numbers) + 1 == max(numbers, default=0) + 1
        assert not any(row.state == "RUNNING" and row.record.path == lease.path for row in self.attempts.values()), (
            "two attempts of one step at once"
        )
        self.attempts[lease.id] = AttemptRow(lease, "RUNNING", None, None)

    def _end(self, end: AttemptEnd) -> None:
        row = self.attempts[end.id]
        assert end.state in ATTEMPT_TRANSITIONS[row.state]
        assert (end.path, end.generation, end.number) == row.record[1:4]
        self.attempts[end.id] = AttemptRow(row.record, end.state, end.finished_at, end.error)

    def counts(self) -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter(("step", row.state) for row in self.steps.values())
        if self.run is not None:
            found["run", self.run.state] += 1
        return found

    @property
    def running(self) -> list[AttemptRow]:
        return [row for row in self.attempts.values() if row.state == "RUNNING"]

    # ---- what other verbs do

    def take(self, owner: str) -> None:
        """`lease_steps`."""
        assert self.run is not None and self.run.owner is None
        self.run = self.run._replace(owner=owner, due_at=None)
        self.revision += 1

    def grant(self, now: int) -> None:
        """Another run has ended: this one gets the place in `concurrency` that it asked for."""
        assert self.run is not None and self.run.place is not None and not self.run.placed
        self.run = self.run._replace(placed=1, owner=None, due_at=now)
        self.revision += 1

    def die(self, now: int) -> None:
        """`rescue_leases` after the death of the process that held the run."""
        assert self.run is not None
        suspect = self.run.suspect
        worst = 0
        for row in self.running:
            record = row.record
            self.attempts[record.id] = AttemptRow(record, "LOST", now, None)
            step = self.steps[record.path]
            self.steps[record.path] = step._replace(state="QUEUED", available_at=now, crashes=step.crashes + 1)
            worst = max(worst, step.crashes + 1)
        if suspect == ALONE:
            suspect = CONVICTED
        elif worst >= CRASH_LIMIT:
            suspect = max(suspect, SUSPECT)
        if self.run.owner is not None:
            self.run = self.run._replace(owner=None, due_at=now, suspect=suspect)
            self.revision += 1

    def load(self) -> RunSnapshot:
        assert self.run is not None
        row = RunRow(
            1, "run_1", 1, self.plan.name, 1, '{"type":"manual"}', "manual", "{}", self.created_at, 0, self.start_at,
            self.revision, None, None, self.run,
        )  # fmt: skip
        steps = sorted(self.steps.values())
        return to_snapshot(RunRows(row, steps, list(self.attempts.values()), list(self.signals.values())), self.plan)
