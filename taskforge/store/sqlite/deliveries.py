"""The inbox of webhook deliveries, and the ends of runs that other workflows wait for."""

from __future__ import annotations

from typing import Any, Final

from taskforge.core.errors import NotFound
from taskforge.core.snapshot import Changes
from taskforge.store.sqlite.connection import Session
from taskforge.store.sqlite.large import INPUT, TRIGGER, Encoded, store_large
from taskforge.store.sqlite.runs import start_run
from taskforge.store.triggered import (
    Delivered,
    DeliveryFilter,
    DeliveryPage,
    DeliveryRow,
    EndRow,
    NewDelivery,
    NewRun,
    Start,
    StartedRun,
)

SEARCHED: Final = 5_000
"""Most deliveries that one search looks at; it goes on from there."""


def accept_delivery(session: Session, new: NewDelivery, start: Start | None, large: Encoded | None) -> Delivered:
    if new.dedupe is not None:
        row = session.row("accept_delivery_earlier", (new.workflow, new.trigger, new.dedupe))
        if row is not None:
            earlier, run_id, run_key, number, state = row
            run = StartedRun(run_id, run_key, number, state or "", created=False)
            return _store(session, new, "DUPLICATE", run, earlier)
    if start is None:
        return _store(session, new, new.state, None, None)
    replaced = None if new.debounce is None else _replace_pending(session, new, *start, large)
    run = replaced or start_run(session, *start, large)
    return _store(session, new, new.state, run, None)


def _replace_pending(
    session: Session, delivery: NewDelivery, new: NewRun, changes: Changes, large: Encoded | None
) -> StartedRun | None:
    """Give the run that waits for the end of a burst, if there is one, what the newest delivery says."""
    row = session.row(
        "accept_delivery_pending", (delivery.workflow, delivery.trigger, delivery.debounce, new.created_at)
    )
    if row is None:
        return None
    key, id, number = row
    kept = {place: value for place, value in (large or {}).items() if place in (("", "input"), ("", "trigger"))}
    mask = (INPUT if ("", "input") in kept else 0) | (TRIGGER if ("", "trigger") in kept else 0)
    input, trigger = None if mask & INPUT else new.input, None if mask & TRIGGER else new.trigger
    session.write("accept_delivery_forget_large", (key,))
    session.write(
        "accept_delivery_replace",
        (key, new.version, input, trigger, mask, new.start_at, changes.run.due_at, new.priority),
    )
    if kept:
        store_large(session, key, kept)
    return StartedRun(id, key, number, changes.run.state, created=False, due_at=changes.run.due_at)


def _store(session: Session, new: NewDelivery, state: str, run: StartedRun | None, earlier: str | None) -> Delivered:
    key, run_id, number = (None, None, None) if run is None else (run.key, run.id, run.number)
    session.write(
        "accept_delivery_insert",
        (
            new.id, new.workflow, new.trigger, new.version, state, new.received_at, new.method, new.dedupe,
            new.debounce, key, run_id, number, earlier, new.replay_of, None if run else new.error, len(new.body),
            new.query, new.headers, new.body,
        ),
    )  # fmt: skip
    session.add("delivery", state, 1)
    session.add("inbox", "BYTES", len(new.body))
    return Delivered(new.id, state, run)


def find_delivery(session: Session, workflow: str, trigger: str, dedupe: str) -> DeliveryRow | None:
    row = session.row("find_delivery", (workflow, trigger, dedupe))
    return None if row is None else _delivery(row)


def get_delivery(session: Session, id: str) -> DeliveryRow:
    row = session.row("get_delivery", (id,))
    if row is None:
        raise NotFound(f"there is no delivery {id}")
    return _delivery(row)


def find_delivery_body(session: Session, id: str) -> bytes | None:
    row = session.row("find_delivery_body", (id,))
    return None if row is None else row[0]


def list_deliveries(session: Session, chosen: DeliveryFilter) -> DeliveryPage:
    lowest, highest = session.rows("list_deliveries_bounds")[0]
    if lowest is None:
        return DeliveryPage([], None)
    top = min(highest + 1, 2**62 if chosen.cursor is None else chosen.cursor)
    bottom = lowest if chosen.text is None else max(lowest, top - SEARCHED)
    # As SQLite's lower() does: ASCII letters only.
    text = None if chosen.text is None else chosen.text.encode().lower().decode()
    bindings: tuple[Any, ...] = (top, bottom, chosen.trigger, chosen.state, text, chosen.limit + 1)
    if chosen.workflow is None:
        rows = session.rows("list_deliveries", bindings)
    else:
        rows = session.rows("list_deliveries_of_workflow", (*bindings, chosen.workflow))
    items = [_delivery(row) for row in rows[: chosen.limit]]
    if len(rows) > chosen.limit:
        return DeliveryPage(items, items[-1].key)
    return DeliveryPage(items, bottom if bottom > lowest else None)


def prune_deliveries(session: Session, before: int, keep_bytes: int, limit: int) -> int:
    changed = 0
    for key, state, received_at, has_body, size in session.rows("prune_deliveries_oldest", (limit,)):
        if received_at >= before:
            break
        session.write("prune_deliveries_delete", (key,))
        session.add("delivery", state, -1)
        if has_body:
            session.add("inbox", "BYTES", -size)
        changed += 1
    kept = session.row("prune_deliveries_bytes")
    left = (0 if kept is None else kept[0]) + session.counts.get(("inbox", "BYTES"), 0) - keep_bytes
    if left > 0 and changed < limit:
        for key, size in session.rows("prune_deliveries_bodies", (limit - changed,)):
            if left <= 0:
                break
            session.write("prune_deliveries_forget", (key,))
            session.add("inbox", "BYTES", -size)
            left -= size
            changed += 1
    return changed


def count_queued(session: Session) -> int:
    row = session.row("count_queued")
    return 0 if row is None else int(row[0])


def list_sources(session: Session) -> set[str]:
    return {source for (source,) in session.rows("list_sources")}


def list_ends(session: Session, run: int | None, limit: int) -> list[EndRow]:
    rows = session.rows("list_ends", (limit,)) if run is None else session.rows("list_ends_of_run", (run, limit))
    return [EndRow._make(row) for row in rows]


def start_on_end(session: Session, end: EndRow, start: Start | None, large: Encoded | None) -> StartedRun | None:
    if not session.write("start_on_end_take", (end.run, end.workflow, end.trigger, end.generation)) or start is None:
        return None
    return start_run(session, *start, large)


def _delivery(row: tuple[Any, ...]) -> DeliveryRow:
    return DeliveryRow._make(row)._replace(has_body=bool(row[11]))
