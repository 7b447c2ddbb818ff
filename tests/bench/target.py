"""A local HTTP target that is not the bottleneck: answers every request with a small JSON document, and `/hang` never.

Run as a process: `python -m tests.bench.target` prints its port.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast

from httptools import HttpRequestParser

_BODY = b'{"ok":true,"items":[1,2,3],"id":1234567890123456789}'
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)


class _Answering(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._hangs = url == b"/hang"

    def on_message_complete(self) -> None:
        if not self._hangs:
            self._transport.write(_ANSWER)


async def _main() -> None:
    server = await asyncio.get_running_loop().create_server(_Answering, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_main())
