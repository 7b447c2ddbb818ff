"""What a connection may cost before its request is known: real sockets, real protocol, short limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn

from taskforge.api import connection
from taskforge.api.call import Losing
from taskforge.api.connection import GuardedProtocol
from tests.api.gate import make_gate
from tests.support.garbage import circles

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[int]:
    """The gate behind the guarded protocol on a free port."""
    app, _, _ = make_gate()
    config = uvicorn.Config(app, http=GuardedProtocol, ws="none", lifespan="off", log_config=None, access_log=False)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)

    def make() -> asyncio.Protocol:
        made: Any = config.http_protocol_class
        protocol: asyncio.Protocol = made(config=config, server_state=server.server_state, app_state={})
        return protocol

    listener = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


async def answer_to(port: int, *pieces: bytes, then_wait: bool = True) -> tuple[int, Any]:
    """Send, read until the server closes or has answered; status and decoded body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return int(head.split(b" ")[1]), json.loads(await reader.readexactly(length))
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_usual_request_is_answered_and_another_on_the_same_connection() -> None:
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(GET + b"\r\n")
            assert (await reader.readuntil(b'{"status":"ok"}')).startswith(b"HTTP/1.1 200")
        writer.close()
        await writer.wait_closed()


async def test_a_head_in_small_pieces_is_read() -> None:
    async with listening() as port:
        assert await answer_to(port, *[bytes([byte]) for byte in GET + b"\r\n"]) == (200, {"status": "ok"})


@pytest.mark.parametrize("start", [b"GET /", GET + b"x: ", GET])
async def test_a_head_without_end_is_refused_with_431(start: bytes) -> None:
    filler = b"y: z\r\n" * 10_000 if start == GET else b"a" * 60_000
    async with listening() as port:
        status, problem = await answer_to(port, start, *[filler] * 30)
    assert (status, problem["code"]) == (431, "HEAD_TOO_LARGE")


async def test_a_large_body_right_behind_the_head_is_no_large_head() -> None:
    head = b"POST /v1/tokens HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n"
    async with listening() as port:
        status, problem = await answer_to(port, head + b"x" * 60_000)
    assert (status, problem["code"]) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize("sent", [GET, b"G", GET + b"\r\n" + GET])
async def test_a_head_that_does_not_end_is_given_up(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.05)
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        said = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert said.split(b"HTTP/1.1 ")[-1].startswith(b"408")
    assert b'"REQUEST_TIMEOUT"' in said


async def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.05)
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01\x02\x00\x01\x00", b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
     b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
     b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n", b"CONNECT evil:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
     b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
     b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"],
)  # fmt: skip
async def test_what_is_no_http_gets_a_problem(sent: bytes) -> None:
    async with listening() as port:
        status, problem = await answer_to(port, sent)
    assert (status, problem["code"]) in ((400, "MALFORMED_REQUEST"), (401, "UNAUTHORIZED"))


async def test_a_wish_for_another_protocol_is_answered_in_this_one() -> None:
    async with listening() as port:
        for wish in (b"h2c", b"websocket"):
            sent = GET + b"Connection: Upgrade\r\nUpgrade: " + wish + b"\r\n\r\n"
            assert await answer_to(port, sent) == (200, {"status": "ok"})


async def test_an_answer_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    class Watched(GuardedProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.transport = cast(asyncio.Transport, SimpleNamespace(
                write=self._keep, close=transport.close, is_closing=transport.is_closing,
                resume_reading=transport.resume_reading,
            ))  # fmt: skip
            self._through = transport

        def _keep(self, data: bytes) -> None:
            written.append(data)
            self._through.write(data)

    monkeypatch.setattr("tests.api.test_connection.GuardedProtocol", Watched)
    async with listening() as port:
        assert await answer_to(port, GET + b"\r\n") == (200, {"status": "ok"})
        assert await answer_to(port, GET + b"Connection: close\r\n\r\n") == (200, {"status": "ok"})
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET.replace(b"GET", b"HEAD") + b"\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
    kept, closed, *in_two = written
    assert kept.startswith(b"HTTP/1.1 200 ") and kept.endswith(b'\r\n\r\n{"status":"ok"}')
    assert b"\r\nconnection: close\r\n" in closed and b"connection" not in kept
    assert b"".join(in_two) == head and b"content-length: 15\r\n" in head


async def test_who_waits_for_a_client_that_has_left_before_is_told_at_once() -> None:
    told: list[str] = []
    losing = Losing()
    losing.add(lambda: told.append("before"))
    stays = partial(told.append, "stays")
    losing.add(stays)
    losing.discard(stays)
    losing.tell()
    assert told == ["before"]
    losing.add(lambda: told.append("after"))
    losing.tell()
    assert told == ["before", "after"]


async def test_a_request_that_was_answered_leaves_nothing_to_the_garbage_collector() -> None:
    async with listening() as port:
        await answer_to(port, GET + b"\r\n")
        with circles() as left:
            for sent in (
                GET,
                GET.replace(b"GET", b"HEAD"),
                GET.replace(b"healthz", b"docs"),
                GET.replace(b"GET", b"PUT"),
            ):
                for _ in range(10):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(sent + b"Connection: close\r\n\r\n")
                    assert (await reader.read()).startswith(b"HTTP/1.1 ")
                    writer.close()
                    await writer.wait_closed()
    assert not {"RequestResponseCycle", "Call", "JsonResponse", "Task"} & left.keys(), left
