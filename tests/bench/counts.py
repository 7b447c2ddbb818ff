"""`python -m tests.bench.counts [--runs 50]`: what a run costs in things that can be counted, one run after the other.

The same on every machine, but for the event loop's iterations, which threads and sockets wake. Each transaction is one
fsync.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from tests.engine.counting import IN_CHILD, REQUESTS, TRANSFORMS, counted
from tests.engine.engine import running_engine
from tests.support.target import Target, running_target

WHAT = ("transactions", "statements", "jq round trips", "JSON texts", "loop iterations")


async def _main(target: Target, runs: int) -> None:
    print(f"{'a run of':<24}" + "".join(f"{what:>17}" for what in WHAT))
    with tempfile.TemporaryDirectory() as home:
        async with running_engine(Path(home), target) as engine:
            for document in (TRANSFORMS, REQUESTS, IN_CHILD):
                name = await engine.publish(document)
                await engine.end(await engine.begin(name, input={"name": "x"}))
                with counted(engine) as counts:
                    for _ in range(runs):
                        await engine.end(await engine.begin(name, input={"name": "x"}))
                print(f"{name:<24}" + "".join(f"{counts[what] / runs:>17.4g}" for what in WHAT))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.counts", description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    chosen = parser.parse_args()
    with running_target() as target:  # in a thread of its own
        asyncio.run(_main(target, chosen.runs))
