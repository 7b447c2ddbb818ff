"""Lists: `limit` and `cursor` in, `{items, next_cursor}` out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import Response

from taskforge.api.call import Call, json_response
from taskforge.api.query import DEFAULT_LIMIT, CursorKind, encode_cursor

Fetch = Callable[[Any, int], Awaitable[list[Any]]]


async def page(
    call: Call, kind: CursorKind, fetch: Fetch, key: Callable[[Any], str | int], shape: Callable[[Any], dict[str, Any]]
) -> Response:
    """Answer one page. `fetch(cursor, limit)` is asked for one row more, which tells whether another page follows."""
    limit = call.asked.get("limit", DEFAULT_LIMIT)
    rows = await fetch(call.asked.get("cursor"), limit + 1)
    shown = rows[:limit]
    following = encode_cursor(kind, key(shown[-1])) if len(rows) > limit else None
    return json_response({"items": [shape(row) for row in shown], "next_cursor": following})
