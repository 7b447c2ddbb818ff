"""A workflow's state: small values that outlive its runs, as `$state` sees them."""

from __future__ import annotations

import orjson
from starlette.responses import Response

from taskforge.api.call import Call, json_response
from taskforge.api.members import STATE_KEY
from taskforge.core.errors import InvalidRequest, NotFound
from taskforge.core.problem import Problem, quoted


async def get_state(call: Call) -> Response:
    """All values by key."""
    name = call.params["name"]
    texts = await call.service.get_state(name)
    return json_response({"workflow": name, "state": {key: orjson.Fragment(text) for key, text in texts.items()}})


async def set_state(call: Call) -> Response:
    """Store a value; with `expected`, only where that is the value now (409 otherwise)."""
    key, members = _key(call), call.members
    expected, compare = members.get("expected"), "expected" in members
    text = await call.service.set_state(call.params["name"], key, members["value"], expected, compare=compare)
    return json_response({"key": key, "value": None if text is None else orjson.Fragment(text)})


async def delete_state(call: Call) -> Response:
    """Remove a value."""
    name, key = call.params["name"], _key(call)
    if key not in await call.service.get_state(name):
        raise NotFound(f"the state of workflow {quoted(name)} has no key {quoted(key)}")
    await call.service.set_state(name, key, None, None, compare=False)
    return Response(status_code=204)


def _key(call: Call) -> str:
    key = call.params["key"]
    if STATE_KEY.fullmatch(key) is None:
        message = "a key of the state has at most 200 characters, no / and no control characters"
        raise InvalidRequest(f"{quoted(key)} is no key: {message}", problems=[Problem("key", message)])
    return key
