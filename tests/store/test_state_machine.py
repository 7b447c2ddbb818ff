"""Any order of verbs, refusals, deaths and restarts leaves the store whole, its statistics exact, and its rows those
that `decide` decided."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from taskforge.core import events as ev
from taskforge.core.decide import decide
from taskforge.core.errors import DeadLetterClosed, IdempotencyMismatch, LeaseLost
from taskforge.core.snapshot import RunSnapshot
from taskforge.engine.loading import to_snapshot
from tests.store.backends import SqliteBackend
from tests.store.desk import LEASE_MS, Desk, adopt, token
from tests.support.clock import ManualClock
from tests.support.plans import CALL, CALL_THEN_GIVE, ONE_CALL, THREE_GIVES, TWO_CALLS, plan, step

T = TypeVar("T")

PLANS = [
    THREE_GIVES,
    ONE_CALL,
    CALL_THEN_GIVE,
    TWO_CALLS,
    plan(step("call", CALL, max_attempts=2, timeout_ms=4_000), step("after", config="x" * 1_500)),
    plan(step("call", CALL, continue_on_error=True), step("ask", config="ask the child"), timeout_ms=20_000),
]
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

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.wait(self.backend.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.folder.cleanup()

    def keep(self, run: RunSnapshot) -> None:
        self.known[run.key] = run
        if run.owner is None:
            self.active.pop(run.key, None)
        else:
            self.active[run.key] = run

    def pick(self, runs: dict[int, RunSnapshot], seed: int) -> RunSnapshot:
        return runs[sorted(runs)[seed % len(runs)]]

    def running(self) -> list[tuple[RunSnapshot, str]]:
        found = [(run, path) for run in self.active.values() for path, at in run.live.items() if at.attempt is not None]
        return sorted(found, key=lambda item: (item[0].key, item[1]))

    @initialize()
    def publish(self) -> None:
        self.wait(self.desk.publish())

    # ---- verbs

    @rule(which=st.sampled_from(PLANS), slots=st.sampled_from([0, 64]), delay=st.sampled_from([None, 0, 5_000]))
    def start(self, which: Any, slots: int, delay: int | None) -> None:
        at = None if delay is None else self.clock.now() + delay
        self.keep(self.wait(self.desk.start(which, slots=slots, start_at=at, priority=slots % 3)))

    @rule(which=st.sampled_from(PLANS), key=st.sampled_from("ab"), hash=st.sampled_from("xy"))
    def start_with_a_key(self, which: Any, key: str, hash: str) -> None:
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
                assert answer is None
                self.known[key].revision += 1
                self.keep(self.known[key])

    @precondition(lambda self: any(not run.ended for run in self.known.values()))
    @rule(seed=SEEDS)
    def cancel(self, seed: int) -> None:
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

    @rule(limit=st.integers(1, 5), suspects=st.booleans())
    def take_due_runs(self, limit: int, suspects: bool) -> None:
        due = [
            run
            for run in self.known.values()
            if run.due_at is not None and run.due_at <= self.clock.now() and bool(run.suspect) == suspects
        ]
        taken = self.wait(self.desk.store.lease_steps(self.desk.owner, self.clock.now(), limit, suspects=suspects))
        assert len(taken) == min(limit, len(due))
        for rows in taken:
            run = to_snapshot(rows, self.known[rows.run.key].plan)
            self.wait(self.desk.apply(self.desk.store.advance_run, run, ev.TakenUp()))
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


Verbs.TestCase.settings = settings(max_examples=15, stateful_step_count=30)
TestVerbs = Verbs.TestCase
