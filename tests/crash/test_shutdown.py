"""How a server ends: when it is asked to, when it is stopped for a while, and when a part of it is broken."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.crashing_server import CrashingServer, crashing_server
from tests.support.invariants import check_invariants, look
from tests.support.server import ServerProcess, running_server
from tests.support.target import Answer, Target, running_target

pytestmark = [pytest.mark.crash, pytest.mark.slow]

FLOW = """
name: flow
inputs: {{type: object, properties: {{at: {{type: string, default: quick}}}}}}
steps:
  - id: first
    http: {{method: POST, url: "{url}/${{{{ $input.at }}}}"}}
    # Without jitter: a pause that happens to be 0 ms is over before the run is put aside.
    retry: {{initial: 100ms, jitter: none}}
  - {{id: second, http: {{method: POST, url: "{url}/second"}}}}
"""


@pytest.fixture
def target() -> Iterator[Target]:
    with running_target() as found:
        yield found


def publish(server: ServerProcess, target: Target) -> None:
    assert server.call("POST", "/v1/workflows", FLOW.format(url=target.url).encode())[0] == 201


def start(server: ServerProcess, at: str = "quick") -> str:
    status, answer = server.call("POST", "/v1/workflows/flow/runs", {"input": {"at": at}})
    assert status == 202, answer
    run: str = answer["id"]
    return run


def ended(server: ServerProcess, run: str) -> Any:
    status, answer = server.call("GET", f"/v1/runs/{run}?wait=60s")
    assert status == 200
    return answer


def send_term(server: ServerProcess) -> tuple[threading.Thread, list[int]]:
    """SIGTERM; the thread ends with the process, the list then has its exit code."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(server.terminate()))
    thread.start()
    return thread, codes


def test_sigterm_under_load_takes_nothing_more_lets_attempts_end_and_loses_nothing(
    tmp_path: Path, target: Target
) -> None:
    target.answer("/quick", Answer(delay_s=0.05))
    target.answer("/ends-in-time", Answer(hold=True))
    target.answer("/too-slow", Answer(hold=True), Answer())
    with running_server(tmp_path, engine__grace_seconds=3, engine__max_attempts_in_flight=8) as server:
        publish(server, target)
        in_time, too_slow = start(server, "ends-in-time"), start(server, "too-slow")
        target.await_requests(1, "/ends-in-time")
        target.await_requests(1, "/too-slow")
        runs = [in_time, too_slow, *(start(server) for _ in range(40))]
        began = time.monotonic()
        thread, codes = send_term(server)
        while server.call("GET", "/readyz")[0] == 200:
            assert time.monotonic() - began < 2
        status, problem = server.call("POST", "/v1/workflows/flow/runs", {})
        assert (status, problem["code"]) == (503, "SHUTTING_DOWN")
        status, problem = server.call("POST", "/v1/workflows/flow/runs:batch", {"inputs": [{}]})
        assert (status, problem["code"]) == (503, "SHUTTING_DOWN")
        target.release("/ends-in-time")
        thread.join(20)
        assert codes == [0]
        assert time.monotonic() - began < 3 + 2  # the grace, and a busy machine
        database = server.home / "taskforge.db"
        check_invariants(database, runs, idle=False)
        attempts = look(
            database,
            f"""SELECT attempts.state, attempts.error ->> 'code', s.crashes FROM attempts
            JOIN runs ON runs.key = attempts.run JOIN step_runs AS s ON s.run = runs.key AND s.path = attempts.path
            WHERE runs.id IN ('{in_time}', '{too_slow}') ORDER BY runs.key""",
        )
        assert attempts == [["SUCCEEDED", None, 0], ["LOST", "RELEASED", 0]]
        assert look(database, "SELECT count(*) FROM runs WHERE owner IS NOT NULL") == [[0]]
        server.start()
        assert {ended(server, run)["state"] for run in runs} == {"SUCCEEDED"}
        assert target.keys("/too-slow") == [f"{too_slow}/first"] * 2
        assert target.keys("/ends-in-time") == [f"{in_time}/first"]
        check_invariants(database, runs)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_at_once_and_loses_nothing(
    tmp_path: Path, target: Target, second: signal.Signals
) -> None:
    target.answer("/slow", Answer(hold=True), Answer())
    with running_server(tmp_path, engine__grace_seconds=30) as server:
        publish(server, target)
        run = start(server, "slow")
        target.await_requests(1, "/slow")
        thread, codes = send_term(server)
        while server.call("GET", "/readyz")[0] == 200:
            pass
        began = time.monotonic()
        os.kill(server.pid, second)
        thread.join(20)
        assert codes == [130]
        assert time.monotonic() - began < 2
        server.start()
        assert ended(server, run)["state"] == "SUCCEEDED"
        check_invariants(server.home / "taskforge.db", [run])


