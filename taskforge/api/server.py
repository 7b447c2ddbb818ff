"""The API as an ASGI application: the gate that every request passes, in one order, and the answer to every error.

Host, then token, then route, then scope, then query, then body, then the call. Whatever is not on the public list
needs a token before anything is said about it, in any spelling of its path. This does the work of Starlette's router
and middleware in a few microseconds, and each error is answered once and logged once. Requests and responses are
Starlette's.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from taskforge.api.access import admit
from taskforge.api.auth import Authenticator
from taskforge.api.body import take_body
from taskforge.api.call import AT_ONCE, Call, ClientDisconnect, Context
from taskforge.api.dispatch import Dispatcher
from taskforge.api.hosts import HostCheck
from taskforge.api.problems import internal_error, problem_response
from taskforge.api.query import read_query
from taskforge.api.recording import Recorder, note_members
from taskforge.api.route import Route
from taskforge.api.routes import ROUTES
from taskforge.config.settings import Settings
from taskforge.core.clock import Clock
from taskforge.core.errors import (
    MalformedRequest,
    MethodNotAllowed,
    MisdirectedHost,
    NotFound,
    TaskForgeError,
    Unauthorized,
)
from taskforge.observe.logs import get_logger

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from taskforge.engine.service import Service

log = get_logger("api")

HOOKS = "/hooks/"
_COMMON_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
_UNREAD_BODY = 65_536  # bytes; a refused request with more to come gets its connection closed
_DRAIN_BYTES = 64 * 1024 * 1024
_DRAIN_SECONDS = 5.0


def create_api(service: Service, settings: Settings, clock: Clock, routes: tuple[Route, ...] = ROUTES) -> Api:
    """The application. It holds no state but caches; `routes` is the table."""
    authenticator = Authenticator(service, clock, settings.auth.token)
    return Api(Context(service, settings, clock, authenticator, routes))


class Api:
    """An ASGI application."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._dispatcher = Dispatcher(context.routes)
        self._recorder = Recorder()
        self._public = frozenset(route.path for route in context.routes if route.scope is None)
        server = context.settings.server
        self._hosts = HostCheck(server.host, server.allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                await self._answer(Call(scope, receive, send, self._context), scope, receive, send)
            finally:
                # It leads back to the scope, and circles stay until garbage is collected, which is seldom.
                scope.pop(AT_ONCE, None)
        elif scope["type"] == "lifespan":
            await _live(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._respond(call)
        except TaskForgeError as error:
            response = problem_response(error)
            if _has_more(call):
                await _send_and_drain(response, call, send)
                return
        except ClientDisconnect:
            return
        except Exception:
            route = getattr(call, "route", None)
            log.exception("call_failed", call=route.operation if route else None, method=scope["method"])
            response = problem_response(internal_error())
        response.raw_headers.extend(_COMMON_HEADERS)
        await response(scope, receive, send)

    async def _respond(self, call: Call) -> Response:
        scope = call.scope
        path, method = scope["path"], scope["method"]
        is_hook = path.startswith(HOOKS)
        if not is_hook:
            self._check_host(call)
            if path not in self._public:
                await self._authenticate(call)
        match = self._dispatcher.find(path)
        if match is None:
            raise NotFound("there is nothing at this address")
        route = match.methods.get("GET" if method == "HEAD" else method)
        if route is None:
            if method == "OPTIONS":
                return Response(status_code=204, headers={"Allow": match.allow})
            raise MethodNotAllowed(f"this address takes {match.allow}", detail={"allow": match.allow})
        call.route, call.params = route, match.params
        if self._recorder.is_recorded(route):
            return await self._recorder.respond(call, self._carry_out)
        return await self._carry_out(call)

    async def _carry_out(self, call: Call) -> Response:
        route, scope, principal = call.route, call.scope, call.principal
        if route.scope is not None and (principal is None or principal.scope is None or principal.scope < route.scope):
            await admit(call, route, route.scope)
        if route.takes_anything:
            return await route.handler(call)
        if scope["query_string"]:
            call.asked = read_query(scope["query_string"], route.query)
        if route.body is not None:
            await take_body(call, route.body)
            note_members(call)
        return await route.handler(call)

    def _check_host(self, call: Call) -> None:
        host = call.header(b"host")
        if call.is_repeated(b"host") or (host is None and call.scope.get("http_version") != "1.0"):
            raise MalformedRequest("the request needs one Host header")
        if host is not None and not self._hosts.admits(host):
            raise MisdirectedHost(
                "the Host header names no address of this server; "
                "if the name is right, add it to [server] allowed_hosts"
            )

    async def _authenticate(self, call: Call) -> None:
        if call.is_repeated(b"authorization"):
            raise Unauthorized("the request has more than one Authorization header")
        call.principal = await self._context.authenticator.authenticate(call.header(b"authorization"))


def _has_more(call: Call) -> bool:
    """Whether a refused request may still be sending a body worth minding."""
    if call.header(b"transfer-encoding") is not None:
        return True
    length = call.header(b"content-length") or b"0"
    return not length.isdigit() or len(length) > 18 or int(length) > _UNREAD_BODY


async def _send_and_drain(response: Response, call: Call, send: Send) -> None:
    """Answer at once, then take in what the client is still sending, within bounds, and only then let go.

    A connection closed with unread data is reset, and the client would lose the answer.
    """
    headers = [*response.raw_headers, *_COMMON_HEADERS, (b"connection", b"close")]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    taken = 0
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while taken < _DRAIN_BYTES:
                message = await call.receive()
                taken += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    break
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message: Any = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
