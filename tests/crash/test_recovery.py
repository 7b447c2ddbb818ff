"""Deaths while recovering from a death, and runs that are the cause of it."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.support.crashing_server import CrashingServer, crashing_server
from tests.support.invariants import check_invariants, look
from tests.support.target import Answer, running_target

pytestmark = [pytest.mark.crash, pytest.mark.slow]

TWO_TRIES = """
name: two-tries
defaults: {{retry: {{max_attempts: 2, initial: 10ms}}}}
steps:
  - {{id: first, http: {{method: POST, url: "{url}/first"}}}}
  - {{id: second, http: {{method: POST, url: "{url}/second"}}}}
"""
CALL = """
name: {name}
steps: [{{id: call, http: {{method: POST, url: "{url}/{name}"}}}}]
"""


def start(server: CrashingServer, workflow: str) -> str:
    status, answer = server.call("POST", f"/v1/workflows/{workflow}/runs", {})
    assert status == 202, answer
    run: str = answer["id"]
    return run


def ended(server: CrashingServer, run: str) -> dict[str, object]:
    status, answer = server.call("GET", f"/v1/runs/{run}?wait=60s")
    assert status == 200
    found: dict[str, object] = answer
    return found


def test_a_recovery_that_dies_five_times_in_a_row_still_recovers_and_eats_no_attempt(tmp_path: Path) -> None:
    deaths = [
        "before rescue_leases 1",
        "after rescue_leases 1",
        "before lease_steps 1",
        "after lease_steps 1",
        "before advance_run 1",
    ]
    with running_target() as target, crashing_server(tmp_path) as server:
        server.call("POST", "/v1/workflows", TWO_TRIES.format(url=target.url).encode())
        # Ten are in flight at the first death; afterwards one fails, and may be tried once more all the same.
        target.answer("/first", *[Answer(hold=True)] * 10, Answer(503), Answer())
        runs = [start(server, "two-tries") for _ in range(10)]
        target.await_requests(10, "/first")
        server.kill()
        for point in deaths:
            server.arm(point)
            code = server.try_start()
            assert (server.await_end() if code is None else code) == -signal.SIGKILL, point
        server.disarm()
        server.start()
        assert {ended(server, run)["state"] for run in runs} == {"SUCCEEDED"}
        assert sorted(Counter(target.keys("/first")).values()) == [2] * 9 + [3]
        assert set(Counter(target.keys("/second")).values()) == {1}
        check_invariants(server.home / "taskforge.db", runs)
        lost = look(server.home / "taskforge.db", "SELECT count(*) FROM attempts WHERE state = 'LOST'")
        assert lost == [[10]]


def test_a_run_that_kills_the_server_fails_only_after_it_did_so_alone_and_the_others_go_on(tmp_path: Path) -> None:
    with running_target() as target, crashing_server(tmp_path, suspect_pause_s=0.5) as server:
        for name in ("poison", "slow", "good"):
            server.call("POST", "/v1/workflows", CALL.format(name=name, url=target.url).encode())
        target.answer("/poison", Answer(before=lambda seen: os.kill(server.pid, signal.SIGKILL), hold=True))
        # In flight at every death, and innocent: answered only once it is taken up alone as well.
        target.answer("/slow", *[Answer(hold=True)] * 3, Answer())
        target.answer("/good", Answer(delay_s=0.2))
        slow = start(server, "slow")
        others = [start(server, "good") for _ in range(20)]
        target.await_requests(1, "/slow")
        poison = start(server, "poison")
        for _ in range(4):
            assert server.await_end() == -signal.SIGKILL
            server.start()
        assert ended(server, slow)["state"] == "SUCCEEDED"
        assert {ended(server, run)["state"] for run in others} == {"SUCCEEDED"}
        failed = ended(server, poison)
        assert failed["state"] == "FAILED"
        assert failed["error"]["code"] == "CRASH_LOOP"  # type: ignore[index]
        assert target.keys("/poison") == [f"{poison}/call"] * 4
        check_invariants(server.home / "taskforge.db", [slow, poison, *others])

        # A person who has mended the cause can have it run again.
        target.answer("/poison", Answer())
        assert server.call("POST", f"/v1/runs/{poison}/retry")[0] == 202
        assert ended(server, poison)["state"] == "SUCCEEDED"
        assert target.keys("/poison")[4:] == [f"{poison}/call~2"]
