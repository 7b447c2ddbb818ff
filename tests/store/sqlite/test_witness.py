"""An independent witness, another SQLite library in another process, sees what the store says; what is acknowledged is
in the file when the process is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from taskforge.store.sqlite.store import SqliteStore
from tests.store.desk import Desk
from tests.store.sqlite.conftest import OpenStore
from tests.support.plans import CALL_THEN_GIVE

WITNESS = """
import asyncio, json, sys, aiosqlite
async def main():
    async with aiosqlite.connect(sys.argv[1]) as conn:
        found = {}
        for table in ("runs", "step_runs", "attempts", "journal"):
            async with conn.execute(f"SELECT * FROM {table} ORDER BY 1, 2") as rows:
                found[table] = [list(row) for row in await rows.fetchall()]
        async with conn.execute("PRAGMA integrity_check") as rows:
            found["integrity"] = (await rows.fetchone())[0]
        print(json.dumps(found))
asyncio.run(main())
"""

WRITES_AND_DIES = """
import asyncio, os, pathlib, signal, sys
from taskforge.store.sqlite.store import SqliteStore
from tests.store.desk import Desk
from tests.support.clock import ManualClock
from tests.support.plans import CALL_THEN_GIVE
async def main():
    clock = ManualClock(seed=int(sys.argv[2]))
    desk = Desk(await SqliteStore.open(pathlib.Path(sys.argv[1]), clock=clock), clock)
    await desk.publish()
    async def client():
        while True:
            run = await desk.start(CALL_THEN_GIVE)
            print("started", run.id, flush=True)
            await desk.succeed(run)
            print("ended", run.id, flush=True)
    asyncio.get_running_loop().call_later(int(sys.argv[2]) / 40, os.kill, os.getpid(), signal.SIGKILL)
    await asyncio.gather(*(client() for _ in range(8)))
asyncio.run(main())
"""


def witness(path: Path) -> dict[str, object]:
    script = [sys.executable, "-c", WITNESS, str(path)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


async def test_another_library_reads_the_same_rows_while_the_store_is_open(desk: Desk, path: Path) -> None:
    run = await desk.start(CALL_THEN_GIVE)
    await desk.succeed(run)
    seen = witness(path)
    assert seen["integrity"] == "ok"
    assert [row[:6] for row in seen["runs"]] == [[run.key, run.id, "flow", 1, 1, "SUCCEEDED"]]  # type: ignore[attr-defined]
    assert [row[1:5] for row in seen["step_runs"]] == [  # type: ignore[attr-defined]
        ["after", "after", "give", "SUCCEEDED"],
        ["call", "call", "call", "SUCCEEDED"],
    ]
    assert len(seen["journal"]) == 2  # type: ignore[arg-type]
    # The witness has come and gone; the store goes on.
    assert (await desk.start()).number == 2
    assert await desk.store.check() == []


@pytest.mark.crash
@pytest.mark.parametrize("seed", [4, 9, 14])
async def test_what_was_acknowledged_before_a_kill_is_there(open_store: OpenStore, path: Path, seed: int) -> None:
    script = [sys.executable, "-c", WRITES_AND_DIES, str(path), str(seed)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -9 and done.stderr == ""
    # The last line may be cut.
    told = [line.split() for line in done.stdout.splitlines(keepends=True) if line.endswith("\n")]
    assert told
    store: SqliteStore = await open_store()
    assert store.notices == [] and await store.check() == []
    for event, id in told:
        row = await store.get_run(id)
        assert event == "started" or row.record.state == "SUCCEEDED"
    unfinished = await store.stats(1)
    rescued = await store.rescue_leases([], 10**13, keep="node_next")
    assert rescued.runs == unfinished.runs["RUNNING"] <= 8
    assert await store.check() == []
