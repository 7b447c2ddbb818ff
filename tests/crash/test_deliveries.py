"""`kill -9` while webhooks come in and a schedule fires: each delivery that was answered has one run, each slot too."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from taskforge.core.clock import from_rfc3339
from tests.support.invariants import check_invariants, look
from tests.support.server import ServerProcess, running_server

DELIVERIES = int(os.environ.get("TASKFORGE_TEST_DELIVERIES", "200"))
KILLS = int(os.environ.get("TASKFORGE_TEST_DELIVERY_KILLS", "2"))
SEED = int(os.environ.get("TASKFORGE_TEST_SEED", "0"))
CONCURRENCY = 32
SECRET = b"a secret of github's"
FLOW = b"""
name: inbox
triggers:
  github: {webhook: {verify: {scheme: github, secret: GH}}, input: {n: "${{ $trigger.body.n }}"}}
steps:
  - {id: a, transform: "${{ $input.n }}"}
  - {id: think, transform: "${{ def f: . + 1; $a | f }}"}
output: "${{ $think }}"
"""
TICKS = b"""
name: ticks
triggers: {every: {cron: "@every 1s", catch_up: all}}
steps: [{id: a, transform: "${{ $trigger.scheduled_at }}"}]
"""


class Senders:
    """Send deliveries as a real sender does: again with the same id while there is no answer."""

    def __init__(self, server: ServerProcess) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        self._address = host, int(port)
        self._local = threading.local()
        self._connections: list[HTTPConnection] = []
        self._answers = threading.Condition()
        self.answered = 0
        self.runs: dict[int, set[str]] = {}
        self.statuses: Counter[int] = Counter()

    def send(self, number: int) -> None:
        body = json.dumps({"n": number}).encode()
        headers = {
            "Content-Type": "application/json",
            "X-Hub-Signature-256": "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest(),
            "X-GitHub-Delivery": f"delivery-{number}",
        }
        deadline = time.monotonic() + 60
        while True:
            try:
                status, answer = self._post(body, headers)
            except (OSError, HTTPException):
                self._local.connection.close()  # the next request connects again
                assert time.monotonic() < deadline, "the server did not come back"
                time.sleep(0.02)
                continue
            assert status in (200, 202), (status, answer)
            with self._answers:
                self.runs.setdefault(number, set()).add(answer["id"])
                self.statuses[status] += 1
                self.answered += 1
                self._answers.notify_all()
            return

    def await_answers(self, count: int) -> None:
        with self._answers:
            assert self._answers.wait_for(lambda: self.answered >= count, 120)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = HTTPConnection(*self._address, timeout=30)
            self._connections.append(connection)
        connection.request("POST", "/hooks/inbox/github", body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(120 + 30 * KILLS)
def test_each_answered_delivery_has_one_finished_run_after_kills(tmp_path: Path) -> None:
    seed = SEED or random.randrange(1, 2**32)
    chance = random.Random(seed)
    numbers = list(range(DELIVERIES)) + chance.choices(range(DELIVERIES), k=DELIVERIES // 5)
    chance.shuffle(numbers)
    print(f"seed {seed}: {len(numbers)} deliveries, {KILLS} kills (TASKFORGE_TEST_SEED={seed} repeats it)")
    with running_server(tmp_path) as server:
        server.call("PUT", "/v1/secrets/GH", {"value": SECRET.decode()})
        for name, document in (("inbox", FLOW), ("ticks", TICKS)):
            assert server.call("PUT", f"/v1/workflows/{name}", document)[0] == 201
        senders = Senders(server)
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            sent = [pool.submit(senders.send, number) for number in numbers]
            for at in sorted(chance.sample(range(5, len(numbers) * 4 // 5), KILLS)):
                senders.await_answers(at)
                server.restart()
            for one in sent:
                one.result()
        senders.close()
        print(dict(senders.statuses))
        await_rest(server)
        assert server.call("PATCH", "/v1/workflows/ticks", {"enabled": False})[0] == 200
        check_runs(server, senders)
        check_ticks(server)


def await_rest(server: ServerProcess) -> None:
    """Return when every delivery's run has ended."""
    deadline = time.monotonic() + 60
    while True:
        _, page = server.call("GET", "/v1/runs?workflow=inbox&state=QUEUED,RUNNING,WAITING&limit=1")
        if not page["items"]:
            return
        assert time.monotonic() < deadline
        time.sleep(0.05)


def check_runs(server: ServerProcess, senders: Senders) -> None:
    """Each delivery has one run, that every answer to it named; it succeeded; and there are no others."""
    database = server.home / "taskforge.db"
    assert all(len(runs) == 1 for runs in senders.runs.values())
    acknowledged = [next(iter(runs)) for runs in senders.runs.values()]
    check_invariants(database, acknowledged)
    rows = look(database, "SELECT id, state, input ->> '$.n', output FROM runs WHERE workflow = 'inbox'")
    assert len(rows) == DELIVERIES == len(set(acknowledged))
    assert {row[0] for row in rows} == set(acknowledged)
    for id, state, n, output in rows:
        assert (state, int(output)) == ("SUCCEEDED", n + 1), id
    counts = look(
        database, "SELECT state, count(*), count(DISTINCT dedupe) FROM deliveries GROUP BY state ORDER BY state"
    )
    assert counts[0] == ["ACCEPTED", DELIVERIES, DELIVERIES]
    # What was stored and could not be answered came again.
    assert [state for state, *_ in counts] == ["ACCEPTED", "DUPLICATE"] and counts[1][1] >= DELIVERIES // 5


def check_ticks(server: ServerProcess) -> None:
    """One run for each second, none missing and none twice, over all deaths."""
    rows = look(
        server.home / "taskforge.db",
        "SELECT trigger ->> '$.scheduled_at' FROM runs WHERE workflow = 'ticks' ORDER BY key",
    )
    slots = sorted(from_rfc3339(at) for (at,) in rows)
    assert slots == list(range(slots[0], slots[-1] + 1, 1000)), slots
