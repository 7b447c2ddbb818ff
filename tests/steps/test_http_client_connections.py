"""One connection of the HTTP client: when it is kept, and that no answer is ever taken for another."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskforge.security.egress import EgressPolicy
from taskforge.steps.http_client import HttpClient, HttpFailure, Request
from taskforge.steps.http_request import first_hop
from tests.steps.test_http_client_egress import certificate
from tests.support.http_outcomes import outcome, until
from tests.support.raw_server import Peer, Received, raw_server


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    async with HttpClient(EgressPolicy()) as made:
        yield made


async def ok(peer: Peer, _: Received) -> None:
    await peer.answer(b"hi")


async def test_a_get_after_a_head_with_a_length_reads_its_own_answer(client: HttpClient) -> None:
    async def script(peer: Peer, received: Received) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + (b"hi" if received.method == "GET" else b""))

    async with raw_server(script) as server:
        for method, body in (("HEAD", b""), ("GET", b"hi"), ("HEAD", b""), ("GET", b"hi")):
            assert (await client.request(Request(method, server.url()))).body == body
        assert server.connections == 1


async def test_a_continue_that_was_not_asked_for_is_passed_over(client: HttpClient) -> None:
    async def script(peer: Peer, _: Received) -> None:
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(0.01)
        await peer.answer(b"hi")

    async with raw_server(script) as server:
        for _ in range(2):
            response = await client.request(Request("POST", server.url(), body=b"x"))
            assert (response.status, response.body) == (200, b"hi")
        assert server.connections == 1


EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("more", [EVIL, EVIL[:20], b"junk", b"\0"])
async def test_bytes_behind_an_answer_are_never_the_answer_to_the_next_request(
    client: HttpClient, more: bytes, later: bool
) -> None:
    gone = asyncio.Event()

    async def script(peer: Peer, _: Received) -> None:
        good = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"
        if not later:
            await peer.send(good + more)
        else:
            await peer.send(good)
            await asyncio.sleep(0.02)
            with contextlib.suppress(ConnectionError):
                await peer.send(more)
        await peer.gone()
        gone.set()

    async with raw_server(script) as server:
        for number in range(1, 3):
            assert (await client.request(Request("GET", server.url()))).body == b"good"
            async with asyncio.timeout(5):
                await gone.wait()  # closed by this side, as soon as they came
            gone.clear()
            assert server.connections == number


async def test_a_server_that_speaks_first_gets_no_request(client: HttpClient) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail ready\r\n")
        await Peer(reader, writer, 1).gone()
        writer.close()
        gone.set()

    gone = asyncio.Event()
    greeting = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with greeting:
        url = f"http://127.0.0.1:{greeting.sockets[0].getsockname()[1]}/"
        said = await outcome(client.request(Request("GET", url, timeout_ms=5_000)))
        await gone.wait()
    assert said in ("CONNECTION_RESET not sent", "BAD_RESPONSE sent")


async def test_a_connection_is_not_kept_when_the_answer_came_before_the_body_was_sent(client: HttpClient) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")  # and says nothing of closing
        await Peer(reader, writer, 1).gone()
        writer.close()
        ended.append(1)

    connections: list[int] = []
    ended: list[int] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        for _ in range(2):
            response = await client.request(Request("PUT", url, body=bytes(30_000_000), timeout_ms=10_000))
            assert response.status == 413
        await until(lambda: len(ended) == 2)  # closed by this side
    assert len(connections) == 2


async def test_a_kept_connection_that_ends_with_the_request_fails_it_once_and_as_sent(client: HttpClient) -> None:
    async def script(peer: Peer, received: Received) -> None:
        if received.target == "/stale":
            peer.close()
        else:
            await peer.answer(b"hi")

    async with raw_server(script) as server:
        await client.request(Request("GET", server.url("/")))
        assert await outcome(client.request(Request("GET", server.url("/stale")))) == "CONNECTION_RESET sent"
        assert [got.target for got in server.requests] == ["/", "/stale"]
        assert server.connections == 1


async def test_tls_connections_are_kept_and_carry_large_bodies(tmp_path: Path) -> None:
    serving, trusting = certificate(tmp_path, "127.0.0.1")
    async with raw_server(ok, tls=serving) as server, HttpClient(EgressPolicy(), tls=trusting) as client:
        for size in (1, 5_000_000, 1):
            await client.request(Request("POST", server.url(), body=bytes(size)))
        assert server.connections == 1
    assert [len(got.body) for got in server.requests] == [1, 5_000_000, 1]


@example("http://", ".")
@given(st.sampled_from(["http://h/", "http://h?", "http://", "HTTPS://h:1/a?b#"]), st.text(max_size=20))
def test_no_url_writes_more_than_a_target_and_a_host(start: str, text: str) -> None:
    try:
        hop = first_hop(Request("GET", start + text, query=[(text, text)]))
    except HttpFailure as failure:
        assert failure.code == "INVALID_URL"
        return
    assert re.fullmatch(r"/[!-~]*", hop.url.target)
    assert re.fullmatch(r"[!-~]+", hop.url.host_port)


Scenario = Callable[[HttpClient], Coroutine[Any, Any, None]]


@pytest.mark.parametrize(
    "scenario",
    [
        test_a_get_after_a_head_with_a_length_reads_its_own_answer,
        test_a_kept_connection_that_ends_with_the_request_fails_it_once_and_as_sent,
        test_a_connection_is_not_kept_when_the_answer_came_before_the_body_was_sent,
    ],
)
def test_on_the_event_loop_of_the_server_it_is_the_same(scenario: Scenario) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def run() -> None:
        async with HttpClient(EgressPolicy()) as client:
            await scenario(client)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
