"""A load generator in a process of its own: raw HTTP/1.1 over keep-alive connections, so that it is not the bottleneck.

`python -m tests.bench.load HOST PORT TOKEN PATH COUNT IN_FLIGHT` posts COUNT times and prints JSON: seconds, the
latencies' quantiles in milliseconds, its own CPU seconds, and the answers by status.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import cast

from httptools import HttpResponseParser


class _Connection(asyncio.Protocol):
    """One keep-alive connection: `post` sends the request and returns the status."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._answer: asyncio.Future[int] | None = None

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


async def _main(host: str, port: int, token: str, path: str, count: int, in_flight: int, body: bytes) -> None:
    request = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    loop = asyncio.get_running_loop()
    left = count
    times: list[float] = []
    statuses: Counter[int] = Counter()

    async def client() -> None:
        nonlocal left
        _, connection = await loop.create_connection(lambda: _Connection(request), host, port)
        while left > 0:
            left -= 1
            begun = time.perf_counter()
            statuses[await connection.post()] += 1
            times.append(time.perf_counter() - begun)

    cpu, begun = time.process_time(), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(in_flight)))
    seconds = time.perf_counter() - begun
    times.sort()
    found = {
        "seconds": seconds,
        "p50_ms": times[len(times) // 2] * 1000,
        "p99_ms": times[min(len(times) - 1, int(len(times) * 0.99))] * 1000,
        "cpu_s": time.process_time() - cpu,
        "statuses": dict(statuses),
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    import uvloop

    host, port, token, path, count, in_flight = sys.argv[1:7]
    body = sys.argv[7].encode() if len(sys.argv) > 7 else b"{}"
    uvloop.run(_main(host, int(port), token, path, int(count), int(in_flight), body))
