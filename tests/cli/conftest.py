"""One server for the tests of the command line that leave it as they found it; workflows that need no network."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.prepared import World
from tests.support.forked_cli import ForkedCli, forked_cli
from tests.support.server import ServerProcess, running_server

GREET = """\
name: greet
inputs:
  type: object
  properties: {who: {type: string, default: world}, times: {type: integer, default: 1}}
steps:
  - id: words
    transform: '${{ "hello " + $input.who }}'
  - id: route
    switch:
      - when: '${{ $input.times > 1 }}'
        steps: [{id: many, transform: '${{ [range($input.times) | $words] }}'}]
      - else: [{id: one, transform: '${{ [$words] }}'}]
output: '${{ {who: $input.who, times: $input.times, said: $route} }}'
"""
BREAK = """\
name: break
steps:
  - id: before
    transform: 1
  - id: stop
    fail: {message: "no \\e[31mway\\e[0m"}
"""
REFUSED = """\
name: refused
steps:
  - id: call
    http: {method: GET, url: "http://127.0.0.1:9/"}
    retry: {max_attempts: 2, initial: 10ms}
"""


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the workflows greet, break and refused."""
    folder = tmp_path_factory.mktemp("workflows")
    for name, text in (("greet", GREET), ("break", BREAK), ("refused", REFUSED)):
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[ServerProcess]:
    """A server that has these workflows."""
    with running_server(tmp_path_factory.mktemp("served")) as found:
        assert found.run_cli("apply", str(files)).returncode == 0
        yield found


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedCli]:
    """The command line as processes that start in milliseconds."""
    with forked_cli(tmp_path_factory.mktemp("program")) as found:
        yield found


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, forked: ForkedCli) -> Iterator[World]:
    """A server with history, for the examples of the help texts."""
    folder = tmp_path_factory.mktemp("world")
    with running_server(folder) as found:
        yield World(found, forked, folder).prepare()


@pytest.fixture
def nobody() -> str:
    """The address of a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
