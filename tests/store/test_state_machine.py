"""Any order of verbs, refusals, deaths and restarts leaves the store whole, its statistics exact, and its rows those
that `decide` decided; never more runs hold a place than its limit, no place stays free while a run waits for it, nobody
is overtaken, and every signal is taken once."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from taskforge.core import events as ev
from taskforge.core.decide import decide
from taskforge.core.errors import DeadLetterClosed, IdempotencyMismatch, LeaseLost
from taskforge.core.jsontext import dumps, loads
from taskforge.core.model import Concurrency, Plan, RateLimit
from taskforge.core.snapshot import RunSnapshot
from taskforge.engine.loading import to_snapshot
from taskforge.store.protocol import RunFilter, RunRows
from tests.store.backends import SqliteBackend
from tests.store.desk import LEASE_MS, Desk, adopt, token
from tests.support.clock import ManualClock
from tests.support.plans import CALL, CALL_THEN_GIVE, ONE_CALL, THREE_GIVES, TWO_CALLS, WAIT, WAITING, plan, step

T = TypeVar("T")

PLANS = [
    THREE_GIVES,
    ONE_CALL,
    CALL_THEN_GIVE,
    TWO_CALLS,
    plan(step("call", CALL, max_attempts=2, timeout_ms=4_000), step("after", config="x" * 1_500)),
    plan(step("call", CALL, continue_on_error=True), step("ask", config="ask the child"), timeout_ms=20_000),
    WAITING,
    plan(step("call", CALL), step("one", WAIT, {"signal": "go", "for_ms": 5_000}), step("two", WAIT, {"signal": "go"})),
    plan(step("call", CALL, {"key": "k", "config": {}}, rate_limit=RateLimit(2, 4_000)), name="other"),
]
LIMITS = {"one": 1, "two": 2}
PLACED = [
    plan(step("call", CALL), concurrency=Concurrency(1), max_queue_ms=8_000),
    plan(step("wait", WAIT, {"signal": "go"}), step("call", CALL), concurrency=Concurrency(1)),
    plan(step("give"), concurrency=Concurrency(1)),
    plan(step("call", CALL), concurrency=Concurrency(1, "skip")),
]
"""Runs of these hold a place: one at once with the key `one`, two with `two`."""
SEEDS = st.integers(0, 10**6)


class Verbs(RuleBasedStateMachine):
    """`active` are the runs that this process holds, as it knows them; `known` is the plan of every run by its key."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = ManualClock()
        self.backend = self.wait(SqliteBackend(Path(self.folder.name) / "taskforge.db", self.clock).open())
        self.desk = Desk(self.backend.store, self.clock, "node_0")
        self.nodes = 0
        self.known: dict[int, RunSnapshot] = {}
        self.active: dict[int, RunSnapshot] = {}
        self.keys: dict[str, tuple[str, str]] = {}
        self.signals = 0
        self.sent: dict[int, list[int]] = {}
        self.queued: dict[int, tuple[str, int, int]] = {}
        self.placed: set[int] = set()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.wait(self.backend.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.folder.cleanup()

    def keep(self, run: RunSnapshot) -> None:
        if run.owner is None and run.place is not None:
            # It may have been given its place by the decision itself.
            run = self.wait(self.desk.load(run))
        self.known[run.key] = run
        if run.owner is None:
            self.active.pop(run.key, None)
        else:
            self.active[run.key] = run

    def refresh(self) -> None:
        """Look at the runs that others may have given a place."""
        for run in [run for run in self.known.values() if run.place is not None and not run.ended]:
            self.keep(run)

    def pick(self, runs: dict[int, RunSnapshot], seed: int) -> RunSnapshot:
        return runs[sorted(runs)[seed % len(runs)]]

    def running(self) -> list[tuple[RunSnapshot, str]]:
        found = [(run, path) for run in self.active.values() for path, at in run.live.items() if at.attempt is not None]
        return sorted(found, key=lambda item: (item[0].key, item[1]))

    @initialize()
    def publish(self) -> None:
        self.wait(self.desk.publish())
        self.wait(self.desk.publish("other"))

    # ---- verbs

    @rule(which=st.sampled_from(PLANS), slots=st.sampled_from([0, 64]), delay=st.sampled_from([None, 0, 5_000]))
    def start(self, which: Any, slots: int, delay: int | None) -> None:
        at = None if delay is None else self.clock.now() + delay
        self.keep(self.wait(self.desk.start(which, slots=slots, start_at=at, priority=slots % 3)))

    @rule(
        which=st.sampled_from(PLACED),
        key=st.sampled_from(sorted(LIMITS)),
        priorities=st.lists(st.integers(-1, 1), min_size=1, max_size=4),
    )
    def start_with_places(self, which: Plan, key: str, priorities: list[int]) -> None:
        limit, on_limit = LIMITS[key], which.concurrency.on_limit if which.concurrency else "queue"
        limited = replace(which, concurrency=Concurrency(limit, on_limit))
        begun = [self.desk.begin(limited, input=dumps({"key": key}), priority=priority) for priority in priorities]
        all_started = self.wait(self.desk.store.start_runs([(new, changes) for new, _, changes in begun]))
        for (_, run, _), started in zip(begun, all_started, strict=True):
            adopt(run, started)
            self.keep(run)
            assert started.due_at == (self.clock.now() if self.known[run.key].placed else None)

    def listening(self) -> dict[int, RunSnapshot]:
        return {
            key: run
            for key, run in self.known.items()
            if not run.ended and any(one.kind is WAIT for one in run.plan.steps)
        }

    @precondition(lambda self: self.listening())
    @rule(seed=SEEDS, name=st.sampled_from(["go", "go", "go", "other"]), size=st.sampled_from([1, 5_000]))
    def send_a_signal(self, seed: int, name: str, size: int) -> None:
        run = self.pick(self.listening(), seed)
        events: list[ev.Event] = []
        if run.owner is None:
            run = self.wait(self.desk.load(run))
            events.append(ev.TakenUp())
        self.signals += 1
        number = self.signals
        events.append(ev.SignalSent(self.clock.new_id("sig"), name, {"n": number, "pad": "z" * size}))
        self.wait(self.desk.apply(self.desk.store.send_signal, run, *events))
        if not run.ended or number in self.outputs(run):
            self.sent.setdefault(run.key, []).append(number)
        self.keep(run)

    @staticmethod
    def outputs(run: RunSnapshot) -> list[int]:
        """The numbers of the signals that a run's steps have taken."""
        return [at.output["n"] for at in run.steps.values() if at.step.kind is WAIT and at.output is not None]

    @rule(which=st.sampled_from(PLANS), key=st.sampled_from("ab"), hash=st.sampled_from("xy"))
    def start_with_a_key(self, which: Any, key: str, hash: str) -> None:
        # Each workflow has its own keys.
        key = f"{which.name}-{key}"
        new, run, changes = self.desk.begin(which, idempotency_key=key, request_hash=hash)
        before = self.keys.get(key)
        if before is None:
            adopt(run, self.wait(self.desk.store.start_run(new, changes)))
            self.keys[key] = (hash, run.id)
            self.keep(run)
        elif before[0] == hash:
            answer = self.wait(self.desk.store.start_run(new, changes))
            assert answer.id == before[1] and not answer.created
        else:
            with pytest.raises(IdempotencyMismatch):
                self.wait(self.desk.store.start_run(new, changes))

    @precondition(lambda self: self.running())
    @rule(seed=SEEDS, how=st.sampled_from(["succeed", "large", "fail", "fail for good", "release"]))
    def end_an_attempt(self, seed: int, how: str) -> None:
        running = self.running()
        run, path = running[seed % len(running)]
        if how in ("succeed", "large"):
            self.wait(self.desk.succeed(run, path, "y" * (9_000 if how == "large" else 9)))
        elif how == "release":
            event = ev.AttemptReleased(path, token(run, path))
            self.wait(self.desk.apply(self.desk.store.finish_attempt, run, event))
        else:
            self.wait(self.desk.fail(run, path, "network" if how == "fail" else None))
        self.keep(run)

    @precondition(lambda self: len(self.running()) > 1)
    @rule(bad=SEEDS)
    def end_many_at_once_one_of_them_stale(self, bad: int) -> None:
        ends: dict[int, Any] = {}
        for run, path in self.running():
            if run.key not in ends:
                ends[run.key] = decide(run, [ev.AttemptSucceeded(path, token(run, path), 1)], self.desk.context())
        stale = sorted(ends)[bad % len(ends)]
        ends[stale].revision += 1

        async def all_at_once() -> list[Any]:
            return await asyncio.gather(*map(self.desk.store.finish_attempt, ends.values()), return_exceptions=True)

        answers = dict(zip(ends, self.wait(all_at_once()), strict=True))
        for key, answer in answers.items():
            if key == stale:
                assert isinstance(answer, LeaseLost)
                run = self.wait(self.desk.load(self.known[key]))
                self.wait(self.desk.apply(self.desk.store.advance_run, run, ev.TakenUp()))
                self.keep(run)
            else:
                assert not isinstance(answer, BaseException)
                self.known[key].revision += 1
                self.desk.mirrors.pop(self.known[key], None)
                self.keep(self.known[key])

    @precondition(lambda self: any(not run.ended for run in self.known.values()))
    @rule(seed=SEEDS)
    def cancel(self, seed: int) -> None:
        self.refresh()
        run = self.pick({key: run for key, run in self.known.items() if not run.ended}, seed)
        self.wait(self.desk.apply(self.desk.store.cancel_run, run, ev.CancelAsked()))
        self.keep(run)

    @precondition(lambda self: any(run.ended for run in self.known.values()))
    @rule(seed=SEEDS)
    def retry(self, seed: int) -> None:
        run = self.pick({key: run for key, run in self.known.items() if run.ended}, seed)
        run = self.wait(self.desk.load(run))
        self.wait(self.desk.apply(self.desk.store.retry_run, run, ev.RetryAsked()))
        self.keep(run)

    @precondition(lambda self: self.active)
    @rule(seed=SEEDS)
    def time_passes_in_a_run(self, seed: int) -> None:
        run = self.pick(self.active, seed)
        self.wait(self.desk.apply(self.desk.store.resume_wait, run, ev.TimePassed()))
        self.keep(run)

    @rule(ms=st.sampled_from([1, 1_000, 6_000, LEASE_MS]))
    def time_passes(self, ms: int) -> None:
        self.clock.advance(ms)

    @rule(
        limit=st.integers(1, 5),
        suspects=st.booleans(),
        slots=st.booleans(),
        held=st.sampled_from([(), ("other",), ("flow",), ("*",)]),
    )
    def take_due_runs(self, limit: int, suspects: bool, slots: bool, held: tuple[str, ...]) -> None:
        self.refresh()
        choice: dict[str, Any] = {"suspects": suspects, "slots": slots, "held": held}
        open_to_us = [
            run
            for run in self.known.values()
            if run.due_at is not None
            and bool(run.suspect) == suspects
            and (slots or not run.needs_slot)
            and not {run.workflow, "*"} & set(held)
        ]
        # Runs that lack a slot are looked at without one when another time of theirs has come.
        patient = [
            run
            for run in self.known.values()
            if run.latest_at is not None and not (slots or suspects or run.suspect or {run.workflow, "*"} & set(held))
        ]
        times = [run.due_at or 0 for run in open_to_us] + [run.latest_at or 0 for run in patient]
        assert self.wait(self.desk.store.next_due(**choice)) == min(times, default=None)
        due = [run for run in open_to_us if (run.due_at or 0) <= self.clock.now()]
        due.sort(key=lambda run: (-run.priority, run.due_at, run.key))
        late = [run for run in patient if (run.latest_at or 0) <= self.clock.now()]
        due += sorted(late, key=lambda run: (run.latest_at, run.key))
        taken = self.wait(self.desk.store.lease_steps(self.desk.owner, self.clock.now(), limit, **choice))
        assert [rows.run.key for rows in taken] == [run.key for run in due[:limit]]
        for rows in taken:
            run = to_snapshot(rows, self.known[rows.run.key].plan)
            try:
                self.wait(self.desk.apply(self.desk.store.advance_run, run, ev.TakenUp(), slots=64 if slots else 0))
            except LeaseLost:
                # The end of one before has just given it a place.
                run = self.wait(self.desk.load(run))
                assert run.placed and run.owner is None
            self.keep(run)

    @rule()
    def take_and_give_back(self) -> None:
        for rows in self.wait(self.desk.store.lease_steps(self.desk.owner, self.clock.now(), 2)):
            self.wait(self.desk.store.release_run(rows.run.key, rows.run.revision, self.clock.now()))
            self.keep(self.wait(self.desk.load(self.known[rows.run.key])))

    @rule()
    def the_process_dies(self) -> None:
        dead, self.nodes = self.desk.owner, self.nodes + 1
        self.desk.owner = f"node_{self.nodes}"
        attempts = len(self.running())
        owners = self.wait(self.desk.store.register_node(self.desk.owner, "{}", self.clock.now()))
        assert owners == ([dead] if self.active else [])
        rescued = self.wait(self.desk.store.rescue_leases(owners or [dead], self.clock.now(), keep=self.desk.owner))
        assert (rescued.attempts, rescued.runs) == (attempts, len(self.active))
        for key in list(self.active):
            self.keep(self.wait(self.desk.load(self.known[key])))
        assert not self.active

    @rule()
    def another_node_finds_lapsed_leases(self) -> None:
        lapsed = {run.key for run, path in self.running() if self.lapsed(run, path)}
        rescued = self.wait(self.desk.store.rescue_leases(None, self.clock.now(), keep="node_other"))
        assert rescued.runs == len(lapsed)
        for key in lapsed:
            self.keep(self.wait(self.desk.load(self.known[key])))

    def lapsed(self, run: RunSnapshot, path: str) -> bool:
        at = run.steps[path].attempt
        assert at is not None
        rows = self.wait(self.desk.rows(run)).attempts
        return any(row.record.id == at.id and row.record.lease_expires_at < self.clock.now() for row in rows)

    @rule()
    def renew(self) -> None:
        renewed = self.wait(self.desk.store.renew_leases(self.desk.owner, self.clock.now() + LEASE_MS))
        assert renewed == len(self.running())

    @rule()
    def prune(self) -> None:
        self.wait(self.desk.store.prune_runs(self.clock.now() - 10_000, 3))
        left = {row[0] for row in self.backend.dump()["runs"]}
        self.known = {key: run for key, run in self.known.items() if key in left}
        self.sent = {key: numbers for key, numbers in self.sent.items() if key in left}
        ids = {run.id for run in self.known.values()}
        self.keys = {key: value for key, value in self.keys.items() if value[1] in ids}

    @rule(seed=SEEDS)
    def discard_a_letter(self, seed: int) -> None:
        letters = self.wait(self.desk.store.list_dead_letters(None, None, 100))
        if not letters:
            return
        letter = letters[seed % len(letters)]
        if letter.state == "OPEN":
            assert self.wait(self.desk.store.discard_dead_letter(letter.id, self.clock.now())).state == "DISCARDED"
        else:
            with pytest.raises(DeadLetterClosed):
                self.wait(self.desk.store.discard_dead_letter(letter.id, self.clock.now()))

    @rule()
    def restart(self) -> None:
        self.desk.store = self.wait(self.backend.reopen())

    # ---- what must hold after each

    @invariant()
    def the_store_is_whole(self) -> None:
        assert self.wait(self.desk.store.check()) == []

    @invariant()
    def statistics_are_exact(self) -> None:
        rows = self.backend.dump()
        stats = self.wait(self.desk.store.stats(self.clock.now()))
        assert +Counter(stats.runs) == Counter(row[5] for row in rows["runs"])
        assert +Counter(stats.steps) == Counter(row[4] for row in rows["step_runs"])
        assert stats.dead_letters == sum(row[2] == "OPEN" for row in rows["dead_letters"])

    @invariant()
    def places_are_held_by_as_many_as_the_limit_in_the_order_in_which_they_asked(self) -> None:
        rows = self.wait(self.desk.store.list_runs(RunFilter(states=("QUEUED", "RUNNING", "WAITING"), limit=500)))
        placed = {row.key: row for row in rows if row.record.placed}
        queued = {
            row.key: (row.record.place, -row.priority, row.key)
            for row in rows
            if row.record.place is not None and not row.record.placed
        }
        for key, limit in LIMITS.items():
            holders = sum(row.record.place == f"flow:{key}" for row in placed.values())
            waits = any(place == f"flow:{key}" for place, _, _ in queued.values())
            assert holders <= limit and not (waits and holders < limit)
        for given in placed.keys() - self.placed:
            mine = (placed[given].record.place, -placed[given].priority, given)
            assert [w for w in self.queued.items() & queued.items() if w[1][0] == mine[0] and w[1] < mine] == []
        self.placed, self.queued = set(placed), {key: (str(place), p, k) for key, (place, p, k) in queued.items()}

    @invariant()
    def every_signal_is_kept_or_was_taken_once(self) -> None:
        for key, numbers in self.sent.items():
            rows = self.wait(self.desk.rows(self.known[key]))
            run = to_snapshot(rows, self.known[key].plan)
            assert sorted([loads(sent.data)["n"] for sent in rows.signals] + self.outputs(run)) == numbers

    @invariant()
    def rows_are_what_was_decided(self) -> None:
        for run in self.active.values():
            stored = self.wait(self.desk.load(run))
            assert (stored.state, stored.owner, stored.due_at, stored.revision, stored.generation, stored.suspect) == (
                run.state, run.owner, run.due_at, run.revision, run.generation, run.suspect,
            )  # fmt: skip
            assert {
                path: (at.state, at.attempts, at.failures, at.output, at.attempt and at.attempt.id)
                for path, at in stored.steps.items()
            } == {
                path: (at.state, at.attempts, at.failures, at.output, at.attempt and at.attempt.id)
                for path, at in run.steps.items()
            }

    @invariant()
    def a_mirror_has_the_rows_that_are_read(self) -> None:
        for run, mirror in self.desk.mirrors.items():
            if self.known.get(run.key) is run:
                assert without_ends_of_leases(mirror.rows()) == without_ends_of_leases(self.wait(self.desk.rows(run)))


def without_ends_of_leases(rows: RunRows) -> RunRows:
    """Renewing a lease is no decision of its run."""
    attempts = [row._replace(record=row.record._replace(lease_expires_at=0)) for row in rows.attempts]
    return rows._replace(attempts=attempts)


Verbs.TestCase.settings = settings(max_examples=15, stateful_step_count=30)
TestVerbs = Verbs.TestCase
