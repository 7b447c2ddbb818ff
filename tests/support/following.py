"""Waits for what a run does by following its events, as a person would: no polling, no sleeping."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from tests.support.server import ServerProcess

_PATIENCE_S = 30.0

Event = dict[str, Any]


def await_event(server: ServerProcess, run: str, wanted: Callable[[Event], bool]) -> Event:
    """Return the first event of the run that is wanted; AssertionError when the run ends without it."""
    request = urllib.request.Request(
        f"{server.url}/v1/runs/{quote(run)}/events", headers={"Authorization": f"Bearer {server.token}"}
    )
    seen: list[Event] = []
    with urllib.request.urlopen(request, timeout=_PATIENCE_S) as stream:
        kind = ""
        for raw in stream:
            line = raw.decode().rstrip("\n")
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: ") and kind != "end":
                event: dict[str, Any] = json.loads(line.removeprefix("data: ")) | {"event": kind}
                seen.append(event)
                if wanted(event):
                    return event
    raise AssertionError(f"the run {run} ended without the event that was waited for: {seen}")


def await_step(server: ServerProcess, run: str, path: str, state: str, times: int = 1) -> Event:
    """Return when a step of the run has, or had, come to a state as often as this."""
    seen: list[Event] = []

    def wanted(event: Event) -> bool:
        if (event["event"], event.get("step"), event.get("state")) == ("step", path, state):
            seen.append(event)
        return len(seen) == times

    return await_event(server, run, wanted)


def await_state(server: ServerProcess, run: str, state: str) -> Event:
    """Return when the run has, or had, come to a state."""
    return await_event(server, run, lambda event: event["event"] == "run" and event.get("state") == state)


def await_end(server: ServerProcess, run: str) -> Any:
    """Return the run when it has ended, with all its steps."""
    status, found = server.call("GET", f"/v1/runs/{quote(run)}?wait=30s&steps=all")
    assert status == 200, found
    assert found["state"] in ("SUCCEEDED", "FAILED", "CANCELLED"), found
    return found
