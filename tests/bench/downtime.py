"""`python -m tests.bench.downtime`: a real server is away for three slots of a schedule, once dead (kill -9 and a new
start) and once suspended (SIGSTOP and SIGCONT), and each `catch_up` policy does as it says. Takes about a minute.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support.server import ServerProcess, running_server

_PERIOD_S = 14
_SLOTS = 3
_LATE_S = 11  # a slot is late when it is more than ten seconds old
_EXPECTED = {
    "latest": [("SLOT_SUPERSEDED", 2), ("SLOT_LATE", 1)],
    "all": [("SLOT_LATE", 1)] * 3,
    "none": [("SLOT_MISSED", 3)],
}


def main() -> None:
    found: dict[str, Any] = {}
    ways = [threading.Thread(target=_try, args=(way, found)) for way in ("killed", "suspended")]
    for thread in ways:
        thread.start()
    for thread in ways:
        thread.join()
    for way in ("killed", "suspended"):
        for policy, expected in _EXPECTED.items():
            decisions, runs = found[way][policy]
            print(f"{way:<10} {policy:<7} {', '.join(f'{code} x{count}' for code, count in decisions)}; {runs} runs")
            started = sum(code == "SLOT_LATE" for code, _ in expected)
            assert (decisions, runs) == ([*expected, ("SLOT_FIRED", 1)], started + 1), (way, policy, decisions, runs)


def _try(way: str, found: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as directory, running_server(Path(directory)) as server:
        begin = int(time.time()) + 3
        for policy in _EXPECTED:
            assert server.call("POST", "/v1/workflows", _document(policy, begin))[0] == 201
        if way == "killed":
            server.kill()
        else:
            os.kill(server.pid, signal.SIGSTOP)
        _sleep_until(begin + (_SLOTS - 1) * _PERIOD_S + _LATE_S)
        if way == "killed":
            server.restart()
        else:
            os.kill(server.pid, signal.SIGCONT)
        _sleep_until(begin + _SLOTS * _PERIOD_S + 2)
        found[way] = {policy: _look(server, policy) for policy in _EXPECTED}


def _document(policy: str, begin: int) -> bytes:
    start = datetime.fromtimestamp(begin, UTC).isoformat()
    trigger = f'{{cron: "@every {_PERIOD_S}s", start: "{start}", catch_up: {policy}}}'
    return f"name: {policy}\ntriggers: {{tick: {trigger}}}\nsteps: [{{id: a, transform: 1}}]\n".encode()


def _look(server: ServerProcess, policy: str) -> tuple[list[tuple[str, int]], int]:
    _, page = server.call("GET", f"/v1/schedules?workflow={policy}")
    (schedule,) = page["items"]
    _, runs = server.call("GET", f"/v1/runs?workflow={policy}&state=SUCCEEDED")
    return [(one["code"], one["slots"]) for one in reversed(schedule["decisions"])], len(runs["items"])


def _sleep_until(at: float) -> None:
    time.sleep(max(0.0, at - time.time()))


if __name__ == "__main__":
    main()
