"""The audit log: who has changed what."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response

from taskforge.api.call import Call
from taskforge.api.paging import page
from taskforge.api.query import AUDIT
from taskforge.core.clock import to_rfc3339
from taskforge.store.audit import AuditFilter, AuditRow


async def list_audit(call: Call) -> Response:
    """Changes made through the API, newest first."""
    asked = call.asked

    async def fetch(cursor: Any, limit: int) -> list[AuditRow]:
        names = ("since", "until", "actor", "action", "target")
        chosen = AuditFilter(**{name: asked.get(name) for name in names}, cursor=cursor, limit=limit)
        return await call.service.list_audit(chosen)

    return await page(call, AUDIT, fetch, lambda row: row.id, _shape)


def _shape(row: AuditRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "at": to_rfc3339(row.at),
        "actor": row.actor,
        "token": row.token,
        "action": row.action,
        "target": row.target,
        "outcome": row.outcome,
        "address": row.address,
        "detail": orjson.Fragment(row.detail),
    }
