"""The other side of http steps: a local HTTP target that keeps every request and misbehaves on command.

It lives in a thread of its own, so that tests with and without an event loop can use it, and it answers from a script:
the n-th request to a path gets the n-th `Answer` of that path, the last one repeats.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from httptools import HttpRequestParser

_PATIENCE_S = 30.0


@dataclass(frozen=True)
class Seen:
    """One request as it came. `at` is monotonic seconds; header names are lower case."""

    at: float
    method: str
    path: str
    query: str
    key: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What a request gets. `body` is a JSON value, or bytes as they are; `hold` keeps the request until `release`;
    `before` is called when the request has arrived, before anything is sent back; `then` is how it ends."""

    status: int = 200
    body: Any = field(default_factory=lambda: {"ok": True})
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0
    hold: bool = False
    before: Callable[[Seen], None] | None = None
    then: Literal["answer", "reset", "close"] = "answer"

    def encode(self) -> bytes:
        raw = isinstance(self.body, bytes)
        content = self.body if raw else json.dumps(self.body).encode()
        lines = [f"HTTP/1.1 {self.status} Scripted", f"Content-Length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if not raw:
            lines.append("Content-Type: application/json")
        return "\r\n".join([*lines, "", ""]).encode() + content


class Target:
    """`seen` is every request in its order. `answer(path, …)` sets the script of a path; `/` without one answers
    `{"ok": true}`."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.connections: set[asyncio.Transport] = set()
        self._scripts: dict[str, Sequence[Answer]] = {}
        self._counts: Counter[str] = Counter()
        self._held: defaultdict[str, list[asyncio.Event]] = defaultdict(list)
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=1024)
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, name="target", daemon=True)
        self._thread.start()

    # ---- what a test sets and sees

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, path: str, *script: Answer) -> None:
        """The next requests to `path` get these answers, one each; the last one repeats."""
        with self._changed:
            self._scripts[path] = script
            self._counts[path] = 0

    def release(self, path: str) -> None:
        """Let every request to `path` go that is held now."""
        self._loop.call_soon_threadsafe(self._release, path)

    def keys(self, path: str | None = None) -> list[str]:
        """The Idempotency-Key of every request (to `path`), in their order."""
        return [seen.key for seen in self.requests(path)]

    def requests(self, path: str | None = None) -> list[Seen]:
        with self._changed:
            return [seen for seen in self.seen if path in (None, seen.path)]

    def await_requests(self, count: int, path: str | None = None, timeout_s: float = _PATIENCE_S) -> list[Seen]:
        """Return when `count` requests (to `path`) have come; AssertionError when they do not."""
        with self._changed:
            found = self._changed.wait_for(
                lambda: sum(1 for seen in self.seen if path in (None, seen.path)) >= count, timeout_s
            )
        requests = self.requests(path)
        assert found, f"{len(requests)} of {count} requests to {path or 'the target'} came within {timeout_s} s"
        return requests

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            for transport in list(self.connections):
                transport.abort()
            # Their ends cancel what is still waiting to answer.
            while others := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(others)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # ---- in the thread

    def _release(self, path: str) -> None:
        for event in self._held.pop(path, ()):
            event.set()

    def take(self, seen: Seen) -> tuple[Answer, asyncio.Event]:
        """Keep a request; return what it gets, and what it has to wait for if it is held."""
        held = asyncio.Event()
        with self._changed:
            script = self._scripts.get(seen.path, (Answer(),))
            answer = script[min(self._counts[seen.path], len(script) - 1)]
            self._counts[seen.path] += 1
            if answer.hold:
                self._held[seen.path].append(held)
            self.seen.append(seen)
            self._changed.notify_all()
        if answer.before is not None:
            answer.before(seen)
        return answer, held


class _Connection(asyncio.Protocol):
    def __init__(self, target: Target) -> None:
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = HttpRequestParser(self)
        self._target.connections.add(self._transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._target.connections.discard(self._transport)
        for task in self._tasks:
            task.cancel()

    async def _reply(self, answer: Answer, held: asyncio.Event) -> None:
        if answer.hold:
            await held.wait()
        if answer.delay_s:
            await asyncio.sleep(answer.delay_s)
        transport = self._transport
        if transport.is_closing():
            return
        if answer.then == "answer":
            transport.write(answer.encode())
            return
        if answer.then == "reset":
            sock: socket.socket = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    # ---- httptools

    def on_message_begin(self) -> None:
        self._target_line = b""
        self._headers: dict[str, str] = {}
        self._body = b""

    def on_url(self, url: bytes) -> None:
        self._target_line += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        where = urlsplit(self._target_line.decode("latin-1"))
        seen = Seen(
            time.monotonic(),
            self._parser.get_method().decode("latin-1"),
            where.path,
            where.query,
            self._headers.get("idempotency-key", ""),
            self._headers,
            self._body,
        )
        task = asyncio.get_running_loop().create_task(self._reply(*self._target.take(seen)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@contextlib.contextmanager
def running_target() -> Iterator[Target]:
    """A target until the block ends."""
    target = Target()
    try:
        yield target
    finally:
        target.close()
