"""`python -m tests.bench.instructions`: the processor's instructions of a run, counted by valgrind's callgrind.

They differ by a percent from time to time, however busy the machine is, so a change of two percent can be seen. Those
of the kernel are not among them, nor is any waiting. A server is twenty times as slow while it is counted.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.__main__ import INPUT, START, WORK_A, WORK_B
from tests.bench.server import BenchServer

_RUNS = 300
_BATCH = 500
_SETTLED_S = 5.0
"""Until what begins a second after the start has begun, slow as it is."""


def main() -> int:
    if shutil.which("valgrind") is None:
        print("valgrind is not installed; try: apt-get install valgrind", file=sys.stderr)
        return 2
    target = subprocess.Popen([sys.executable, "-m", "tests.bench.target"], stdout=subprocess.PIPE, text=True)
    assert target.stdout is not None
    port = int(target.stdout.readline())
    try:
        for name in ("A", "A by runs:batch", "B"):
            print(f"{name:18}{_counted(name, port) / 1000:8.0f} thousand instructions a run")
    finally:
        target.terminate()
        target.wait()
    return 0


def _counted(name: str, port: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "callgrind")
        counter = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={found}"]
        with BenchServer(Path(folder, "home"), prefix=counter, PYTHONHASHSEED="0") as server:
            for document in (WORK_A, WORK_B.format(port=port)):
                server.request("POST", "/v1/workflows", document.encode())
            _load(server, name, 64)
            time.sleep(_SETTLED_S)
            _control(server, "--instr=on")
            runs = _load(server, name, _RUNS)
            _control(server, "--instr=off")
        totals = [line for line in found.read_text().splitlines() if line.startswith("totals:")]
        return int(totals[-1].split()[1]) / runs


def _load(server: BenchServer, name: str, runs: int) -> int:
    """Have runs made; returns how many."""
    if name == "A":
        server.load(START, runs, 64, body=INPUT)
    elif name == "B":
        server.load("/v1/workflows/work-b/runs?wait=60s", runs, 64)
    else:
        for _ in range(4):
            server.call(f"{START}:batch", {"inputs": [{"name": "x"}] * _BATCH})
        return 4 * _BATCH
    return runs


def _control(server: BenchServer, option: str) -> None:
    subprocess.run(["callgrind_control", option, str(server.process.pid)], check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
