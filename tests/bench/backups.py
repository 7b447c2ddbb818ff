"""`python -m tests.bench.backups [--backups 50] [--rate 200] [--kept 10000]`: hot backups under load, each restored.

The server has KEPT ended runs, which retention keeps it at, and starts RATE runs a second. Backups are taken one after
the other beside it; each is restored into a home of its own, and must be sound by `db check`, the first and every tenth
by the independent witness, too, and have every run that was acknowledged before the backup began: of the newest
KEPT / 2, for older ones may have been let go of. Prints the figures.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support.invariants import check_invariants, look
from tests.support.server import ServerProcess, clean_environ, run_cli, running_server
from tests.support.steady_load import steady_load

FLOW = b"""
name: load
inputs: {type: object, properties: {text: {type: string}}}
steps:
  - {id: a, transform: {n: 1, text: "${{ $input.text }}"}}
  - {id: b, transform: "${{ $a.n }}"}
  - {id: rest, wait: {for: 5s}}
  - {id: c, transform: {first: "${{ $a.n }}", second: "${{ $b }}"}}
output: ${{ $c }}
"""


def _fill(server: ServerProcess, runs: int, size: int) -> None:
    text = "x" * size
    for start in range(0, runs, 500):
        inputs = [{"text": f"{text}{number}"} for number in range(start, min(start + 500, runs))]
        assert server.call("POST", "/v1/workflows/load/runs:batch", {"inputs": inputs})[0] == 202


def _one(server: ServerProcess, folder: Path, before: list[str], witness: bool) -> dict[str, Any]:
    """Take a backup beside the load, restore it, and look at it."""
    file, home = folder / "copy.db", folder / "restored"
    begun = time.monotonic()
    made = server.run_cli("db", "backup", "--force", str(file), "-o", "json")
    taken = time.monotonic()
    assert made.returncode == 0, made.stderr
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(mode=0o700)
    shutil.copy(server.home / "secret.key", home)
    restored = run_cli("db", "restore", str(file), "-o", "json", environ=clean_environ(home), timeout=600)
    ended = time.monotonic()
    assert restored.returncode == 0, restored.stderr
    checked = run_cli("db", "check", "-o", "json", environ=clean_environ(home), timeout=600)
    assert checked.returncode == 0, checked.stdout
    database = home / "taskforge.db"
    if witness:
        check_invariants(database, before, idle=False)
    have = {id for (id,) in look(database, "SELECT id FROM runs")}
    assert have.issuperset(before), f"{len(set(before) - have)} accepted runs are missing"
    return {"begun": begun, "taken": taken, "backup_s": taken - begun, "restore_s": ended - taken,
            "bytes": json.loads(made.stdout)["bytes"]}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.backups", description=__doc__)
    parser.add_argument("--backups", type=int, default=50)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--kept", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=8_000, help="bytes of input of each kept run at the start")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        with running_server(
            folder, log__level="warning", retention__runs_count=chosen.kept, retention__every_seconds=5
        ) as server:
            server.call("PUT", "/v1/workflows/load", FLOW)
            _fill(server, chosen.kept, chosen.size)
            found, wal = [], 0
            with steady_load(server, "load", chosen.rate) as load:
                load.await_accepted(round(chosen.rate * 5))
                quiet_from = time.monotonic()
                load.await_accepted(len(load.accepted) + round(chosen.rate * 20))
                quiet = load.p99_ms(quiet_from, time.monotonic())
                for number in range(chosen.backups):
                    begun = time.monotonic()
                    before = load.before(begun)[-chosen.kept // 2 :]
                    one = _one(server, folder, before, number % 10 == 0)
                    one["p99_ms"] = load.p99_ms(one["begun"], one["taken"])
                    wal = max(wal, server.call("GET", "/v1/stats")[1]["wal_bytes"])
                    found.append(one)
                    figures = (
                        f"backup {one['backup_s']:.1f} s, restore {one['restore_s']:.1f} s, p99 {one['p99_ms']:.0f} ms"
                    )
                    print(f"{number + 1:>3}  {len(before)} accepted runs are there; {figures}", flush=True)
                ended = time.monotonic()
                rate = len([run for run in load.accepted if run.at >= quiet_from]) / (ended - quiet_from)
            during = statistics.median(one["p99_ms"] for one in found)
            pooled = sorted(
                run.seconds for run in load.accepted for one in found if one["begun"] <= run.at < one["taken"]
            )
            print(
                f"backups {len(found)}, all sound; runs acknowledged {len(load.accepted)}, refused {len(load.refused)}"
            )
            print(f"{rate:.0f} runs/s; database {found[-1]['bytes'] / 2**20:.0f} MiB; WAL peak {wal / 2**20:.1f} MiB")
            for name in ("backup_s", "restore_s"):
                values = [one[name] for one in found]
                print(f"{name}: median {statistics.median(values):.2f}, most {max(values):.2f}")
            p99 = pooled[int(len(pooled) * 0.99)] * 1000
            print(
                f"start p99: {quiet:.1f} ms without, {p99:.1f} ms during all backups (median of each: {during:.1f} ms)"
            )
            return 1 if load.refused else 0


if __name__ == "__main__":
    raise SystemExit(main())
