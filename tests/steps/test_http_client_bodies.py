"""Bodies of answers: limits on what they decode to, compression, and how they become JSON values."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import io
import tracemalloc
import zlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge.core.clock import from_rfc3339
from taskforge.core.jsontext import JSON, dumps
from taskforge.security.egress import EgressPolicy
from taskforge.steps.http_client import HttpClient, HttpFailure, Request, Response, parse_body, retry_after_ms
from taskforge.steps.http_coding import Inflater
from tests.support.raw_server import Peer, Received, Script, raw_server

MIB = 1_048_576
NOW = from_rfc3339("2026-11-23T02:00:00Z")


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    async with HttpClient(EgressPolicy()) as made:
        yield made


def coded(body: bytes, coding: str) -> Script:
    async def script(peer: Peer, _: Received) -> None:
        await peer.answer(body, f"Content-Encoding: {coding}")

    return script


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def many_members(data: bytes, size: int) -> bytes:
    return b"".join(gzip.compress(data[at : at + size], 1) for at in range(0, len(data), size))


TEXT = b"".join(b"line %d of some text\n" % number for number in range(20_000))


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(TEXT)),
        ("X-GZIP", gzip.compress(TEXT)),
        ("gzip, identity", gzip.compress(TEXT)),
        ("gzip", many_members(TEXT, 5_000)),
        ("gzip", gzip.compress(TEXT) + b"\0" * 100),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", raw_deflate(TEXT)),
        ("identity", TEXT),
        ("utf-8", TEXT),
        ("", TEXT),
    ],
)
async def test_coded_bodies_arrive_decoded(client: HttpClient, coding: str, body: bytes) -> None:
    async with raw_server(coded(body, coding)) as server:
        assert (await client.request(Request("GET", server.url()))).body == TEXT
    assert server.requests[0].header("accept-encoding") == "gzip, deflate"


@pytest.mark.parametrize(
    ("coding", "body", "code"),
    [
        ("gzip", gzip.compress(TEXT)[:-1], "HALF_BODY"),
        ("gzip", gzip.compress(TEXT)[:500], "HALF_BODY"),
        ("gzip", many_members(TEXT, 5_000)[:-20], "HALF_BODY"),
        ("deflate", zlib.compress(TEXT)[:-1], "HALF_BODY"),
        ("gzip", b"not gzip at all", "BAD_RESPONSE"),
        ("gzip", gzip.compress(b"x") * 1_001, "BAD_RESPONSE"),
        ("deflate", b"\x78\x9cgarbage", "BAD_RESPONSE"),
        ("br", b"x", "BAD_RESPONSE"),
        ("zstd", b"x", "BAD_RESPONSE"),
        ("gzip, gzip", gzip.compress(gzip.compress(TEXT)), "BAD_RESPONSE"),
    ],
)
async def test_a_coded_body_that_is_cut_or_wrong_is_no_answer(
    client: HttpClient, coding: str, body: bytes, code: str
) -> None:
    async with raw_server(coded(body, coding)) as server:
        with pytest.raises(HttpFailure) as caught:
            await client.request(Request("GET", server.url()))
    assert caught.value.code == code, caught.value.message
    assert caught.value.sent


@given(st.binary(max_size=5_000), st.lists(st.integers(1, 700), max_size=20), st.sampled_from(["gzip", "deflate"]))
def test_decoding_does_not_depend_on_how_the_bytes_are_cut(data: bytes, cuts: list[int], coding: str) -> None:
    packed = gzip.compress(data) if coding == "gzip" else zlib.compress(data)
    inflater, reader, found = Inflater(coding), io.BytesIO(packed), b""
    for size in [*cuts, len(packed)]:
        found += b"".join(inflater.feed(reader.read(size)))
    assert found == data
    assert inflater.complete


@pytest.mark.parametrize("size", [999, 1_000, 1_001])
@pytest.mark.parametrize("coding", ["identity", "gzip", "deflate", "chunked", "close"])
async def test_the_limit_holds_to_the_byte_for_the_decoded_body(client: HttpClient, coding: str, size: int) -> None:
    body = b"x" * size

    async def script(peer: Peer, _: Received) -> None:
        if coding == "chunked":
            pieces = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:400], body[400:]))
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n")
        elif coding == "close":
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + body)
            peer.close()
        else:
            packed = {"gzip": gzip.compress(body), "deflate": zlib.compress(body)}.get(coding, body)
            await peer.answer(packed, f"Content-Encoding: {coding}")

    async with raw_server(script) as server:
        request = Request("GET", server.url(), max_bytes=1_000)
        if size <= 1_000:
            assert (await client.request(request)).body == body
        else:
            with pytest.raises(HttpFailure) as caught:
                await client.request(request)
            assert (caught.value.code, caught.value.retry_class) == ("RESPONSE_TOO_LARGE", None)
            assert caught.value.detail == {"limit_bytes": 1_000}


async def test_an_announced_body_above_the_limit_is_not_read(client: HttpClient) -> None:
    async def script(peer: Peer, _: Received) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
        await peer.gone()

    async with raw_server(script) as server:
        with pytest.raises(HttpFailure, match="larger than the limit of 1048576 bytes"):
            await client.request(Request("GET", server.url(), timeout_ms=5_000))


def endless(head: bytes, piece: bytes) -> Script:
    async def script(peer: Peer, _: Received) -> None:
        with contextlib.suppress(ConnectionError):
            await peer.send(head)
            while True:
                await peer.send(piece)

    return script


def bomb(size: int) -> bytes:
    packer = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    return b"".join([*(packer.compress(bytes(MIB)) for _ in range(size // MIB)), packer.flush()])


ENDLESS = b"HTTP/1.1 200 OK\r\n\r\n"
ENDLESS_GZIP = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
EMPTY_BLOCKS = b"\x00\x00\x00\xff\xff" * 10_000
GZIP_HEAD = gzip.compress(b"", 0)[:10]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(endless(ENDLESS, b"x" * 65_536), id="endless plain"),
        pytest.param(
            endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"40\r\n%s\r\n" % (b"x" * 64) * 1_000),
            id="endless chunks",
        ),
        pytest.param(coded(bomb(256 * MIB), "gzip"), id="256 MiB in a small gzip body"),
        pytest.param(endless(ENDLESS_GZIP, bomb(4 * MIB)), id="endless gzip members"),
        pytest.param(endless(ENDLESS_GZIP + GZIP_HEAD, EMPTY_BLOCKS), id="endless empty blocks"),
        pytest.param(endless(ENDLESS_GZIP + GZIP_HEAD[:3] + b"\x08" + GZIP_HEAD[4:], b"n" * 65_536), id="endless name"),
    ],
)
async def test_bombs_and_endless_bodies_end_at_the_limit_with_flat_memory(client: HttpClient, script: Script) -> None:
    async with raw_server(script) as server:
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            with pytest.raises(HttpFailure) as caught:
                await client.request(Request("GET", server.url(), timeout_ms=20_000))
            peak = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
    assert caught.value.code == "RESPONSE_TOO_LARGE"
    assert peak < 6 * MIB


async def test_a_long_decoding_lets_others_go_on(client: HttpClient) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with raw_server(coded(bomb(64 * MIB), "gzip")) as server:
        counting = asyncio.create_task(count())
        response = await client.request(Request("GET", server.url(), max_bytes=64 * MIB))
        counting.cancel()
    assert len(response.body) == 64 * MIB
    assert turns >= 32


def answer(body: bytes, content_type: str | None = "application/json") -> Response:
    return Response(200, {} if content_type is None else {"content-type": content_type}, body, 1, "http://x/", 0)


@pytest.mark.parametrize(
    ("content_type", "body", "value"),
    [
        ("application/json", b'{"id": 12345678901234567890}', {"id": 12345678901234567890}),
        ("Application/Problem+JSON; charset=UTF-8", b"[1.5]", [1.5]),
        ('application/vnd.api+json; charset="latin-1"', b'"gr\xfcn"', "grün"),
        ("application/json; charset=utf-16", '"grün"'.encode("utf-16"), "grün"),
        ("application/json; charset=nonsense", b'"gr\xc3\xbcn"', "grün"),
        ("application/json", b"\xef\xbb\xbf1", 1),
        ("application/json", b"", None),
        ("application/json", b" \r\n", None),
        ("application/json", b'"\\ud800"', "\ufffd"),
        ("text/plain", b"gr\xc3\xbcn", "grün"),
        ("text/html; charset=ISO-8859-1", b"gr\xfcn", "grün"),
        ("text/plain", b"gr\xfcn", "gr\ufffdn"),
        ("text/plain; charset=utf-16-le", b"\x00\xd8a\x00", "\ufffda"),
        ("text/plain; charset=utf-7", b"+2AA-", "+2AA-"),
        ("text/plain; charset=utf-16", "grün".encode("utf-16"), "grün"),
        ("text/plain; charset=Shift_JIS", "日本".encode("shift_jis"), "日本"),
        ("text/plain; charset=latin-99", b"a", "a"),
        ("text/plain; charset=nonsense", b"gr\xc3\xbcn", "grün"),
        ("text/plain; charset=hex", b"41", "41"),
        ("text/plain; charset=unicode_escape", b"\\ud800", "\\ud800"),
        ("text/plain", b"", ""),
        ("application/xml", b"<a/>", "<a/>"),
        ("image/svg+xml", b"<svg/>", "<svg/>"),
        ("application/x-www-form-urlencoded", b"a=1", "a=1"),
        ("application/octet-stream", b"abc", {"base64": "YWJj"}),
        ("image/png", b"\x89PNG", {"base64": "iVBORw=="}),
        ("image/png", b"", {"base64": ""}),
        (None, b"", None),
        (None, "grün\n".encode(), "grün\n"),
        (None, b"\x00\x01", {"base64": "AAE="}),
        (None, b"\xff\xfe", {"base64": "//4="}),
        ("", b"abc", "abc"),
    ],
)
def test_a_body_is_read_by_its_content_type(content_type: str | None, body: bytes, value: JSON) -> None:
    assert parse_body(answer(body, content_type)) == value


@pytest.mark.parametrize(
    "body", [b"{", b"nope", b"NaN", b"[1e400]", b'{"a": 1} x', b"\xff", b'"\x00"', b"[" * 100_000, b"9" * 5_000]
)
def test_a_body_that_says_json_and_is_none_is_a_failure_that_is_not_retried(body: bytes) -> None:
    with pytest.raises(HttpFailure) as caught:
        parse_body(answer(body))
    assert (caught.value.code, caught.value.retry_class, caught.value.sent) == ("INVALID_BODY", None, True)


@given(
    st.binary(max_size=200), st.sampled_from([None, "text/plain", "text/x; charset=utf-16", "text/x; charset=utf-7"])
)
def test_any_bytes_become_a_value_that_can_be_stored(body: bytes, content_type: str | None) -> None:
    value = parse_body(answer(body, content_type))
    dumps(value).encode("utf-8")
    if isinstance(value, dict):
        assert base64.b64decode(str(value["base64"])) == body


@given(st.binary(max_size=60), st.text(max_size=30))
def test_any_content_type_is_survived(body: bytes, content_type: str) -> None:
    with contextlib.suppress(HttpFailure):
        dumps(parse_body(answer(body, content_type))).encode("utf-8")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("0", 0),
        ("5", 5_000),
        (" 5 ", 5_000),
        ("1.5", 1_500),
        ("1000000000", 60_000),
        ("9" * 300, 60_000),
        ("Mon, 23 Nov 2026 02:00:10 GMT", 10_000),
        ("Monday, 23-Nov-26 02:00:10 GMT", 10_000),
        ("Mon Nov 23 02:00:10 2026", 10_000),
        ("Mon, 23 Nov 2026 01:59:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 60_000),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("", None),
        ("-5", None),
        ("soon", None),
        ("5s", None),
        ("1e9", None),
        ("0x10", None),
        ("٥", None),
        ("Mon, 99 Nov 2026 02:00:10 GMT", None),
        ("Mon, 23 Nov 99999 02:00:10 GMT", None),
        ("a" * 100_000, None),
    ],
)
def test_retry_after_is_read_up_to_a_cap_and_rubbish_is_ignored(header: str, expected: int | None) -> None:
    assert retry_after_ms({"retry-after": header}, NOW, 60_000) == expected


def test_no_retry_after_is_none() -> None:
    assert retry_after_ms({}, NOW, 60_000) is None


@given(st.text(max_size=60))
def test_any_retry_after_is_within_bounds(header: str) -> None:
    found = retry_after_ms({"retry-after": header}, NOW, 60_000)
    assert found is None or 0 <= found <= 60_000
