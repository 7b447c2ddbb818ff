"""The store on one SQLite file. Each method is one verb of `store.protocol`; the SQL is in the modules by subject."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from taskforge.core.clock import Clock
from taskforge.store.protocol import (
    AppliedWorkflows,
    LiveRuns,
    NewVersion,
    Published,
    Stats,
    VersionRow,
    WorkflowRow,
)
from taskforge.store.sql import load_queries
from taskforge.store.sqlite import (
    definitions,
    health,
    opening,
    upkeep,
    workflow_state,
)
from taskforge.store.sqlite.backup import Stamp, remove_unfinished
from taskforge.store.sqlite.connection import Session, configure_reader, open_connection
from taskforge.store.sqlite.opening import back_up
from taskforge.store.sqlite.readers import Readers
from taskforge.store.sqlite.run_verbs import RunVerbs
from taskforge.store.sqlite.runs import IDEMPOTENCY_KEPT_MS
from taskforge.store.sqlite.trigger_verbs import TriggerVerbs
from taskforge.store.sqlite.value_verbs import ValueVerbs
from taskforge.store.sqlite.writer import QUEUE_LIMIT, Writer
from taskforge.store.triggered import (
    TriggerSpec,
)


class SqliteStore(RunVerbs, TriggerVerbs, ValueVerbs):
    """`protocol.Store` on a file. Made by `open`; `close` commits what is queued."""

    def __init__(self, path: Path, writer: Writer, readers: Readers, notices: list[str]) -> None:
        self.path = path
        self.notices = notices
        """What a person should know about how the database was found."""
        super().__init__(writer, readers)
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

    async def apply_workflows(
        self, versions: Sequence[NewVersion], deleted: Sequence[str], expected: Mapping[str, int], now: int
    ) -> AppliedWorkflows:
        return await self._writer.submit(definitions.apply_workflows, versions, deleted, expected, now)

    async def get_workflow(self, name: str) -> WorkflowRow:
        return await self._readers.submit(definitions.get_workflow, name)

    async def list_workflows(self, cursor: str | None, limit: int) -> list[WorkflowRow]:
        return await self._readers.submit(definitions.list_workflows, cursor, limit)

    async def get_version(self, name: str, version: int) -> VersionRow:
        return await self._readers.submit(definitions.get_version, name, version)

    async def list_versions(self, name: str, cursor: int | None, limit: int) -> list[VersionRow]:
        return await self._readers.submit(definitions.list_versions, name, cursor, limit)

    async def list_newest_versions(self, cursor: str | None, limit: int) -> list[VersionRow]:
        return await self._readers.submit(definitions.list_newest_versions, cursor, limit)

    async def count_live_runs(self) -> list[LiveRuns]:
        return await self._readers.submit(definitions.count_live_runs)

    # ---- nodes and upkeep

    async def register_node(self, id: str, info: str, now: int) -> list[str]:
        return await self._writer.submit(upkeep.register_node, id, info, now)

    async def prune_runs(self, ended_before: int, limit: int, keyed_before: int | None = None) -> int:
        keyed = ended_before - IDEMPOTENCY_KEPT_MS if keyed_before is None else keyed_before
        if self._prune_from == 0:
            await self._writer.submit(workflow_state.forget_rates, ended_before)
        found = await self._readers.submit(upkeep.find_ended, self._prune_from, ended_before, keyed, limit)
        # The next call goes on where this one ends, so that runs which stay are not looked at again and again.
        self._prune_from = found[-1][1] if len(found) == limit else 0
        if not found:
            return 0
        return await self._writer.submit(upkeep.prune_runs, [key for key, _ in found], ended_before, keyed)

    async def count_ended(self, ended_before: int, keyed_before: int | None = None) -> int:
        keyed = ended_before - IDEMPOTENCY_KEPT_MS if keyed_before is None else keyed_before
        return await self._readers.submit(upkeep.count_ended, ended_before, keyed)

    async def free_pages(self, limit: int, keep: int = 0) -> int:
        return await self._writer.submit(upkeep.free_pages, limit, keep)

    async def stats(self, now: int) -> Stats:
        return await self._readers.submit(upkeep.stats, now, self.path)

    async def check(self) -> list[str]:
        findings: list[str] = []
        for part in health.PARTS:
            findings += await self._readers.submit(health.look, part)
        return findings

    async def ping(self) -> None:
        await self._writer.submit(_nothing)

    async def back_up(self, target: Path, taken_at: int, key_id: str | None) -> int:
        """Write a copy of the database to `target`: absent or whole, mode 0600. Returns its bytes."""

        def copy() -> int:
            remove_unfinished(target.parent)
            return back_up(self.path, target, Stamp(taken_at, key_id))

        return await asyncio.to_thread(copy)


def _nothing(session: Session) -> None:
    """Show that the writer turns."""
