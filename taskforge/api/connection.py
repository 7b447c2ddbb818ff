"""What uvicorn leaves open on a connection: how large a request's head may be, and how long it may take to arrive.

Without these an endless header fills the memory and a slow one holds a connection for ever, both without a token.
"""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import chain
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from taskforge.api.call import AT_ONCE, LOST, Losing
from taskforge.api.problems import MEDIA_TYPE, problem_body
from taskforge.core.errors import HeadTooLarge, MalformedRequest, RequestTimeout, TaskForgeError
from taskforge.core.jsontext import dump_bytes

HEAD_BYTES = 64 * 1024
"""What a head may have beyond the piece that it begins in; a piece is as much as the loop reads at once."""

HEAD_SECONDS = 15.0

_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


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
        super().on_headers_complete()
        # The application begins in the loop's next turn.
        cast("dict[str, Any]", self.scope).update({LOST: self._losing, AT_ONCE: partial(_answer_at_once, self.cycle)})
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


def _answer_at_once(cycle: RequestResponseCycle, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
    """Answer a request by one write, with a body that has its Content-Length in `headers`. uvicorn's `send` writes head
    and body by themselves, and each write is a call of the kernel here and a wake-up there. Returns False where only
    that will do; nothing was written then."""
    if cycle.response_started or cycle.disconnected or cycle.flow.write_paused or cycle.scope["method"] == "HEAD":
        return False
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    parts = [STATUS_LINE[status]]
    for name, value in chain(cycle.default_headers, headers):
        parts += (name, b": ", value, b"\r\n")
    parts += (b"\r\n", body) if cycle.keep_alive else (b"connection: close\r\n\r\n", body)
    cycle.transport.write(b"".join(parts))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


def _answer(error: TaskForgeError) -> bytes:
    body = dump_bytes(problem_body(error))
    head = (
        b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n"
        b"connection: close\r\ncache-control: no-store\r\nx-content-type-options: nosniff\r\n\r\n"
    )
    return head % (error.status, _REASONS[error.status], MEDIA_TYPE.encode(), len(body)) + body
