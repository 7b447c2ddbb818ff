"""`python -m tests.bench [--rounds 5] [--runs 3000] [--against floor] [--json FILE]`: what a run costs.

Work A: three transforms. Work B: three GETs to a local target. The server runs as users run it (synchronous=FULL, auth,
history); load and target are processes of their own. Every round starts servers on empty homes. The machine may be
shared: compare ratios within one sitting, and look at the fsync rate beside them.
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
import time
from pathlib import Path

from tests.bench.floor import fsyncs_per_second, runs_per_second
from tests.bench.server import BenchServer, load

WORK_A = """
name: work-a
triggers: {hook: {webhook: {verify: none}}}
steps:
  - {id: a, transform: {n: 1, name: "${{ $input.name // $trigger.body.name }}"}}
  - {id: b, transform: "${{ $a.name }}"}
  - {id: c, transform: {first: "${{ $a.n }}", second: "${{ $b }}"}}
output: ${{ $c }}
"""
WORK_B = """
name: work-b
steps:
  - {{id: a, http: {{method: GET, url: "http://127.0.0.1:{port}/a"}}}}
  - {{id: b, http: {{method: GET, url: "http://127.0.0.1:{port}/b"}}}}
  - {{id: c, http: {{method: GET, url: "http://127.0.0.1:{port}/c?n=${{{{ $a.body.id }}}}"}}}}
