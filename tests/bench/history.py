"""`python -m tests.bench.history [--finished 1000000] [--waiting 100000]`: does cost grow with history?

Runs work A on an empty home, then on one whose database has so many finished and waiting runs: rows of real runs,
written again under other keys past the store. Both servers are up side by side and take turns, so that the noise of the
machine falls on both. Needs about 1 KB of disk for each run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import apsw

from tests.bench.__main__ import INPUT, START, WORK_A
from tests.bench.server import BenchServer

_WAITS = "name: waits\nsteps: [{id: ask, wait: {signal: go, timeout: 30d}}]\n"
_AT_ONCE = 50_000


def fill(database: Path, workflow: str, count: int) -> None:
    """Write the newest run of a workflow again, `count` times: its row, its steps and its journal."""
    conn = apsw.Connection(str(database))
    conn.execute("PRAGMA synchronous=OFF; PRAGMA cache_size=-200000")
    rows = "SELECT key, state FROM runs WHERE workflow = ? ORDER BY key DESC LIMIT 1"
    key, state = conn.execute(rows, (workflow,)).fetchall()[0]
    last = int(conn.execute("SELECT max(key) FROM runs").fetchall()[0][0])  # type: ignore[arg-type]
    for first in range(0, count, _AT_ONCE):
        size = min(_AT_ONCE, count - first)
        begin = last + 1 + first
        with conn:
            numbers = f"WITH RECURSIVE n (n) AS (SELECT {begin} UNION ALL SELECT n + 1 FROM n LIMIT {size}) "
            own = {"key": "n", "number": "n", "id": "printf('run_%032x', n)"}
            _copy(conn, numbers, "runs", key, own)
            for table, column in (("step_runs", "run"), ("journal", "run")):
                _copy(conn, numbers, table, key, {column: "n"}, leave={"id"} if table == "journal" else set())
            add = "UPDATE counts SET n = n + ? WHERE kind = ? AND state = ?"
            conn.execute(add, (size, "run", state))
            steps = "SELECT state, count(*) FROM step_runs WHERE run = ? GROUP BY state"
            for step_state, steps_each in conn.execute(steps, (key,)).fetchall():
                conn.execute(add, (size * int(steps_each), "step", step_state))  # type: ignore[arg-type]
    newest = "UPDATE workflows SET next_number = 1 + (SELECT max(number) FROM runs WHERE workflow = ?1) WHERE name = ?1"
    conn.execute(newest, (workflow,))
    conn.close()


def _copy(
    conn: apsw.Connection, numbers: str, table: str, key: object, own: dict[str, str], leave: set[str] | None = None
) -> None:
    names = [str(row[1]) for row in conn.execute(f"PRAGMA table_info({table})").fetchall()]
    names = [name for name in names if name not in (leave or set())]
    of = "key" if table == "runs" else "run"
    chosen = ", ".join(own.get(name, f"t.{name}") for name in names)
    conn.execute(
        f"INSERT INTO {table} ({', '.join(names)}) {numbers} SELECT {chosen} FROM n, {table} AS t WHERE t.{of} = ?",
        (key,),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.history", description=__doc__)
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        homes = {"empty": Path(name) / "empty", "full": Path(name) / "full"}
        with BenchServer(homes["full"]) as server:
            server.request("POST", "/v1/workflows", WORK_A.encode())
            server.request("POST", "/v1/workflows", _WAITS.encode())
            server.call(f"{START}?wait=10s", INPUT)
            server.call("/v1/workflows/waits/runs", {})
            while not server.request("GET", "/v1/stats")["runs"]["WAITING"]:
                time.sleep(0.05)
        begun = time.perf_counter()
        fill(homes["full"] / "taskforge.db", "work-a", chosen.finished)
        fill(homes["full"] / "taskforge.db", "waits", chosen.waiting)
        size = (homes["full"] / "taskforge.db").stat().st_size
        print(f"written in {time.perf_counter() - begun:.0f} s: {size / 2**20:.0f} MiB")
        with BenchServer(homes["empty"]) as empty, BenchServer(homes["full"]) as full:
            empty.request("POST", "/v1/workflows", WORK_A.encode())
            print(f"start to ready: empty {empty.ready_s:.2f} s, full {full.ready_s:.2f} s")
            found: dict[str, list[float]] = {"empty": [], "full": []}
            for _ in range(chosen.rounds):
                for which, server in (("empty", empty), ("full", full)):
                    load = server.load(START, chosen.runs, 64, body=INPUT)
                    found[which].append(chosen.runs / load["seconds"])
            for which, rates in found.items():
                print(f"A, {which}: {statistics.median(rates):.0f} runs/s ({min(rates):.0f} to {max(rates):.0f})")
            ratio = statistics.median(found["full"]) / statistics.median(found["empty"])
            print(f"full against empty: {ratio:.2f}")
            for path in ("/v1/stats", "/v1/runs?limit=50", "/v1/runs?state=WAITING&limit=50"):
                took = []
                for _ in range(20):
                    begun = time.perf_counter()
                    full.request("GET", path)
                    took.append((time.perf_counter() - begun) * 1000)
                print(f"{path}: {statistics.median(took):.1f} ms")
            print(f"memory with all of it: {full.memory_mib():.0f} MiB")


if __name__ == "__main__":
    main()
