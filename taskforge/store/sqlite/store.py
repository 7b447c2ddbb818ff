"""The store on one SQLite file. Each method is one verb of `store.protocol`; the SQL is in the modules by subject."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from taskforge.core.clock import Clock
from taskforge.core.jsontext import dumps
from taskforge.core.snapshot import Changes
from taskforge.store.protocol import (
    DeadLetterRow,
    JournalRow,
    NewRun,
    Published,
    Rescued,
    RunFilter,
    RunRow,
    RunRows,
    StartedRun,
    Stats,
    TokenRow,
    VersionRow,
    WorkflowRow,
)
from taskforge.store.sql import load_queries
from taskforge.store.sqlite import (
    consequences,
    dead_letters,
    definitions,
    deliveries,
    health,
    leases,
    opening,
    rescue,
    run_reads,
    runs,
    schedules,
    stored_values,
    tokens,
    upkeep,
    workflow_state,
)
from taskforge.store.sqlite.connection import Session, configure_reader, open_connection
from taskforge.store.sqlite.large import Encoded, encode, find_large
from taskforge.store.sqlite.readers import Readers
from taskforge.store.sqlite.writer import QUEUE_LIMIT, Writer
from taskforge.store.triggered import (
    Delivered,
    DeliveryFilter,
    DeliveryPage,
    DeliveryRow,
    EndRow,
    Firing,
    NewDelivery,
    ScheduleRow,
    SlotRow,
    Start,
    TriggerSpec,
)
from taskforge.store.values import SecretRow, VarRow

_ENCODE_HERE = 32_768
"""Characters of large values up to which they are compressed on the event loop; more go to a reader's thread."""


