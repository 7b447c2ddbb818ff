"""Secrets (never their values), variables, and why a webhook's signature fails."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from starlette.responses import Response

from taskforge.api.call import Call, json_response
from taskforge.api.value_members import MAX_VERIFIED
from taskforge.core.clock import to_rfc3339
from taskforge.core.errors import TooLarge
from taskforge.engine.values import Secret, Var
from taskforge.triggers.signature_hints import find_hint
from taskforge.triggers.signatures import verify


async def list_secrets(call: Call) -> Response:
    """All secrets by name; their values are never shown."""
    rows = await call.service.list_secrets()
    return json_response({"items": [_secret_shape(row) for row in rows], "next_cursor": None})


async def put_secret(call: Call) -> Response:
    """Store a secret, sealed with the home's key. Steps that begin from now on see it as `$secrets.NAME`."""
    return json_response(_secret_shape(await call.service.put_secret(call.params["name"], call.members["value"])))


async def delete_secret(call: Call) -> Response:
    """Delete a secret. Steps that name it fail from now on."""
    await call.service.delete_secret(call.params["name"])
    return Response(status_code=204)


async def rotate_key(call: Call) -> Response:
    """Give the home a new key, and seal every secret with it. Links that are out stay good, unless `keep_links` is
    false."""
    done = await call.service.rotate_key(keep_links=call.members.get("keep_links", True))
    return json_response(done._asdict())


async def list_vars(call: Call) -> Response:
    """All variables by name, with their values."""
    return json_response({"items": [_var_shape(row) for row in await call.service.list_vars()], "next_cursor": None})


async def put_var(call: Call) -> Response:
    """Store a variable. Steps that begin from now on see it as `$vars.NAME`."""
    return json_response(_var_shape(await call.service.put_var(call.params["name"], call.members["value"])))


async def delete_var(call: Call) -> Response:
    """Delete a variable. Steps that name it fail from now on."""
    await call.service.delete_var(call.params["name"])
    return Response(status_code=204)


async def verify_webhook(call: Call) -> Response:
    """Say whether a request's signature fits, and if not, why. Nothing is stored, and no trigger has to be there."""
    members = call.members
    body: bytes = members["body_b64"]
    if len(body) > MAX_VERIFIED:
        raise TooLarge(f"the body has {len(body)} bytes; the limit is {MAX_VERIFIED}")
    now = members.get("now")
    asked = (members["verify"], members["secrets"], members["headers"], body, members.get("query") or {})
    return json_response(await asyncio.to_thread(_judge, *asked, call.context.clock.wall() if now is None else now))


def _judge(config: Any, secrets: Any, headers: Any, body: bytes, query: Any, now: int) -> dict[str, Any]:
    verdict = verify(config, secrets, headers, body, query, now)
    reason = verdict.reason
    if not verdict.valid:
        found = find_hint(config, secrets, headers, body, query, now, verdict.code)
        reason = reason if found is None else f"{reason}; {found}"
    shown = reason.encode("utf-8", "replace").decode()
    return {"valid": verdict.valid, "code": verdict.code, "reason": shown, "delivery_id": _text(verdict.delivery_id)}


def _text(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "replace").decode()


def _secret_shape(row: Secret) -> dict[str, Any]:
    return {
        "name": row.name,
        "masked": row.masked,
        "source": row.source,
        "created_at": None if row.created_at is None else to_rfc3339(row.created_at),
        "updated_at": None if row.updated_at is None else to_rfc3339(row.updated_at),
    }


def _var_shape(row: Var) -> dict[str, Any]:
    return {
        "name": row.name,
        "value": orjson.Fragment(row.value),
        "created_at": to_rfc3339(row.created_at),
        "updated_at": to_rfc3339(row.updated_at),
    }
