"""Retention: by age, by number, by bytes; what it must not touch; and that the disk gets its space back."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from taskforge.config.home import create_home
from taskforge.config.home_files import backup_path, home_bytes, list_backups
from taskforge.engine.upkeep import IDEMPOTENCY_KEPT_MS, RetentionLimits, Upkeep
from taskforge.store.protocol import RunFilter
from taskforge.store.sqlite import runs
from taskforge.store.sqlite.store import SqliteStore
from tests.store.desk import Desk
from tests.support.clock import ManualClock
from tests.support.plans import ONE_CALL

DAY = 86_400_000
MIB = 1024 * 1024


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    create_home(made)
    return made


@pytest.fixture
async def desk(home: Path) -> AsyncIterator[Desk]:
    """A store in a home. Afterwards it must be whole."""
    clock = ManualClock()
    store = await SqliteStore.open(home / "taskforge.db", clock=clock)
    made = Desk(store, clock)
    await made.publish()
    yield made
    findings = await made.store.check()
    await made.store.close()
    assert findings == []


def upkeep(desk: Desk, home: Path, **limits: Any) -> Upkeep:
    return Upkeep(desk.store, desk.clock, home, RetentionLimits(**limits))


async def numbers(desk: Desk) -> list[int]:
    return [row.number for row in await desk.store.list_runs(RunFilter(limit=500))][::-1]


async def db_bytes(desk: Desk) -> int:
    return (await desk.store.stats(0)).db_bytes


async def ended(desk: Desk, count: int, size: int = 0) -> None:
    for _ in range(count):
        run = await desk.start(ONE_CALL)
        await desk.succeed(run, output=os.urandom(size).hex())
        desk.clock.advance(1)


# ---- the limits


async def test_ended_runs_go_by_their_age_and_others_stay(desk: Desk, home: Path) -> None:
    await ended(desk, 3)
    await desk.start(ONE_CALL)
    desk.clock.advance(10 * DAY)
    await ended(desk, 2)
    looked = upkeep(desk, home, runs_ms=9 * DAY)
    await looked.sweep()
    assert await numbers(desk) == [4, 5, 6]
    assert (looked.runs, looked.swept_at) == (3, desk.clock.now())


async def test_ended_runs_above_a_number_go_the_oldest_first(desk: Desk, home: Path) -> None:
    await ended(desk, 130)
    await desk.start(ONE_CALL)
    await upkeep(desk, home, runs=5).sweep()
    assert await numbers(desk) == [126, 127, 128, 129, 130, 131]


async def test_no_limit_is_no_loss(desk: Desk, home: Path) -> None:
    await ended(desk, 3)
    desk.clock.advance(3650 * DAY)
    await upkeep(desk, home).sweep()
    assert await numbers(desk) == [1, 2, 3]


async def test_neither_open_dead_letters_nor_keys_younger_than_7_days_go_whatever_the_limit(
    desk: Desk, home: Path
) -> None:
    failed = await desk.start(ONE_CALL)
    await desk.fail(failed, error_class=None)
    await desk.start(idempotency_key="k", request_hash="h")
    desk.clock.advance(IDEMPOTENCY_KEPT_MS)
    await ended(desk, 1)
    desk.clock.advance(1)
    looked = upkeep(desk, home, runs_ms=0, runs=1, home_bytes=1)
    await looked.sweep()
    assert await numbers(desk) == [1]
    await desk.start(idempotency_key="k2", request_hash="h")
    desk.clock.advance(IDEMPOTENCY_KEPT_MS)
    await looked.sweep()
    assert await numbers(desk) == [1, 4]


def test_the_engine_keeps_keys_as_long_as_the_store_does() -> None:
    assert IDEMPOTENCY_KEPT_MS == runs.IDEMPOTENCY_KEPT_MS


async def test_the_home_comes_within_its_bytes_and_the_disk_gets_them_back(desk: Desk, home: Path) -> None:
    await ended(desk, 150, size=20_000)
    await desk.start(ONE_CALL)
    assert home_bytes(home) > 4 * MIB
    await upkeep(desk, home, home_bytes=2 * MIB).sweep()
    left = await numbers(desk)
    assert 10 < len(left) < 120 and left == list(range(152 - len(left), 152))
    assert await db_bytes(desk) < 2 * MIB
    await desk.store.close()
    assert home_bytes(home) < 2 * MIB
    desk.store = await SqliteStore.open(home / "taskforge.db", clock=desk.clock)


async def test_old_backups_go_before_runs_and_the_newest_one_never(desk: Desk, home: Path) -> None:
    await ended(desk, 10)
    (home / "backups").mkdir()
    for at in range(4):
        path = home / "backups" / f"taskforge-2026010{at + 1}T000000Z.db"
        path.write_bytes(b"x" * MIB)
        os.utime(path, (at, at))
    (home / "backups" / "of-mine.db").write_bytes(b"x")
    looked = upkeep(desk, home, home_bytes=3 * MIB)
    await looked.sweep()
    assert [path.name[16:18] for path in list_backups(home)] == ["03", "04"]
    assert len(await numbers(desk)) == 10
    await upkeep(desk, home, home_bytes=1).sweep()
    assert [path.name[16:18] for path in list_backups(home)] == ["04"]
    assert await numbers(desk) == []
    assert (home / "backups" / "of-mine.db").exists()


async def test_so_many_backups_are_kept(desk: Desk, home: Path) -> None:
    looked = upkeep(desk, home, backups=2)
    made = [await looked.back_up() for _ in range(4)]
    await looked.sweep()
    assert {path.name for path in list_backups(home)} == {one.path.name for one in made[2:]}


async def test_a_store_that_takes_nothing_is_tried_again_the_next_time(desk: Desk, home: Path) -> None:
    await ended(desk, 3)
    looked = upkeep(desk, home, runs=1)
    await desk.store.close()
    await looked.sweep()
    desk.store = looked._store = await SqliteStore.open(home / "taskforge.db", clock=desk.clock)
    await looked.sweep()
    assert await numbers(desk) == [3]


async def test_nothing_goes_while_everything_is_held(desk: Desk, home: Path) -> None:
    """As it is after a restore: somebody wants to look."""
    await ended(desk, 3)
    looked = upkeep(desk, home, runs=1)
    await desk.store.set_hold(None, True, desk.clock.now())
    await looked.sweep()
    assert await numbers(desk) == [1, 2, 3]
    await desk.store.set_hold(None, False, desk.clock.now())
    await looked.sweep()
    assert await numbers(desk) == [3]


# ---- by hand


async def test_a_dry_run_counts_what_would_go_and_changes_nothing(desk: Desk, home: Path) -> None:
    await ended(desk, 4)
    desk.clock.advance(DAY)
    await ended(desk, 1)
    looked = upkeep(desk, home)
    assert (await looked.prune(DAY // 2, dry_run=True)).runs == 4
    assert len(await numbers(desk)) == 5
    assert (await looked.prune(DAY // 2)).runs == 4
    assert await numbers(desk) == [5]


async def test_a_vacuum_gives_all_free_pages_back(desk: Desk, home: Path) -> None:
    await ended(desk, 60, size=20_000)
    looked = upkeep(desk, home)
    pruned = await looked.prune(0)
    done = await looked.vacuum()
    assert pruned.runs == 60 and done.free_bytes == 0
    assert done.after_bytes < 400_000 < done.before_bytes
    assert looked.freed_bytes >= done.before_bytes - done.after_bytes


# ---- files


def test_backups_of_one_second_have_names_of_their_own(home: Path) -> None:
    names = []
    for _ in range(3):
        path = backup_path(home, "2026-11-23T06:15:00.123Z")
        path.parent.mkdir(exist_ok=True)
        path.touch()
        names.append(path.name)
    assert names == [f"taskforge-20261123T061500Z{suffix}.db" for suffix in ("", "-2", "-3")]
    assert len(list_backups(home)) == 3
