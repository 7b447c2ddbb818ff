"""Server-sent events and log lines, both made from the journal: what was committed, in the order of commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.responses import Response, StreamingResponse

from taskforge.api.access import chosen_workflows
from taskforge.api.call import Call, JsonResponse
from taskforge.api.journal_shapes import BEGINNING, Entry, Place, entries_after, log_line, parse_place
from taskforge.api.query import DEFAULT_LIMIT, LOGS, encode_cursor
from taskforge.core.errors import InvalidRequest, NotFound, Unauthorized
from taskforge.core.jsontext import dump_bytes, dumps
from taskforge.core.problem import Problem
from taskforge.core.states import RUN_TERMINAL

_ROWS = 200
_KNOWN_RUNS = 10_000
_LOOK_MS = 2_000  # another node's decisions are seen by looking, at the latest after this
_PING_AFTER = 8  # quiet looks until a comment keeps the connection alive


async def stream_run_events(call: Call) -> Response:
    """Every transition of a run as server-sent events, from its first or after `Last-Event-ID`; ends with the run."""
    rows, _, _ = await call.service.get_run(call.params["run"], steps="none")
    return _stream(call, rows.run.id, _last_event(call) or BEGINNING)


async def stream_events(call: Call) -> Response:
    """Every transition of every run that the caller may see, from now on, or after `Last-Event-ID`."""
    place = _last_event(call)
    if place is None:
        newest = await call.service.last_journal_id()
        place = Place(newest, 10**9)
    return _stream(call, None, place)


async def list_logs(call: Call) -> Response:
    """The run's journal as lines for people, oldest first."""
    limit = call.asked.get("limit", DEFAULT_LIMIT)
    cursor: int | None = call.asked.get("cursor")
    place = BEGINNING if cursor is None else Place.from_number(cursor)
    rows, _, _ = await call.service.get_run(call.params["run"], steps="none")
    journal = await call.service.list_journal(rows.run.id, max(place.row - 1, 0), limit + 2)
    found: list[Entry] = []
    for entry in entries_after(journal, place):
        found.append(entry)
        if len(found) > limit:
            break
    shown = found[:limit]
    following = encode_cursor(LOGS, shown[-1].place.to_number()) if len(found) > limit else None
    body = {"items": [log_line(entry) for entry in shown], "next_cursor": following}
    return JsonResponse(dump_bytes(body), 200)


def _last_event(call: Call) -> Place | None:
    raw = call.header(b"last-event-id")
    if not raw:
        return None
    try:
        return parse_place(raw.decode("latin-1").strip())
    except ValueError as error:
        problem = Problem("Last-Event-ID", str(error))
        raise InvalidRequest(f"the header Last-Event-ID is wrong: {error}", problems=[problem]) from None


def _stream(call: Call, run_id: str | None, place: Place) -> Response:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    if call.method == "HEAD":
        return Response(None, 200, headers, "text/event-stream")
    return StreamingResponse(_events(call, run_id, place), 200, headers, "text/event-stream")


async def _events(call: Call, run_id: str | None, place: Place) -> AsyncIterator[bytes]:
    quiet = 0
    workflows = chosen_workflows(call) if run_id is None else None
    known: dict[str, str | None] = {}
    yield b"retry: 2000\n\n"
    while not call.service.stopping:
        # Wait first, read then: what is committed in between wakes us.
        change = asyncio.ensure_future(call.service.wait_change(run_id, _LOOK_MS))
        try:
            ended = run_id is not None and await _has_ended(call, run_id)
            rows = await call.service.list_journal(run_id, max(place.row - 1, 0), _ROWS)
            entries = list(entries_after(rows, place))
            if entries:
                place = entries[-1].place
                shown = entries if workflows is None else await _of_workflows(call, entries, workflows, known)
                if shown:
                    quiet = 0
                    yield b"".join(map(_frame, shown))
            if len(rows) >= _ROWS:
                continue
            if ended:
                yield b"event: end\ndata: {}\n\n"
                return
            await change
        finally:
            change.cancel()
        quiet += 1
        if quiet % _PING_AFTER == 0:
            yield b": still here\n\n"
        if not await _still_admitted(call):
            return


async def _of_workflows(
    call: Call, entries: list[Entry], workflows: tuple[str, ...], known: dict[str, str | None]
) -> list[Entry]:
    """Those entries whose runs are of these workflows. `known` keeps the workflows of runs."""
    found: list[Entry] = []
    for entry in entries:
        run: str = entry.data["run_id"]
        if run not in known:
            if len(known) >= _KNOWN_RUNS:
                known.clear()
            try:
                rows, _, _ = await call.service.get_run(run, steps="none")
                known[run] = rows.run.workflow
            except NotFound:  # it was pruned meanwhile
                known[run] = None
        if known[run] in workflows:
            found.append(entry)
    return found


async def _has_ended(call: Call, run_id: str) -> bool:
    rows, _, _ = await call.service.get_run(run_id, steps="none")
    return rows.run.record.state in RUN_TERMINAL


async def _still_admitted(call: Call) -> bool:
    """A stream ends when its token is revoked or expires."""
    try:
        await call.context.authenticator.authenticate(call.header(b"authorization"))
    except Unauthorized:
        return False
    return True


def _frame(entry: Entry) -> bytes:
    told = log_line(entry)
    data = entry.data | {"level": told["level"], "line": told["message"]}
    # JSON text has no line breaks, so one data line is enough.
    return f"id: {entry.place}\nevent: {entry.kind}\ndata: {dumps(data)}\n\n".encode()
