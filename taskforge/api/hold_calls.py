"""Holding everything back, for maintenance."""

from __future__ import annotations

from starlette.responses import Response

from taskforge.api.call import Call, json_response
from taskforge.api.schemas import hold_shape


async def get_hold(call: Call) -> Response:
    """Whether everything is held back, and which workflows are by themselves."""
    return json_response(hold_shape(await call.service.list_holds()))


async def set_hold(call: Call) -> Response:
    """Hold everything back: no attempt begins, what runs now ends, new runs are accepted and wait. Or let it go on."""
    await call.service.set_hold(None, call.members["held"])
    return json_response(hold_shape(await call.service.list_holds()))
