"""A target for every test, and an engine on a file of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.engine.engine import Engine, running_engine
from tests.support.invariants import check_invariants
from tests.support.target import Target, running_target


@pytest.fixture
def target() -> Iterator[Target]:
    with running_target() as found:
        yield found


@pytest.fixture
async def engine(request: pytest.FixtureRequest, tmp_path: Path, target: Target) -> AsyncIterator[Engine]:
    """An engine; `@pytest.mark.parametrize("engine", [{"slots": 1}], indirect=True)` sets it up otherwise. Afterwards
    its database keeps all invariants."""
    async with running_engine(tmp_path, target, **getattr(request, "param", {})) as found:
        yield found
    check_invariants(tmp_path / "taskforge.db", idle=False)
