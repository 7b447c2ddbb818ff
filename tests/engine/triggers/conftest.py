"""An engine of the test's own, with a clock that it steers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.engine.triggers.engine import Engine, open_engine
from tests.support.clock import ManualClock

START = 1_798_797_600_000
"""2027-01-01T10:00:00Z"""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
async def engine(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Engine]:
    async with open_engine(tmp_path / "taskforge.db", clock) as made:
        yield made
