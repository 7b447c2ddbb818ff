"""Drives an ASGI application without a socket: exactly the bytes and pieces that a test wants to send."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import orjson
from starlette.types import ASGIApp, Message

from taskforge.api.call import LOST, Losing

Header = tuple[str | bytes, str | bytes]


@dataclass(slots=True)
class Reply:
    """What came back. `asked_for` counts the pieces of the body that the application took."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    asked_for: int = 0

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        return found[0] if found else None

    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def code(self) -> str | None:
        """The stable code of a problem."""
        if self.header("content-type") != "application/problem+json":
            return None
        code: str = self.json()["code"]
        return code


async def request(
    app: ASGIApp,
    method: str,
    target: str,
    *,
    headers: Iterable[Header] = (),
    token: str | None = None,
    host: str | None = "127.0.0.1:7788",
    body: bytes | Sequence[bytes] = b"",
    http_version: str = "1.1",
    hang_up: bool = False,
) -> Reply:
    """One request. `body` in pieces comes as several messages; `hang_up` ends it with a disconnect instead."""
    path, _, query = target.partition("?")
    pieces = [body] if isinstance(body, bytes) else list(body)
    given = [] if host is None else [("host", host)]
    given += [] if token is None else [("authorization", f"Bearer {token}")]
    reply = Reply()

    async def receive() -> Message:
        if reply.asked_for < len(pieces):
            piece = pieces[reply.asked_for]
            reply.asked_for += 1
            more = reply.asked_for < len(pieces) or hang_up
            return {"type": "http.request", "body": piece, "more_body": more}
        if not hang_up:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            reply.status = message["status"]
            reply.headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in message["headers"]]
        else:
            reply.body += message.get("body", b"")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": http_version,
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(_bytes(key).lower(), _bytes(value)) for key, value in (*given, *headers)],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 7788),
        LOST: Losing(),
    }
    await app(scope, receive, send)
    return reply


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
