"""Fixtures of the conformance suite: every test runs once for each database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.store.backends import Backend, SqliteBackend
from tests.store.desk import Desk
from tests.support.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["sqlite"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Backend]:
    """A database of the test's own; afterwards it must be whole."""
    assert request.param == "sqlite"
    made = await SqliteBackend(tmp_path / "taskforge.db", clock).open()
    yield made
    findings = await made.store.check()
    await made.close()
    assert findings == []


@pytest.fixture
async def desk(backend: Backend, clock: ManualClock) -> Desk:
    """A process at work, with the workflow `flow` published."""
    made = Desk(backend.store, clock)
    await made.publish()
    return made
