"""Workflows and their versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from taskforge.core.errors import NotFound, WorkflowsMoved
from taskforge.store.protocol import AppliedWorkflows, LiveRuns, NewVersion, Published, VersionRow, WorkflowRow
from taskforge.store.sqlite.connection import Session
from taskforge.store.sqlite.schedules import end_schedules, sync_triggers
from taskforge.store.triggered import TriggerSpec


def publish_workflow(
    session: Session,
    name: str,
    document: str,
    source: str,
    media: str,
    description: str | None,
    now: int,
    triggers: Sequence[TriggerSpec],
) -> Published:
    found = session.row("publish_workflow_find", (name,))
    if found is None:
        session.write("publish_workflow_insert", (name, description, now))
        session.write("publish_workflow_version", (name, 1, media, now, document, source))
        sync_triggers(session, name, triggers, enabled=True)
        return Published(name, 1, changed=True, created=True)
    version, deleted_at, newest = found
    if newest == document:
        if deleted_at is None:
            return Published(name, version, changed=False, created=False)
        session.write("publish_workflow_update", (name, version, description, now))
        sync_triggers(session, name, triggers, enabled=True)
        return Published(name, version, changed=True, created=True)
    session.write("publish_workflow_version", (name, version + 1, media, now, document, source))
    session.write("publish_workflow_update", (name, version + 1, description, now))
    enabled = session.rows("set_enabled_before", (name,))[0][0]
    sync_triggers(session, name, triggers, enabled=bool(enabled))
    return Published(name, version + 1, changed=True, created=deleted_at is not None)


def set_enabled(session: Session, name: str, enabled: bool, now: int, triggers: Sequence[TriggerSpec]) -> WorkflowRow:
    before = session.row("set_enabled_before", (name,))
    if before is None:
        _no_workflow(name)
    row = session.rows("set_enabled", (name, enabled, now))[0]
    if not enabled:
        end_schedules(session, name)
    elif not before[0]:
        sync_triggers(session, name, triggers, enabled=True, anew=True)
    return _workflow(row)


def delete_workflow(session: Session, name: str, now: int) -> None:
    if not session.write("delete_workflow", (name, now)):
        _no_workflow(name)
    sync_triggers(session, name, (), enabled=False)


def apply_workflows(
    session: Session, versions: Sequence[NewVersion], deleted: Sequence[str], expected: Mapping[str, int], now: int
) -> AppliedWorkflows:
    moved = []
    for name, version in expected.items():
        row = session.row("get_workflow", (name,))
        found = 0 if row is None else _workflow(row).version
        if found != version:
            moved.append({"name": name, "expected": version, "version": found})
    if moved:
        raise WorkflowsMoved.of(moved)
    gone = [name for name in deleted if session.write("delete_workflow", (name, now))]
    for name in gone:
        sync_triggers(session, name, (), enabled=False)
    published = [
        publish_workflow(session, new.name, new.document, new.source, new.media, new.description, now, new.triggers)
        for new in versions
    ]
    return AppliedWorkflows(published, gone)


def get_workflow(session: Session, name: str) -> WorkflowRow:
    row = session.row("get_workflow", (name,))
    return _workflow(row) if row is not None else _no_workflow(name)


def list_workflows(session: Session, cursor: str | None, limit: int) -> list[WorkflowRow]:
    return [_workflow(row) for row in session.rows("list_workflows", (cursor or "", limit))]


def get_version(session: Session, name: str, version: int) -> VersionRow:
    row = session.row("get_version", (name, version))
    if row is None:
        raise NotFound(f"workflow {name} has no version {version}")
    return VersionRow._make(row)


def list_versions(session: Session, name: str, cursor: int | None, limit: int) -> list[VersionRow]:
    after = 2**62 if cursor is None else cursor
    return [VersionRow._make(row) for row in session.rows("list_versions", (name, after, limit))]


def list_newest_versions(session: Session, cursor: str | None, limit: int) -> list[VersionRow]:
    return [VersionRow._make(row) for row in session.rows("list_newest_versions", (cursor or "", limit))]


def count_live_runs(session: Session) -> list[LiveRuns]:
    return [LiveRuns._make(row) for row in session.rows("count_live_runs", ())]


def _workflow(row: tuple[Any, ...]) -> WorkflowRow:
    name, version, enabled, deleted, description, created_at, updated_at = row
    return WorkflowRow(name, version, bool(enabled), bool(deleted), description, created_at, updated_at)


def _no_workflow(name: str) -> NoReturn:
    raise NotFound(f"there is no workflow {name}")
