"""`kill -9` at random moments under load: nothing that was accepted is lost, nothing is done twice in the books."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

import pytest

from tests.support.invariants import check_invariants, look
from tests.support.server import ServerProcess, running_server
from tests.support.target import Answer, Target, running_target

KILLS = int(os.environ.get("TASKFORGE_TEST_KILLS", "4"))
SEED = int(os.environ.get("TASKFORGE_TEST_SEED", "0"))
RUNS_PER_KILL = 20
STEPS = ("fetch", "enrich", "post")
FLOW = """
name: three
inputs: {{type: object, properties: {{n: {{type: integer}}}}}}
steps:
  - {{id: fetch, http: {{url: "{url}/fetch", query: {{n: "${{{{ $input.n }}}}"}}}}}}
  - {{id: enrich, http: {{method: POST, url: "{url}/enrich", json: "${{{{ $fetch.body }}}}"}}}}
  - {{id: post, http: {{method: POST, url: "{url}/post", json: "${{{{ {{n: $input.n, was: $enrich.body}} }}}}"}}}}
"""


class Load:
    """Starts runs as fast as the target sees the earlier ones go on, and keeps what was acknowledged."""

    def __init__(self, server: ServerProcess, target: Target, count: int) -> None:
        self.acknowledged: dict[int, str] = {}
        self._server, self._target, self._count = server, target, count

    def start(self, number: int) -> None:
        """Start run `number`; ask again with the same Idempotency-Key while the server is dead."""
        self._target.await_requests(min(2 * (number - 30), 3 * self._count - 200), timeout_s=120)
        deadline = time.monotonic() + 60
        while True:
            try:
                status, answer = self._server.call(
                    "POST", "/v1/workflows/three/runs", {"input": {"n": number}}, {"Idempotency-Key": f"load-{number}"}
                )
            except (URLError, OSError, HTTPException):
                assert time.monotonic() < deadline, "the server did not come back"
                time.sleep(0.02)
                continue
            assert status in (200, 202), answer
            self.acknowledged[number] = answer["id"]
            return


def kill_moments(seed: int, count: int, requests: int) -> list[tuple[int, float]]:
    """When to kill: at how many requests that the target has seen, and how many seconds later. All of them lie in the
    first two thirds, so that there is load at the last one too."""
    chance = random.Random(seed)
    return [(at, chance.uniform(0, 0.05)) for at in sorted(chance.sample(range(5, requests * 2 // 3), count))]


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(60 + 20 * KILLS)
def test_every_accepted_run_survives_kills_at_random_moments(tmp_path: Path) -> None:
    seed = SEED or random.randrange(1, 2**32)
    count = RUNS_PER_KILL * KILLS
    print(f"seed {seed}: {count} runs, {KILLS} kills (TASKFORGE_TEST_SEED={seed} repeats it)")
    with running_target() as target, running_server(tmp_path) as server:
        for path in ("/fetch", "/enrich", "/post"):
            target.answer(path, *(Answer(delay_s=random.Random(seed).uniform(0, 0.03)) for _ in range(50)))
        assert server.call("PUT", "/v1/workflows/three", FLOW.format(url=target.url).encode())[0] == 201
        load = Load(server, target, count)
        with ThreadPoolExecutor(8) as pool:
            starts = [pool.submit(load.start, number) for number in range(count)]
            for at, pause in kill_moments(seed, KILLS, 3 * count):
                target.await_requests(at)
                time.sleep(pause)
                server.restart()
            for start in starts:
                start.result()
        runs = list(load.acknowledged.values())
        await_ends(server, runs)
        check_invariants(server.home / "taskforge.db", runs)
        check_books(server, target, runs)


def await_ends(server: ServerProcess, runs: list[str]) -> None:
    for run in runs:
        status, shown = server.call("GET", f"/v1/runs/{run}?wait=60s&steps=failed")
        assert (status, shown["state"]) == (200, "SUCCEEDED"), shown


def check_books(server: ServerProcess, target: Target, runs: list[str]) -> None:
    """Compare what the target saw with what the database says: every key came, none but the steps' own, and no more
    often than there were attempts: one, and one for each death of the server that the step was in flight at."""
    database = server.home / "taskforge.db"
    attempts = look(
        database,
        """SELECT runs.id || '/' || path, sum(attempts.state = 'SUCCEEDED'), sum(attempts.state = 'LOST'), count(*)
        FROM attempts JOIN runs ON runs.key = attempts.run GROUP BY runs.id, path""",
    )
    calls = Counter(target.keys())
    assert set(calls) == {f"{run}/{step}" for run in runs for step in STEPS}
    assert {key for key, *_ in attempts} == set(calls)
    for key, succeeded, lost, total in attempts:
        assert (succeeded, succeeded + lost) == (1, total), key
        assert 1 <= calls[key] <= total, key
    for seen in target.requests():
        assert seen.key.endswith(seen.path)
    ((numbers, distinct),) = look(database, "SELECT count(*), count(DISTINCT idempotency_key) FROM runs")
    assert numbers == distinct == len(runs)
