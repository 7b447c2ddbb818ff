"""The demo's triggers: a signed webhook, sent twice as a sender does, and a schedule."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from taskforge.cli.client import Client
from taskforge.cli.failure import CommandError
from taskforge.cli.timeline import TERMINAL
from taskforge.core.clock import Clock
from taskforge.core.verify_config import parse_verify

NAME = "order-bell"
SECRET_NAME = "DEMO_HOOK"
DOCUMENT = b"""\
name: order-bell
description: Ring for each order, and each second
triggers:
  shop: {webhook: {verify: {scheme: github, secret: DEMO_HOOK}}}
  clock: {cron: "@every 1s"}
steps:
  - {id: ring, transform: '${{ $trigger | [.type, .body.order // .scheduled_at] }}'}
output: '${{ $ring }}'
"""
_BODY = b'{"order": 12345678901234567893}'
_PATIENCE_S = 30.0


class Fired(NamedTuple):
    """What the triggers started: the runs, and whether the delivery's second arrival named the first one's run."""

    hook: dict[str, Any]
    cron: dict[str, Any]
    again: bool
    refused: bool


def fire(client: Client, clock: Clock) -> Fired:
    """Apply the workflow, send a delivery twice and one that is not signed, wait for a slot. Raises CommandError."""
    from taskforge.triggers.signatures import sign

    secret = f"{clock.new_id('demo')}-{clock.random()}"
    client.put("secrets", SECRET_NAME, body={"value": secret})
    client.send_document("PUT", "workflows", NAME, content=DOCUMENT, media="yaml")
    scheme = parse_verify({"scheme": "github", "secret": SECRET_NAME})
    delivery = clock.new_id("msg")
    runs = []
    for _ in range(2):
        headers = sign(scheme, secret.encode(), _BODY, clock.wall(), delivery)
        headers.append(("content-type", "application/json"))
        runs.append(client.send_hook("POST", NAME, "shop", content=_BODY, headers=headers, query=()).body)
    refused = _is_refused(client, headers)
    hook = client.get("runs", runs[0]["id"], wait="10s")
    cron = _await_slot(client, clock)
    client.patch("workflows", NAME, body={"enabled": False})
    return Fired(hook, cron, runs[0]["id"] == runs[1]["id"], refused)


def _is_refused(client: Client, headers: list[tuple[str, str]]) -> bool:
    """Whether a body that is not the signed one is refused."""
    try:
        client.send_hook("POST", NAME, "shop", content=_BODY + b" ", headers=headers, query=())
    except CommandError as refused:
        return refused.refused
    return False


def _await_slot(client: Client, clock: Clock) -> dict[str, Any]:
    deadline = clock.monotonic() + _PATIENCE_S
    while True:
        found = client.get("runs", workflow=NAME, trigger="cron", limit=1)["items"]
        if found and found[0]["state"] in TERMINAL:
            slot: dict[str, Any] = found[0]
            return slot
        if clock.monotonic() > deadline:
            raise CommandError("the schedule has not fired")
        time.sleep(0.05)
