"""`kill -9` inside blocks, children, handlers and undo: the run ends as if nothing had happened.

Hypothesis picks the workflow and the moment: before or after the n-th call of a verb of the store, or of a request.
"""

from __future__ import annotations

import itertools
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.crashing_server import CrashingServer, crashing_server
from tests.support.invariants import check_invariants
from tests.support.target import Target, running_target

pytestmark = [pytest.mark.crash, pytest.mark.slow]

DOCUMENTS = {
    "nested": """
name: nested
steps:
  - id: each
    foreach:
      items: [1, 2, 3]
      max_parallel: 2
      steps:
        - id: both
          parallel:
            - {id: a, http: {url: "URL/${{ $input.at }}/a?i=${{ $item }}"}}
            - {id: b, transform: "${{ def f: .; $item | f }}"}
            - {id: c, needs: [a, b], http: {method: POST, url: "URL/${{ $input.at }}/c", json: {i: "${{ $b }}"}}}
        - {id: sum, transform: "${{ $index + $b }}"}
output: ${{ $each }}
""",
    "inner": """
name: inner
steps:
  - {id: call, http: {url: "URL/${{ $input.at }}/inner?n=${{ $input.n }}"}}
  - {id: pause, wait: {for: 20ms}}
output: ${{ $input.n * 10 }}
""",
    "outer": """
name: outer
steps:
  - id: each
    foreach:
      items: [1, 2]
      max_parallel: 2
      steps: [{id: child, workflow: {name: inner, input: {n: "${{ $item }}", at: "${{ $input.at }}"}}}]
  - id: poll
    repeat:
      until: "${{ $index == 1 }}"
      every: 10ms
      max: 3
      steps: [{id: look, http: {url: "URL/${{ $input.at }}/look"}}]
output: ${{ $each }}
""",
    "undoing": """
name: undoing
steps:
  - id: first
    http: {url: "URL/${{ $input.at }}/first"}
    undo: [{id: un_first, http: {method: DELETE, url: "URL/${{ $input.at }}/un_first"}}]
  - id: second
    http: {url: "URL/${{ $input.at }}/second"}
    undo: [{id: un_second, http: {method: DELETE, url: "URL/${{ $input.at }}/un_second"}}]
  - {id: stop, fail: {message: no}}
on_failure: [{id: tell, http: {method: POST, url: "URL/${{ $input.at }}/tell", json: "${{ $error.code }}"}}]
finally: [{id: tidy, http: {url: "URL/${{ $input.at }}/tidy"}}]
""",
}  # fmt: skip
VERBS = ("start_run", "advance_run", "finish_attempt", "lease_steps", "resume_wait", "send_signal", "request")
_numbers = itertools.count(1)


@dataclass
class Stage:
    server: CrashingServer
    target: Target
    acknowledged: list[str] = field(default_factory=list)

    def call(self, method: str, path: str, body: Any = None, key: str | None = None) -> dict[str, Any]:
        """One request, sent again after each death of the server."""
        while True:
            try:
                status, answer = self.server.call(method, path, body, {"Idempotency-Key": key} if key else None)
            except (OSError, HTTPException):
                assert self.server.await_end() == -signal.SIGKILL
                self.server.disarm()
                self.server.start()
                continue
            assert status < 300, answer
            return answer or {}

    def outcome(self, workflow: str, point: str | None) -> tuple[Any, ...]:
        """Run a workflow, with a death at the point, and return what must not depend on it."""
        at = f"story-{next(_numbers)}"
        if point is not None:
            self.server.arm(point)
        started = self.call("POST", f"/v1/workflows/{workflow}/runs", {"input": {"at": at}}, at)
        self.acknowledged.append(started["id"])
        run = self.call("GET", f"/v1/runs/{started['id']}?wait=30s")
        self.server.disarm()
        states = {step["path"]: step["state"] for step in run["steps"]}
        seen = [request for request in self.target.requests() if request.path.startswith(f"/{at}/")]
        repeated = {key: count for key, count in Counter(request.key for request in seen).items() if count > 2}
        assert not repeated, f"sent more than twice around one death: {repeated}"
        order = [] if workflow != "undoing" else list(dict.fromkeys(request.path.split("/")[-1] for request in seen))
        keys = {request.key.partition("/")[2] for request in seen if request.key.startswith(started["id"])}
        return run["state"], run["output"], run["error"], states, keys, order


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    tmp_path = tmp_path_factory.mktemp("language")
    with running_target() as target, crashing_server(tmp_path, engine__lease_seconds=1) as server:
        stage = Stage(server, target)
        for document in DOCUMENTS.values():
            stage.call("POST", "/v1/workflows", document.replace("URL", target.url).encode())
        yield stage
        check_invariants(server.home / "taskforge.db", stage.acknowledged)


@pytest.fixture(scope="module")
def expected(stage: Stage) -> dict[str, tuple[Any, ...]]:
    """What each workflow gives when nothing dies."""
    return {workflow: stage.outcome(workflow, None) for workflow in ("nested", "outer", "undoing")}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    workflow=st.sampled_from(["nested", "outer", "undoing"]),
    when=st.sampled_from(["before", "after"]),
    verb=st.sampled_from(VERBS),
    number=st.integers(1, 6),
)
def test_a_death_at_any_moment_changes_nothing(
    stage: Stage, expected: dict[str, tuple[Any, ...]], workflow: str, when: str, verb: str, number: int
) -> None:
    assert stage.outcome(workflow, f"{when} {verb} {number}") == expected[workflow]


def test_undo_runs_in_reverse_then_the_handlers(expected: dict[str, tuple[Any, ...]]) -> None:
    assert expected["undoing"][0] == "FAILED"
    assert expected["undoing"][-1] == ["first", "second", "un_second", "un_first", "tell", "tidy"]
