"""`python -m tests.bench.schedules [--schedules 10000] [--due 1000] [--seconds 30]`: what schedules cost.

Start to ready with all of them stored; CPU while none is due; and how long it takes to start the runs of those that are
due in the same second.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.server import BenchServer
from tests.support.invariants import look

_EACH = 100
_STEPS = 'steps: [{id: a, transform: "${{ $trigger.scheduled_at }}"}]\n'


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.schedules", description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--due", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory) / "home"
        server = BenchServer(home)
        empty = server.ready_s
        _publish(server, "idle", chosen.schedules, _some_day)
        server.stop()
        server = BenchServer(home)
        print(f"start to ready: {server.ready_s:.2f} s with {chosen.schedules} schedules, {empty:.2f} s with none")
        before, begun = server.cpu_s(), time.monotonic()
        _await_idle(server)
        print(f"finding their next times anew: {server.cpu_s() - before:.2f} s CPU in {time.monotonic() - begun:.1f} s")
        before, begun = server.cpu_s(), time.monotonic()
        time.sleep(chosen.seconds)
        used = (server.cpu_s() - before) / (time.monotonic() - begun)
        print(f"idle: {used:.2%} of a core over {chosen.seconds:.0f} s; memory {server.memory_mib():.0f} MiB")
        at = int(time.time()) + 5
        when = datetime.fromtimestamp(at, UTC).isoformat()
        _publish(server, "due", chosen.due, lambda n: f'at: "{when}"')
        assert time.time() < at, "publishing took too long; try --due with fewer"
        before = server.cpu_s()
        _await_ends(server, chosen.due)
        ((first, last, ended, count, distinct),) = look(
            home / "taskforge.db",
            "SELECT min(created_at), max(created_at), max(finished_at), count(*), count(DISTINCT run)"
            " FROM runs JOIN slots ON slots.run = runs.id",
        )
        assert count == distinct == chosen.due, (count, distinct)
        since = at * 1000
        print(f"{chosen.due} due in one second: started {first - since} to {last - since} ms after it, "
              f"the last ends {ended - since} ms after it; {server.cpu_s() - before:.2f} s CPU")  # fmt: skip
        server.stop()


def _some_day(number: int) -> str:
    return f'cron: "{number % 60} {number % 24} 1 {number % 12 + 1} *", timezone: Europe/Berlin'


def _publish(server: BenchServer, name: str, count: int, trigger: Callable[[int], str]) -> None:
    for first in range(0, count, _EACH):
        lines = [f"  t{n}: {{{trigger(n)}}}\n" for n in range(first, min(first + _EACH, count))]
        document = f"name: {name}-{first}\ntriggers:\n{''.join(lines)}{_STEPS}"
        server.request("PUT", f"/v1/workflows/{name}-{first}", document.encode())


def _await_idle(server: BenchServer) -> None:
    """Return when the server has used no CPU worth mentioning for a second."""
    while True:
        before = server.cpu_s()
        time.sleep(1)
        if server.cpu_s() - before < 0.05:
            return


def _await_ends(server: BenchServer, count: int) -> None:
    deadline = time.monotonic() + 60
    while server.request("GET", "/v1/stats")["runs"].get("SUCCEEDED", 0) < count:
        assert time.monotonic() < deadline, "not all runs have ended"
        time.sleep(0.2)


if __name__ == "__main__":
    main()
