"""`python -m tests.bench.first_action HOST PORT TOKEN TARGET_PORT COUNT`: from the request to the first action.

One process starts runs one at a time and is the target of their request, so that both ends are on one clock. Prints
JSON: the latencies' quantiles in milliseconds, from the start's first byte to the request of the first step.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import cast

import uvloop
from httptools import HttpRequestParser

from tests.bench.load import Connection, quantiles

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class _Target(asyncio.Protocol):
    def __init__(self, came: list[asyncio.Future[float]]) -> None:
        self._came = came

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._came.pop().set_result(time.perf_counter())
        self._transport.write(_ANSWER)


async def _main(host: str, port: int, token: str, target_port: int, count: int) -> None:
    loop = asyncio.get_running_loop()
    came: list[asyncio.Future[float]] = []
    server = await loop.create_server(lambda: _Target(came), "127.0.0.1", target_port)
    connection = await Connection.open(host, port, token, "/v1/workflows/one-request/runs?wait=10s", b"{}")
    times: list[float] = []
    for _ in range(count + 20):
        came.append(loop.create_future())
        first, begun = came[0], time.perf_counter()
        ended = asyncio.ensure_future(connection.post())
        times.append(await asyncio.wait_for(first, 20) - begun)
        await ended
        await asyncio.sleep(0.002)
    server.close()
    print(json.dumps(quantiles(times[20:])))


if __name__ == "__main__":
    host, port, token, target_port, count = sys.argv[1:]
    uvloop.run(_main(host, int(port), token, int(target_port), int(count)))
