"""How a request's connection is made: name resolution, the egress check, and what is known of a request under way.

The check stands in the socket factory, which aiohttp calls with the very address it then connects to: for names,
literal addresses, every hop and every try. The resolver checks as well, so that a name with several addresses uses
those that are open.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from taskforge.security.egress import EgressPolicy

if TYPE_CHECKING:
    import ssl

    from aiohappyeyeballs import AddrInfoType
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

Lookup = Callable[[str], Awaitable[Sequence[str]]]
"""Host name to IP addresses, best first. OSError or UnicodeError where there are none."""

_MAX_ADDRESSES: Final = 6
_MAX_LOOKUPS: Final = 64


class AddressDenied(OSError):
    """The egress policy refuses the address."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EACCES, reason)

    def __str__(self) -> str:
        return str(self.strerror)


class NameNotResolved(OSError):
    """There is no address for a host name, or no answer in time."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EHOSTUNREACH, message)

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass(slots=True)
class Flight:
    """One request under way, over all its hops."""

    connecting: bool = False
    answered: bool = False
    denied: str | None = None

    @property
    def sent(self) -> bool:
        """Whether a byte of the request may have left. True where it is not known."""
        return self.answered or not self.connecting


FLIGHT: ContextVar[Flight | None] = ContextVar("taskforge_http_flight", default=None)
"""The flight of the current task; aiohttp's connect tasks inherit it."""


class SystemLookup:
    """`getaddrinfo` in threads of its own.

    A hanging name server holds a daemon thread, never the pool that others use (uvloop has 4, asyncio 6 here), and
    never the end of the process.
    """

    def __init__(self, max_threads: int = _MAX_LOOKUPS) -> None:
        self._slots = asyncio.Semaphore(max_threads)

    async def __call__(self, host: str) -> Sequence[str]:
        await self._slots.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()

        def settle(found: list[str] | Exception) -> None:
            self._slots.release()
            if answer.done():
                return
            if isinstance(found, Exception):
                answer.set_exception(found)
            else:
                answer.set_result(found)

        def ask() -> None:
            found: list[str] | Exception
            try:
                infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
                found = list(dict.fromkeys(str(info[4][0]) for info in infos))
            except (OSError, UnicodeError) as error:
                found = error
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile; nobody waits
                loop.call_soon_threadsafe(settle, found)

        threading.Thread(target=ask, name=f"dns {host[:40]}", daemon=True).start()
        return await answer


class GuardedResolver(AbstractResolver):
    """Resolves names within a time limit and leaves out addresses that the policy refuses."""

    def __init__(self, policy: EgressPolicy, lookup: Lookup, timeout_s: float) -> None:
        self._policy = policy
        self._lookup = lookup
        self._timeout_s = timeout_s

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        try:
            async with asyncio.timeout(self._timeout_s):
                addresses = await self._lookup(host)
        except TimeoutError:
            raise NameNotResolved(f"no answer from DNS for {host!r} within {self._timeout_s:g} s") from None
        except UnicodeError as error:
            raise NameNotResolved(f"{host[:80]!r} is no host name") from error
        except OSError as error:
            raise NameNotResolved(f"{host!r} could not be resolved: {error.strerror or error}") from error
        allowed: list[str] = []
        reason: str | None = None
        for address in addresses:
            refusal = self._policy.refusal(address, port)
            if refusal is None:
                allowed.append(address)
            else:
                reason = reason or refusal
        if not allowed:
            raise NameNotResolved(f"{host!r} has no address") if reason is None else AddressDenied(reason)
        return [_result(host, address, port) for address in allowed[:_MAX_ADDRESSES]]

    async def close(self) -> None:
        """Nothing to close; lookups under way end by themselves."""


def _result(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)


class GuardedConnector(aiohttp.TCPConnector):
    """A pool of connections that were all checked when they were made."""

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        flight = FLIGHT.get()
        if flight is None:
            return await super().connect(req, traces, timeout)
        flight.connecting = True
        connection = await super().connect(req, traces, timeout)
        flight.connecting = False
        flight.denied = None
        return connection


def guarded_socket_factory(policy: EgressPolicy) -> Callable[[AddrInfoType], socket.socket]:
    """Return a socket factory that refuses what `policy` refuses. No socket is made for a refused address."""

    def make_socket(info: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, address = info
        reason = policy.refusal(str(address[0]), int(address[1]))
        if reason is not None:
            flight = FLIGHT.get()
            if flight is not None:
                flight.denied = reason
            raise AddressDenied(reason)
        return socket.socket(family, kind, protocol)

    return make_socket


@dataclass(frozen=True, slots=True)
class ConnectorSettings:
    """Limits of the connection pool; times in seconds, 0 connections means no limit."""

    dns_timeout_s: float
    dns_cache_s: float
    keepalive_s: float
    max_connections: int
    max_per_host: int
    tls: ssl.SSLContext | None


def make_connector(
    policy: EgressPolicy, lookup: Lookup, settings: ConnectorSettings, *, reuse: bool
) -> GuardedConnector:
    """Make a connector inside the running loop. Without `reuse`, every request gets a connection of its own."""
    return GuardedConnector(
        resolver=GuardedResolver(policy, lookup, settings.dns_timeout_s),
        socket_factory=guarded_socket_factory(policy),
        use_dns_cache=settings.dns_cache_s > 0,
        ttl_dns_cache=math.ceil(settings.dns_cache_s),
        limit=settings.max_connections,
        limit_per_host=settings.max_per_host,
        ssl=settings.tls or True,
        force_close=not reuse,
        keepalive_timeout=settings.keepalive_s if reuse else None,
    )
