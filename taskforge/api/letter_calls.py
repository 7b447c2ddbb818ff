"""Dead letters: steps that have used up their attempts, kept until someone retries or discards them."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from taskforge.api.access import chosen_workflows
from taskforge.api.call import Call, json_response
from taskforge.api.paging import fetch_each, page
from taskforge.api.query import DEAD_LETTERS
from taskforge.api.schemas import dead_letter_shape, run_shape


async def list_dead_letters(call: Call) -> Response:
    """Dead letters, newest first."""
    state, workflows = call.asked.get("state"), chosen_workflows(call)

    async def fetch(cursor: Any, limit: int) -> list[Any]:
        async def of(workflow: str | None) -> list[Any]:
            return await call.service.list_dead_letters(state, cursor, limit, workflow)

        return await fetch_each(workflows, of, lambda row: row.id, limit)

    return await page(call, DEAD_LETTERS, fetch, lambda row: row.id, dead_letter_shape)


async def get_dead_letter(call: Call) -> Response:
    """One dead letter, with the input and the error of its step."""
    return json_response(dead_letter_shape(await call.service.get_dead_letter(call.params["id"])))


async def retry_dead_letter(call: Call) -> Response:
    """Take the letter's run up at the steps that failed."""
    return json_response(run_shape(await call.service.retry_dead_letter(call.params["id"])), 202)


async def discard_dead_letter(call: Call) -> Response:
    """Close a dead letter without a retry. The row stays, as DISCARDED."""
    return json_response(dead_letter_shape(await call.service.discard_dead_letter(call.params["id"])))
