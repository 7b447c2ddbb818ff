"""`python -m tests.bench [--rounds 5] [--runs 2000] [--json FILE]`: runs per second, against the floor in the same run.

Work A: three transforms. Work B: three GETs to a local target. The server runs as users run it (synchronous=FULL, auth,
history); the load comes from a process of its own. Every round starts a new server on an empty home.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.floor import fsyncs_per_second, runs_per_second
from tests.bench.server import BenchServer

_WORK_A = """
name: work-a
steps:
  - {id: a, transform: {n: 1, name: "${{ $input.name }}"}}
  - {id: b, transform: "${{ $a.name }}"}
  - {id: c, transform: {first: "${{ $a.n }}", second: "${{ $b }}"}}
output: ${{ $c }}
"""
_WORK_B = """
name: work-b
steps:
  - {{id: a, http: {{method: GET, url: "http://127.0.0.1:{port}/a"}}}}
  - {{id: b, http: {{method: GET, url: "http://127.0.0.1:{port}/b"}}}}
  - {{id: c, http: {{method: GET, url: "http://127.0.0.1:{port}/c?n=${{{{ $a.body.id }}}}"}}}}
"""


def _load(server: BenchServer, path: str, count: int, in_flight: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.load", server.host, str(server.port), server.token, path]
    body = json.dumps({"input": {"name": "x"}})
    done = subprocess.run([*command, str(count), str(in_flight), body], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _round(runs: int, in_flight: int, target_port: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory:
        figures["fsyncs/s"] = fsyncs_per_second(Path(directory))
        figures["floor, 64 a commit, runs/s"] = runs_per_second(Path(directory), 64)
        server = BenchServer(Path(directory) / "home")
        try:
            figures["start to ready, s"] = server.ready_s
            figures["idle memory, MiB"] = server.memory_mib()
            server.request("PUT", "/v1/workflows/work-a", _WORK_A.encode())
            server.request("PUT", "/v1/workflows/work-b", _WORK_B.format(port=target_port).encode())
            for name, path in (("A", "work-a/runs"), ("B", "work-b/runs?wait=60s")):
                _load(server, f"/v1/workflows/{path}", 64, 8)
                before = server.cpu_s()
                found = _load(server, f"/v1/workflows/{path}", runs, in_flight)
                figures[f"{name}, {in_flight} in flight, runs/s"] = runs / found["seconds"]
                figures[f"{name}, server CPU, ms a run"] = (server.cpu_s() - before) * 1000 / runs
                idle = _load(server, f"/v1/workflows/{path}", 200, 1)
                figures[f"{name}, one at a time, p50 ms"] = idle["p50_ms"]
                figures[f"{name}, one at a time, p99 ms"] = idle["p99_ms"]
            stats = server.request("GET", "/v1/stats")
            expected = 2 * (runs + 64 + 200)
            if stats["runs"].get("SUCCEEDED") != expected:
                raise SystemExit(f"not all runs SUCCEEDED: {stats}")
            figures["database, bytes a run"] = (stats["db_bytes"]) / expected
            figures["memory after load, MiB"] = server.memory_mib()
        finally:
            server.stop()
    figures["A against the floor"] = (
        figures[f"A, {in_flight} in flight, runs/s"] / figures["floor, 64 a commit, runs/s"]
    )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    target = subprocess.Popen([sys.executable, "-m", "tests.bench.target"], stdout=subprocess.PIPE, text=True)
    assert target.stdout is not None
    port = int(target.stdout.readline())
    try:
        rounds = [_round(chosen.runs, chosen.in_flight, port) for _ in range(chosen.rounds)]
    finally:
        target.terminate()
        target.wait()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    environment = f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, commit {commit}"
    print(f"{environment}; {chosen.runs} runs, {chosen.rounds} rounds\n")
    print(f"{'figure':<36}{'median':>12}{'least':>12}{'most':>12}")
    for name in rounds[0]:
        values = [found[name] for found in rounds]
        print(f"{name:<36}{statistics.median(values):>12.2f}{min(values):>12.2f}{max(values):>12.2f}")
    if chosen.json:
        chosen.json.write_text(json.dumps({"environment": environment, "rounds": rounds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
