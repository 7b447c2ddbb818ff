"""Redirects: how far they are followed, what they do to a request, and what never travels with them."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest

from taskforge.security.egress import EgressPolicy, parse_networks
from taskforge.steps.http_client import HttpClient, HttpFailure, Request
from tests.support.raw_server import Peer, RawServer, Received, Script, raw_server


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    async with HttpClient(EgressPolicy()) as made:
        yield made


async def failure_of(client: HttpClient, request: Request) -> HttpFailure:
    with pytest.raises(HttpFailure) as caught:
        await client.request(request)
    return caught.value


def redirecting(status: int, *locations: str, body: bytes = b"") -> Script:
    """Answer the n-th request with a redirect to the n-th location, then with the end."""
    left = list(locations)

    async def script(peer: Peer, received: Received) -> None:
        if left:
            await peer.answer(body, f"Location: {left.pop(0)}", status=f"{status} x")
        else:
            await peer.answer(b"" if received.method == "HEAD" else b"end")

    return script


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [
        (301, "POST", "GET"), (302, "POST", "GET"), (303, "POST", "GET"), (303, "PUT", "GET"), (303, "DELETE", "GET"),
        (301, "PUT", "PUT"), (302, "DELETE", "DELETE"), (302, "GET", "GET"), (301, "HEAD", "HEAD"),
        (303, "HEAD", "HEAD"),
        (307, "POST", "POST"), (308, "POST", "POST"), (307, "PATCH", "PATCH"), (308, "GET", "GET"),
    ],
)  # fmt: skip
async def test_the_method_changes_as_the_rfc_and_browsers_have_it(
    client: HttpClient, status: int, method: str, then: str
) -> None:
    async with raw_server(redirecting(status, "/there?x=%2F")) as server:
        headers = [("Content-Type", "text/plain"), ("X-Kept", "1"), ("Idempotency-Key", "k"), ("Authorization", "a")]
        response = await client.request(Request(method, server.url("/here?q=1"), headers, body=b"data"))
    first, second = server.requests
    assert (second.method, second.target) == (then, "/there?x=%2F")
    assert first.body == b"data"
    assert second.body == (b"data" if then == method else b"")
    assert second.header("content-type") == ("text/plain" if then == method else None)
    assert [second.header(name) for name in ("x-kept", "idempotency-key", "authorization")] == ["1", "k", "a"]
    assert (response.hops, response.url) == (1, server.url("/there?x=%2F"))


CREDENTIALS = [
    ("Authorization", "Bearer s3cret"),
    ("Cookie", "session=s3cret"),
    ("Proxy-Authorization", "Basic s3cret"),
    ("X-Api-Key", "s3cret"),
    ("PRIVATE-TOKEN", "s3cret"),
    ("X-Auth-Email", "s3cret"),
    ("X-Hub-Signature-256", "s3cret"),
]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_credentials_stay_behind_at_another_origin(client: HttpClient, status: int) -> None:
    async with raw_server(redirecting(200)) as target, raw_server(redirecting(status, target.url("/t"))) as first:
        headers = [*CREDENTIALS, ("Idempotency-Key", "run/step"), ("X-Trace", "1"), ("Host", "virtual.example")]
        await client.request(Request("GET", first.url(), headers))
    assert b"s3cret" in first.requests[0].head
    got = target.requests[0]
    assert b"s3cret" not in got.head
    assert (got.header("idempotency-key"), got.header("x-trace")) == ("run/step", "1")
    assert got.header("host") == f"127.0.0.1:{target.port}"


async def test_credentials_do_not_come_back_when_a_chain_returns_to_its_origin(client: HttpClient) -> None:
    home: list[RawServer] = []

    async def away(peer: Peer, _: Received) -> None:
        await peer.answer(b"", f"Location: {home[0].url('/back')}", status="302 x")

    async with raw_server(away) as other, raw_server(redirecting(302, other.url("/away"))) as first:
        home.append(first)
        response = await client.request(Request("GET", first.url("/go"), CREDENTIALS))
    assert (response.body, response.hops) == (b"end", 2)
    assert [b"s3cret" in got.head for got in (first.requests[0], other.requests[0], first.requests[1])] == [
        True,
        False,
        False,
    ]


async def test_localhost_and_its_address_are_two_origins(client: HttpClient) -> None:
    async with (
        raw_server(redirecting(200)) as target,
        raw_server(redirecting(302, f"http://localhost:{target.port}/")) as first,
    ):
        await client.request(Request("GET", first.url(), CREDENTIALS))
    assert b"s3cret" not in target.requests[0].head


async def test_five_redirects_are_followed_and_the_sixth_is_not(client: HttpClient) -> None:
    async with raw_server(redirecting(302, *(f"/{n}" for n in range(5)))) as server:
        response = await client.request(Request("GET", server.url()))
        assert (response.body, response.hops) == (b"end", 5)
    async with raw_server(redirecting(302, *(f"/{n}" for n in range(6)))) as server:
        failure = await failure_of(client, Request("GET", server.url()))
        assert (failure.code, failure.retry_class, failure.sent) == ("TOO_MANY_REDIRECTS", None, True)
        assert len(server.requests) == 6


async def test_a_circle_ends_when_it_closes_so_that_a_post_is_not_sent_again(client: HttpClient) -> None:
    async with raw_server(redirecting(307, *(["/a", "/b"] * 9))) as server:
        failure = await failure_of(client, Request("POST", server.url("/b"), body=b"x"))
    assert failure.code == "TOO_MANY_REDIRECTS"
    assert "circle" in failure.message
    assert [got.target for got in server.requests] == ["/b", "/a"]


async def test_without_redirects_the_answer_itself_comes_back(client: HttpClient) -> None:
    async with raw_server(redirecting(302, "/there", body=b"moved")) as server:
        response = await client.request(Request("GET", server.url(), max_redirects=0))
    assert (response.status, response.headers["location"], response.body) == (302, "/there", b"moved")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [300, 304, 305, 306, 201])
async def test_other_statuses_are_answers_whatever_their_location(client: HttpClient, status: int) -> None:
    async with raw_server(redirecting(status, "/there")) as server:
        assert (await client.request(Request("GET", server.url()))).status == status


async def test_a_redirect_without_a_location_is_an_answer(client: HttpClient) -> None:
    async with raw_server(redirecting(302, "")) as server:
        assert (await client.request(Request("GET", server.url()))).status == 302


@pytest.mark.parametrize(
    "location",
    [
        "ftp://127.0.0.1/", "file:///etc/passwd", "gopher://127.0.0.1/", "javascript:alert(1)", "data:,x",
        "unix:/run/x", "http:there",
        "http://", "http:///x", "http://user:pass@127.0.0.1/", "http://[::1", "http://a b/", "/a b", "http://1.2.3.4.5/",
        "http://127.0.0.1:99999/", "http://good\\@127.0.0.1/", "\\\\127.0.0.1/x", "http://[fe80::1%25lo]/",
    ],
)  # fmt: skip
async def test_a_redirect_to_what_is_no_place_for_a_step_is_refused(client: HttpClient, location: str) -> None:
    async with raw_server(redirecting(302, location)) as server:
        failure = await failure_of(client, Request("GET", server.url()))
    assert (failure.code, failure.retry_class, failure.sent) == ("REDIRECT_REFUSED", None, True), failure.message
    assert len(server.requests) == 1


async def test_two_different_locations_are_refused(client: HttpClient) -> None:
    async def script(peer: Peer, _: Received) -> None:
        await peer.answer(b"", "Location: /a", "Location: /b", status="302 x")

    async with raw_server(script) as server:
        assert (await failure_of(client, Request("GET", server.url()))).code == "REDIRECT_REFUSED"


@pytest.mark.parametrize(
    ("location", "target"),
    [("there", "/a/there"), ("../up", "/up"), ("?q=2", "/a/b?q=2"), ("/x#part", "/x"), ("/grün", "/gr%C3%BCn")],
)
async def test_relative_locations_are_resolved(client: HttpClient, location: str, target: str) -> None:
    async with raw_server(redirecting(302, location)) as server:
        await client.request(Request("GET", server.url("/a/b?q=1")))
    assert server.requests[1].target == target


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "0xa9fea9fe", "[::ffff:a9fe:a9fe]", "127.0.0.9", "0", "2130706441"]
)
async def test_every_hop_is_checked_where_it_connects(host: str) -> None:
    policy = EgressPolicy(deny=parse_networks(["127.0.0.9"]))
    async with HttpClient(policy) as client, raw_server(redirecting(302, f"http://{host}/latest")) as server:
        failure = await failure_of(client, Request("GET", server.url()))
    assert (failure.code, failure.retry_class) == ("EGRESS_DENIED", None)


async def test_an_endless_body_of_a_redirect_is_not_read(client: HttpClient) -> None:
    async def script(peer: Peer, received: Received) -> None:
        if received.target == "/":
            await peer.send(b"HTTP/1.1 302 x\r\nLocation: /end\r\nContent-Length: 1073741824\r\n\r\n" + b"x" * 100_000)
            await peer.gone()
        else:
            await peer.answer(b"end")

    async with raw_server(script) as server:
        response = await client.request(Request("GET", server.url(), timeout_ms=5_000))
    assert response.body == b"end"
    assert server.connections == 2


async def test_one_timeout_bounds_the_whole_chain(client: HttpClient) -> None:
    async def script(peer: Peer, received: Received) -> None:
        if received.target == "/":
            await peer.answer(b"", "Location: /slow", status="302 x")
        else:
            await peer.gone()

    async with raw_server(script) as server:
        failure = await failure_of(client, Request("POST", server.url(), timeout_ms=150))
    assert (failure.code, failure.sent) == ("ATTEMPT_TIMEOUT", True)


async def test_a_chain_whose_later_hop_is_refused_was_sent(client: HttpClient) -> None:
    async with raw_server(redirecting(307, "http://127.0.0.1:1/")) as server:
        failure = await failure_of(client, Request("POST", server.url(), body=b"x"))
    assert (failure.code, failure.sent) == ("CONNECT_REFUSED", True)


async def test_a_time_that_is_over_on_a_later_hop_names_that_hop(client: HttpClient) -> None:
    with socket.socket() as silent:  # connections are made, and no TLS is spoken
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        place = f"https://127.0.0.1:{silent.getsockname()[1]}"
        async with raw_server(redirecting(307, f"{place}/x")) as server:
            failure = await failure_of(client, Request("POST", server.url(), timeout_ms=150))
    assert failure.code == "ATTEMPT_TIMEOUT" and failure.sent
    assert failure.message.startswith(f"{place}: ") and "making the connection" in failure.message
