"""The audit log. Triggers of the schema refuse every change of its rows, and every deletion but that of old ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from taskforge.store.audit import AuditEntry, AuditFilter, AuditRow
from taskforge.store.sqlite.connection import Session

_EVER = 2**62


def add_audit(session: Session, row: AuditRow) -> None:
    session.write("add_audit", row[1:])


def do_recorded(session: Session, entry: AuditEntry, verb: Callable[..., Any], *args: Any) -> Any:
    """Run a verb, and write its entry in the same transaction."""
    result = verb(session, *args)
    row = entry.row(result)
    if row is not None:
        add_audit(session, row)
    return result


def list_audit(session: Session, chosen: AuditFilter) -> list[AuditRow]:
    below = None if chosen.target is None else f"{chosen.target.rstrip('/')}/"
    bindings = (
        _EVER if chosen.cursor is None else chosen.cursor,
        0 if chosen.since is None else chosen.since,
        _EVER if chosen.until is None else chosen.until,
        chosen.actor,
        chosen.action,
        chosen.target,
        below,
        chosen.limit,
    )
    return [AuditRow._make(row) for row in session.rows("list_audit", bindings)]


def prune_audit(session: Session, before: int, limit: int) -> int:
    session.write("prune_audit_kept", (before,))
    return session.write("prune_audit", (before, limit))
