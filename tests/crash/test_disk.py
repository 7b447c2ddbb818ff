"""A disk that is full: nothing is acknowledged that is not stored, and work goes on when there is space again."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.crashing_server import CrashingServer, crashing_server
from tests.support.invariants import check_invariants
from tests.support.mounts import small_disk
from tests.support.target import Answer, Target, running_target

pytestmark = [pytest.mark.crash, pytest.mark.slow]

FLOW = """
name: flow
inputs: {{type: object, properties: {{at: {{type: string}}, ballast: {{type: string, default: ""}}}}}}
steps:
  - {{id: first, http: {{method: POST, url: "{url}/${{{{ $input.at }}}}"}}}}
  - {{id: second, http: {{method: POST, url: "{url}/second"}}}}
"""


class Disk:
    """A small file system that a test fills and clears."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._filler = place / "filler"

    def fill(self) -> None:
        with self._filler.open("ab", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError as error:
                    assert error.errno == errno.ENOSPC

    def clear(self) -> None:
        self._filler.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk", "24m") as place:
        yield Disk(place)


@pytest.fixture
def target() -> Iterator[Target]:
    with running_target() as found:
        yield found


@pytest.fixture
def server(tmp_path: Path, disk: Disk) -> Iterator[CrashingServer]:
    """Its home is on the small disk, its log is not."""
    with crashing_server(tmp_path, home=disk.place / "home", engine__grace_seconds=2) as found:
        yield found


def start(server: CrashingServer, at: str, ballast: int = 0) -> tuple[int, str]:
    status, answer = server.call("POST", "/v1/workflows/flow/runs", {"input": {"at": at, "ballast": "x" * ballast}})
    return status, answer["id"] if status == 202 else answer["code"]


def test_a_full_disk_acknowledges_nothing_reads_go_on_and_work_resumes_with_space(
    server: CrashingServer, disk: Disk, target: Target
) -> None:
    server.call("POST", "/v1/workflows", FLOW.format(url=target.url).encode())
    target.answer("/held", Answer(hold=True))
    runs = [start(server, "held")[1] for _ in range(10)]
    target.await_requests(10, "/held")

    disk.fill()
    deadline = time.monotonic() + 20
    while True:
        status, said = start(server, "quick", ballast=20_000)
        if status != 202:
            break
        runs.append(said)
        assert time.monotonic() < deadline, "the disk is full, but all is acknowledged"
    assert (status, said) == (507, "STORE_FULL")
    assert server.call("PUT", "/v1/workflows/other", b"name: other\nsteps: [{id: a, transform: 1}]\n")[0] in (503, 507)
    # What ends now cannot be stored yet, and is not forgotten.
    target.release("/held")
    for path in ("/v1/runs?limit=5", f"/v1/runs/{runs[0]}", "/v1/workflows", "/v1/stats"):
        assert server.call("GET", path)[0] == 200
    assert server.call("GET", "/healthz")[0] == 200

    disk.clear()
    began = time.monotonic()
    while (answer := start(server, "quick"))[0] != 202:
        assert time.monotonic() - began < 5
        time.sleep(0.05)
    runs.append(answer[1])
    for run in runs:
        assert server.call("GET", f"/v1/runs/{run}?wait=10s")[1]["state"] == "SUCCEEDED"
    assert time.monotonic() - began < 10
    assert server.is_running
    check_invariants(server.home / "taskforge.db", runs)
    # The ten were not sent again: their outcome was kept in memory until it could be stored.
    assert len(target.keys("/held")) == 10


def test_a_full_disk_at_the_start_is_told_in_one_line(server: CrashingServer, disk: Disk, target: Target) -> None:
    server.call("POST", "/v1/workflows", FLOW.format(url=target.url).encode())
    target.answer("/held", Answer(hold=True), Answer())
    _, run = start(server, "held")
    target.await_requests(1, "/held")
    server.kill()
    disk.fill()
    before = len(server.output())
    assert server.try_start() == 1
    (line,) = server.output()[before:].splitlines()
    assert "is full" in line
    assert str(disk.place) in line
    disk.clear()
    server.start()
    assert server.call("GET", f"/v1/runs/{run}?wait=10s")[1]["state"] == "SUCCEEDED"
    check_invariants(server.home / "taskforge.db", [run])


def test_a_shutdown_with_a_full_disk_is_in_time_and_loses_nothing(
    server: CrashingServer, disk: Disk, target: Target
) -> None:
    server.call("POST", "/v1/workflows", FLOW.format(url=target.url).encode())
    target.answer("/held", *[Answer(hold=True)] * 10, Answer())
    runs = [start(server, "held")[1] for _ in range(10)]
    target.await_requests(10, "/held")
    disk.fill()
    while start(server, "quick", ballast=20_000)[0] == 202:
        pass
    target.release("/held")
    began = time.monotonic()
    assert server.terminate() == 0
    assert time.monotonic() - began < 2 + 2  # the grace, and a busy machine
    disk.clear()
    server.start()
    for run in runs:
        assert server.call("GET", f"/v1/runs/{run}?wait=10s")[1]["state"] == "SUCCEEDED"
    check_invariants(server.home / "taskforge.db", runs)
