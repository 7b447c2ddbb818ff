"""Many at once: one run for one key, one end for one run, and no error of ours under a mixed load."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.invariants import check_invariants, look
from tests.support.server import ServerProcess, running_server
from tests.support.target import Answer, Target, running_target

pytestmark = [pytest.mark.crash, pytest.mark.slow]

LOAD_S = float(os.environ.get("TASKFORGE_TEST_LOAD_SECONDS", "10"))
RACES = int(os.environ.get("TASKFORGE_TEST_RACES", "200"))

FLOW = """
name: {name}
inputs: {{type: object, properties: {{n: {{type: integer, default: 0}}}}}}
steps:
  - {{id: first, http: {{method: POST, url: "{url}/{name}", json: "${{{{ $input.n }}}}"}}}}
  - {{id: last, transform: "${{{{ $first.status }}}}"}}
output: "${{{{ $last }}}}"
"""


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with running_target() as found:
        yield found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("many")) as found:
        yield found
        assert "database is locked" not in found.output()
        check_invariants(found.home / "taskforge.db")


def publish(server: ServerProcess, target: Target, name: str) -> str:
    document = FLOW.format(name=name, url=target.url).encode()
    assert server.call("PUT", f"/v1/workflows/{name}", document)[0] in (200, 201)
    return f"/v1/workflows/{name}/runs"


def at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    """The answers of `count` calls that begin together."""
    barrier = threading.Barrier(count)

    def begin(number: int) -> Any:
        barrier.wait()
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


def test_one_key_in_fifty_requests_at_once_is_one_run_with_one_effect(server: ServerProcess, target: Target) -> None:
    path = publish(server, target, "keyed")
    answers = at_once(50, lambda _: server.call("POST", path, {"input": {"n": 1}}, {"Idempotency-Key": "one"}))
    assert sorted(status for status, _ in answers) == [200] * 49 + [202]
    (run,) = {answer["id"] for _, answer in answers}
    assert server.call("GET", f"/v1/runs/{run}?wait=10s")[1]["output"] == 200
    assert target.keys("/keyed") == [f"{run}/first"]
    status, problem = server.call("POST", path, {"input": {"n": 2}}, {"Idempotency-Key": "one"})
    assert (status, problem["code"]) == (422, "IDEMPOTENCY_MISMATCH")
    assert target.keys("/keyed") == [f"{run}/first"]


def test_a_cancellation_that_races_the_end_gives_one_end_and_the_answer_tells_which(
    server: ServerProcess, target: Target
) -> None:
    path = publish(server, target, "raced")
    target.answer("/raced", *(Answer(delay_s=delay / 1000) for delay in (0, 1, 2, 3, 5, 8)))
    seen: Counter[str] = Counter()

    def race(number: int) -> None:
        _, started = server.call("POST", path, {})
        threading.Event().wait(random.Random(number).uniform(0, 0.012))
        status, answer = server.call("POST", f"/v1/runs/{started['id']}/cancel")
        _, run = server.call("GET", f"/v1/runs/{started['id']}?wait=10s")
        if status == 202:
            assert (answer["state"], run["state"]) == ("CANCELLED", "CANCELLED")
        else:
            assert (status, answer["code"], answer["state"], run["state"]) == (
                409,
                "RUN_ENDED",
                "SUCCEEDED",
                "SUCCEEDED",
            )
        seen[run["state"]] += 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(race, range(RACES)))
    print(dict(seen))
    assert seen.total() == RACES
    check_invariants(server.home / "taskforge.db")


def test_runs_end_on_the_version_they_began_with_whatever_becomes_of_the_workflow(
    server: ServerProcess, target: Target
) -> None:
    path = publish(server, target, "edited")
    target.answer("/edited", Answer(hold=True))
    runs = [server.call("POST", path, {})[1]["id"] for _ in range(12)]
    target.await_requests(12, "/edited")
    workflow = path.removesuffix("/runs")
    second = b"name: edited\nsteps: [{id: other, transform: 2}]\n"
    assert server.call("PUT", workflow, second)[1]["version"] == 2
    assert server.call("PATCH", workflow, {"enabled": False})[0] == 200
    assert server.call("DELETE", workflow)[0] == 204
    assert server.call("POST", path, {})[0] == 404
    target.release("/edited")
    for run in runs:
        _, shown = server.call("GET", f"/v1/runs/{run}?wait=10s")
        assert (shown["state"], shown["version"], shown["output"]) == ("SUCCEEDED", 1, 200)
    orphans = look(
        server.home / "taskforge.db",
        """SELECT runs.id FROM runs LEFT JOIN workflow_versions AS v ON v.workflow = runs.workflow
            AND v.version = runs.version WHERE v.version IS NULL
        UNION ALL SELECT s.path FROM step_runs AS s LEFT JOIN runs ON runs.key = s.run WHERE runs.key IS NULL""",
    )
    assert orphans == []
    # It comes back with its numbers going on.
    assert server.call("PUT", workflow, second)[1]["version"] == 2
    assert server.call("POST", f"{path}?wait=10s", {})[1]["number"] == 13


class Client:
    """One of many: does what a seed says, and keeps every answer."""

    def __init__(self, server: ServerProcess, path: str, seed: int) -> None:
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.runs: list[str] = []
        self.slowest = 0.0
        self._server, self._path, self._chance = server, path, random.Random(seed)

    def work(self, until: float) -> None:
        while time.monotonic() < until:
            self._chance.choices((self._start, self._batch, self._read, self._cancel, self._write), (6, 1, 8, 2, 1))[
                0
            ]()

    def call(self, what: str, method: str, path: str, body: Any = None) -> Any:
        began = time.monotonic()
        status, answer = self._server.call(method, path, body)
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.statuses[what, status] += 1
        return answer if status < 300 else None

    def _start(self) -> None:
        started = self.call("start", "POST", self._path, {"input": {"n": self._chance.randrange(1000)}})
        self.runs.append(started["id"])

    def _batch(self) -> None:
        self.runs += self.call("batch", "POST", f"{self._path}:batch", {"inputs": [{"n": n} for n in range(5)]})["ids"]

    def _read(self) -> None:
        run = self._chance.choice(self.runs) if self.runs else "mixed%231"
        paths = ("/v1/runs?limit=20", "/v1/stats", "/v1/workflows", "/v1/dead-letters", "/metrics", f"/v1/runs/{run}")
        self.call("read", "GET", self._chance.choice(paths))

    def _cancel(self) -> None:
        if self.runs:
            self.call("cancel", "POST", f"/v1/runs/{self._chance.choice(self.runs[-5:])}/cancel")

    def _write(self) -> None:
        name = f"side-{self._chance.randrange(4)}"
        document = f"name: {name}\nsteps: [{{id: a, transform: {self._chance.randrange(100)}}}]\n".encode()
        method = self._chance.choice(("PUT", "PATCH", "DELETE"))
        body = {"PUT": document, "PATCH": {"enabled": self._chance.random() < 0.5}, "DELETE": None}[method]
        self.call("write", method, f"/v1/workflows/{name}", body)


@pytest.mark.timeout(120 + 2 * LOAD_S)
def test_twenty_clients_with_a_mixed_load_meet_no_error_of_ours(server: ServerProcess, target: Target) -> None:
    path = publish(server, target, "mixed")
    target.answer("/mixed", Answer(), Answer(delay_s=0.01), Answer(503), Answer(), Answer(delay_s=0.03))
    clients = [Client(server, path, seed) for seed in range(20)]
    until = time.monotonic() + LOAD_S
    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(lambda client: client.work(until), clients))
    statuses = sum((client.statuses for client in clients), Counter())
    print(dict(statuses), f"slowest {max(client.slowest for client in clients):.2f} s")
    assert {status for what, status in statuses if status >= 500} == set()
    assert {what for what, status in statuses if status >= 400} <= {"cancel", "write", "read"}
    runs = [run for client in clients for run in client.runs]
    for run in runs:
        _, shown = server.call("GET", f"/v1/runs/{run}?wait=30s&steps=none")
        assert shown["state"] in ("SUCCEEDED", "CANCELLED"), shown
    check_invariants(server.home / "taskforge.db", runs)
