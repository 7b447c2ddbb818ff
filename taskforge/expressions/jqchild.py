"""One jq child process: started, asked, killed. `evaluator` has the pool of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import cast

from taskforge.core.record import dataclass

_START_SECONDS = 20.0
"""A child that has not said that it is ready by then is given up; a loaded machine may need a while."""

_FROM_OUTSIDE = (0, -9, -15)
"""Ends that no program brings about: jq aborts where memory is short. SIGKILL may be the system's own out-of-memory."""


@dataclass(frozen=True, slots=True)
class Spawn:
    """The command of a child."""

    argv: Sequence[str]


class Child(asyncio.SubprocessProtocol):
    """A child and what is known of it. One that failed is not used again.

    `failure` is None, "deadline", "died" (of what it evaluated, mostly for want of memory) or "gone" (something outside
    ended it).
    """

    def __init__(self) -> None:
        self.failure: str | None = None
        self.pid = 0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.SubprocessTransport | None = None
        self._pipe: asyncio.WriteTransport | None = None
        self._buffer = bytearray()
        self._frames: list[bytes] = []
        self._answer: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._seconds = 0.0
        self._status: int | None = None
        self._exited: asyncio.Future[None] = self._loop.create_future()

    @classmethod
    async def start(cls, spawn: Spawn) -> Child:
        """Start a child and wait until it is ready. Raises OSError when it cannot be."""
        loop = asyncio.get_running_loop()
        # An empty environment; Windows loads nothing without this one.
        environment = {"SYSTEMROOT": os.environ.get("SYSTEMROOT", "")} if sys.platform == "win32" else {}
        transport, child = await loop.subprocess_exec(
            cls,
            *spawn.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            close_fds=True,
        )
        child._transport = transport
        # uvloop's transports are none of asyncio's classes.
        child._pipe = cast(asyncio.WriteTransport, transport.get_pipe_transport(0))
        child.pid = transport.get_pid()
        try:
            await child._wait(_START_SECONDS)
        except BaseException:
            child.kill()
            raise
        said = b"".join(child._frames).decode(errors="replace")
        if child.failure is not None or said:
            child.kill()
            await child.ended()
            raise OSError(said or "the jq process ended at its start")
        return child

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self.failure is None and not self._exited.done()

    @property
    def is_busy(self) -> bool:
        """Whether it still owes an answer (its asker was cancelled)."""
        return self._answer is not None

    async def ask(self, header: bytes, text: bytes, seconds: float) -> list[bytes]:
        """Send a request; give the frames of its answer, as far as they came. See `failure` afterwards."""
        assert self._pipe is not None
        if self.is_alive:
            self._pipe.write(b"".join((len(header).to_bytes(4, "big"), header, len(text).to_bytes(4, "big"), text)))
            await self._wait(seconds)
        if self.failure == "died":
            # The pipe closes before the exit status is known.
            await asyncio.wait([self._exited], timeout=1)
            if self._status in _FROM_OUTSIDE:
                self.failure = "gone"
        return self._frames

    def kill(self) -> None:
        """End it at once. Harmless when it has ended."""
        if self.failure is None:
            self.failure = "died"
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            with contextlib.suppress(ProcessLookupError):
                self._transport.kill()
            self._transport.close()

    async def ended(self) -> None:
        """Wait until the process is gone."""
        await asyncio.wait([self._exited])

    async def _wait(self, seconds: float) -> None:
        self._frames = []
        self._seconds = seconds
        self._answer = self._loop.create_future()
        self._timer = self._loop.call_later(seconds, self._overrun)
        if self._exited.done():
            self._fail("died")
        await self._answer
        self._answer = None

    def _overrun(self) -> None:
        self._fail("deadline")
        self.kill()

    def _fail(self, failure: str) -> None:
        if self.failure is None:
            self.failure = failure
        if self._timer is not None:
            self._timer.cancel()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)

    # ---- called by the event loop

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Take in frames. Each one of an answer starts the clock of the next program anew."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 4:
            size = int.from_bytes(buffer[:4], "big")
            if len(buffer) < size + 4:
                break
            frame = bytes(buffer[4 : size + 4])
            del buffer[: size + 4]
            if self._timer is not None:
                self._timer.cancel()
            if not frame:
                if self._answer is not None and not self._answer.done():
                    self._answer.set_result(None)
                continue
            self._frames.append(frame)
            self._timer = self._loop.call_later(self._seconds, self._overrun)

    def pipe_connection_lost(self, fd: int, error: Exception | None) -> None:
        """A closed pipe: the child is gone, or going."""
        self._fail("died")

    def process_exited(self) -> None:
        """The process has ended."""
        if self._transport is not None:
            self._status = self._transport.get_returncode()
        if not self._exited.done():
            self._exited.set_result(None)
        self._fail("died")
