"""One server for the tests of the language that leave it as they found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.stage import Stage
from tests.support.server import running_server
from tests.support.target import running_target


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_target() as target, running_server(tmp_path_factory.mktemp("engine")) as server:
        yield Stage(server, target)
