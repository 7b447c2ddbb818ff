"""The transport of HTTP steps: one pooled aiohttp session behind checks, limits and stable failure codes.

What it promises:
- One call sends at most one request per hop. aiohttp repeats idempotent methods once when a connection drops; a
  middleware prevents that, so that the engine's attempts are all that a server sees. A POST is never repeated silently.
- Every connection is checked against the egress policy with the address that it is made to.
- The overall timeout bounds everything: DNS, pool, connection, redirects, a slow body.
- No proxy variables, no `.netrc`, no cookies between requests.
"""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import Awaitable, Callable
from functools import lru_cache
from types import TracebackType
from typing import Final, Self

import aiohttp

from taskforge import __version__
from taskforge.security.egress import EgressPolicy
from taskforge.steps.deadlines import Deadlines
from taskforge.steps.http_connect import FLIGHT, ConnectorSettings, Flight, Lookup, SystemLookup, make_connector
from taskforge.steps.http_failure import RETRY_CLASSES, HttpFailure, RetryClass, failure_of
from taskforge.steps.http_request import REDIRECTS, Hop, Request, first_hop, next_hop
from taskforge.steps.http_response import (
    Response,
    parse_body,
    read_body,
    response_headers,
    retry_after_ms,
)

__all__ = [
    "RETRY_CLASSES",
    "HttpClient",
    "HttpFailure",
    "Request",
    "Response",
    "RetryClass",
    "parse_body",
    "retry_after_ms",
]

_HEADER_LINE_BYTES: Final = 16_384
_HEADER_COUNT: Final = 128
_LARGE_BODY: Final = 1_048_576


class _Dropped(Exception):
    """Carries an error past aiohttp's own repetition."""

    def __init__(self, error: aiohttp.ClientError) -> None:
        super().__init__(str(error))
        self.error = error


async def _send_once(
    request: aiohttp.ClientRequest,
    handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]],
) -> aiohttp.ClientResponse:
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Dropped(error) from None


