"""How a request's connection is made: name resolution, the egress check, TLS.

The check stands in the socket factory, which is called with the very address that is then connected to: for names,
literal addresses, every hop and every try. The resolver checks as well, so that a name with several addresses uses
those that are open.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import aiohappyeyeballs

from taskforge.security.egress import EgressPolicy
from taskforge.steps.http_failure import Broken, unconnected
from taskforge.steps.http_url import Origin
from taskforge.steps.http_wire import Connection

if TYPE_CHECKING:
    from aiohappyeyeballs import AddrInfoType

Lookup = Callable[[str], Awaitable[Sequence[str]]]
"""Host name to IP addresses, best first. OSError or UnicodeError where there are none."""

_MAX_ADDRESSES: Final = 6
_MAX_LOOKUPS: Final = 64
_MAX_KNOWN: Final = 1_024
_NEXT_ADDRESS_S: Final = 0.25
"""After so long the next address is tried as well (RFC 8305)."""


class AddressDenied(OSError):
    """The egress policy refuses the address."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EACCES, reason)

    def __str__(self) -> str:
        return str(self.strerror)


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

        try:
            threading.Thread(target=ask, name=f"dns {host[:40]}", daemon=True).start()
        except RuntimeError as error:  # the system gives no more threads
            self._slots.release()
            raise OSError(errno.EAGAIN, f"there is no thread for it ({error})") from None
        return await answer


class Resolver:
    """Resolves names within a time limit and leaves out addresses that the policy refuses.

    Requests that ask for the same name at the same time share one lookup; what it found is kept for `cache_s`.
    """

    def __init__(self, policy: EgressPolicy, lookup: Lookup, timeout_s: float, cache_s: float) -> None:
        self._policy = policy
        self._lookup = lookup
        self._timeout_s = timeout_s
        self._cache_s = cache_s
        self._known: dict[str, tuple[float, Sequence[str]]] = {}
        self._asking: dict[str, asyncio.Task[Sequence[str] | Broken]] = {}

    async def resolve(self, host: str, port: int) -> list[str]:
        """Return open addresses, best first. Broken DNS_FAILED, or EGRESS_DENIED where none of them is open."""
        allowed: list[str] = []
        reason: str | None = None
        for address in await self._addresses(host):
            refusal = self._policy.refusal(address, port)
            if refusal is None:
                allowed.append(address)
            else:
                reason = reason or refusal
        if not allowed:
            raise _unresolved(f"{host!r} has no address") if reason is None else denied(reason)
        return allowed[:_MAX_ADDRESSES]

    async def close(self) -> None:
        """End the lookups under way."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _addresses(self, host: str) -> Sequence[str]:
        if self._cache_s <= 0:
            found = await self._ask(host)
        else:
            now = asyncio.get_running_loop().time()
            until, known = self._known.get(host, (0.0, ()))
            if now < until:
                return known
            task = self._asking.get(host)
            if task is None:
                task = self._asking[host] = asyncio.create_task(self._ask(host))
                task.add_done_callback(lambda done: self._asked(host, done))
            # Who gives up waiting must not end the lookup for the others.
            await asyncio.wait([task])
            if task.cancelled():
                raise _unresolved(f"the lookup of {host!r} was ended")
            found = task.result()
        if isinstance(found, Broken):
            raise found
        return found

    def _asked(self, host: str, task: asyncio.Task[Sequence[str] | Broken]) -> None:
        del self._asking[host]
        if task.cancelled() or isinstance(found := task.result(), Broken):
            return
        now = asyncio.get_running_loop().time()
        if len(self._known) >= _MAX_KNOWN:
            self._known = {name: entry for name, entry in self._known.items() if now < entry[0]}
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
        self._known[host] = (now + self._cache_s, found)

    async def _ask(self, host: str) -> Sequence[str] | Broken:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._lookup(host)
        except TimeoutError:
            return _unresolved(f"no answer from DNS for {host!r} within {self._timeout_s:g} s")
        except UnicodeError:
            return _unresolved(f"{host[:80]!r} is no host name")
        except OSError as error:
            return _unresolved(f"{host!r} could not be resolved: {error.strerror or error}")


class Dialer:
    """Makes checked connections. `tls` replaces the system's settings and certificates."""

    def __init__(self, policy: EgressPolicy, resolver: Resolver, tls: ssl.SSLContext | None) -> None:
        self._policy = policy
        self._resolver = resolver
        self._tls = tls

    async def connect(self, origin: Origin, timeout_s: float) -> Connection:
        """Connect, with TLS where the origin has it; `timeout_s` bounds both. Broken says why it failed."""
        tls, host, port = origin
        addresses = [host] if _is_literal(host) else await self._resolver.resolve(host, port)
        infos = [_info(address, port) for address in addresses]
        refusals: list[str] = []

        def make_socket(info: AddrInfoType) -> socket.socket:
            family, kind, protocol, _, address = info
            reason = self._policy.refusal(str(address[0]), int(address[1]))
            if reason is not None:
                refusals.append(reason)
                raise AddressDenied(reason)
            return socket.socket(family, kind, protocol)

        if tls and self._tls is None:
            self._tls = await asyncio.to_thread(default_tls)
        try:
            async with asyncio.timeout(timeout_s):
                sock = await aiohappyeyeballs.start_connection(
                    infos, socket_factory=make_socket, happy_eyeballs_delay=_NEXT_ADDRESS_S, interleave=1
                )
                _, connection = await asyncio.get_running_loop().create_connection(
                    Connection,
                    sock=sock,
                    ssl=self._tls if tls else None,
                    server_hostname=host.rstrip(".") if tls else None,
                )
                return connection
        # `from None`: such errors would carry more than `where` into tracebacks.
        except (OSError, RuntimeError) as error:
            # Frames in it hold the error: such a circle would stay until garbage is collected, which is seldom.
            error.__traceback__ = None
            if refusals:
                raise denied(refusals[0]) from None
            if type(error) is TimeoutError and error.errno is None:
                raise Broken("CONNECT_TIMEOUT", "the connection was not made in time") from None
            raise unconnected(error) from None


@lru_cache(maxsize=1)
def default_tls() -> ssl.SSLContext:
    """The system's certificates, names checked, HTTP/1.1 only. Reads files: not for the event loop."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def denied(reason: str) -> Broken:
    return Broken("EGRESS_DENIED", reason)


def _unresolved(said: str) -> Broken:
    return Broken("DNS_FAILED", said)


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _info(address: str, port: int) -> AddrInfoType:
    # With the protocol named, asyncio turns off the delay of small writes.
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)