"""
ONE_REQUEST = """
name: one-request
steps: [{{id: a, http: {{method: GET, url: "http://127.0.0.1:{port}/a"}}}}]
"""
HANGING = """
name: hanging
steps: [{{id: a, http: {{method: GET, url: "http://127.0.0.1:{port}/hang", timeout: 5m}}}}]
"""
START, HOOK = "/v1/workflows/work-a/runs", "/hooks/work-a/hook"
INPUT = {"input": {"name": "x"}}
FLOORS = (1, 16, 64, 256)
ACTIVE = 1_000

Figures = dict[str, float]


def _prepare(server: BenchServer, target: int) -> None:
    for document in (WORK_A, WORK_B.format(port=target)):
        server.request("POST", "/v1/workflows", document.encode())


def throughput(home: Path, runs: int, in_flight: int, target: int) -> Figures:
    """Single starts and batches as fast as they go; what they leave on the disk."""
    found: Figures = {}
    with BenchServer(home) as server:
        _prepare(server, target)
        begun = time.perf_counter()
        server.call(f"{START}?wait=10s", INPUT)
        found["start to ready, s"] = server.ready_s
        found["start to first run finished, s"] = server.ready_s + time.perf_counter() - begun
        found["idle memory, MiB"] = server.memory_mib()
        server.load(START, 100, 8, body=INPUT)
        before = server.cpu_s()
        single = server.load(START, 2 * runs, in_flight, body=INPUT)
        found["A, runs/s"] = 2 * runs / single["seconds"]
        found["A, server CPU, ms a run"] = (server.cpu_s() - before) * 1000 / (2 * runs)
        found["A, load's CPU, share"] = single["cpu_s"] / single["seconds"]
        batch = {"inputs": [{"name": "x"}] * 1000}
        batches = server.load(f"{START}:batch", 8, 2, body=batch)
        found["A by runs:batch, runs/s"] = 8_000 / batches["seconds"]
        stats = server.request("GET", "/v1/stats")
        server.await_ended(101 + 2 * runs + 8_000)
        found["A, bytes a run"] = server.request("GET", "/v1/stats")["db_bytes"] / (101 + 2 * runs + 8_000)
        found["log under load, MiB"] = stats["wal_bytes"] / 2**20
        path = "/v1/workflows/work-b/runs?wait=60s"
        server.load(path, 100, 8)
        before = server.cpu_s()
        waited = server.load(path, runs, in_flight)
        found["B, runs/s"] = runs / waited["seconds"]
        found["B, server CPU, ms a run"] = (server.cpu_s() - before) * 1000 / runs
        found["memory after load, MiB"] = server.memory_mib()
    return found


def latency(home: Path, target: int) -> Figures:
    """One run at a time, and webhooks at even times."""
    found: Figures = {}
    with BenchServer(home) as server:
        _prepare(server, target)
        server.load(START, 200, 1, body=INPUT)
        alone = server.load(START, 500, 1, body=INPUT)
        bare = _bare(home / "bare")
        found["A idle, end to end, p50 ms"] = alone["p50_ms"]
        found["A idle, end to end, p99 ms"] = alone["p99_ms"]
        found["A idle, p99 against p50"] = alone["p99_ms"] / alone["p50_ms"]
        found["bare loop that syncs, p99 against p50"] = bare["p99_ms"] / bare["p50_ms"]
        port = _free_port()
        server.request("POST", "/v1/workflows", ONE_REQUEST.format(port=port).encode())
        command = [sys.executable, "-m", "tests.bench.first_action", server.host, str(server.port), server.token]
        done = subprocess.run([*command, str(port), "300"], capture_output=True, text=True, check=True, timeout=60)
        first = json.loads(done.stdout)
        found["idle, to the first request, p50 ms"] = first["p50_ms"]
        found["idle, to the first request, p99 ms"] = first["p99_ms"]
        for rate in (200, 1_000):
            sent = server.load(HOOK, 3 * rate, 64, rate=rate, body={"name": "x"})
            found[f"webhooks at {rate}/s: accepted/s"] = 3 * rate / sent["seconds"]
            found[f"webhooks at {rate}/s: p99 ms"] = sent["p99_ms"]
            found[f"bare loop at {rate}/s: p99 ms"] = _bare(home / "bare", 3 * rate, 64, rate)["p99_ms"]
    return found


def _bare(file: Path, count: int = 500, in_flight: int = 1, rate: float = 0) -> dict[str, float]:
    """Latencies of what does nothing but sync (`tests.bench.bare`): the machine's share in those of the server."""
    command = [sys.executable, "-m", "tests.bench.bare", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        try:
            load("127.0.0.1", port, "/", 200, 1)
            return load("127.0.0.1", port, "/", count, in_flight, rate=rate)
        finally:
            process.terminate()


def syncing(home: Path, runs: int, in_flight: int, target: int) -> Figures:
    """What FULL costs: the same load without a sync for each commit, side by side."""
    rates: dict[str, float] = {}
    for module in ("taskforge", "tests.bench.normal_server"):
        with BenchServer(home / module, module) as server:
            _prepare(server, target)
            server.load(START, 200, 8, body=INPUT)
            rates[module] = runs / server.load(START, runs, in_flight, body=INPUT)["seconds"]
    return {"A, FULL against NORMAL": rates["taskforge"] / rates["tests.bench.normal_server"]}


def active_memory(home: Path, target: int) -> Figures:
    """Memory of runs that are under way, each with its request and connection."""
    variables = {
        "TASKFORGE_ENGINE__MAX_ATTEMPTS_IN_FLIGHT": str(ACTIVE),
        "TASKFORGE_HTTP__PER_HOST_LIMIT": str(ACTIVE),
        "TASKFORGE_ENGINE__GRACE_SECONDS": "0.5",
    }
    with BenchServer(home, **variables) as server:
        server.request("POST", "/v1/workflows", HANGING.format(port=target).encode())
        server.call("/v1/workflows/hanging/runs", {})
        time.sleep(2)
        before = server.memory_mib()
        server.call("/v1/workflows/hanging/runs:batch", {"inputs": [{}] * (ACTIVE - 1)})
        while server.request("GET", "/v1/stats")["steps"].get("RUNNING", 0) < ACTIVE:
            time.sleep(0.05)
        time.sleep(1)
        return {"memory of an active run, KiB": (server.memory_mib() - before) * 1024 / (ACTIVE - 1)}


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _round(runs: int, in_flight: int, target: int, floors: tuple[int, ...]) -> Figures:
    found: Figures = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        found["fsyncs/s"] = fsyncs_per_second(directory)
        for group in floors:
            found[f"floor, {group} a commit, runs/s"] = runs_per_second(directory, group)
        found |= throughput(directory / "throughput", runs, in_flight, target)
        found |= latency(directory / "latency", target)
        found |= syncing(directory / "syncing", 2 * runs, in_flight, target)
        found |= active_memory(directory / "active", target)
        if 64 in floors:
            found["A against the floor at 64"] = found["A, runs/s"] / found["floor, 64 a commit, runs/s"]
        if 256 in floors:
            found["batch against the floor at 256"] = (
                found["A by runs:batch, runs/s"] / found["floor, 256 a commit, runs/s"]
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--against", choices=["floor"], help="measure the least SQL of such runs in the same rounds")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    floors = FLOORS if chosen.against == "floor" else ()
    target = subprocess.Popen([sys.executable, "-m", "tests.bench.target"], stdout=subprocess.PIPE, text=True)
    assert target.stdout is not None
    port = int(target.stdout.readline())
    try:
        rounds = [_round(chosen.runs, chosen.in_flight, port, floors) for _ in range(chosen.rounds)]
    finally:
        target.terminate()
        target.wait()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    environment = (
        f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, commit {commit}; "
        f"{chosen.in_flight} in flight, {chosen.rounds} rounds"
    )
    print(f"{environment}\n\n{'figure':<40}{'median':>12}{'least':>12}{'most':>12}")
    for name in rounds[0]:
        values = [found[name] for found in rounds]
        print(f"{name:<40}{statistics.median(values):>12.2f}{min(values):>12.2f}{max(values):>12.2f}")
    if chosen.json:
        chosen.json.write_text(json.dumps({"environment": environment, "rounds": rounds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
