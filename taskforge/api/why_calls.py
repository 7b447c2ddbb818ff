"""Why: the decisions of a run from its journal, and what holds it now."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from taskforge.api.call import Call, JsonResponse
from taskforge.api.journal_shapes import BEGINNING, Place, raw_entries_after
from taskforge.api.query import DEFAULT_LIMIT, WHY, encode_cursor
from taskforge.core.clock import to_rfc3339
from taskforge.core.jsontext import dump_bytes
from taskforge.core.reasons import Reason, past_reason

_ROWS = 200
_MOST_PRESENT = 500


async def explain_run(call: Call) -> Response:
    """Why steps were skipped or retried, and what the run waits for: oldest first, what holds now at the end.

    A schedule's run begins with what was decided on its slot, and on those left out before it.
    """
    limit: int = call.asked.get("limit", DEFAULT_LIMIT)
    step: str | None = call.asked.get("step")
    cursor: int | None = call.asked.get("cursor")
    row, present = await call.service.explain_run(call.params["run"], step)
    place = BEGINNING if cursor is None else Place.from_number(cursor)
    found, last = await _past(call, row.id, step, place, limit + 1)
    shown = found[:limit]
    following = None
    if len(found) > limit:
        following = encode_cursor(WHY, shown[-1][0].to_number())
    else:
        now = {_subject(reason) for reason in present}
        shown = [(here, reason) for here, reason in shown if _subject(reason) not in now]
        shown += [(last, reason) for reason in present[:_MOST_PRESENT]]
    begun = await call.service.explain_slot(row) if cursor is None and step is None else []
    body = {
        "id": row.id,
        "number": row.number,
        "workflow": row.workflow,
        "state": row.record.state,
        "items": [_shape(reason) for reason in (*begun, *(reason for _, reason in shown))],
        "next_cursor": following,
    }
    return JsonResponse(dump_bytes(body), 200)


async def _past(
    call: Call, run_id: str, step: str | None, place: Place, limit: int
) -> tuple[list[tuple[Place, Reason]], Place]:
    """The next decisions of the journal, and how far it was read."""
    found: list[tuple[Place, Reason]] = []
    while True:
        rows = await call.service.list_journal(run_id, max(place.row - 1, 0), _ROWS)
        entries = list(raw_entries_after(rows, place))
        for here, at, entry in entries:
            place = here
            reason = past_reason(entry, at)
            if reason is not None and step in (None, reason.step):
                found.append((here, reason))
                if len(found) == limit:
                    return found, place
        if len(rows) < _ROWS:
            return found, place


def _subject(reason: Reason) -> tuple[str, str | None, int | None]:
    """What holds now need not be told a second time as what was decided."""
    return reason.code, reason.step, reason.until


def _shape(reason: Reason) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "at": to_rfc3339(reason.since),
        "code": reason.code,
        "message": reason.words,
        "current": reason.current,
        "step": reason.step,
        "attempt": reason.attempt,
        "generation": reason.generation,
        "until": None if reason.until is None else to_rfc3339(reason.until),
        "signal": reason.signal,
        "holder": reason.holder,
        "error": reason.error,
    }
    return {key: value for key, value in shape.items() if value is not None}
