"""`python -m tests.bench.slow_disk`: what a slow sync does to runs, and to those who only read meanwhile.

Three ways of writing side by side (`tests.bench.slow_server`), with 64 starts of work A in flight and one client that
reads a workflow a hundred times a second. Prints medians of the rounds.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import tempfile
import threading
import time
from pathlib import Path

from tests.bench.__main__ import INPUT, START, WORK_A
from tests.bench.load import quantiles
from tests.bench.server import BenchServer

WAYS = ("loop and thread", "thread", "loop")
DELAYS_MS = (0, 2, 10, 50)
_PAUSE_S = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.slow_disk", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3000)
    chosen = parser.parse_args()
    found: dict[tuple[int, str], list[tuple[float, float, float]]] = {}
    for _ in range(chosen.rounds):
        for delay_ms in DELAYS_MS:
            for way in WAYS:
                found.setdefault((delay_ms, way), []).append(_measure(delay_ms, way, chosen.runs))
    print(f"{'a sync longer by':<18}{'writing':<18}{'A, runs/s':>12}{'reads, p50 ms':>16}{'p99 ms':>10}")
    for (delay_ms, way), values in found.items():
        rate, middle, most = (statistics.median(value[place] for value in values) for place in range(3))
        print(f"{f'{delay_ms} ms':<18}{way:<18}{rate:>12.0f}{middle:>16.2f}{most:>10.2f}")


def _measure(delay_ms: int, way: str, runs: int) -> tuple[float, float, float]:
    """Runs a second, and the latencies of reads meanwhile."""
    variables = {"BENCH_SYNC_MS": str(delay_ms), "BENCH_WRITING": way}
    with (
        tempfile.TemporaryDirectory() as home,
        BenchServer(Path(home), "tests.bench.slow_server", **variables) as server,
    ):
        server.request("POST", "/v1/workflows", WORK_A.encode())
        server.load(START, 200, 8, body=INPUT)
        over = threading.Event()
        times: list[float] = []
        reading = threading.Thread(target=_read, args=(server, over, times))
        reading.start()
        try:
            loaded = server.load(START, runs, 64, body=INPUT)
        finally:
            over.set()
            reading.join()
        read = quantiles(times)
        return runs / loaded["seconds"], read["p50_ms"], read["p99_ms"]


def _read(server: BenchServer, over: threading.Event, times: list[float]) -> None:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    headers = {"Authorization": f"Bearer {server.token}"}
    while not over.wait(_PAUSE_S):
        begun = time.perf_counter()
        connection.request("GET", "/v1/workflows/work-a", headers=headers)
        connection.getresponse().read()
        times.append(time.perf_counter() - begun)
    connection.close()


if __name__ == "__main__":
    main()
