"""One answer as it comes in: llhttp reads it, this collects it within bounds and says when and how it ended.

Nothing here knows of sockets: bytes go in by `feed`, the end of the connection by `end`. A new parser reads each
answer, so that nothing of one answer can leak into the next.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import Final, Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from taskforge.steps.http_coding import PIECE, Inflater, coding_of
from taskforge.steps.http_failure import Broken
from taskforge.steps.http_response import header_text, header_texts

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
HEADER_LINE_BYTES: Final = 16_384
HEADER_COUNT: Final = 128
HEAD_BYTES: Final = 131_072
"""What may come in a row without a byte of a body: a head with its interim answers, chunk extensions, trailers."""

_BODILESS: Final = frozenset({204, 304})
_TRANSFER_CODINGS: Final = frozenset({"chunked", "identity"})


class _Stop(Exception):
    """Ends the parser's work within a piece of data; `failure` or `complete` say why."""


class _Parsing(Protocol):
    def feed_data(self, data: bytes) -> None: ...
    def get_status_code(self) -> int: ...
    def should_keep_alive(self) -> bool: ...


class Answer:
    """What is known of an answer so far. `max_bytes` bounds the decoded body.

    With `follow`, a redirect is over when its head is there: its body is of no use to anybody.
    """

    # Defaults of the class: most hold for most answers, and setting them all for each would cost time.
    coding: str | None = None
    complete = False
    """The whole answer is there, or as much of it as is wanted."""
    failure: Broken | None = None
    heard = False
    """Whether anything came since this was last set to False."""
    keep = False
    """Whether the connection can carry another request."""
    status = 0
    headers: dict[str, str]

    _data: bytes | bytearray = b""
    _idle = 0
    _interim = False
    _over = False
    _parser: _Parsing | None = None
    """Made when something comes: a request that waits costs less memory."""
    _size = 0
    _trailers = 0
    _unended = 0
    _until_end = False
    _waiter: asyncio.Future[None] | None = None

    def __init__(self, method: str, max_bytes: int, *, follow: bool = False) -> None:
        self._head_only = method == "HEAD"
        self._limit = self._max_bytes = max_bytes
        self.follow = follow
        """Before the head: whether redirects are followed. After it: whether this is one."""
        self.raw_headers: list[tuple[bytes, bytes]] = []

    def _new_parser(self) -> _Parsing:
        parser = HttpResponseParser(self)
        # Harmless and met in the world: a line that ends with LF alone, spaces behind a chunk's size.
        parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)
        return parser

    # ---- what the connection tells

    def feed(self, data: bytes) -> bool:
        """Take bytes from the connection. Returns whether the answer is over, well or not."""
        if self._over:
            self.keep = False
            return True
        parser = self._parser
        if parser is None:
            parser = self._parser = self._new_parser()
        size, lines = self._size, len(self.raw_headers)
        self.heard = True
        try:
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self.keep = False
            if not self.complete and self.failure is None:
                self.failure = _invalid(str(error))
        if self.complete or self.failure is not None:
            self._finish()
            return True
        if self._size == size:
            self._idle += len(data)
            self._unended = 0 if len(self.raw_headers) != lines else self._unended + len(data)
            if self._unended > HEADER_LINE_BYTES or self._idle > HEAD_BYTES:
                return self.fail(_invalid("its head, or a line in it, is too long"))
        else:
            self._idle = self._unended = 0
            if self.coding is not None:
                self._wake()
        return False

    def end(self, *, broken: bool) -> None:
        """The connection ended: `broken`, or in order."""
        if self._over:
            return
        self.keep = False
        if self.status < 200:
            self.fail(reset())
        elif self._until_end and not broken:
            self.complete = True
            self._finish()
        else:
            self.fail(_half())

    def fail(self, failure: Broken) -> bool:
        if not self._over:
            self.keep = False
            self.failure = failure
            self._finish()
        return True

    def abandon(self) -> None:
        """Let go of what came, when the request has failed: its error leads back here by its traceback, and such a
        circle would keep the body until garbage is collected, which is seldom."""
        self.failure = self._parser = self._waiter = None
        self._data = b""

    def _finish(self) -> None:
        self._over = True
        self._parser = None  # which holds this object
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self.failure is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(self.failure)

    # ---- what the parser calls

    def on_message_begin(self) -> None:
        if self.complete:
            raise _Stop  # bytes behind the answer, never read as another

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status >= 200:
            self._trailers += 1  # which nobody asked for
            if self._trailers > HEADER_COUNT:
                self._stop(_invalid("it has too many trailers"))
            return
        if len(name) + len(value) > HEADER_LINE_BYTES:
            self._stop(_invalid(f"a header is longer than {HEADER_LINE_BYTES} bytes"))
        self.raw_headers.append((name, value))
        if len(self.raw_headers) > HEADER_COUNT:
            self._stop(_invalid(f"it has more than {HEADER_COUNT} headers"))

    def on_headers_complete(self) -> None:
        parser = self._parser
        if parser is None:
            raise _Stop
        status = parser.get_status_code()
        if status < 200:
            if status == 101:
                self._stop(Broken("BAD_RESPONSE", "the answer changes the protocol (101), which was not asked for"))
            if status < 100:
                self._stop(_invalid(f"its status is {status}"))
            self._interim = True
            self.raw_headers.clear()
            return
        self.status = status
        headers = self.headers = header_texts(self.raw_headers)
        if self._head_only or status in _BODILESS:
            self.follow = self.follow and self._leads_on()
            self.keep = parser.should_keep_alive()
            self.complete = True
            return
        if self.follow:
            self.follow = self.complete = self._leads_on()
            if self.complete:
                return
        self._measure(headers)
        length = headers.get("content-length")
        if length is not None and int(length) > self._max_bytes:
            self._stop(too_large(self._max_bytes))

    def _measure(self, headers: dict[str, str]) -> None:
        transfer = headers.get("transfer-encoding")
        if transfer is not None and transfer.lower() not in _TRANSFER_CODINGS:
            self._stop(Broken("BAD_RESPONSE", f"its Transfer-Encoding is {transfer[:60]!r}, which was not asked for"))
        if transfer is None:
            self._until_end = "content-length" not in headers
        else:
            self._until_end = transfer.lower() == "identity"
        coding = headers.get("content-encoding")
        if coding:
            try:
                self.coding = coding_of(coding)
            except Broken as broken:
                self._stop(broken)
            if self.coding is not None:
                # Coded bytes that give nothing (empty blocks, endless headers) are bounded too.
                self._limit += self._max_bytes // 64 + 4_096

    def _leads_on(self) -> bool:
        return self.status in REDIRECTS and any(self.locations())

    def on_chunk_header(self) -> None:
        if self.complete and not self.follow:
            raise _Stop

    def on_body(self, data: bytes) -> None:
        if self.complete:
            if self.follow:
                return
            raise _Stop
        self._size += len(data)
        if self._size > self._limit:
            self._stop(too_large(self._max_bytes))
        kept = self._data
        if not kept:
            self._data = data
        elif isinstance(kept, bytearray):
            kept += data
        else:
            self._data = bytearray(kept) + data  # so that a body in tiny pieces takes no more than its size

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            return
        if self._parser is not None:
            self.keep = self._parser.should_keep_alive()
        self.complete = True

    def _stop(self, failure: Broken) -> None:
        self.failure = failure
        raise _Stop

    # ---- what the request asks

    def locations(self) -> list[str]:
        """The `Location` headers, as they came."""
        return [header_text(value) for name, value in self.raw_headers if name.lower() == b"location"]

    def more(self) -> asyncio.Future[None]:
        """Wait until the answer is over, or a piece of a coded body is there. Broken says what went wrong.

        A future and no coroutine: many requests wait at the same time, and each coroutine has its memory.
        """
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        if self._over:
            self._wake()
        return waiter

    @property
    def plain(self) -> bytes:
        """The body as it came."""
        return bytes(self._data)

    async def decoded(self, coding: str) -> bytes:
        """The body without its `coding`, decoded as it comes in. Broken as `more`, and for what cannot be decoded."""
        inflater = Inflater(coding)
        decoded = bytearray()
        unyielded = 0
        while True:
            received, self._data = self._data, b""
            try:
                for piece in inflater.feed(bytes(received)):
                    decoded += piece
                    unyielded += len(piece)
                    if len(decoded) > self._max_bytes:
                        raise too_large(self._max_bytes)
                    if unyielded > 4 * PIECE:
                        unyielded = 0
                        await asyncio.sleep(0)  # others go on
            except zlib.error as error:
                raise Broken("BAD_RESPONSE", f"the body is not valid {coding}: {error}") from None
            if not self._data:
                if self.complete:
                    break
                await self.more()
        if not inflater.complete:
            raise _half()
        return bytes(decoded)


def reset() -> Broken:
    return Broken("CONNECTION_RESET", "the connection broke before the answer was complete")


def too_large(max_bytes: int) -> Broken:
    return Broken(
        "RESPONSE_TOO_LARGE",
        f"the answer's body is larger than the limit of {max_bytes} bytes; "
        "ask for less, or raise the limit in the configuration",
        {"limit_bytes": max_bytes},
    )


def _invalid(why: str) -> Broken:
    return Broken("BAD_RESPONSE", f"the answer is not valid HTTP: {why[:200]}")


def _half() -> Broken:
    return Broken("HALF_BODY", "the answer ended before its announced end")
