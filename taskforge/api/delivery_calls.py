"""The inbox, and the schedules: what came, what is to come."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from starlette.responses import Response

from taskforge.api.access import chosen_workflows
from taskforge.api.call import Call, json_response
from taskforge.api.hook_calls import delivered_response
from taskforge.api.paging import fetch_each, page
from taskforge.api.query import DEFAULT_LIMIT, DELIVERIES, SCHEDULES, encode_cursor
from taskforge.api.trigger_shapes import delivery_detail, delivery_shape, schedule_shape
from taskforge.store.triggered import DeliveryFilter, DeliveryPage


async def list_deliveries(call: Call) -> Response:
    """Deliveries, newest first, without their bodies. A search for text may answer fewer than there are, and go on with
    `next_cursor`."""
    asked, workflows = call.asked, chosen_workflows(call)
    chosen = DeliveryFilter(
        trigger=asked.get("trigger"),
        state=asked.get("state"),
        text=asked.get("search"),
        cursor=asked.get("cursor"),
        limit=asked.get("limit", DEFAULT_LIMIT),
    )
    found = await _deliveries(call, chosen, workflows)
    following = None if found.following is None else encode_cursor(DELIVERIES, found.following)
    return json_response({"items": [delivery_shape(row) for row in found.items], "next_cursor": following})


async def _deliveries(call: Call, chosen: DeliveryFilter, workflows: tuple[str, ...] | None) -> DeliveryPage:
    """The newest deliveries of these workflows (None: of all) as one page."""
    if workflows is None:
        return await call.service.list_deliveries(chosen)
    pages = [await call.service.list_deliveries(replace(chosen, workflow=name)) for name in workflows]
    if len(pages) == 1:
        return pages[0]
    # Where one list was not read to its end, nothing older than its last row may be told yet.
    horizon = max((found.following for found in pages if found.following is not None), default=None)
    rows = [row for found in pages for row in found.items if horizon is None or row.key >= horizon]
    rows.sort(key=lambda row: row.key, reverse=True)
    shown = rows[: chosen.limit]
    return DeliveryPage(shown, shown[-1].key if len(shown) < len(rows) else horizon)


async def get_delivery(call: Call) -> Response:
    """One delivery with its body, as text where it is text. What is secret stands as `[redacted]`."""
    row, body = await call.service.get_delivery(call.params["id"])
    return json_response(delivery_detail(row, body))


async def replay_delivery(call: Call) -> Response:
    """Take a delivery again: not verified again, and always a new run, on the newest version or another."""
    return delivered_response(await call.service.replay_delivery(call.params["id"], call.members.get("version")))


async def list_schedules(call: Call) -> Response:
    """Every trigger that time fires: its next and last slot, what was missed, and its newest decisions."""
    service = call.service
    held = service.held

    workflows = chosen_workflows(call)

    async def fetch(cursor: Any, limit: int) -> list[Any]:
        async def of(workflow: str | None) -> list[Any]:
            return await service.list_schedules(workflow, cursor or 0, limit)

        return await fetch_each(workflows, of, lambda view: view.row.id, limit, newest_first=False)

    return await page(call, SCHEDULES, fetch, lambda view: view.row.id, lambda view: schedule_shape(view, held))
