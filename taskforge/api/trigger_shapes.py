"""Wire shapes of deliveries and schedules."""

from __future__ import annotations

import base64
from collections.abc import Collection
from typing import Any

import orjson

from taskforge.core.clock import to_rfc3339
from taskforge.core.jsontext import loads
from taskforge.engine.triggers import ScheduleView
from taskforge.store.triggered import DeliveryRow, SlotRow


def _time(ms: int | None) -> str | None:
    return None if ms is None else to_rfc3339(ms)


def _json(text: str | None) -> orjson.Fragment | None:
    return None if text is None else orjson.Fragment(text)


def delivery_shape(row: DeliveryRow) -> dict[str, Any]:
    """A delivery without its body, as in lists. Headers and query are lists of pairs, in the order of the request."""
    return {
        "id": row.id,
        "workflow": row.workflow,
        "trigger": row.trigger,
        "version": row.version,
        "state": row.state,
        "received_at": to_rfc3339(row.received_at),
        "method": row.method,
        "query": _json(row.query),
        "headers": _json(row.headers),
        "body_bytes": row.body_bytes,
        "dedupe_key": row.dedupe,
        "run": None if row.run_id is None else {"id": row.run_id, "number": row.run_number},
        "duplicate_of": row.earlier,
        "replay_of": row.replay_of,
        "error": _json(row.error),
    }


def delivery_detail(row: DeliveryRow, body: bytes | None) -> dict[str, Any]:
    """With the body: `body` is its text (null where it is no UTF-8), `body_b64` its bytes; both null if it is gone."""
    text = None
    if body is not None:
        try:
            text = body.decode()
        except UnicodeDecodeError:
            text = None
    encoded = None if body is None else base64.b64encode(body).decode()
    return {**delivery_shape(row), "body": text, "body_b64": encoded}


def schedule_shape(view: ScheduleView, held: Collection[str]) -> dict[str, Any]:
    """A schedule. `next_slot` is the next time by the plan, `next_at` when it fires, with jitter."""
    row, config = view.row, view.config
    return {
        "workflow": row.workflow,
        "trigger": row.trigger,
        "cron": config.get("cron"),
        "at": config.get("at"),
        "timezone": config.get("timezone", "UTC"),
        "catch_up": config.get("catch_up", "latest"),
        "enabled": row.active,
        "held": row.workflow in held or "*" in held,
        "next_slot": _time(view.next_slot),
        "next_at": _time(row.next_at),
        "last_slot": _time(row.last_slot),
        "missed": row.missed,
        "overdue": view.overdue_ms > 0,
        "overdue_s": view.overdue_ms / 1000,
        "decisions": [_slot_shape(slot) for slot in view.slots],
    }


def _slot_shape(slot: SlotRow) -> dict[str, Any]:
    return {
        "slot": to_rfc3339(slot.slot),
        "until": to_rfc3339(slot.until),
        "slots": slot.covers,
        "at_least": slot.more,
        "code": slot.code,
        "at": to_rfc3339(slot.at),
        "run": slot.run,
        "error": None if slot.error is None else loads(slot.error),
    }
