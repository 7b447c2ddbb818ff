"""Places of the HTTP client: how many connections there are, how long, and who waits for one."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from taskforge.security.egress import EgressPolicy
from taskforge.steps.http_client import HttpClient, Request
from tests.support.http_outcomes import outcome, until
from tests.support.raw_server import Peer, RawServer, Received, raw_server


async def ok(peer: Peer, _: Received) -> None:
    await peer.answer(b"hi")


async def silent(peer: Peer, _: Received) -> None:
    await peer.gone()


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    gone = asyncio.Event()

    async def script(peer: Peer, _: Received) -> None:
        await peer.answer(b"hi")
        await peer.gone()
        gone.set()

    async with raw_server(script) as server, HttpClient(EgressPolicy(), keepalive_ms=30) as short:
        await short.request(Request("GET", server.url()))
        async with asyncio.timeout(5):
            await gone.wait()
        await short.request(Request("GET", server.url()))
        assert server.connections == 2


async def test_places_at_one_host_are_given_in_the_order_of_asking() -> None:
    async with raw_server(ok) as server, HttpClient(EgressPolicy(), max_per_host=1) as client:
        urls = [server.url(f"/{number}") for number in range(20)]
        await asyncio.gather(*(client.request(Request("GET", url, fresh=n % 3 == 0)) for n, url in enumerate(urls)))
    assert [got.target for got in server.requests] == [f"/{number}" for number in range(20)]


async def test_a_host_without_room_does_not_hold_up_those_who_wait_for_others() -> None:
    async with (
        raw_server(silent) as busy,
        raw_server(ok) as other,
        HttpClient(EgressPolicy(), max_connections=2, max_per_host=1) as client,
    ):
        stuck = [asyncio.create_task(outcome(client.request(Request("GET", busy.url())))) for _ in range(3)]
        await until(lambda: len(busy.requests) == 1)
        async with asyncio.timeout(5):
            for _ in range(3):
                assert await outcome(client.request(Request("GET", other.url(), timeout_ms=5_000))) == "answered"
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)


async def test_an_idle_connection_makes_room_for_another_host() -> None:
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(raw_server(ok)) for _ in range(4)]
        client = await stack.enter_async_context(HttpClient(EgressPolicy(), max_connections=2))
        for server in servers:
            await client.request(Request("GET", server.url()))
            assert open_connections(client) <= 2
        await client.request(Request("GET", servers[-1].url()))
        await client.request(Request("GET", servers[0].url()))
    assert [server.connections for server in servers] == [2, 1, 1, 1]


def open_connections(client: HttpClient) -> int:
    pool = client._pool
    assert pool is not None
    return sum(connection.usable for connection in pool._open)


async def test_closing_the_client_ends_what_is_under_way_and_what_waits() -> None:
    async with raw_server(silent) as server:
        client = HttpClient(EgressPolicy(), max_per_host=2)
        await client.start()
        tasks = [asyncio.create_task(outcome(client.request(Request("GET", server.url())))) for _ in range(5)]
        await until(lambda: len(server.requests) == 2)
        await client.close()
        ends = await asyncio.gather(*tasks)
        assert sorted(ends) == ["CONNECTION_RESET not sent"] * 3 + ["CONNECTION_RESET sent"] * 2
        assert open_connections(client) == 0
        assert await outcome(client.request(Request("GET", server.url()))) == "CONNECT_FAILED not sent"


async def test_a_place_that_was_given_to_a_cancelled_request_goes_to_the_next() -> None:
    release = asyncio.Event()

    async def script(peer: Peer, received: Received) -> None:
        if received.target == "/first":
            await release.wait()
        await peer.answer(b"hi")

    async with raw_server(script) as server, HttpClient(EgressPolicy(), max_per_host=1) as client:
        pool = client._pool
        assert pool is not None
        first = asyncio.create_task(outcome(client.request(Request("GET", server.url("/first")))))
        await until(lambda: len(server.requests) == 1)
        second, third = (asyncio.create_task(client.request(Request("GET", server.url("/x")))) for _ in range(2))
        await until(lambda: pool._waiting == 2)
        release.set()
        await until(lambda: pool._waiting == 1)  # the place is given, and its new owner has not run yet
        second.cancel()
        assert await first == "answered"
        assert (await asyncio.wait_for(third, 5)).body == b"hi"
        with pytest.raises(asyncio.CancelledError):
            await second


async def erratic(peer: Peer, received: Received) -> None:
    """Do what the target's number says."""
    kind = int(received.target[1:])
    if kind == 0:
        peer.reset()
    elif kind == 1:
        peer.close()
    elif kind == 2:
        await peer.gone()
    elif kind == 3:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        peer.close()
    elif kind == 4:
        await peer.answer(b"hi")
        peer.close()
    elif kind == 5:
        await peer.answer(b"hi")
        await peer.send(b"more")
    elif kind == 6:
        await asyncio.sleep(0.003)
        await peer.answer(b"hi")
    else:
        await peer.answer(b"hi")


async def chaos(seed: int) -> None:
    dice = random.Random(seed)
    per_host, overall = dice.randint(1, 3), dice.randint(1, 5)
    async with contextlib.AsyncExitStack() as stack:
        servers: list[RawServer] = [await stack.enter_async_context(raw_server(erratic)) for _ in range(3)]
        client = await stack.enter_async_context(
            HttpClient(EgressPolicy(), max_per_host=per_host, max_connections=overall, keepalive_ms=20)
        )
        pool = client._pool
        assert pool is not None

        async def one() -> str:
            url = dice.choice(servers).url(f"/{dice.randint(0, 12)}")
            end = await outcome(client.request(Request("GET", url, fresh=dice.random() < 0.2, timeout_ms=50)))
            assert open_connections(client) <= overall
            assert all(host.active <= per_host for host in pool._hosts.values())
            return end

        tasks: list[asyncio.Task[str]] = []
        for _ in range(150):
            tasks.append(asyncio.create_task(one()))
            if dice.random() < 0.3:
                dice.choice(tasks).cancel()
            if dice.random() < 0.3:
                await asyncio.sleep(dice.choice([0, 0, 0.001]))
        async with asyncio.timeout(30):
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        wrong = [end for end in ends if isinstance(end, Exception)]
        assert wrong == []
        assert pool._active == pool._waiting == 0
        async with asyncio.timeout(10):  # every place is free again
            await asyncio.gather(
                *(client.request(Request("GET", each.url("/9"))) for each in servers for _ in range(9))
            )
    assert pool._active == pool._idle == 0
    assert not pool._hosts and not pool._open


@pytest.mark.parametrize("seed", range(6))
async def test_no_place_is_lost_whatever_requests_and_servers_do(seed: int) -> None:
    await chaos(seed)


def test_no_place_is_lost_on_the_event_loop_of_the_server() -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(chaos(100))
