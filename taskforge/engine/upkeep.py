"""Looking after the home: letting go of what is old (ended runs by age, number and bytes, backups, the server's log),
giving the space back to the disk, and backups.

Everything goes in small batches, each a transaction of its own with a pause after it, so that what runs is not kept
waiting. Never touched: runs that have not ended, runs with an open dead letter, runs that an Idempotency-Key must still
name, and what keeps a slot or a delivery from starting a second run.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple

from taskforge.config.home_files import (
    OLD_LOG,
    backup_path,
    home_bytes,
    list_backups,
    remove_file,
)
from taskforge.core.clock import Clock, to_rfc3339
from taskforge.core.errors import Conflict, StartupError, TaskForgeError, Unavailable
from taskforge.core.record import dataclass
from taskforge.core.states import RUN_TERMINAL
from taskforge.observe.logs import get_logger
from taskforge.security.fingerprint import key_fingerprints
from taskforge.store.protocol import Stats, Store

log = get_logger("upkeep")

IDEMPOTENCY_KEPT_MS: Final = 7 * 86_400_000
"""How long an Idempotency-Key names its run."""

_RUNS_AT_ONCE: Final = 50
_PAGES_AT_ONCE: Final = 128
_PAGES_KEPT: Final = 2_048
"""Free pages left for new rows; above the byte budget none are."""

_EVERYTHING: Final = "*"
_DATABASE_FILES: Final = ("taskforge.db", "taskforge.db-wal", "taskforge.db-shm")

_CALL_S: Final = 20.0
"""How long one call of a person works; the rest is for the next."""


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    """What is kept; None where there is no limit. `home_bytes`: database, backups and `serve.log`
    together."""

    runs_ms: int | None = None
    runs: int | None = None
    home_bytes: int | None = None
    backups: int | None = None


class Pruned(NamedTuple):
    """What was let go of. `freed_bytes`: what the database and the files of the home are smaller by. `more`: there is
    some left for another call."""

    runs: int
    freed_bytes: int
    more: bool = False


class Vacuumed(NamedTuple):
    """`free_bytes`: what is still to be given back."""

    before_bytes: int
    after_bytes: int
    free_bytes: int


class BackupMade(NamedTuple):
    path: Path
    size: int
    taken_at: int


class Upkeep:
    """`sweep` looks at every limit; `prune`, `vacuum` and `back_up` are what a person asks for. One at a time, but for
    backups. `others` lets go of what else is old: deliveries, decisions on slots, the audit log."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        home: Path,
        limits: RetentionLimits,
        others: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._home = home
        self._limits = limits
        self._busy = asyncio.Lock()
        self._backing_up = False
        self._others = others
        self.runs = 0
        self.freed_bytes = 0
        self.swept_at: int | None = None
        """What this process has let go of so far, and when it last looked."""

    async def sweep(self) -> None:
        """Let go of what is beyond a limit; of nothing while everything is held, as it is after a restore: a person
        looks at it then. A store that takes nothing now is tried again the next time."""
        if self._busy.locked():
            return
        async with self._busy:
            try:
                if _EVERYTHING in await self._store.list_holds():
                    return
                if self._others is not None:
                    await self._others()
                await self._sweep()
            except TaskForgeError as error:
                log.warning("retention_failed", error=error.message)

    async def prune(self, older_than_ms: int, *, dry_run: bool = False) -> Pruned:
        """Delete runs that ended before then, or only count them."""
        before = self._clock.now() - older_than_ms
        if dry_run:
            return Pruned(await self._store.count_ended(before, self._keyed_before()), 0)
        async with self._busy:
            start = await self._db_bytes()
            until = self._clock.monotonic() + _CALL_S
            runs = await self._prune_runs(before, until=until)
            await self._give_back(_PAGES_KEPT, until)
            more = self._clock.monotonic() >= until
            return self._note(runs, start - await self._db_bytes())._replace(more=more)

    async def vacuum(self) -> Vacuumed:
        """Give the database's free pages back to the disk, for at most 20 s."""
        async with self._busy:
            before = (await self._store.stats(self._clock.now())).db_bytes
            await self._give_back(0, until=self._clock.monotonic() + _CALL_S)
            stats = await self._store.stats(self._clock.now())
            self._note(0, before - stats.db_bytes)
            return Vacuumed(before, stats.db_bytes, stats.free_bytes)

    async def back_up(self) -> BackupMade:
        """Copy the database into the home's `backups/`. Raises Conflict while another copy is being made."""
        if self._backing_up:
            raise Conflict("a backup is being made; wait for it")
        self._backing_up = True
        try:
            taken_at = self._clock.wall()
            path = backup_path(self._home, to_rfc3339(taken_at))
            try:
                size = await self._store.back_up(path, taken_at, key_fingerprints(self._home)[0])
            except StartupError as error:
                raise Unavailable(error.message) from None
            log.info("backup_made", path=str(path), bytes=size)
            return BackupMade(path, size, taken_at)
        finally:
            self._backing_up = False

    def add_stats(self, stats: Stats) -> Stats:
        """Complete the store's counts."""
        stats.pruned_runs, stats.freed_bytes, stats.swept_at = self.runs, self.freed_bytes, self.swept_at
        return stats

    # ---- the limits

    async def _sweep(self) -> None:
        limits = self._limits
        start = await self._total()
        runs = 0
        if limits.backups is not None:
            for path in list_backups(self._home)[: -limits.backups]:
                self._remove_backup(path, "more than [retention] backups")
        if limits.runs_ms is not None:
            runs += await self._prune_runs(self._clock.now() - limits.runs_ms)
        if limits.runs is not None:
            runs += await self._prune_to_number(limits.runs)
        if limits.home_bytes is not None:
            runs += await self._prune_to_bytes(limits.home_bytes)
        if runs:
            await self._give_back(_PAGES_KEPT)
        self.swept_at = self._clock.now()
        total = await self._total()
        freed = self._note(runs, start - total).freed_bytes
        if runs or freed > 0:
            log.info("pruned", runs=runs, freed_bytes=freed, home_bytes=total)

    async def _prune_runs(self, ended_before: int, most: int | None = None, until: float = math.inf) -> int:
        deleted = 0
        while (most is None or deleted < most) and self._clock.monotonic() < until:
            limit = _RUNS_AT_ONCE if most is None else min(_RUNS_AT_ONCE, most - deleted)
            begun = self._clock.monotonic()
            found = await self._store.prune_runs(ended_before, limit, self._keyed_before())
            deleted += found
            if found == 0:
                break
            await self._pause(begun)
        return deleted

    async def _prune_to_number(self, most: int) -> int:
        counts = (await self._store.stats(self._clock.now())).runs
        excess = sum(counts.get(state, 0) for state in RUN_TERMINAL) - most
        return await self._prune_runs(self._clock.now(), excess) if excess > 0 else 0

    async def _prune_to_bytes(self, most: int) -> int:
        """Old log, free pages, old backups but the newest, then runs, oldest first, until the home is within its
        bytes."""
        if await self._total() <= most:
            return 0
        remove_file(self._home / OLD_LOG)
        if await self._total() > most:
            await self._give_back(0)
        for path in list_backups(self._home)[:-1]:
            if await self._total() <= most:
                return 0
            self._remove_backup(path, "the home is above [retention] home_mib")
        runs = 0
        while await self._used() > most:
            found = await self._prune_runs(self._clock.now(), _RUNS_AT_ONCE)
            if found == 0:
                break
            runs += found
        await self._give_back(0)
        total = await self._total()
        if total > most:
            log.warning("home_over_budget", home_bytes=total, limit_bytes=most, database_bytes=await self._db_bytes())
        return runs

    async def _give_back(self, keep: int, until: float = math.inf) -> None:
        while self._clock.monotonic() < until:
            begun = self._clock.monotonic()
            if await self._store.free_pages(_PAGES_AT_ONCE, keep) <= keep:
                return
            await self._pause(begun)

    async def _pause(self, begun: float) -> None:
        """Leave the writer to others for as long as it was used."""
        await asyncio.sleep(min(0.5, self._clock.monotonic() - begun))

    def _remove_backup(self, path: Path, why: str) -> None:
        if remove_file(path):
            log.info("backup_removed", path=str(path), reason=why)

    # ---- sizes

    async def _total(self) -> int:
        """Bytes of the home, with the database as large as it is once its log is taken in. The log itself comes and
        goes, and is bounded; deleting makes it larger at first."""
        stats = await self._store.stats(self._clock.now())
        return stats.db_bytes + await asyncio.to_thread(home_bytes, self._home, _DATABASE_FILES)

    async def _used(self) -> int:
        """The same without what is free in the database."""
        return await self._total() - (await self._store.stats(self._clock.now())).free_bytes

    async def _db_bytes(self) -> int:
        return (await self._store.stats(self._clock.now())).db_bytes

    def _keyed_before(self) -> int:
        return self._clock.now() - IDEMPOTENCY_KEPT_MS

    def _note(self, runs: int, freed: int) -> Pruned:
        self.runs += runs
        self.freed_bytes += max(0, freed)
        return Pruned(runs, max(0, freed))


class DataCalls:
    """What people ask for of the database itself: part of `engine.service.Service`."""

    _upkeep: Upkeep

    async def back_up(self) -> BackupMade:
        """Copy the database into the home's `backups/`. Raises Conflict while another copy is being made."""
        return await self._upkeep.back_up()

    async def prune(self, older_than_ms: int, dry_run: bool) -> Pruned:
        """Delete runs that ended longer ago than this, or count them."""
        return await self._upkeep.prune(older_than_ms, dry_run=dry_run)

    async def vacuum(self) -> Vacuumed:
        """Give free space of the database back to the disk."""
        return await self._upkeep.vacuum()
