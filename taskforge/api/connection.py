"""What uvicorn leaves open on a connection: how large a request's head may be, and how long it may take to arrive.

Without these an endless header fills the memory and a slow one holds a connection for ever, both without a token.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from taskforge.api.call import JOINED, LOST, Losing
from taskforge.api.problems import MEDIA_TYPE, problem_body
from taskforge.core.errors import HeadTooLarge, MalformedRequest, RequestTimeout, TaskForgeError
from taskforge.core.jsontext import dump_bytes

HEAD_BYTES = 64 * 1024
"""What a head may have beyond the piece that it begins in; a piece is as much as the loop reads at once."""

HEAD_SECONDS = 15.0

_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


class JoinedTransport:
    """A transport that can hold back what is written: uvicorn writes the head and the body of an answer by themselves,
    and each write is a call of the kernel here and a wake-up there."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held: list[bytes] | None = None

    def hold(self) -> None:
        """Keep what is written from now on."""
        self._held = []

    def let_go(self) -> None:
        """Write at once what was kept."""
        held, self._held = self._held, None
        if held:
            self._transport.write(b"".join(held))

    def write(self, data: bytes) -> None:
        if self._held is None:
            self._transport.write(data)
        else:
            self._held.append(data)

    def close(self) -> None:
        self.let_go()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds on the head of a request; what is no HTTP gets a problem as well."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._in_head = False
        self._timer: asyncio.TimerHandle | None = None
        self._cycles: list[Any] = []
        self._losing = Losing()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._joined = JoinedTransport(transport)
        self.transport = cast(asyncio.Transport, self._joined)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)
        # uvicorn tells only the newest of several pipelined requests that nobody is there to answer any more.
        for cycle in self._cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self._cycles.clear()
        self.pipeline.clear()
        self._losing.tell()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        # The last piece of a head may bring a body along, so only a head that is still open is too large.
        if self._in_head and not self.transport.is_closing():
            if self._head_bytes > HEAD_BYTES:
                self._refuse(HeadTooLarge(f"the request's head is larger than {HEAD_BYTES} bytes"))
            else:
                self._wait_for_head()

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_waiting()
        cast("dict[str, Any]", self.scope).update({LOST: self._losing, JOINED: self._joined})
        super().on_headers_complete()
        self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete]
        self._cycles.append(self.cycle)

    def send_400_response(self, msg: str) -> None:
        self._refuse(MalformedRequest("the request is not HTTP as it should be"))

    def _unsupported_upgrade_warning(self) -> None:
        """A request that would like another protocol is answered in this one; nothing to warn of."""

    def _wait_for_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _head_is_late(self) -> None:
        if self._in_head:
            self._refuse(RequestTimeout(f"the request's head did not arrive within {HEAD_SECONDS:.0f} seconds"))
        else:
            self.transport.close()

    def _refuse(self, error: TaskForgeError) -> None:
        self._in_head = False
        self.transport.write(_answer(error))
        self.transport.close()


def _answer(error: TaskForgeError) -> bytes:
    body = dump_bytes(problem_body(error))
    head = (
        b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n"
        b"connection: close\r\ncache-control: no-store\r\nx-content-type-options: nosniff\r\n\r\n"
    )
    return head % (error.status, _REASONS[error.status], MEDIA_TYPE.encode(), len(body)) + body
