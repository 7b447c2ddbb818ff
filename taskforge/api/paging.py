"""Lists: `limit` and `cursor` in, `{items, next_cursor}` out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.responses import Response

from taskforge.api.call import Call, json_response
from taskforge.api.query import DEFAULT_LIMIT, CursorKind, encode_cursor

Fetch = Callable[[Any, int], Awaitable[list[Any]]]
Key = Callable[[Any], Any]


async def fetch_each(
    workflows: Sequence[str] | None,
    fetch: Callable[[str | None], Awaitable[list[Any]]],
    key: Key,
    limit: int,
    *,
    newest_first: bool = True,
) -> list[Any]:
    """The first rows of all workflows, or of these alone (None: of all): each is asked for, and what they give is put
    in one order, that of `key`."""
    if workflows is None:
        return await fetch(None)
    if len(workflows) == 1:
        return await fetch(workflows[0])
    rows = [row for name in workflows for row in await fetch(name)]
    return sorted(rows, key=key, reverse=newest_first)[:limit]


async def page(
    call: Call, kind: CursorKind, fetch: Fetch, key: Callable[[Any], str | int], shape: Callable[[Any], dict[str, Any]]
) -> Response:
    """Answer one page. `fetch(cursor, limit)` is asked for one row more, which tells whether another page follows."""
    limit = call.asked.get("limit", DEFAULT_LIMIT)
    rows = await fetch(call.asked.get("cursor"), limit + 1)
    shown = rows[:limit]
    following = encode_cursor(kind, key(shown[-1])) if len(rows) > limit else None
    return json_response({"items": [shape(row) for row in shown], "next_cursor": following})
