"""One connection: a request goes out, its answer comes back, one at a time."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol, cast

from taskforge.steps.http_answer import Answer, reset
from taskforge.steps.http_failure import Broken

_AT_ONCE: Final = 1_048_576
"""A body up to here is written with its head; a larger one in pieces, as the server takes them."""
_PIECE: Final = 262_144
_PARTS: Final = 4
"""So often the silence is looked at within its limit."""


class Keeper(Protocol):
    """Hears of the end of its connections."""

    def forget(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """A connection whose bytes go to one Answer. Bytes that come while there is none close it.

    That way nothing that came before a request was sent can be taken for its answer. What a server sends of its own
    accord behind that, nobody can tell from an answer.
    """

    __slots__ = ("_answer", "_paused", "_silence", "_silence_s", "_silent_parts", "_transport", "_unsent", "idle_since",
                 "keeper", "place")  # fmt: skip

    def __init__(self) -> None:
        self._answer: Answer | None = None
        self._paused = False
        self._silence: asyncio.TimerHandle | None = None
        self._silence_s = 0.0
        self._silent_parts = 0
        self._transport: asyncio.Transport | None = None
        self._unsent: memoryview | None = None
        self.idle_since = 0.0
        self.keeper: Keeper | None = None
        """Who hears of its end."""
        self.place: object = None
        """Where its keeper has put it."""

    @property
    def usable(self) -> bool:
        """Whether a request may go out on it, as far as this side knows."""
        return self._transport is not None and not self._transport.is_closing()

    def begin(self, answer: Answer, head: bytes, body: bytes | None) -> None:
        """Send a request; `answer` gets what comes back. Broken where the connection ended before: nothing was sent."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise Broken("CONNECTION_RESET", "the connection broke while it was made")
        self._answer = answer
        if not body:
            transport.write(head)
        elif len(body) <= _AT_ONCE:
            transport.write(head + body)
        else:
            transport.write(head)
            self._unsent = memoryview(body)
            self._push()

    def watch(self, silence_s: float) -> None:
        """Fail the answer when nothing comes for so long."""
        self._silence_s = silence_s
        self._silent_parts = 0
        self._silence = asyncio.get_running_loop().call_later(silence_s / _PARTS, self._listen)

    def abort(self) -> None:
        """Close at once. An answer under way fails."""
        self._finish(reset())
        if self._transport is not None:
            self._transport.abort()

    def fail(self, failure: Broken) -> None:
        """Close at once; an answer under way fails with this."""
        self._finish(failure)
        self.abort()

    def detach(self) -> bool:
        """Let go of the answer. Returns whether the connection can take another request."""
        self._answer = None
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        # A body that is still on its way when the answer is there: nobody knows whether the server reads it to its end.
        return self._unsent is None and not self._paused and self.usable

    def _finish(self, failure: Broken) -> None:
        answer, self._answer = self._answer, None
        self._unsent = None
        if answer is not None:
            answer.fail(failure)

    def _push(self) -> None:
        unsent, transport = self._unsent, self._transport
        while unsent is not None and transport is not None and not self._paused and not transport.is_closing():
            piece, unsent = unsent[:_PIECE], unsent[_PIECE:]
            self._unsent = unsent = unsent if len(unsent) else None
            transport.write(piece)

    def _listen(self) -> None:
        self._silence = None
        answer = self._answer
        if answer is None:
            return
        self._silent_parts = 0 if answer.heard else self._silent_parts + 1
        answer.heard = False
        if self._silent_parts < _PARTS:
            self._silence = asyncio.get_running_loop().call_later(self._silence_s / _PARTS, self._listen)
        else:
            self.fail(Broken("READ_TIMEOUT", "the server was silent for longer than the read timeout"))

    # ---- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            self.abort()
        elif answer.feed(data):
            self._answer = None

    def eof_received(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.end(broken=False)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = self._unsent = None
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.end(broken=error is not None)
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        if self.keeper is not None:
            self.keeper.forget(self)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._push()
