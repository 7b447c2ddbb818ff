"""One answer, fed byte by byte: how it was cut never matters, and nothing a server sends does more than fail it."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import tracemalloc
from dataclasses import dataclass

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge.steps.http_answer import HEAD_BYTES, HEADER_COUNT, HEADER_LINE_BYTES, Answer
from taskforge.steps.http_failure import RETRY_CLASSES, Broken

TOKENS = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(lambda name: f"x-{name}")
VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=20)


@dataclass
class Sent:
    """A valid answer as bytes, and what it says."""

    method: str
    data: bytes
    status: int
    headers: dict[str, str]
    body: bytes
    keep: bool
    until_end: bool


@st.composite
def answers(draw: st.DrawFn) -> Sent:
    method = draw(st.sampled_from(["GET", "POST", "HEAD"]))
    status = draw(st.sampled_from([200, 201, 204, 304, 302, 404, 500, 599]))
    version = draw(st.sampled_from(["1.1", "1.1", "1.0"]))
    body = draw(st.binary(max_size=300))
    headers = draw(st.dictionaries(TOKENS, VALUES, max_size=4))
    framing = draw(st.sampled_from(["length", "chunked", "end"] if version == "1.1" else ["length", "end"]))
    if draw(st.booleans()):
        headers["content-encoding"] = "gzip"
    packed = gzip.compress(body) if "content-encoding" in headers else body
    bodiless = method == "HEAD" or status in (204, 304)
    wire = packed
    if framing == "length":
        headers["content-length"] = str(len(packed))
    elif framing == "chunked":
        headers["transfer-encoding"] = "chunked"
        wire = chunked(draw, packed)
    closes = draw(st.booleans())
    if closes:
        headers["connection"] = "close"
    newline = draw(st.sampled_from(["\r\n", "\n"])) if framing != "chunked" else "\r\n"
    interim = draw(st.lists(st.sampled_from(["100 Continue", "103 Early Hints"]), max_size=2))
    head = "".join(f"HTTP/1.1 {each}\r\nlink: x\r\n\r\n" for each in interim)
    head += f"HTTP/{version} {status} {draw(st.sampled_from(['OK', 'Not  so', '']))}{newline}"
    head += "".join(f"{name}: {value}{newline}" for name, value in headers.items()) + newline
    measured = framing != "end" or status in (204, 304)
    return Sent(
        method,
        head.encode() + (b"" if bodiless else wire),
        status,
        headers,
        b"" if bodiless else body,
        keep=version == "1.1" and not closes and measured,
        until_end=framing == "end" and not bodiless,
    )


def chunked(draw: st.DrawFn, data: bytes) -> bytes:
    wire = b""
    while data:
        size = draw(st.integers(1, len(data)))
        extension = draw(st.sampled_from([b"", b";a=b", b"  "]))
        wire += b"%x%s\r\n%s\r\n" % (size, extension, data[:size])
        data = data[size:]
    return wire + draw(st.sampled_from([b"0\r\n\r\n", b"0\r\nx-trailer: 1\r\n\r\n"]))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def body_of(answer: Answer) -> bytes:
    """What a request gets. Broken says why it gets nothing; never waits."""

    async def read() -> bytes:
        async with asyncio.timeout(5):
            await answer.more()
            return answer.plain if answer.coding is None else await answer.decoded(answer.coding)

    return asyncio.run(read())


CUTS = st.lists(st.integers(0, 2_000), max_size=40)


@given(answers(), CUTS)
def test_an_answer_is_read_the_same_however_it_is_cut(sent: Sent, cuts: list[int]) -> None:
    answer = Answer(sent.method, 1_000)
    ends = [answer.feed(piece) for piece in cut(sent.data, cuts)]
    assert not any(ends[:-1])
    if sent.until_end:
        assert not ends[-1]
        answer.end(broken=False)
    assert answer.failure is None and answer.complete
    assert (answer.status, answer.headers, answer.keep) == (sent.status, sent.headers, sent.keep)
    assert body_of(answer) == sent.body


@given(answers(), CUTS)
def test_an_answer_is_read_as_an_independent_reader_does(sent: Sent, cuts: list[int]) -> None:
    oracle = h11.Connection(h11.CLIENT)
    oracle.send(h11.Request(method=sent.method, target="/", headers=[("host", "x")]))
    oracle.send(h11.EndOfMessage())
    oracle.receive_data(sent.data.replace(b"  \r\n", b"\r\n") if b"chunked" in sent.data else sent.data)
    oracle.receive_data(b"")
    status, body = 0, b""
    while not isinstance(event := oracle.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
    answer = Answer(sent.method, 1_000)
    for piece in cut(sent.data, cuts):
        answer.feed(piece)
    answer.end(broken=False)
    packed = gzip.decompress(body) if body and "content-encoding" in sent.headers else body
    assert (answer.status, body_of(answer)) == (status, packed)


@given(answers(), CUTS, st.binary(min_size=1, max_size=40))
def test_bytes_behind_an_answer_never_change_it_and_end_its_connection(
    sent: Sent, cuts: list[int], more: bytes
) -> None:
    if sent.until_end or not more.strip(b"\r\n"):
        return
    answer = Answer(sent.method, 1_000)
    for piece in cut(sent.data + b"HTTP/1.1 200 OK\r\n" + more, cuts):
        if answer.feed(piece) and not answer.complete:
            raise AssertionError(answer.failure)
    assert (answer.status, answer.headers, body_of(answer)) == (sent.status, sent.headers, sent.body)
    # What came with the answer is seen here; what comes later finds no answer, and the connection closes itself.
    again = Answer(sent.method, 1_000)
    again.feed(sent.data + b"HTTP/1.1 200 OK\r\n" + more)
    assert again.complete and not again.keep


@given(answers(), CUTS, st.integers(0, 2_000), st.binary(max_size=30), st.integers(0, 20), st.booleans())
def test_garbage_at_any_place_ends_in_an_answer_or_a_failure(
    sent: Sent, cuts: list[int], at: int, garbage: bytes, removed: int, broken: bool
) -> None:
    at %= len(sent.data) + 1
    data = sent.data[:at] + garbage + sent.data[at + removed :]
    answer = Answer(sent.method, 1_000)
    for piece in cut(data, cuts):
        answer.feed(piece)
    answer.end(broken=broken)
    assert answer.complete or answer.failure is not None
    try:
        assert len(body_of(answer)) <= 1_000
        assert 200 <= answer.status <= 999
        json.dumps(answer.headers).encode()
    except Broken as failure:
        assert failure.code in RETRY_CLASSES
        assert failure.said.isprintable()


@given(answers(), st.integers(0, 2_000), st.booleans())
def test_an_answer_that_is_cut_short_is_never_taken_for_whole(sent: Sent, at: int, broken: bool) -> None:
    answer = Answer(sent.method, 1_000)
    assert not answer.feed(sent.data[: at % len(sent.data)])
    answer.end(broken=broken or sent.until_end)
    assert answer.failure is not None
    assert answer.failure.code == ("HALF_BODY" if answer.status >= 200 else "CONNECTION_RESET")


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKS = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc", id="two lengths"),
        pytest.param(OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab", id="one length twice"),
        pytest.param(OK + b"Content-Length: 2, 2\r\n\r\nab", id="a list of lengths"),
        pytest.param(OK + b"Content-Length: +2\r\n\r\nab", id="a signed length"),
        pytest.param(OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="length, chunked"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", id="chunked, length"),
        pytest.param(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="gzip, chunked"),
        pytest.param(OK + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="gzip, then"),
        pytest.param(OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", id="chunked, gzip"),
        pytest.param(OK + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", id="hidden chunked"),
        pytest.param(OK + b"A: b\0c\r\n\r\n", id="NUL in a value"),
        pytest.param(OK + b"A\0: b\r\n\r\n", id="NUL in a name"),
        pytest.param(OK + b"A : b\r\n\r\n", id="space before the colon"),
        pytest.param(OK + b"A: b\r\n c\r\n\r\n", id="folded header"),
        pytest.param(OK + b"A: b\rc\r\n\r\n", id="CR alone"),
        pytest.param(OK + b": b\r\n\r\n", id="no name"),
        pytest.param(b"HTTP/1.1 2000 OK\r\n\r\n", id="status of four digits"),
        pytest.param(b"HTTP/1.1 099 OK\r\n\r\n", id="status below 100"),
        pytest.param(b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n", id="status 0"),
        pytest.param(b"HTTP/x.y 200 OK\r\n\r\n", id="no version"),
        pytest.param(b"http/1.1 200 OK\r\n\r\n", id="lower case"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="ssh"),
        pytest.param(b"HTTP/1.1 101 Switching\r\n\r\n", id="101 without Upgrade"),
        pytest.param(CHUNKS + b"2\nab\n0\n\n", id="chunks that end with LF"),
        pytest.param(CHUNKS + b"ffffffffffffffffff\r\n", id="chunk size beyond 64 bits"),
        pytest.param(CHUNKS + b"-1\r\n", id="negative chunk"),
        pytest.param(OK + b"A: " + b"b" * HEADER_LINE_BYTES + b"\r\n\r\n", id="long header"),
        pytest.param(OK + b"A: b\r\n" * (HEADER_COUNT + 1) + b"\r\n", id="many headers"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * (HEAD_BYTES // 20), id="interim answers without end"),
        pytest.param(CHUNKS + b"0\r\n" + b"A: b\r\n" * 1_000, id="many trailers"),
        pytest.param(CHUNKS + b"0\r\nA: " + b"b" * HEAD_BYTES, id="long trailer"),
        pytest.param(CHUNKS + b"2;a=" + b"b" * HEAD_BYTES, id="long chunk extension"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 7, 1_000_000])
def test_what_could_be_read_in_two_ways_or_without_end_is_no_answer(data: bytes, size: int) -> None:
    answer = Answer("GET", 1_000_000)
    over = any(answer.feed(data[at : at + size]) for at in range(0, len(data), size))
    if size < 1_000_000 or answer.failure is not None:
        assert over
    else:
        answer.feed(data[-1:] * 2)  # a single read is bounded by itself
    assert answer.failure is not None, data[:80]
    assert answer.failure.code == "BAD_RESPONSE"


@pytest.mark.parametrize("piece", [1, 2, 3])
def test_a_body_in_tiny_chunks_takes_little_more_than_its_size(piece: int) -> None:
    answer = Answer("GET", 300_000)
    data = b"%x\r\n%s\r\n" % (piece, b"x" * piece) * 1_000
    answer.feed(CHUNKS)
    tracemalloc.start()
    try:
        for _ in range(100):
            answer.feed(data)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    answer.feed(b"0\r\n\r\n")
    assert body_of(answer) == b"x" * 100_000 * piece
    assert held < 300_000 * 1.3
    assert peak < 1_000_000


def test_a_redirect_that_is_followed_is_over_with_its_head() -> None:
    answer = Answer("GET", 10, follow=True)
    assert answer.feed(b"HTTP/1.1 302 x\r\nLocation: /a\r\nContent-Length: 1000000\r\n\r\nxyz")
    assert (answer.follow, answer.locations(), answer.keep) == (True, ["/a"], False)
    whole = Answer("GET", 10, follow=True)
    assert whole.feed(b"HTTP/1.1 302 x\r\nLocation: /a\r\nContent-Length: 20\r\n\r\n" + b"x" * 20)
    assert (whole.follow, whole.keep) == (True, True)
    plain = Answer("GET", 10, follow=True)
    assert plain.feed(b"HTTP/1.1 200 x\r\nLocation: /a\r\nContent-Length: 2\r\n\r\nhi")
    assert (plain.follow, body_of(plain)) == (False, b"hi")


def test_what_the_body_of_a_followed_redirect_is_does_not_matter() -> None:
    for header in (b"Content-Encoding: br", b"Transfer-Encoding: gzip, chunked", b"Content-Length: 99999"):
        answer = Answer("GET", 10, follow=True)
        assert answer.feed(b"HTTP/1.1 302 x\r\nLocation: /a\r\n%s\r\n\r\n" % header)
        assert answer.failure is None and answer.follow
