"""Tokens: made once, shown once, stored as a hash."""

from __future__ import annotations

from starlette.responses import Response

from taskforge.api.auth import hash_token
from taskforge.api.call import Call, json_response
from taskforge.api.schemas import token_shape
from taskforge.config.home import new_token
from taskforge.core.errors import InvalidRequest
from taskforge.core.jsontext import dumps
from taskforge.core.problem import Problem
from taskforge.store.audit import name_target
from taskforge.store.values import TokenRow


async def list_tokens(call: Call) -> Response:
    """All tokens of the store; the one of the configuration is not among them."""
    rows = await call.service.list_tokens()
    return json_response({"items": [token_shape(row) for row in rows], "next_cursor": None})


async def create_token(call: Call) -> Response:
    """Make a token. Its value is in this answer and nowhere else."""
    now = call.context.clock.now()
    expires_at = call.members.get("expires_at")
    if expires_at is not None and expires_at <= now:
        problem = Problem("expires_at", "it must lie in the future")
        raise InvalidRequest("the body does not fit: expires_at must lie in the future", problems=[problem])
    value = new_token()
    row = TokenRow(
        call.context.clock.new_id("tok"),
        call.members["name"],
        hash_token(value),
        dumps(call.members["scopes"]),
        now,
        expires_at,
    )
    name_target(f"tokens/{row.id}")
    await call.service.create_token(row)
    call.context.authenticator.forget()
    return json_response(token_shape(row) | {"token": value}, 201, f"/v1/tokens/{row.id}")


async def revoke_token(call: Call) -> Response:
    """Refuse the token from now on, on every node within a second."""
    await call.service.revoke_token(call.params["id"])
    call.context.authenticator.forget()
    return Response(status_code=204)