class HttpClient:
    """Sends requests of steps. Make it anywhere, `start` it in the event loop that uses it, `close` it there.

    Times are milliseconds. `keepalive_ms` is shorter than what servers usually grant (5 s), so that an idle connection
    is not used in the moment in which the server closes it. `lookup` replaces the system's name resolution.
    """

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        connect_timeout_ms: int = 10_000,
        dns_timeout_ms: int = 5_000,
        dns_cache_ms: int = 10_000,
        keepalive_ms: int = 4_000,
        max_connections: int = 128,
        max_per_host: int = 64,
        max_redirects: int = 5,
        user_agent: str = f"TaskForge/{__version__}",
        tls: ssl.SSLContext | None = None,
        lookup: Lookup | None = None,
    ) -> None:
        self._policy = policy
        self._connect_timeout_ms = connect_timeout_ms
        self._max_redirects = max_redirects
        self._user_agent = user_agent
        self._lookup = lookup
        self._settings = ConnectorSettings(
            dns_timeout_s=dns_timeout_ms / 1000,
            dns_cache_s=dns_cache_ms / 1000,
            keepalive_s=keepalive_ms / 1000,
            max_connections=max_connections,
            max_per_host=max_per_host,
            tls=tls,
        )
        self._deadlines = Deadlines()
        self._pooled: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the sessions; no connection is made yet."""
        lookup = self._lookup or SystemLookup()
        self._pooled = self._session(lookup, reuse=True)
        self._fresh = self._session(lookup, reuse=False)

    async def close(self) -> None:
        """Close all connections. Requests under way fail with CONNECTION_RESET."""
        for session in (self._pooled, self._fresh):
            if session is not None:
                await session.close()
        self._deadlines.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _session(self, lookup: Lookup, *, reuse: bool) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=make_connector(self._policy, lookup, self._settings, reuse=reuse),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": self._user_agent, "Accept": "*/*", "Accept-Encoding": "gzip, deflate"},
            skip_auto_headers=("Content-Type",),
            timeout=aiohttp.ClientTimeout(),
            auto_decompress=False,  # decoded here, where the limit is
            trust_env=False,
            max_line_size=_HEADER_LINE_BYTES,
            max_field_size=_HEADER_LINE_BYTES,
            max_headers=_HEADER_COUNT,
            middlewares=(_send_once,),
        )

    async def request(self, request: Request) -> Response:
        """Send `request`, follow redirects, and return the answer with its whole body, whatever its status.

        HttpFailure says why there is none, and `sent` whether the server may have got it. Cancelling closes the
        connection.
        """
        hop = first_hop(request)
        session = self._fresh if request.fresh else self._pooled
        if session is None or session.closed:
            raise HttpFailure("CONNECT_FAILED", f"{hop.where}: the HTTP client is closed", sent=False)
        flight = Flight()
        token = FLIGHT.set(flight)
        try:
            with self._deadlines.after(request.timeout_ms / 1000):
                return await self._follow(session, hop, request, flight)
        except TimeoutError:
            phase = "waiting for the answer" if flight.sent else "making the connection"
            raise HttpFailure(
                "ATTEMPT_TIMEOUT",
                f"{hop.where}: the request took longer than its timeout of {request.timeout_ms} ms, while {phase}",
                sent=flight.sent,
            ) from None
        finally:
            FLIGHT.reset(token)

    async def _follow(self, session: aiohttp.ClientSession, hop: Hop, request: Request, flight: Flight) -> Response:
        loop = asyncio.get_running_loop()
        started = loop.time()
        limit = self._max_redirects if request.max_redirects is None else request.max_redirects
        timeout = _timeouts(request.connect_timeout_ms or self._connect_timeout_ms, request.read_timeout_ms)
        seen: set[tuple[str, str]] = set()
        while True:
            raw = await _send(session, hop, timeout, flight)
            flight.answered = True
            try:
                locations = raw.headers.getall("Location", ()) if raw.status in REDIRECTS else ()
                if limit == 0 or not any(locations):
                    headers = response_headers(raw)
                    body = await _read(raw, headers, hop, request.max_bytes, flight)
                    duration_ms = round((loop.time() - started) * 1000)
                    return Response(raw.status, headers, body, duration_ms, str(hop.url), len(seen))
                raw.release()  # closes the connection where the redirect's body is still to come
            except BaseException:
                raw.close()
                raise
            seen.add((hop.method, str(hop.url)))
            hop = next_hop(hop, raw.status, locations)
            if len(seen) > limit or (hop.method, str(hop.url)) in seen:
                raise _too_many(hop, limit, len(seen))


async def _send(
    session: aiohttp.ClientSession, hop: Hop, timeout: aiohttp.ClientTimeout, flight: Flight
) -> aiohttp.ClientResponse:
    # aiohttp warns of bytes above 1 MiB, which it writes at once; a file is written in pieces.
    data = hop.body if hop.body is None or len(hop.body) <= _LARGE_BODY else io.BytesIO(hop.body)
    try:
        raw = await session.request(
            hop.method, hop.url, headers=hop.headers, data=data, allow_redirects=False, timeout=timeout
        )
    # `from None`: aiohttp's errors would carry the request's headers into tracebacks.
    except _Dropped as dropped:
        raise failure_of(dropped.error, hop.where, flight) from None
    except (aiohttp.ClientError, OSError) as error:
        raise failure_of(error, hop.where, flight) from None
    if raw.status == 101:
        raw.close()
        raise HttpFailure(
            "BAD_RESPONSE", f"{hop.where} answered 101: it changes the protocol, which was not asked for", sent=True
        )
    return raw


async def _read(
    raw: aiohttp.ClientResponse, headers: dict[str, str], hop: Hop, max_bytes: int, flight: Flight
) -> bytes:
    try:
        return await read_body(raw, headers, max_bytes, hop.where)
    except (aiohttp.ClientError, OSError) as error:
        raise failure_of(error, hop.where, flight) from None


def _too_many(hop: Hop, limit: int, hops: int) -> HttpFailure:
    why = f"more than {limit} redirects" if hops > limit else "the redirects go round in a circle"
    return HttpFailure("TOO_MANY_REDIRECTS", f"{hop.where}: {why}", sent=True, detail={"hops": hops})


@lru_cache(maxsize=256)
def _timeouts(connect_ms: int, read_ms: int | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(sock_connect=connect_ms / 1000, sock_read=None if read_ms is None else read_ms / 1000)
