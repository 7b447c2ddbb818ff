"""One request on its way: what the gate and the table have found out, as handlers read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from taskforge.api.auth import Authenticator, Principal
from taskforge.config.settings import Settings
from taskforge.core.clock import Clock
from taskforge.core.record import dataclass

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from taskforge.api.route import Route
    from taskforge.engine.service import Service
    from taskforge.store.audit import AuditEntry


LOST = "taskforge.lost"
"""Key of a scope: its connection's `Losing`."""

AT_ONCE = "taskforge.at_once"
"""Key of a scope: sends a whole answer (status, headers, body) by one write, or returns False where it cannot."""


class Losing:
    """What is called when a connection is lost: at once where it is lost already."""

    __slots__ = ("_is_lost", "_tells")

    def __init__(self) -> None:
        self._is_lost = False
        self._tells: set[Callable[[], None]] = set()

    def add(self, tell: Callable[[], None]) -> None:
        if self._is_lost:
            tell()
        else:
            self._tells.add(tell)

    def discard(self, tell: Callable[[], None]) -> None:
        self._tells.discard(tell)

    def tell(self) -> None:
        """The connection is lost."""
        self._is_lost = True
        tells, self._tells = self._tells, set()
        for tell in tells:
            tell()


@dataclass(slots=True)
class Context:
    """What all calls share. `pages` keeps what is made once from the table."""

    service: Service
    settings: Settings
    clock: Clock
    authenticator: Authenticator
    routes: tuple[Route, ...]
    pages: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FormData:
    """The fields of a form, in order."""

    fields: list[tuple[str, str]]


class Call(Request):
    """A Starlette request with the checked parts beside it.

    `params` are the path's parameters, `asked` the query parameters (only those that were given), `members` the checked
    members of the JSON body, `document` the bytes and media (`yaml`, `json`) of a workflow document, `data` a JSON
    value, `FormData`, or None. `entry` is its entry in the audit log, where it has one.
    """

    context: Context
    route: Route
    principal: Principal | None
    params: dict[str, str]
    asked: dict[str, Any]
    members: dict[str, Any]
    document: tuple[bytes, str]
    data: Any
    entry: AuditEntry | None

    def __init__(self, scope: Scope, receive: Receive, send: Send, context: Context) -> None:
        super().__init__(scope, receive, send)
        self.context = context
        # Of several headers with one name the first counts, or the call is refused (`is_repeated`).
        self._fields: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        self.principal = None
        self.entry = None
        self.params = {}
        self.asked = {}
        self.members = {}

    @property
    def service(self) -> Service:
        return self.context.service

    def header(self, name: bytes) -> bytes | None:
        """The first header of this lower-case name, as it came."""
        return self._fields.get(name)

    def is_repeated(self, name: bytes) -> bool:
        """Whether the request has several headers of this lower-case name."""
        headers = self.scope["headers"]
        return len(headers) != len(self._fields) and sum(key == name for key, _ in headers) > 1

    def leaving(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Have `tell` called when the client goes away; the body has been read before. Returns what takes that back."""
        lost: Losing = self.scope[LOST]
        lost.add(tell)
        return lambda: lost.discard(tell)


class JsonResponse(Response):
    """A response with few headers, made in less time than Starlette takes for any."""

    def __init__(self, body: bytes, status: int, location: str | None = None) -> None:
        self.status_code = status
        self.background = None
        self.body = body
        self.raw_headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if location is not None:
            self.raw_headers.append((b"location", location.encode()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        at_once = scope.get(AT_ONCE)
        if at_once is not None and at_once(self.status_code, self.raw_headers, self.body):
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body})


def json_response(value: Any, status: int = 200, location: str | None = None) -> Response:
    """An answer. `value` is made of our own names, numbers and times; what people gave is in `orjson.Fragment`s."""
    return JsonResponse(orjson.dumps(value), status, location)


__all__ = ["Call", "ClientDisconnect", "Context", "FormData", "JsonResponse", "json_response"]