class SqliteStore:
    """`protocol.Store` on a file. Made by `open`; `close` commits what is queued."""

    def __init__(self, path: Path, writer: Writer, readers: Readers, notices: list[str]) -> None:
        self.path = path
        self.notices = notices
        """What a person should know about how the database was found."""
        self._writer = writer
        self._readers = readers
        self._prune_from = 0

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        clock: Clock,
        backups: Path | None = None,
        readers: int = 2,
        queue_limit: int = QUEUE_LIMIT,
        vfs: str | None = None,
    ) -> SqliteStore:
        """Open the database at `path`, made or migrated where needed; `clock` dates the migrations.

        A backup is written to `backups` (default: the folder of that name beside the file) before a migration.
        Raises StartupError with one clear line; then nothing was changed."""
        loop = asyncio.get_running_loop()
        sql = load_queries("sqlite")
        conn, notices = opening.prepare(path, backups or path.parent / "backups", clock.now(), vfs=vfs)

        def connect() -> Session:
            reader = open_connection(path, vfs=vfs)
            configure_reader(reader)
            return Session(reader, sql)

        writer = Writer(Session(conn, sql), path, loop=loop, queue_limit=queue_limit)
        return cls(path, writer, Readers(connect, path, loop=loop, size=readers), notices)

    async def close(self) -> None:
        await self._readers.close()
        await self._writer.close()

    @property
    def on_failure(self) -> Callable[[BaseException], None]:
        return self._writer.on_failure

    @on_failure.setter
    def on_failure(self, called: Callable[[BaseException], None]) -> None:
        self._writer.on_failure = called

    @property
    def commits(self) -> int:
        """Transactions committed since the store was opened."""
        return self._writer.commits

    @property
    def verbs(self) -> int:
        """Verbs that these transactions held."""
        return self._writer.verbs

    # ---- definitions

    async def publish_workflow(
        self,
        name: str,
        document: str,
        source: str,
        media: str,
        description: str | None,
        now: int,
        triggers: Sequence[TriggerSpec] = (),
    ) -> Published:
        return await self._writer.submit(
            definitions.publish_workflow, name, document, source, media, description, now, triggers
        )

    async def set_enabled(
        self, name: str, enabled: bool, now: int, triggers: Sequence[TriggerSpec] = ()
    ) -> WorkflowRow:
        return await self._writer.submit(definitions.set_enabled, name, enabled, now, triggers)

    async def delete_workflow(self, name: str, now: int) -> None:
        await self._writer.submit(definitions.delete_workflow, name, now)

    async def get_workflow(self, name: str) -> WorkflowRow:
        return await self._readers.submit(definitions.get_workflow, name)

    async def list_workflows(self, cursor: str | None, limit: int) -> list[WorkflowRow]:
        return await self._readers.submit(definitions.list_workflows, cursor, limit)

    async def get_version(self, name: str, version: int) -> VersionRow:
        return await self._readers.submit(definitions.get_version, name, version)

    async def list_versions(self, name: str, cursor: int | None, limit: int) -> list[VersionRow]:
        return await self._readers.submit(definitions.list_versions, name, cursor, limit)

    # ---- runs: verbs that apply a decision

    async def start_run(self, new: NewRun, changes: Changes) -> StartedRun:
        large = await self._encode(changes, new)
        return await self._writer.enqueue(runs.start_run, new, changes, _journal(changes), large)

    async def start_runs(self, runs_: Sequence[tuple[NewRun, Changes]]) -> list[StartedRun]:
        work = [(new, changes, _journal(changes), await self._encode(changes, new)) for new, changes in runs_]
        return await self._writer.enqueue(runs.start_runs, work)

    async def advance_run(self, changes: Changes) -> int | None:
        return await self._apply(changes)

    async def finish_attempt(self, changes: Changes) -> int | None:
        return await self._apply(changes)

    async def resume_wait(self, changes: Changes) -> int | None:
        return await self._apply(changes)

    async def cancel_run(self, changes: Changes) -> int | None:
        return await self._apply(changes)

    async def send_signal(self, changes: Changes) -> int | None:
        return await self._apply(changes)

    async def retry_run(self, changes: Changes) -> int | None:
        return await self._apply(changes)

    async def _apply(self, changes: Changes) -> int | None:
        large = await self._encode(changes)
        return await self._writer.enqueue(runs.apply_changes, changes, _journal(changes), large)

    async def _encode(self, changes: Changes, new: NewRun | None = None) -> Encoded | None:
        values = find_large(changes, new)
        if not values:
            return None
        if sum(len(text) for _, _, text in values) <= _ENCODE_HERE:
            return encode(values)
        return await asyncio.to_thread(encode, values)

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
        self, ref: str, *, steps: Literal["none", "failed", "all"] = "all", cursor: str | None = None, limit: int = 500
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

    # ---- schedules

    async def list_due_schedules(self, now: int, limit: int) -> list[ScheduleRow]:
        return await self._readers.submit(schedules.list_due_schedules, now, limit)

    async def next_schedule(self) -> int | None:
        return await self._readers.submit(schedules.next_schedule)

    async def fire_schedule(self, firing: Firing) -> list[StartedRun | None]:
        stored = [(_journal(changes), await self._encode(changes, new)) for _, (new, changes) in firing.starts]
        return await self._writer.enqueue(schedules.fire_schedule, firing, stored)

    async def list_schedules(self, workflow: str | None, cursor: int, limit: int) -> list[ScheduleRow]:
        return await self._readers.submit(schedules.list_schedules, workflow, cursor, limit)

    async def list_slots(self, schedule: int, limit: int) -> list[SlotRow]:
        return await self._readers.submit(schedules.list_slots, schedule, limit)

    async def find_slot(self, run_id: str, workflow: str, trigger: str, slot: int) -> SlotRow | None:
        return await self._readers.submit(schedules.find_slot, run_id, workflow, trigger, slot)

    async def count_overdue(self, before: int) -> tuple[int, int | None]:
        return await self._readers.submit(schedules.count_overdue, before)

    async def prune_slots(self, before: int, after: int, limit: int) -> int | None:
        return await self._writer.submit(schedules.prune_slots, before, after, limit)

    # ---- deliveries, and the ends of runs

    async def accept_delivery(self, new: NewDelivery, start: Start | None) -> Delivered:
        journal, large = await self._stored(start)
        return await self._writer.enqueue(deliveries.accept_delivery, new, start, journal, large)

    async def find_delivery(self, workflow: str, trigger: str, dedupe: str) -> DeliveryRow | None:
        return await self._readers.submit(deliveries.find_delivery, workflow, trigger, dedupe)

    async def get_delivery(self, id: str) -> DeliveryRow:
        return await self._readers.submit(deliveries.get_delivery, id)

    async def find_delivery_body(self, id: str) -> bytes | None:
        return await self._readers.submit(deliveries.find_delivery_body, id)

    async def list_deliveries(self, chosen: DeliveryFilter) -> DeliveryPage:
        return await self._readers.submit(deliveries.list_deliveries, chosen)

    async def prune_deliveries(self, before: int, keep_bytes: int, limit: int) -> int:
        return await self._writer.submit(deliveries.prune_deliveries, before, keep_bytes, limit)

    async def count_queued(self) -> int:
        return await self._readers.submit(deliveries.count_queued)

    async def list_sources(self) -> set[str]:
        return await self._readers.submit(deliveries.list_sources)

    async def list_ends(self, run: int | None, limit: int) -> list[EndRow]:
        return await self._readers.submit(deliveries.list_ends, run, limit)

    async def start_on_end(self, end: EndRow, start: Start | None) -> StartedRun | None:
        journal, large = await self._stored(start)
        return await self._writer.enqueue(deliveries.start_on_end, end, start, journal, large)

    async def _stored(self, start: Start | None) -> tuple[str | None, Encoded | None]:
        if start is None:
            return None, None
        return _journal(start[1]), await self._encode(start[1], start[0])

    # ---- secrets and variables

    async def put_secret(self, name: str, sealed: bytes, key_id: str, now: int) -> SecretRow:
        return await self._writer.submit(stored_values.put_secret, name, sealed, key_id, now)

    async def list_secrets(self) -> list[SecretRow]:
        return await self._readers.submit(stored_values.list_secrets)

    async def delete_secret(self, name: str) -> None:
        await self._writer.submit(stored_values.delete_secret, name)

    async def put_var(self, name: str, value: str, now: int) -> VarRow:
        return await self._writer.submit(stored_values.put_var, name, value, now)

    async def list_vars(self) -> list[VarRow]:
        return await self._readers.submit(stored_values.list_vars)

    async def delete_var(self, name: str) -> None:
        await self._writer.submit(stored_values.delete_var, name)

    # ---- dead letters

    async def get_dead_letter(self, id: str) -> DeadLetterRow:
        return await self._readers.submit(dead_letters.get_dead_letter, id)

    async def list_dead_letters(self, state: str | None, cursor: str | None, limit: int) -> list[DeadLetterRow]:
        return await self._readers.submit(dead_letters.list_dead_letters, state, cursor, limit)

    async def discard_dead_letter(self, id: str, now: int) -> DeadLetterRow:
        return await self._writer.submit(dead_letters.discard_dead_letter, id, now)

    # ---- access

    async def create_token(self, row: TokenRow) -> None:
        await self._writer.submit(tokens.create_token, row)

    async def list_tokens(self) -> list[TokenRow]:
        return await self._readers.submit(tokens.list_tokens)

    async def find_token(self, hash: str) -> TokenRow | None:
        return await self._readers.submit(tokens.find_token, hash)

    async def revoke_token(self, id: str) -> None:
        await self._writer.submit(tokens.revoke_token, id)

    # ---- nodes and upkeep

    async def register_node(self, id: str, info: str, now: int) -> list[str]:
        return await self._writer.submit(upkeep.register_node, id, info, now)

    async def prune_runs(self, ended_before: int, limit: int) -> int:
        if self._prune_from == 0:
            await self._writer.submit(workflow_state.forget_rates, ended_before)
        found = await self._readers.submit(upkeep.find_ended, self._prune_from, ended_before, limit)
        # The next call goes on where this one ends, so that runs which stay are not looked at again and again.
        self._prune_from = found[-1][1] if len(found) == limit else 0
        return await self._writer.submit(upkeep.prune_runs, [key for key, _ in found], ended_before) if found else 0

    async def stats(self, now: int) -> Stats:
        return await self._readers.submit(upkeep.stats, now, self.path)

    async def check(self) -> list[str]:
        findings: list[str] = []
        for part in health.PARTS:
            findings += await self._readers.submit(health.look, part)
        return findings

    async def ping(self) -> None:
        await self._writer.submit(_nothing)

    async def back_up(self, target: Path) -> None:
        """Write a copy of the database to `target`: absent or whole, mode 0600."""

        def copy() -> None:
            conn = open_connection(self.path)
            try:
                opening.back_up(conn, target)
            finally:
                conn.close()

        with opening.startup_errors(target):
            await asyncio.to_thread(copy)


def _journal(changes: Changes) -> str | None:
    return dumps(changes.journal) if changes.journal else None


def _nothing(session: Session) -> None:
    """Show that the writer turns."""
