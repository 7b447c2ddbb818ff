"""What a cron expression would do, before it is stored anywhere."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from taskforge.api.call import Call, json_response
from taskforge.core.errors import InvalidRequest
from taskforge.core.problem import Problem
from taskforge.triggers.cron_fields import CronError
from taskforge.triggers.forecast import list_next
from taskforge.triggers.schedule import parse_schedule, parse_time

_COUNT = 10


async def preview_schedule(call: Call) -> Response:
    """The next times of a cron expression. Rare ones take a while to find, so another thread looks for them."""
    members = call.members
    try:
        schedule = parse_schedule({key: members[key] for key in ("cron", "timezone", "jitter") if key in members})
    except CronError as error:
        problem = Problem(error.key, error.message, column=error.column, hint=error.hint)
        raise InvalidRequest(f"{error.key}: {error.message}", problems=[problem]) from None
    begin = call.context.clock.wall()
    if members.get("from") is not None:
        try:
            begin = parse_time(members["from"], schedule.zone)
        except ValueError as error:
            raise InvalidRequest(f"from: {error}", problems=[Problem("from", str(error))]) from None
    items = await asyncio.to_thread(list_next, schedule.anchored(begin), begin, members.get("count", _COUNT))
    return json_response({"items": items, "remarks": list(schedule.remarks)})
