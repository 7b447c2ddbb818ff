"""The CPU time that every client command needs until it has printed its answer.

`python -m tests.bench.cli [--rounds N] [COMMAND…]` starts a server with some history, runs each command as a new
process, and prints user and system time, the least of the rounds: noise only adds. Exit code 1: one needs 0.3 s.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from taskforge.cli.command import Group
from taskforge.cli.reference import entries
from tests.cli.prepared import World, sample
from tests.support.forked_cli import forked_cli
from tests.support.server import running_server

_LIMIT_S = 0.3
_SERVERS = ("taskforge demo", "taskforge serve", "taskforge up", "taskforge down")


def measure(world: World, path: str, rounds: int) -> tuple[float, int]:
    """The least CPU seconds of some calls, and the exit code of the last."""
    best, code = float("inf"), 0
    for _ in range(rounds):
        here, environ = world.stand(sample(path) or "")
        arguments = [sys.executable, "-m", "taskforge", *world.arguments(path)]
        process = subprocess.Popen(
            arguments,
            cwd=here,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, spent = os.wait4(process.pid, 0)
        code = process.returncode = os.waitstatus_to_exitcode(status)
        best = min(best, spent.ru_utime + spent.ru_stime)
        world.restore(sample(path) or "")
    return best, code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help="only these, as 'runs list'")
    given = parser.parse_args()
    paths = [entry.path for entry in entries() if not isinstance(entry.command, Group) and entry.path not in _SERVERS]
    chosen = [path for path in paths if not given.commands or path.removeprefix("taskforge ") in given.commands]
    slow = []
    with (
        tempfile.TemporaryDirectory() as folder,
        forked_cli(Path(folder)) as cli,
        running_server(Path(folder)) as server,
    ):
        world = World(server, cli, Path(folder)).prepare()
        print("| command | CPU s | exit code |\n| --- | --- | --- |")
        for path in chosen:
            spent, code = measure(world, path, given.rounds)
            print(f"| `{path}` | {spent:.3f} | {code} |", flush=True)
            if spent >= _LIMIT_S:
                slow.append(path)
    if slow:
        print(f"over {_LIMIT_S} s: {', '.join(slow)}", file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
