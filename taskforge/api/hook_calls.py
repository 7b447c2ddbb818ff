"""The public hooks: whoever knows a hook's secret starts its runs. Each delivery is on disk before it is answered."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import orjson
from starlette.responses import Response

from taskforge.api.access import require
from taskforge.api.body import read_body
from taskforge.api.call import Call, json_response
from taskforge.api.problems import problem_response
from taskforge.api.run_calls import wait_for_end
from taskforge.core.errors import MalformedRequest, MethodNotAllowed, RespondFailed, TooLarge
from taskforge.engine.triggers import Reply
from taskforge.engine.webhooks import Arrival, Received
from taskforge.store.triggered import Delivered

_MAX_PARAMS = 1_000


async def receive_delivery(call: Call) -> Response:
    """Take a delivery: any body, signed as the trigger says. A sender's retry with the same delivery id gives the first
    run."""
    method = call.scope["method"]
    if method == "HEAD":
        raise MethodNotAllowed("hooks take no HEAD", detail={"allow": "POST"})
    limit = call.context.settings.limits.webhook_bytes
    body = await read_body(call, limit=limit, setting="[limits] webhook_bytes")
    arrival = Arrival(
        method,
        [(name.decode("latin-1"), value.decode("latin-1")) for name, value in call.scope["headers"]],
        _query(call.scope["query_string"]),
        body,
    )
    return await _answer(
        call, await call.service.receive_delivery(call.params["workflow"], call.params["trigger"], arrival)
    )


async def send_delivery(call: Call) -> Response:
    """Send a delivery to a trigger, signed here with the trigger's own newest secret.

    Answers what its sender would have been answered.
    """
    members = call.members
    require(call, members["workflow"])
    body: bytes = members.get("body_b64", b"")
    limit = call.context.settings.limits.webhook_bytes
    if len(body) > limit:
        raise TooLarge(f"the body has {len(body)} bytes; the limit is {limit} ([limits] webhook_bytes)")
    headers = [(name.lower(), value) for name, value in members.get("headers", ())]
    arrival = Arrival(members.get("method", "POST"), headers, members.get("query", ()), body)
    received = await call.service.send_delivery(
        members["workflow"], members["trigger"], arrival, members.get("delivery_id")
    )
    try:
        answer = await _answer(call, received)
    except RespondFailed as failed:
        answer = problem_response(failed)
    return json_response({"status": answer.status_code, "body": _body_of(answer)}, 200)


def _body_of(answer: Response) -> Any:
    content = bytes(answer.body)
    if (answer.headers.get("content-type") or "").endswith("json"):
        return orjson.Fragment(content)
    return content.decode("utf-8", "replace")


async def _answer(call: Call, received: Received) -> Response:
    """What a sender is answered: a challenge, the run's own answer, or where the run is."""
    if received.challenge is not None:
        return Response(received.challenge, 200, None, "text/plain; charset=utf-8")
    assert received.delivered is not None
    if received.respond_ms and received.delivered.run is not None:
        reply = await _wait_for_reply(call, received.delivered, received.trigger, received.respond_ms)
        if reply is not None:
            return Response(reply.content, reply.status, reply.headers, reply.media)
    return delivered_response(received.delivered)


async def _wait_for_reply(call: Call, delivered: Delivered, trigger: str, wait_ms: int) -> Reply | None:
    assert delivered.run is not None
    await wait_for_end(call, delivered.run.id, wait_ms)
    return await call.service.find_reply(delivered.run.key, trigger)


def delivered_response(delivered: Delivered) -> Response:
    """202 for a new run, 200 for a duplicate's, 200 for a delivery that was filtered out."""
    run = delivered.run
    if run is None:
        return json_response({"delivery": delivered.id, "state": delivered.state}, 200)
    shape = {"id": run.id, "number": run.number, "delivery": delivered.id}
    return json_response(shape, 200 if delivered.state == "DUPLICATE" else 202, f"/v1/runs/{run.id}")


def _query(query: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_PARAMS)
    except ValueError:
        raise MalformedRequest(f"the query string has more than {_MAX_PARAMS} parameters") from None