def test_sigint_alone_stops_as_sigterm_does(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        os.kill(server.pid, signal.SIGINT)
        assert server.process is not None
        assert server.process.wait(15) == 0
        server.kill()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
def test_it_works_as_process_1(tmp_path: Path, target: Target) -> None:
    probe = subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"unshare is not allowed here: {probe.stderr.decode().strip()}")
    server = ServerProcess(tmp_path / "home", {})
    server.command = ["unshare", "--pid", "--fork", "--kill-child", *server.command]
    server.start()
    try:
        publish(server, target)
        assert ended(server, start(server))["state"] == "SUCCEEDED"
        (inner,) = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        os.kill(int(inner), signal.SIGTERM)
        assert server.process is not None
        assert server.process.wait(15) == 0
    finally:
        server.kill()


def test_a_process_stopped_for_longer_than_its_lease_goes_on_and_ends_everything_once(
    tmp_path: Path, target: Target
) -> None:
    target.answer("/slow", Answer(hold=True))
    with running_server(tmp_path, engine__lease_seconds=1) as server:
        publish(server, target)
        runs = [start(server, "slow") for _ in range(5)]
        target.await_requests(5, "/slow")
        os.kill(server.pid, signal.SIGSTOP)
        target.release("/slow")
        threading.Event().wait(2.5)  # time itself is what is tested here
        os.kill(server.pid, signal.SIGCONT)
        shown = [ended(server, run) for run in runs]
        assert {run["state"] for run in shown} == {"SUCCEEDED"}
        assert all(len(run["steps"][0]["attempts"]) == 1 for run in shown)
        assert len(target.keys("/second")) == 5
        check_invariants(server.home / "taskforge.db", runs)


# ---- a part that is broken


@pytest.mark.parametrize("verb", ["next_due", "lease_steps", "advance_run", "finish_attempt"])
def test_an_error_that_nobody_expected_ends_the_server_with_a_message(
    tmp_path: Path, target: Target, verb: str
) -> None:
    target.answer("/quick", Answer(503), Answer())
    with crashing_server(tmp_path) as server:
        publish(server, target)
        server.arm(f"break {verb} 1")
        run = start(server)
        assert server.await_end() == 1
        assert f"taskforge: the server stopped: planted in {verb}" in server.output()
        server.disarm()
        server.start()
        assert ended(server, run)["state"] == "SUCCEEDED"
        check_invariants(server.home / "taskforge.db", [run])


@pytest.mark.parametrize("verb", ["start_run", "finish_attempt"])
def test_a_writer_that_ends_ends_the_server_with_a_message(tmp_path: Path, target: Target, verb: str) -> None:
    with crashing_server(tmp_path) as server:
        publish(server, target)
        earlier = start(server)
        ended(server, earlier)
        server.arm(f"writer {verb} 1")
        status, answer = server.call("POST", "/v1/workflows/flow/runs", {})
        assert status == (503 if verb == "start_run" else 202), answer
        assert server.await_end() == 1
        assert "taskforge: the server stopped: " in server.output()
        assert "planted in the writer" in server.output()
        server.disarm()
        server.start()
        runs = [earlier] if verb == "start_run" else [earlier, answer["id"]]
        assert {ended(server, run)["state"] for run in runs} == {"SUCCEEDED"}
        check_invariants(server.home / "taskforge.db", runs)


@pytest.mark.parametrize("verb", ["renew_leases", "rescue_leases"])
def test_the_care_of_leases_goes_on_after_an_error(tmp_path: Path, target: Target, verb: str) -> None:
    target.answer("/slow", Answer(hold=True))
    with crashing_server(tmp_path, engine__lease_seconds=1) as server:
        publish(server, target)
        run = start(server, "slow")
        target.await_requests(1, "/slow")
        server.arm(f"break {verb} 1")
        await_output(server, f"planted in {verb}")
        # The next call goes well: the server would die here if there were none.
        server.arm(f"after {verb} 1")
        assert server.await_end() == -signal.SIGKILL
        server.disarm()
        target.answer("/slow", Answer())
        server.start()
        assert ended(server, run)["state"] == "SUCCEEDED"


def await_output(server: CrashingServer, words: str) -> None:
    deadline = time.monotonic() + 10
    while words not in server.output():
        assert time.monotonic() < deadline, server.output()
        time.sleep(0.02)
