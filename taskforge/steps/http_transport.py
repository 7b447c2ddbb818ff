"""The HTTP client of a server, made when it is first needed: importing what it is built on takes a sixth of a start."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskforge.steps.http_client import HttpClient, Request, Response


class HttpTransport:
    """What steps send their requests with. `make` makes the client, and is called once."""

    def __init__(self, make: Callable[[], HttpClient]) -> None:
        self._make = make
        self._client: HttpClient | None = None
        self._making = asyncio.Lock()

    async def request(self, request: Request) -> Response:
        """`HttpClient.request`."""
        client = self._client
        if client is None:
            client = await self._open()
        return await client.request(request)

    async def warm_up(self, after_s: float) -> None:
        """Make the client when the server has been up for a while, so that no step has to wait for it."""
        await asyncio.sleep(after_s)
        await asyncio.to_thread(importlib.import_module, "taskforge.steps.http_client")
        await self._open()

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.close()

    async def _open(self) -> HttpClient:
        async with self._making:
            if self._client is None:
                client = self._make()
                await client.start()
                self._client = client
            return self._client
