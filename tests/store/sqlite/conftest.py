"""Fixtures for what only SQLite has: a file, a writer thread, a log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from taskforge.store.sqlite.store import SqliteStore
from tests.store.desk import Desk
from tests.support.clock import ManualClock

OpenStore = Callable[..., Awaitable[SqliteStore]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's database is, or will be."""
    return tmp_path / "taskforge.db"


@pytest.fixture
async def open_store(path: Path, clock: ManualClock) -> AsyncIterator[OpenStore]:
    """Opens the store at `path`; what is still open at the end is closed."""
    opened: list[SqliteStore] = []

    async def open(**options: Any) -> SqliteStore:
        opened.append(await SqliteStore.open(path, clock=clock, **options))
        return opened[-1]

    yield open
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: OpenStore) -> SqliteStore:
    return await open_store()


@pytest.fixture
async def desk(store: SqliteStore, clock: ManualClock) -> Desk:
    made = Desk(store, clock)
    await made.publish()
    return made
