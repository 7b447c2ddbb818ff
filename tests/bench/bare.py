"""`python -m tests.bench.bare FILE`: what answers after a sync, and does nothing else. Prints its port.

Its latencies are the machine's own: of a socket, a thread, and a disk; they stand beside those of the server. A request
is taken for whole when it comes.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from queue import SimpleQueue
from typing import cast

import uvloop

_PAGES = 10
_ANSWER = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}"


class _Connection(asyncio.Protocol):
    def __init__(self, work: SimpleQueue[asyncio.Transport]) -> None:
        self._work = work

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._work.put(self._transport)


async def _main(path: str) -> None:
    loop = asyncio.get_running_loop()
    work: SimpleQueue[asyncio.Transport] = SimpleQueue()
    file = os.open(path, os.O_RDWR | os.O_CREAT)

    def live() -> None:
        place = 0
        while True:
            transport = work.get()
            os.pwrite(file, bytes(4096 * _PAGES), place % 100 * 4096 * _PAGES)
            os.fdatasync(file)
            place += 1
            loop.call_soon_threadsafe(transport.write, _ANSWER)

    threading.Thread(target=live, daemon=True).start()
    server = await loop.create_server(lambda: _Connection(work), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1]))
