"""What is true of the server's process as a whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.server import ROOT, ServerProcess, clean_environ, running_server
from tests.support.target import Answer, Target, running_target

pytestmark = pytest.mark.slow

CALL = """
name: call
inputs: {{type: object, properties: {{n: {{type: integer}}}}}}
steps:
  - {{id: jq, transform: "${{{{ def f: . + 1; $input.n | f }}}}"}}
  - {{id: call, http: {{method: POST, url: "{url}/call", json: "${{{{ $jq }}}}"}}}}
output: "${{{{ $call.status }}}}"
"""
ENDLESS = """
name: {name}
steps: [{{id: forever, transform: "${{{{ {program} }}}}"}}]
"""


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with running_target() as found:
        yield found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, target: Target) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("process")) as found:
        assert found.call("PUT", "/v1/workflows/call", CALL.format(url=target.url).encode())[0] == 201
        yield found


@pytest.mark.parametrize(
    ("program", "codes"),
    [
        ("def f: f; f", {"EXPRESSION_TIMEOUT"}),
        ("[range(1e9)] | length", {"EXPRESSION_TIMEOUT", "EXPRESSION_MEMORY"}),
        ('reduce range(60) as $i (\\"x\\"; . + .) | length', {"EXPRESSION_TIMEOUT", "EXPRESSION_MEMORY"}),
    ],
)
def test_an_endless_program_fails_its_step_within_two_seconds_and_disturbs_nobody(
    server: ServerProcess, program: str, codes: set[str]
) -> None:
    name = f"endless-{abs(hash(program)) % 10_000}"
    status, answer = server.call("PUT", f"/v1/workflows/{name}", ENDLESS.format(name=name, program=program).encode())
    assert status == 201, answer
    # Both children are alive before the clock is looked at.
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: server.call("POST", "/v1/workflows/call/runs?wait=10s", {"input": {"n": n}}), range(8)))
    slowest_health = 0.0
    over = threading.Event()

    def watch() -> None:
        nonlocal slowest_health
        while not over.is_set():
            began = time.monotonic()
            assert server.call("GET", "/healthz")[0] == 200
            slowest_health = max(slowest_health, time.monotonic() - began)

    def other(number: int) -> tuple[str, int]:
        _, run = server.call("POST", "/v1/workflows/call/runs?wait=30s", {"input": {"n": number}})
        return run["state"], run["output"]

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(10) as pool:
        endless = pool.submit(server.call, "POST", f"/v1/workflows/{name}/runs?wait=30s", {})
        others = list(pool.map(other, range(50)))
        _, run = endless.result()
    over.set()
    watcher.join()
    assert others == [("SUCCEEDED", 200)] * 50
    assert run["state"] == "FAILED"
    assert run["error"]["code"] in codes
    assert run["error"]["step"] == "forever"
    took = datetime.fromisoformat(run["finished_at"]) - datetime.fromisoformat(run["created_at"])
    assert took.total_seconds() < 2
    assert slowest_health < 1


with_proc = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="this system does not tell a process's children and what it has loaded"
)


@with_proc
def test_no_second_sqlite_is_in_the_process_or_its_children(server: ServerProcess) -> None:
    server.call("POST", "/v1/workflows/call/runs?wait=10s", {"input": {"n": 0}})
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    assert children, "the jq child should be alive"
    for pid in [str(server.pid), *children]:
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert "_sqlite3" not in maps
        assert "libsqlite3" not in maps


def test_importing_everything_loads_no_second_sqlite_and_does_nothing(tmp_path: Path) -> None:
    """Every module of the package, in a process that can make nothing: no file, no thread, no child."""
    program = """
import importlib, json, os, pkgutil, sys, threading
import taskforge
for found in pkgutil.walk_packages(taskforge.__path__, "taskforge."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
wrong = [name for name in ("_sqlite3", "sqlite3", "aiosqlite") if name in sys.modules]
print(json.dumps([wrong, threading.active_count(), os.listdir(".")]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean_environ(tmp_path / "home", PYTHONDONTWRITEBYTECODE="1", PYTHONPATH=str(ROOT)),
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout) == [[], 1, []]
    assert done.stderr == b""
    assert os.listdir(tmp_path) == []


@with_proc
def test_children_end_with_a_server_that_was_killed(tmp_path: Path, target: Target) -> None:
    with running_server(tmp_path) as server:
        server.call("PUT", "/v1/workflows/call", CALL.format(url=target.url).encode())
        server.call("POST", "/v1/workflows/call/runs?wait=10s", {"input": {"n": 0}})
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        os.kill(server.pid, 9)
        assert server.process is not None
        server.process.wait(10)
        deadline = time.monotonic() + 5
        while any(is_alive(pid) for pid in children):
            assert time.monotonic() < deadline, "a jq child outlives its server"
            time.sleep(0.02)
        server.kill()  # only closes what the test holds


def is_alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_retries_go_on_while_the_target_is_away_and_all_end_when_it_is_back(
    server: ServerProcess, target: Target
) -> None:
    document = CALL.replace("name: call", "name: away").replace(
        'json: "${{{{ $jq }}}}"}}', "json: 1}}, retry: {{max_attempts: 20, initial: 50ms, max: 100ms}}"
    )
    server.call("PUT", "/v1/workflows/away", document.format(url=target.url).encode().replace(b"/call", b"/away"))
    target.answer("/away", Answer(then="reset"))
    _, batch = server.call("POST", "/v1/workflows/away/runs:batch", {"inputs": [{"n": n} for n in range(40)]})
    target.await_requests(150, "/away")
    target.answer("/away", Answer())
    states = {server.call("GET", f"/v1/runs/{run}?wait=30s")[1]["state"] for run in batch["ids"]}
    assert states == {"SUCCEEDED"}
