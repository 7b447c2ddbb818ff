"""What a finished run costs on the disk, exactly: a row or an index more shows here."""

from __future__ import annotations

from pathlib import Path

from tests.store.desk import Desk
from tests.store.sqlite.conftest import OpenStore
from tests.support.clock import ManualClock
from tests.support.plans import CALL, THREE_GIVES, plan, step

RUNS = 500
THREE_CALLS = plan(step("fetch", CALL), step("shape", CALL), step("post", CALL))
ANSWER = {
    "status": 200,
    "headers": {
        "content-type": "application/json; charset=utf-8",
        "content-length": "17",
        "date": "Sat, 22 Nov 2026 12:00:00 GMT",
        "server": "Python/3.11 aiohttp/3.14",
    },
    "body": {"ok": True, "n": 12345},
    "duration_ms": 3,
}


async def bytes_per_run(open_store: OpenStore, path: Path, *, calls: bool) -> float:
    store = await open_store()
    desk = Desk(store, ManualClock(), "node_01a3185c500077cd809629f6fbed82c0")
    await desk.publish()
    await store.close()
    before = path.stat().st_size
    desk.store = store = await open_store()
    for _ in range(RUNS):
        run = await desk.start(THREE_CALLS if calls else THREE_GIVES)
        for name in ("fetch", "shape", "post") if calls else ():
            await desk.succeed(run, name, ANSWER)
        desk.clock.advance(7)
    await store.close()
    return (path.stat().st_size - before) / RUNS


async def test_a_finished_run_of_three_transforms_takes_less_than_one_kilobyte(
    open_store: OpenStore, path: Path
) -> None:
    assert await bytes_per_run(open_store, path, calls=False) < 1_000


async def test_a_finished_run_of_three_requests_takes_less_than_three_kilobytes(
    open_store: OpenStore, path: Path
) -> None:
    assert await bytes_per_run(open_store, path, calls=True) < 3_000
