"""The transport of HTTP steps: pooled connections of our own behind checks, limits and stable failure codes.

What it promises:
- One call sends at most one request per hop: nothing is repeated behind the engine's back, so that the engine's
  attempts are all that a server sees.
- Every connection is checked against the egress policy with the address that it is made to.
- The overall timeout bounds everything: DNS, pool, connection, redirects, a slow body.
- No proxy variables, no `.netrc`, no cookies between requests.
"""

from __future__ import annotations

import asyncio
import ssl
from types import TracebackType
from typing import Self

from taskforge import __version__
from taskforge.security.egress import EgressPolicy
from taskforge.steps.deadlines import Deadlines
from taskforge.steps.http_answer import Answer
from taskforge.steps.http_connect import Dialer, Lookup, Resolver, SystemLookup
from taskforge.steps.http_failure import RETRY_CLASSES, Broken, Flight, HttpFailure, RetryClass
from taskforge.steps.http_pool import Pool
from taskforge.steps.http_request import Hop, Request, first_hop, next_hop
from taskforge.steps.http_response import Response, parse_body, retry_after_ms

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

_METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_DEFAULT_NAMES = frozenset({"host", "user-agent", "accept", "accept-encoding"})


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
        self._connect_timeout_ms = connect_timeout_ms
        self._max_redirects = max_redirects
        self._defaults = {
            "user-agent": f"User-Agent: {user_agent}\r\n",
            "accept": "Accept: */*\r\n",
            "accept-encoding": "Accept-Encoding: gzip, deflate\r\n",
        }
        self._all_defaults = "".join(self._defaults.values())
        self._policy = policy
        self._lookup = lookup
        self._dns_timeout_s = dns_timeout_ms / 1000
        self._dns_cache_s = dns_cache_ms / 1000
        self._keepalive_s = keepalive_ms / 1000
        self._max_connections = max_connections
        self._max_per_host = max_per_host
        self._tls = tls
        self._deadlines = Deadlines()
        self._pool: Pool | None = None
        self._resolver: Resolver | None = None

    async def start(self) -> None:
        """Make ready; no connection is made yet."""
        lookup = self._lookup or SystemLookup()
        self._resolver = Resolver(self._policy, lookup, self._dns_timeout_s, self._dns_cache_s)
        self._pool = Pool(
            Dialer(self._policy, self._resolver, self._tls).connect,
            keepalive_s=self._keepalive_s,
            max_connections=self._max_connections,
            max_per_host=self._max_per_host,
        )

    async def close(self) -> None:
        """Close all connections. Requests under way fail with CONNECTION_RESET."""
        if self._pool is not None:
            await self._pool.close()
        if self._resolver is not None:
            await self._resolver.close()
        self._deadlines.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def request(self, request: Request) -> Response:
        """Send `request`, follow redirects, and return the answer with its whole body, whatever its status.

        HttpFailure says why there is none, and `sent` whether the server may have got it. Cancelling closes the
        connection.
        """
        hop = first_hop(request)
        if self._pool is None or self._pool.closed:
            raise HttpFailure("CONNECT_FAILED", f"{hop.where}: the HTTP client is closed", sent=False)
        flight = Flight(hop)
        try:
            with self._deadlines.after(request.timeout_ms / 1000):
                return await self._follow(request, flight)
        except TimeoutError:
            phase = "making the connection" if flight.connecting else "waiting for the answer"
            said = f"took longer than its timeout of {request.timeout_ms} ms, while {phase}"
            raise HttpFailure(
                "ATTEMPT_TIMEOUT",
                f"{flight.hop.where}: the request {said}",
                sent=flight.sent,
            ) from None

    async def _follow(self, request: Request, flight: Flight) -> Response:
        hop = flight.hop
        loop = asyncio.get_running_loop()
        started = loop.time()
        limit = self._max_redirects if request.max_redirects is None else request.max_redirects
        seen: tuple[tuple[str, str], ...] = ()
        while True:
            url = str(hop.url)
            answer = Answer(hop.method, request.max_bytes, follow=limit > 0)
            try:
                body = await self._exchange(hop, request, flight, answer)
            except Broken as broken:
                # `from None`: what led here may hold more than `where`.
                raise broken.failure(hop.where, flight) from None
            if not answer.follow:
                duration_ms = round((loop.time() - started) * 1000)
                return Response(answer.status, answer.headers, body, duration_ms, url, len(seen))
            flight.answered = True
            seen += ((hop.method, url),)
            hop = flight.hop = next_hop(hop, answer.status, answer.locations())
            if len(seen) > limit or (hop.method, str(hop.url)) in seen:
                raise _too_many(hop, limit, len(seen))

    async def _exchange(self, hop: Hop, request: Request, flight: Flight, answer: Answer) -> bytes:
        """Send one request and return its answer's body. Broken says why there is none."""
        pool = self._pool
        assert pool is not None
        flight.connecting = True
        connect_s = (request.connect_timeout_ms or self._connect_timeout_ms) / 1000
        connection = pool.take(hop.url.origin, fresh=request.fresh)
        if connection is None:
            connection = await pool.open(hop.url.origin, connect_s, fresh=request.fresh)
        try:
            connection.begin(answer, self._head(hop, fresh=request.fresh), hop.body)
            flight.connecting = False
            if request.read_timeout_ms is not None:
                connection.watch(request.read_timeout_ms / 1000)
            await answer.more()
            if answer.coding is None or answer.follow:
                return answer.plain
            return await answer.decoded(answer.coding)
        except BaseException:
            answer.abandon()
            raise
        finally:
            reuse = connection.detach() and answer.complete and answer.keep and not request.fresh
            pool.give_back(connection, reuse=reuse)

    def _head(self, hop: Hop, *, fresh: bool) -> bytes:
        headers, body = hop.headers, hop.body
        head = f"{hop.method} {hop.url.target} HTTP/1.1\r\n"
        given = {name.lower() for name, _ in headers}
        if _DEFAULT_NAMES.isdisjoint(given):
            head += f"Host: {hop.url.host_port}\r\n{self._all_defaults}"
        else:
            if "host" not in given:
                head += f"Host: {hop.url.host_port}\r\n"
            for name, line in self._defaults.items():
                if name not in given:
                    head += line
        for name, value in headers:
            head += f"{name}: {value}\r\n"
        if body is not None:
            head += f"Content-Length: {len(body)}\r\n"
        elif hop.method in _METHODS_WITH_BODY:
            head += "Content-Length: 0\r\n"
        if fresh:
            head += "Connection: close\r\n"
        return (head + "\r\n").encode()


def _too_many(hop: Hop, limit: int, hops: int) -> HttpFailure:
    why = f"more than {limit} redirects" if hops > limit else "the redirects go round in a circle"
    return HttpFailure("TOO_MANY_REDIRECTS", f"{hop.where}: {why}", sent=True, detail={"hops": hops})
