"""The HTTP transport against a real socket: what is sent, what comes back, and every way in which servers fail."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import traceback
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from taskforge.core.errors import FAILURE_CODES
from taskforge.security.egress import EgressPolicy
from taskforge.steps import http_client
from taskforge.steps.http_answer import Answer
from taskforge.steps.http_client import RETRY_CLASSES, HttpClient, HttpFailure, Request
from tests.support.raw_server import Peer, Received, Script, raw_server


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    async with HttpClient(EgressPolicy()) as made:
        yield made


async def failure_of(client: HttpClient, request: Request) -> HttpFailure:
    with pytest.raises(HttpFailure) as caught:
        await client.request(request)
    return caught.value


async def ok(peer: Peer, _: Received) -> None:
    await peer.answer(b"hi")


def answering(data: bytes, *, then: str = "close") -> Script:
    """Send these bytes, then close, reset, or wait for the client."""

    async def script(peer: Peer, _: Received) -> None:
        await peer.send(data)
        if then == "close":
            peer.close()
        elif then == "reset":
            await asyncio.sleep(0.05)  # so that the bytes are read before the reset discards them
            peer.reset()
        else:
            await peer.gone()

    return script


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_request_is_sent_as_it_was_said_and_its_answer_comes_back(client: HttpClient) -> None:
    async def script(peer: Peer, _: Received) -> None:
        await peer.answer(b'{"id": 1}', "Content-Type: application/json", "X-A: 1", "x-a: 2", status="201 Created")

    async with raw_server(script) as server:
        response = await client.request(
            Request(
                "post",
                server.url("/p%2Fq/%7e?a=%2B+b&c"),
                [("Content-Type", "application/json"), ("X-Colour", "grün")],
                [("d", "1 2+3&é"), ("d", "4")],
                b'{"a": 1}',
            )
        )
    got = server.requests[0]
    assert (got.method, got.target) == ("POST", "/p%2Fq/%7e?a=%2B+b&c&d=1+2%2B3%26%C3%A9&d=4")
    assert got.body == b'{"a": 1}'
    assert got.header("content-type") == "application/json"
    assert got.header("x-colour") == "grün"
    assert got.header("host") == f"127.0.0.1:{server.port}"
    assert str(got.header("user-agent")).startswith("TaskForge/")
    assert response.status == 201
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-a"] == "1, 2"
    assert response.body == b'{"id": 1}'
    assert response.hops == 0
    assert 0 <= response.duration_ms < 10_000


async def test_a_body_alone_gets_no_content_type_and_no_body_gets_none_sent(client: HttpClient) -> None:
    async with raw_server(ok) as server:
        await client.request(Request("POST", server.url(), body=b"x"))
        await client.request(Request("POST", server.url()))
        await client.request(Request("GET", server.url()))
    assert [got.header("content-type") for got in server.requests] == [None, None, None]
    assert [got.header("content-length") for got in server.requests] == ["1", "0", None]
    assert server.connections == 1  # all over one kept connection


async def test_a_large_request_body_arrives_whole(client: HttpClient) -> None:
    body = bytes(range(256)) * 20_000
    async with raw_server(ok) as server:
        await client.request(Request("PUT", server.url(), body=body))
    assert server.requests[0].body == body


async def test_cookies_are_never_kept_and_set_cookie_lines_stay_apart(client: HttpClient) -> None:
    async def script(peer: Peer, _: Received) -> None:
        await peer.answer(b"", "Set-Cookie: a=1; Path=/", "Set-Cookie: b=2, 3")

    async with raw_server(script) as server:
        first = await client.request(Request("GET", server.url()))
        await client.request(Request("GET", server.url(), [("Cookie", "mine=1")]))
    assert first.headers["set-cookie"] == "a=1; Path=/\nb=2, 3"
    assert [got.header("cookie") for got in server.requests] == [None, "mine=1"]


async def test_header_bytes_that_are_no_utf8_become_valid_text(client: HttpClient) -> None:
    data = b"HTTP/1.1 200 OK\r\nX-U: gr\xc3\xbcn\r\nX-L: gr\xfcn\r\nContent-Length: 0\r\n\r\n"
    async with raw_server(answering(data)) as server:
        response = await client.request(Request("GET", server.url()))
    assert (response.headers["x-u"], response.headers["x-l"]) == ("grün", "grün")


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\nContent-Encoding: gzip\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Type: application/json\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5000000\r\n\r\n"),
    ],
)
async def test_answers_without_a_body_are_complete_and_keep_their_connection(
    client: HttpClient, method: str, head: bytes
) -> None:
    async def script(peer: Peer, _: Received) -> None:
        await peer.send(head)

    async with raw_server(script) as server:
        for _ in range(2):
            response = await client.request(Request(method, server.url(), timeout_ms=5_000))
            assert response.body == b""
    assert server.connections == 1


async def test_interim_answers_are_passed_over(client: HttpClient) -> None:
    data = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    async with raw_server(answering(data)) as server:
        assert (await client.request(Request("GET", server.url()))).body == b"hi"


async def test_an_early_answer_to_a_large_upload_is_read(client: HttpClient) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!")
        await writer.drain()
        await Peer(reader, writer, 1).gone()
        writer.close()
        served.set()

    served = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        response = await client.request(Request("POST", url, body=bytes(20_000_000), timeout_ms=10_000))
        await served.wait()
    assert (response.status, response.body) == (413, b"no!")


async def test_no_traceback_of_a_failure_shows_headers_path_or_query(client: HttpClient) -> None:
    async with raw_server(answering(b"garbage\r\n")) as server:
        for url in (server.url("/s3cret?s3cret=s3cret"), f"http://127.0.0.1:{closed_port()}/s3cret"):
            request = Request("POST", url, [("Authorization", "s3cret")], body=b"s3cret")
            failure = await failure_of(client, request)
            shown = "".join(traceback.format_exception(failure))
            assert failure.code in shown or failure.message in shown
            assert "s3cret" not in shown


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
UNSIZED = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "then", "code"),
    [
        pytest.param(b"", "close", "CONNECTION_RESET", id="closed before any answer"),
        pytest.param(b"", "reset", "CONNECTION_RESET", id="reset before any answer"),
        pytest.param(b"HTTP/1.1 200 O", "close", "CONNECTION_RESET", id="closed within the status line"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", "reset", "CONNECTION_RESET", id="reset within the headers"),
        pytest.param(SIZED + b"abc", "close", "HALF_BODY", id="half a sized body"),
        pytest.param(SIZED + b"abc", "reset", "HALF_BODY", id="reset within a sized body"),
        pytest.param(CHUNKED + b"5\r\nabc", "close", "HALF_BODY", id="half a chunk"),
        pytest.param(CHUNKED + b"3\r\nabc\r\n", "close", "HALF_BODY", id="no last chunk"),
        pytest.param(CHUNKED + b"3\r\nabc\r\n", "reset", "HALF_BODY", id="reset between chunks"),
        pytest.param(UNSIZED + b"abc", "reset", "HALF_BODY", id="reset within a body without a length"),
        pytest.param(CHUNKED + b"zz\r\nabc", "wait", "BAD_RESPONSE", id="bad chunk size"),
        pytest.param(CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n", "wait", "BAD_RESPONSE", id="chunk longer than it says"),
        pytest.param(b"220 mail ready\r\n", "wait", "BAD_RESPONSE", id="another protocol"),
        pytest.param(b"HTTP/1.1 abc OK\r\n\r\n", "wait", "BAD_RESPONSE", id="status is no number"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA B: c\r\n\r\n", "wait", "BAD_RESPONSE", id="bad header name"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "wait", "BAD_RESPONSE", id="negative length"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1_000, "wait", "BAD_RESPONSE", id="header flood"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000, "wait", "BAD_RESPONSE", id="endless header"),
        pytest.param(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            "wait",
            "BAD_RESPONSE",
            id="upgrade",
        ),
    ],
)
async def test_a_broken_answer_is_a_network_failure_after_sending(
    client: HttpClient, data: bytes, then: str, code: str
) -> None:
    async with raw_server(answering(data, then=then)) as server:
        failure = await failure_of(client, Request("GET", server.url(), timeout_ms=5_000))
        assert (failure.code, failure.retry_class, failure.sent) == (code, "network", True), failure.message
        assert str(server.port) in failure.message
        assert len(server.requests) == 1  # nothing was repeated behind the engine's back


async def test_a_body_that_ends_with_the_connection_is_whole_when_it_is_closed_in_order(client: HttpClient) -> None:
    async with raw_server(answering(UNSIZED + b"abc")) as server:
        assert (await client.request(Request("GET", server.url()))).body == b"abc"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "POST", "PATCH"])
async def test_no_method_is_repeated_when_a_kept_connection_breaks(client: HttpClient, method: str) -> None:
    async def script(peer: Peer, received: Received) -> None:
        if received.target == "/first":
            await peer.answer(b"hi")
        else:
            peer.reset()

    async with raw_server(script) as server:
        await client.request(Request("GET", server.url("/first")))
        failure = await failure_of(client, Request(method, server.url("/second"), body=b"x"))
        assert (failure.code, failure.sent) == ("CONNECTION_RESET", True)
        assert [got.target for got in server.requests] == ["/first", "/second"]
        assert server.connections == 1
        assert (await client.request(Request("GET", server.url("/first")))).status == 200


async def test_a_connection_that_the_server_closed_while_idle_is_not_used_again(client: HttpClient) -> None:
    closed = asyncio.Event()

    async def script(peer: Peer, _: Received) -> None:
        await peer.answer(b"hi")  # says nothing of closing, and closes
        peer.close()
        await peer.writer.wait_closed()
        closed.set()

    async with raw_server(script) as server, raw_server(ok) as other:
        for _ in range(3):
            await client.request(Request("POST", server.url(), body=b"x"))
            await closed.wait()
            closed.clear()
            await client.request(Request("GET", other.url()))  # a turn of the loop, in which the end is seen
    assert len(server.requests) == server.connections == 3


async def test_a_fresh_request_never_uses_a_kept_connection(client: HttpClient) -> None:
    async with raw_server(ok) as server:
        for fresh in (False, True, True):
            await client.request(Request("GET", server.url(), fresh=fresh))
    assert server.connections == 3
    assert [got.header("connection") for got in server.requests] == [None, "close", "close"]


async def test_a_refused_connection_is_known_as_not_sent(client: HttpClient) -> None:
    failure = await failure_of(client, Request("POST", f"http://127.0.0.1:{closed_port()}/", body=b"x"))
    assert (failure.code, failure.retry_class, failure.sent) == ("CONNECT_REFUSED", "network", False)
    assert failure.detail == {"errno": "ECONNREFUSED"}


async def test_the_overall_timeout_bounds_a_silent_server(client: HttpClient) -> None:
    async with raw_server(answering(b"", then="wait")) as server:
        failure = await failure_of(client, Request("GET", server.url(), timeout_ms=100))
    assert (failure.code, failure.retry_class, failure.sent) == ("ATTEMPT_TIMEOUT", "timeout", True)
    assert "100 ms" in failure.message


@pytest.mark.parametrize("head", [SIZED, CHUNKED + b"ffff\r\n", UNSIZED, b"HTTP/1.1 200 OK\r\nX: "])
async def test_the_overall_timeout_bounds_a_server_that_drips(client: HttpClient, head: bytes) -> None:
    async def script(peer: Peer, _: Received) -> None:
        await peer.send(head)
        with contextlib.suppress(ConnectionError):
            while True:
                await peer.send(b"a")
                await asyncio.sleep(0.03)

    async with raw_server(script) as server:
        failure = await failure_of(client, Request("GET", server.url(), timeout_ms=150))
    assert (failure.code, failure.sent) == ("ATTEMPT_TIMEOUT", True)


async def test_the_read_timeout_bounds_silence_and_not_a_slow_answer(client: HttpClient) -> None:
    async with raw_server(answering(SIZED + b"abc", then="wait")) as server:
        failure = await failure_of(client, Request("GET", server.url(), read_timeout_ms=50, timeout_ms=5_000))
    assert (failure.code, failure.retry_class, failure.sent) == ("READ_TIMEOUT", "timeout", True)


async def test_a_server_that_takes_no_connection_ends_in_a_connect_timeout_that_is_not_sent() -> None:
    # A full backlog: the kernel answers no further SYN, as behind a firewall that drops.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            async with HttpClient(EgressPolicy()) as client:
                failure = await failure_of(client, Request("GET", url, connect_timeout_ms=100, timeout_ms=5_000))
                assert (failure.code, failure.retry_class, failure.sent) == ("CONNECT_TIMEOUT", "timeout", False)
                failure = await failure_of(client, Request("GET", url, timeout_ms=100))
                assert (failure.code, failure.retry_class, failure.sent) == ("ATTEMPT_TIMEOUT", "timeout", False)
        finally:
            for filler in fillers:
                filler.close()


async def test_waiting_for_a_place_at_a_busy_host_is_bounded_and_other_hosts_go_on() -> None:
    async with (
        raw_server(answering(b"", then="wait")) as busy,
        raw_server(ok) as other,
        HttpClient(EgressPolicy(), max_per_host=2) as client,
    ):
        stuck = [asyncio.create_task(client.request(Request("GET", busy.url(), timeout_ms=60_000))) for _ in range(2)]
        async with asyncio.timeout(5):
            while len(busy.requests) < 2:
                await asyncio.sleep(0)
        failure = await failure_of(client, Request("GET", busy.url(), timeout_ms=100))
        assert (failure.code, failure.sent) == ("ATTEMPT_TIMEOUT", False)
        assert (await client.request(Request("GET", other.url()))).body == b"hi"
        for task in stuck:
            task.cancel()
        ends = await asyncio.gather(*stuck, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError] * 2


async def test_cancelling_a_request_closes_its_connection_and_is_no_failure(client: HttpClient) -> None:
    closed = asyncio.Event()

    async def script(peer: Peer, _: Received) -> None:
        await peer.send(SIZED + b"abc")
        await peer.gone()
        closed.set()

    async with raw_server(script) as server:
        task = asyncio.create_task(client.request(Request("GET", server.url())))
        async with asyncio.timeout(5):
            while not server.requests:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await closed.wait()


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2_000_000,  # too large
        b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b"x" * 800_000,  # cut off
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nno gzip!!",
        b"HTTP/1.1 101 Switching\r\n\r\n",
    ],
)
async def test_a_failure_leaves_no_answer_to_the_garbage_collector(
    client: HttpClient, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Answer]] = []

    class Watched(Answer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(weakref.ref(self))

    monkeypatch.setattr(http_client, "Answer", Watched)
    gc.disable()
    try:
        async with raw_server(answering(data)) as server:
            with contextlib.suppress(HttpFailure):  # pytest.raises would keep it
                await client.request(Request("GET", server.url()))
        await asyncio.sleep(0)  # until the wake-up that brought the failure is over
        assert [ref() for ref in made] == [None]
    finally:
        gc.enable()


async def test_many_deadlines_each_hold_while_others_pass(client: HttpClient) -> None:
    async def script(peer: Peer, received: Received) -> None:
        if received.target == "/ok":
            await peer.answer(b"hi")
        else:
            await peer.gone()

    async def one(server_url: str, timeout_ms: int) -> str:
        try:
            await client.request(Request("GET", server_url, timeout_ms=timeout_ms))
        except HttpFailure as failure:
            return f"{failure.code} {timeout_ms}"
        return "answered"

    loop = asyncio.get_running_loop()
    async with raw_server(script) as server:
        started = loop.time()
        waits = [one(server.url("/wait"), ms) for ms in (300, 100, 200)]
        ends = await asyncio.gather(*waits, *(one(server.url("/ok"), 30_000) for _ in range(10)))
        passed = loop.time() - started
    assert ends == ["ATTEMPT_TIMEOUT 300", "ATTEMPT_TIMEOUT 100", "ATTEMPT_TIMEOUT 200", *["answered"] * 10]
    assert 0.29 <= passed < 5


async def test_a_closed_client_fails_cleanly() -> None:
    client = HttpClient(EgressPolicy())
    assert (await failure_of(client, Request("GET", "http://127.0.0.1/"))).sent is False
    await client.start()
    await client.close()
    failure = await failure_of(client, Request("GET", "http://127.0.0.1/"))
    assert (failure.code, failure.sent) == ("CONNECT_FAILED", False)


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com", "/path", "//host/path", "http://", "http:///path", "http:path", "ftp://host/", "file:///etc/x",
        "unix:///run/x.sock", "http+unix://%2Frun%2Fx.sock/", "ws://host/", "javascript:alert(1)", "data:text/plain,x",
        "http://user:secret@host/", "http://user@host/", "http://host:99999/", "http://host:0/", "http://host:x/",
        "http://a b/", "http://host/a b", "http://host/\r\nX: y", "http://host/\n", "http://host/\t", "http://host/\0",
        "http://ho\\st/", "http://good\\@evil/", "http://[fe80::1%25eth0]/", "http://[::1", "http://%31/", "http://a%00b/",
        "http://1.2.3.4.5/", "http://256.1.1.1/", "http://0x1ffffffff/", "http://host/\ud800", "http://-host/", "http://*/",
    ],
)  # fmt: skip
async def test_a_url_that_cannot_be_meant_is_refused_before_anything_is_sent(client: HttpClient, url: str) -> None:
    failure = await failure_of(client, Request("GET", url))
    assert (failure.code, failure.retry_class, failure.sent) == ("INVALID_URL", None, False)
    assert "secret" not in failure.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X", "a\r\nY: b"), ("X", "a\n"), ("X", "a\rb"), ("X", "a\0b"), ("X", "a\x7f"), ("X", "\x1b[0m"),
        ("X", "\ud800"), ("X\r\nY", "b"), ("X Y", "b"), ("", "b"), ("X:", "b"), ("Ü", "b"),
        ("Content-Length", "5"), ("content-length", "5"), ("Transfer-Encoding", "chunked"), ("Connection", "close"),
        ("Upgrade", "x"), ("Expect", "100-continue"), ("TE", "trailers"),
        ("Host", "a b"), ("Host", "evil/path"), ("Host", ""),
    ],
)  # fmt: skip
async def test_a_header_that_would_split_or_reframe_the_request_is_refused_by_name(
    client: HttpClient, name: str, value: str
) -> None:
    async with raw_server(ok) as server:
        failure = await failure_of(client, Request("GET", server.url(), [(name, value)]))
        assert (failure.code, failure.retry_class, failure.sent) == ("INVALID_HEADER", None, False)
        assert failure.message.isprintable()
        assert server.connections == 0


@pytest.mark.parametrize("method", ["", "GET /", "G\r\nT", "CONNECT", "TRACE", "GÉT", "A" * 50])
async def test_a_method_that_is_none_is_refused(client: HttpClient, method: str) -> None:
    failure = await failure_of(client, Request(method, "http://127.0.0.1/"))
    assert (failure.code, failure.sent) == ("INVALID_CONFIG", False)


async def test_a_host_header_of_the_step_is_sent_once(client: HttpClient) -> None:
    async with raw_server(ok) as server:
        await client.request(Request("GET", server.url(), [("Host", "virtual.example:8080")]))
        failure = await failure_of(client, Request("GET", server.url(), [("Host", "a"), ("host", "b")]))
    assert failure.code == "INVALID_HEADER"
    assert server.requests[0].header("host") == "virtual.example:8080"


def test_every_code_of_the_transport_is_in_the_list_of_failures() -> None:
    assert set(RETRY_CLASSES) <= set(FAILURE_CODES)
