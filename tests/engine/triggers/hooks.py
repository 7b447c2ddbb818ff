"""A workflow with a hook, and what came to it."""

from __future__ import annotations

from typing import Any

from tests.engine.triggers.engine import Engine


def document(
    webhook: str = "verify: none", *, more: str = "", name: str = "w", step: str = "${{ $trigger.body }}"
) -> str:
    return (
        f"name: {name}\ntriggers:\n  hook: {{webhook: {{{webhook}}}{more}}}\n"
        f"steps: [{{id: a, transform: '{step}'}}]\noutput: '${{{{ $a }}}}'\n"
    )


async def deliveries(engine: Engine, query: str = "") -> list[dict[str, Any]]:
    _, page = await engine.call("GET", f"/v1/deliveries{query}")
    found: list[dict[str, Any]] = page["items"]
    return found
