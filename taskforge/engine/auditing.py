"""The audit log as people read it, and its retention."""

from __future__ import annotations

from taskforge.core.clock import Clock
from taskforge.core.errors import Unavailable
from taskforge.observe.logs import get_logger
from taskforge.store.audit import AuditFilter, AuditRow
from taskforge.store.protocol import Store

log = get_logger("audit")

_BATCH = 500


class AuditCalls:
    """Part of `engine.service.Service`."""

    _store: Store

    async def list_audit(self, chosen: AuditFilter) -> list[AuditRow]:
        return await self._store.list_audit(chosen)

    async def add_audit(self, row: AuditRow) -> None:
        """Store an entry by itself."""
        await self._store.add_audit(row)


async def prune_audit(store: Store, clock: Clock, keep_ms: int) -> None:
    """Delete entries that are older than they are kept."""
    try:
        while await store.prune_audit(clock.now() - keep_ms, _BATCH) >= _BATCH:
            pass
    except Unavailable as error:
        log.warning("audit_not_pruned", error=error.message)
