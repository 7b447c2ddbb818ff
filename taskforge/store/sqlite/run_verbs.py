"""Verbs of runs: deciding, owning, reading, holding, and their dead letters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from taskforge.core.snapshot import Changes
from taskforge.store.protocol import (
    DeadLetterRow,
    JournalRow,
    NewRun,
    Rescued,
    RunFilter,
    RunRow,
    RunRows,
    StartedRun,
)
from taskforge.store.sqlite import (
    consequences,
    dead_letters,
    leases,
    rescue,
    run_reads,
    runs,
    workflow_state,
)
from taskforge.store.sqlite.connection import Session
from taskforge.store.sqlite.large import Encoded, Values, find_large
from taskforge.store.sqlite.verbs import SHORT, SHORT_BATCH, Verbs

Apply = Callable[[Session, Changes, Encoded | None], int | None]


class RunVerbs(Verbs):
    """Part of `SqliteStore`: runs."""

    # ---- runs: verbs that apply a decision

    async def start_run(self, new: NewRun, changes: Changes) -> StartedRun:
        large = await self._encode(find_large(changes, new))
        return await self._writer.enqueue(runs.start_run, new, changes, large, is_short=large is None)

    async def start_runs(self, runs_: Sequence[tuple[NewRun, Changes]]) -> list[StartedRun]:
        work = [(new, changes, await self._encode(find_large(changes, new))) for new, changes in runs_]
        is_short = (
            all(large is None for _, _, large in work)
            and sum(len(changes.steps) for _, changes, _ in work) <= SHORT_BATCH
        )
        return await self._writer.enqueue(runs.start_runs, work, is_short=is_short)

    def advance_run(self, changes: Changes) -> Awaitable[int | None]:
        return self._apply(changes)

    def finish_attempt(self, changes: Changes) -> Awaitable[int | None]:
        return self._apply(changes)

    def resume_wait(self, changes: Changes) -> Awaitable[int | None]:
        return self._apply(changes)

    def cancel_run(self, changes: Changes) -> Awaitable[int | None]:
        return self._apply(changes, runs.cancel_run)

    def send_signal(self, changes: Changes) -> Awaitable[int | None]:
        return self._apply(changes, runs.send_signal)

    def retry_run(self, changes: Changes) -> Awaitable[int | None]:
        return self._apply(changes, runs.retry_run)

    def _apply(self, changes: Changes, verb: Apply = runs.apply_changes) -> Awaitable[int | None]:
        values = find_large(changes)
        if values:
            return self._apply_large(changes, verb, values)
        # No coroutine: each one around a future is run through whenever the run goes on.
        return self._writer.enqueue(verb, changes, None, is_short=len(changes.steps) <= SHORT)

    async def _apply_large(self, changes: Changes, verb: Apply, values: Values) -> int | None:
        return await self._writer.enqueue(verb, changes, await self._encode(values))

    # ---- runs: ownership and leases

    async def lease_steps(
        self, owner: str, now: int, limit: int, *, suspects: bool = False, slots: bool = True, held: Sequence[str] = ()
    ) -> list[RunRows]:
        keys = await self._writer.submit(leases.lease_steps, owner, now, limit, suspects, slots, held)
        if not keys:
            return []
        try:
            return await self._readers.submit(run_reads.load_runs, keys)
        except BaseException:
            # Nobody would drive them: the caller does not know that it holds them.
            self._writer.enqueue(leases.give_back, keys, owner, now)
            raise

    async def release_run(self, key: int, revision: int, due_at: int) -> None:
        await self._writer.submit(leases.release_run, key, revision, due_at)

    async def renew_leases(self, owner: str, until: int) -> int:
        return await self._writer.submit(leases.renew_leases, owner, until)

    async def rescue_leases(self, dead_owners: Sequence[str] | None, now: int, keep: str | None = None) -> Rescued:
        attempts = freed = 0
        if dead_owners is None:
            owners: list[str | None] = [None]
        elif dead_owners:
            owners = list(dead_owners)
        else:
            owners = [owner for owner in await self._writer.submit(rescue.held_by) if owner != keep]
        for owner in owners:
            while True:
                if owner is None:
                    found = await self._writer.submit(rescue.rescue_lapsed, keep, now)
                else:
                    found = await self._writer.submit(rescue.rescue_owner, owner, now)
                attempts += found.attempts
                freed += found.runs
                if found.runs < rescue.CHUNK:
                    break
        return Rescued(attempts, freed)

    async def next_due(self, *, suspects: bool = False, slots: bool = True, held: Sequence[str] = ()) -> int | None:
        return await self._readers.submit(leases.next_due, suspects, slots, held)

    async def find_started(
        self, workflow: str, idempotency_key: str, request_hash: str | None, now: int
    ) -> StartedRun | None:
        return await self._readers.submit(runs.find_started, workflow, idempotency_key, request_hash, now)

    async def find_oldest_placed(self, place: str) -> int | None:
        return await self._readers.submit(consequences.find_oldest_placed, place)

    async def find_replaced(self, place: str) -> int | None:
        return await self._readers.submit(consequences.find_replaced, place)

    async def list_queued(self, after: str, limit: int) -> list[tuple[str, int]]:
        return await self._readers.submit(consequences.list_queued, after, limit)

    async def list_children(self, key: int) -> list[int]:
        return await self._readers.submit(consequences.list_children, key)

    async def list_untold_children(self, limit: int) -> list[int]:
        return await self._readers.submit(consequences.list_untold_children, limit)

    async def list_orphans(self, limit: int) -> list[int]:
        return await self._readers.submit(consequences.list_orphans, limit)

    async def list_rates(self) -> dict[str, int]:
        return await self._readers.submit(workflow_state.list_rates)

    async def load_run(self, key: int) -> RunRows:
        return await self._readers.submit(run_reads.load_run, key)

    # ---- runs: reads

    async def get_run(self, ref: str) -> RunRow:
        return await self._readers.submit(run_reads.get_run, ref)

    async def get_run_rows(
        self,
        ref: str,
        *,
        steps: Literal["none", "failed", "all"] = "all",
        cursor: str | None = None,
        limit: int = 500,
    ) -> RunRows:
        return await self._readers.submit(run_reads.get_run_rows, ref, steps, cursor, limit)

    async def count_steps(self, key: int) -> int:
        return await self._readers.submit(run_reads.count_steps, key)

    async def list_runs(self, chosen: RunFilter) -> list[RunRow]:
        return await self._readers.submit(run_reads.list_runs, chosen)

    async def list_journal(self, run_key: int | None, after: int, limit: int) -> list[JournalRow]:
        return await self._readers.submit(run_reads.list_journal, run_key, after, limit)

    async def last_journal_id(self) -> int:
        return await self._readers.submit(run_reads.last_journal_id)

    # ---- holding and state

    async def set_hold(self, workflow: str | None, held: bool, now: int) -> None:
        await self._writer.submit(workflow_state.set_hold, workflow, held, now)

    async def list_holds(self) -> list[str]:
        return await self._readers.submit(workflow_state.list_holds)

    async def get_state(self, workflow: str) -> dict[str, str]:
        return await self._readers.submit(workflow_state.get_state, workflow)

    async def set_state(
        self, workflow: str, key: str, value: str | None, writer: str, expected: str | None, compare: bool, now: int
    ) -> bool:
        return await self._writer.submit(workflow_state.set_state, workflow, key, value, writer, expected, compare, now)

    # ---- dead letters

    async def get_dead_letter(self, id: str) -> DeadLetterRow:
        return await self._readers.submit(dead_letters.get_dead_letter, id)

    async def list_dead_letters(
        self, state: str | None, cursor: str | None, limit: int, workflow: str | None = None
    ) -> list[DeadLetterRow]:
        return await self._readers.submit(dead_letters.list_dead_letters, state, cursor, limit, workflow)

    async def discard_dead_letter(self, id: str, now: int) -> DeadLetterRow:
        return await self._writer.submit(dead_letters.discard_dead_letter, id, now)
