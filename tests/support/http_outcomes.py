"""How a request through `HttpClient` ended, as a line; and waiting for what the event loop brings about."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from taskforge.steps.http_client import HttpFailure


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0)


async def outcome(request: Awaitable[Any]) -> str:
    try:
        await request
    except HttpFailure as failure:
        return f"{failure.code} {'sent' if failure.sent else 'not sent'}"
    return "answered"
