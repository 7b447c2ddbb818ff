"""Connections that are kept, and how many there may be.

A request has a place from `take` or `open` to `give_back`. Places are limited for each origin and over all; who finds
none waits, in order. Open connections are never more than places: an idle one makes room for a new one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from taskforge.steps.http_failure import Broken
from taskforge.steps.http_url import Origin
from taskforge.steps.http_wire import Connection

_CLOSING_S: Final = 1.0

Dial = Callable[[Origin, float], Awaitable[Connection]]
"""Makes a connection within so many seconds; Broken says why there is none."""


class _Host:
    """What is open, wanted and idle at one origin."""

    __slots__ = ("active", "idle", "origin", "waiting")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.active = 0
        self.idle: list[Connection] = []
        """The one that was used last stands last, and is used first."""
        self.waiting: OrderedDict[asyncio.Future[None], int] = OrderedDict()
        """Who waits for a place, with the number of the wait."""


class Pool:
    """Connections of one event loop. Times in seconds; a limit of 0 is none."""

    def __init__(self, dial: Dial, *, keepalive_s: float, max_connections: int, max_per_host: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._dial = dial
        self._keepalive_s = keepalive_s
        self._max_connections = max_connections
        self._max_per_host = max_per_host
        self._active = 0
        self._idle = 0
        self._hosts: dict[Origin, _Host] = {}
        self._open: set[Connection] = set()
        self._waiting = 0
        self._waits = 0
        self._sweeper: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None
        self.closed = False

    def take(self, origin: Origin, *, fresh: bool) -> Connection | None:
        """Take a place and an idle connection with it, where both are there and none waits for them."""
        host = self._hosts.get(origin)
        if fresh or host is None or not host.idle or host.waiting or self._is_full(host):
            return None
        connection = self._kept(host)
        if connection is not None:
            host.active += 1
            self._active += 1
        return connection

    async def open(self, origin: Origin, connect_s: float, *, fresh: bool) -> Connection:
        """Take a place, waiting where there is none, and make a connection; not `fresh`, an idle one will do.

        Broken where no connection could be made, or the pool was closed.
        """
        host = self._hosts.get(origin)
        if host is None:
            host = self._hosts[origin] = _Host(origin)
        if host.waiting or self._is_full(host):
            await self._wait(host)
        else:
            host.active += 1
            self._active += 1
        try:
            if not fresh and (kept := self._kept(host)) is not None:
                return kept
            self._make_room(host)
            connection = await self._dial(origin, connect_s)
        except BaseException:
            self._free(host)
            raise
        connection.keeper = self
        connection.place = host
        self._open.add(connection)
        if self.closed:
            self.give_back(connection, reuse=False)
            raise _closed()
        return connection

    def give_back(self, connection: Connection, *, reuse: bool) -> None:
        """End a request. Keeps the connection where `reuse`, closes it at once where not."""
        host = connection.place
        assert isinstance(host, _Host)
        if reuse and not self.closed and self._keepalive_s > 0 and connection.usable:
            connection.idle_since = self._loop.time()
            host.idle.append(connection)
            self._idle += 1
            if self._sweeper is None:
                self._sweeper = self._loop.call_later(self._keepalive_s, self._sweep)
        else:
            connection.abort()
        self._free(host)

    def forget(self, connection: Connection) -> None:
        """A connection has ended, by whichever side."""
        self._open.discard(connection)
        host = connection.place
        if isinstance(host, _Host) and connection in host.idle:
            host.idle.remove(connection)
            self._idle -= 1
            self._drop(host)
        if self._emptied is not None and not self._open and not self._emptied.done():
            self._emptied.set_result(None)

    async def close(self) -> None:
        """Close all connections at once. Requests under way fail with CONNECTION_RESET, and so do those that wait."""
        self.closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for host in list(self._hosts.values()):
            for waiter in host.waiting:
                if not waiter.done():
                    waiter.set_exception(_closed())
            host.waiting.clear()
        self._waiting = 0
        for connection in list(self._open):
            connection.fail(_closed())
        if self._open:
            self._emptied = self._loop.create_future()
            await asyncio.wait([self._emptied], timeout=_CLOSING_S)

    # ---- places

    def _is_full(self, host: _Host) -> bool:
        return 0 < self._max_per_host <= host.active or 0 < self._max_connections <= self._active

    async def _wait(self, host: _Host) -> None:
        if self.closed:
            raise _closed()
        waiter = self._loop.create_future()
        self._waits += 1
        self._waiting += 1
        host.waiting[waiter] = self._waits
        try:
            await waiter
        except asyncio.CancelledError:
            if host.waiting.pop(waiter, None) is not None:
                self._waiting -= 1
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._free(host)  # the place had just been given: it goes to the next
            else:
                self._drop(host)
            raise

    def _free(self, host: _Host) -> None:
        host.active -= 1
        self._active -= 1
        self._grant()
        self._drop(host)

    def _grant(self) -> None:
        """Give free places to who has waited longest among those whose origin has room."""
        while self._waiting and not 0 < self._max_connections <= self._active:
            first: _Host | None = None
            oldest = 0
            for host in self._hosts.values():
                if host.waiting and not 0 < self._max_per_host <= host.active:
                    number = next(iter(host.waiting.values()))
                    if first is None or number < oldest:
                        first, oldest = host, number
            if first is None:
                return
            waiter, _ = first.waiting.popitem(last=False)
            self._waiting -= 1
            if not waiter.done():
                first.active += 1
                self._active += 1
                waiter.set_result(None)

    def _drop(self, host: _Host) -> None:
        if not host.active and not host.idle and not host.waiting and self._hosts.get(host.origin) is host:
            del self._hosts[host.origin]

    # ---- idle connections

    def _kept(self, host: _Host) -> Connection | None:
        while host.idle:
            connection = host.idle.pop()
            self._idle -= 1
            if connection.usable and self._loop.time() - connection.idle_since < self._keepalive_s:
                return connection
            connection.abort()
        return None

    def _make_room(self, host: _Host) -> None:
        if host.idle and 0 < self._max_per_host < host.active + len(host.idle):
            self._close_oldest(host)
        if self._idle and 0 < self._max_connections < self._active + self._idle:
            self._close_oldest(min((each for each in self._hosts.values() if each.idle), key=_oldest))

    def _close_oldest(self, host: _Host) -> None:
        self._idle -= 1
        host.idle.pop(0).abort()
        self._drop(host)

    def _sweep(self) -> None:
        self._sweeper = None
        before = self._loop.time() - self._keepalive_s
        for host in list(self._hosts.values()):
            while host.idle and host.idle[0].idle_since <= before:
                self._close_oldest(host)
        if self._idle:
            next_end = min(_oldest(host) for host in self._hosts.values() if host.idle) + self._keepalive_s
            self._sweeper = self._loop.call_at(next_end, self._sweep)


def _oldest(host: _Host) -> float:
    return host.idle[0].idle_since


def _closed() -> Broken:
    return Broken("CONNECTION_RESET", "the HTTP client was closed before the answer was complete")
