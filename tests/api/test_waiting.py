"""What `?wait` answers is the run as everybody reads it afterwards, however it ended and whatever it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.server import ServerProcess, running_server
from tests.support.target import Answer, Target, running_target

LARGE = 40_000
"""Characters of a value that is not kept in memory for whoever waits."""

RUNS = {
    "ends-at-once": "[{id: a, transform: 1}, {id: b, transform: {n: '${{ $a }}'}}]",
    "no-steps-run": "[{id: a, if: '${{ false }}', transform: 1}]",
    "requests": "[{id: b, http: {url: 'URL/ok'}}, {id: a, http: {url: 'URL/ok'}}]",
    "retries": "[{id: a, http: {url: 'URL/flaky'}, retry: {max_attempts: 3, initial: 10ms, jitter: none}}]",
    "fails": "[{id: a, http: {url: 'URL/missing'}, retry: {max_attempts: 1}}, {id: b, transform: 1}]",
    "fails-and-goes-on": "[{id: a, http: {url: 'URL/missing'}, continue_on_error: true}, {id: b, transform: 1}]",
    "catches": "[{id: a, http: {url: 'URL/missing'}, catch: [{id: y, transform: 2}]}]",
    "large-output": "[{id: a, http: {url: 'URL/ok'}}, {id: b, transform: '${{ $input.text }}'}]",
    "middling-output": "[{id: a, http: {url: 'URL/ok'}}, {id: b, transform: '${{ $input.text[:900] }}'}]",
    "many-steps": "[{id: a, foreach: {items: '${{ [range(60)] }}', steps: [{id: x, transform: '${{ $item }}'}]}}]",
    "waits": "[{id: a, wait: {for: 20ms}}, {id: b, transform: 1}]",
    "in-a-child": "[{id: a, transform: '${{ [limit(2; repeat(1))] }}'}, {id: b, http: {url: 'URL/ok'}}]",
    "in-parallel": "[{id: p, parallel: [{id: a, http: {url: 'URL/ok'}}, {id: b, http: {url: 'URL/ok'}}]}]",
    "starts-another": "[{id: a, workflow: {name: ends-at-once}}, {id: b, workflow: {name: waits, wait: false}}]",
    "keeps-state": "[{id: a, set_state: {key: n, value: '${{ $input.text }}'}}, {id: b, http: {url: 'URL/ok'}}]",
    "one-at-a-time": "[{id: a, http: {url: 'URL/ok'}}]\nconcurrency: {key: one, limit: 1}",
}


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with running_target() as found:
        found.answer("/ok", Answer(body=b'{"n": 1}'))
        found.answer("/missing", Answer(status=404))
        yield found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, target: Target) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("waiting")) as started:
        for name, steps in RUNS.items():
            document = f"name: {name}\nsteps: {steps}\n".replace("URL", target.url)
            status, answer = started.call("POST", "/v1/workflows", document.encode())
            assert status == 201, answer
        yield started


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("text", ["x", "x" * LARGE], ids=["small", "large"])
def test_what_wait_answers_is_the_run_as_it_is_read(
    server: ServerProcess, target: Target, name: str, text: str
) -> None:
    target.answer("/flaky", Answer(status=503), Answer(body=b"1"))
    status, answered = server.call("POST", f"/v1/workflows/{name}/runs?wait=30s", {"input": {"text": text}})
    assert status == 200 and answered["state"] in ("SUCCEEDED", "FAILED"), answered
    read: dict[str, Any] = server.call("GET", f"/v1/runs/{answered['id']}")[1]
    assert answered == read
    assert answered["steps"] and list(answered) == list(read)


def test_wait_that_is_over_answers_the_run_as_it_is_then(server: ServerProcess, target: Target) -> None:
    target.answer("/held", Answer(hold=True))
    document = f"name: held\nsteps: [{{id: a, http: {{url: '{target.url}/held'}}}}, {{id: b, transform: 1}}]\n"
    server.call("POST", "/v1/workflows", document.encode())
    status, answered = server.call("POST", "/v1/workflows/held/runs?wait=50ms", {})
    read = server.call("GET", f"/v1/runs/{answered['id']}")[1]
    target.release("/held")
    assert status == 200 and answered == read
    assert [step["state"] for step in answered["steps"]] == ["RUNNING", "PENDING"]
