"""A load generator in a process of its own: raw HTTP/1.1 over keep-alive connections, so that it is not the bottleneck.

`python -m tests.bench.load HOST PORT TOKEN PATH COUNT IN_FLIGHT BODY RATE` posts COUNT times: each connection as soon
as it has its answer, or, with a RATE above 0, so many a second at even times, whatever the answers do. Prints JSON:
seconds, the latencies' quantiles in milliseconds (from the time at which a request was due), its own CPU seconds, and
the answers by status.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import cast

import uvloop
from httptools import HttpResponseParser


class Connection(asyncio.Protocol):
    """One keep-alive connection: `post` sends the request and returns the status."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._answer: asyncio.Future[int] | None = None

    @classmethod
    async def open(cls, host: str, port: int, token: str, path: str, body: bytes) -> Connection:
        """Connect; every `post` sends this body to this path."""
        request = (
            f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        _, made = await asyncio.get_running_loop().create_connection(lambda: cls(request), host, port)
        return made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self._parser = HttpResponseParser(self)
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("the server closed the connection"))

    async def post(self) -> int:
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(self._request)
        return await self._answer


def quantiles(times: list[float]) -> dict[str, float]:
    """Seconds as milliseconds: the middle, and what one in a hundred exceeds."""
    times = sorted(times)
    return {
        "p50_ms": times[len(times) // 2] * 1000,
        "p99_ms": times[min(len(times) - 1, len(times) * 99 // 100)] * 1000,
    }


async def _main(
    host: str, port: int, token: str, path: str, count: int, in_flight: int, body: bytes, rate: float
) -> None:
    connections = [await Connection.open(host, port, token, path, body) for _ in range(in_flight)]
    sent = 0
    times: list[float] = []
    statuses: Counter[int] = Counter()
    begun = 0.0

    async def client(connection: Connection) -> None:
        nonlocal sent
        while sent < count:
            due = begun + sent / rate if rate else time.perf_counter()
            sent += 1
            early = due - time.perf_counter()
            if early > 0:
                await asyncio.sleep(early)
            statuses[await connection.post()] += 1
            times.append(time.perf_counter() - due)

    cpu, begun = time.process_time(), time.perf_counter()
    await asyncio.gather(*map(client, connections))
    found = {
        "seconds": time.perf_counter() - begun,
        **quantiles(times),
        "cpu_s": time.process_time() - cpu,
        "statuses": dict(statuses),
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    host, port, token, path, count, in_flight, body, rate = sys.argv[1:]
    uvloop.run(_main(host, int(port), token, path, int(count), int(in_flight), body.encode(), float(rate)))
