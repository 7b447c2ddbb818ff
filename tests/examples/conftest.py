"""One server with all examples for the whole directory, and a new target for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.examples.running import NAMES, Stage, path_of
from tests.support.server import ServerProcess, running_server
from tests.support.target import running_target


@pytest.fixture(scope="session")
def example_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("examples")) as server:
        for name in NAMES:
            status, answer = server.call("PUT", f"/v1/workflows/{name}", path_of(name).read_bytes())
            assert status == 201, answer
        yield server


@pytest.fixture
def stage(example_server: ServerProcess) -> Iterator[Stage]:
    with running_target() as target:
        yield Stage(example_server, target)
