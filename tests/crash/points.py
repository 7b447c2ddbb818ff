"""A server, a target and a point at which the server dies: what the stories of `test_points` are told on."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from tests.support.crashing_server import CrashingServer
from tests.support.target import Answer, Seen, Target

# `think` needs the jq child, so that its outcome is a decision of its own.
TWO = """
name: two
steps:
  - id: first
    http: {{method: POST, url: "{url}/${{{{ $input.at }}}}/first", json: 1}}
    retry: {{max_attempts: 2, initial: 10ms, jitter: none}}
  - {{id: think, transform: "${{{{ def f: .; $first.body | f }}}}"}}
  - {{id: second, http: {{method: POST, url: "{url}/${{{{ $input.at }}}}/second", json: "${{{{ $think }}}}"}}}}
"""
LATE = """
name: late
timeout: 200ms
steps: [{id: forever, transform: "${{ def f: f; f }}"}]
"""
APPROVAL = """
name: approval
steps: [{id: ask, wait: {signal: approved, timeout: 1h}}]
output: ${{ $ask }}
"""
COUNTING = """
name: counting
steps: [{id: keep, set_state: {key: "${{ $input.at }}", value: "${{ $input.at }}", expected: null}}]
output: ${{ $keep }}
"""
HOOK = """
name: {name}
triggers:
  hook: {{webhook: {{verify: none, dedupe: "${{{{ $trigger.headers[\\"idempotency-key\\"] }}}}"}}}}
steps: [{{id: a, transform: 1}}]
"""
ONCE = """
name: {name}
triggers: {{soon: {{at: "{at}"}}}}
steps: [{{id: a, transform: 1}}]
"""
FOLLOWS = """
name: {name}-follows
triggers: {{end: {{on_run: {{workflow: {name}}}}}}}
steps: [{{id: a, transform: 1}}]
"""
BRIEF = "name: {name}\nsteps: [{{id: a, transform: {value}}}]\n"

Shown = dict[str, Any]


@dataclass
class Stage:
    """One server and one target for all stories. `at` sets what a story makes apart from the others; `point` is where
    the server is to die, `when` before or after it."""

    server: CrashingServer
    target: Target
    acknowledged: list[str] = field(default_factory=list)
    at: str = ""
    point: str = ""

    @property
    def when(self) -> str:
        return self.point.split()[0]

    def try_call(self, method: str, path: str, body: Any = None, key: str | None = None) -> Shown | None:
        """One request that may die with the server; None when it did."""
        try:
            status, answer = self.server.call(method, path, body, {"Idempotency-Key": key} if key else None)
        except (OSError, HTTPException):
            return None
        assert status < 300, answer
        found: Shown = answer or {}
        if "number" in found:
            self.acknowledged.append(found["id"])
        self.acknowledged += found.get("ids", [])
        return found

    def call(self, method: str, path: str, body: Any = None, key: str | None = None) -> Shown:
        found = self.try_call(method, path, body, key)
        assert found is not None, "the server is dead"
        return found

    def begin(self, workflow: str = "two") -> str:
        """Start the one run of this story, or find it; returns its id."""
        run: str = self.call("POST", f"/v1/workflows/{workflow}/runs", {"input": {"at": self.at}}, self.at)["id"]
        return run

    def shown(self, run: str) -> Shown:
        return self.call("GET", f"/v1/runs/{run}?wait=30s")

    def script(self, step: str, *answers: Answer) -> None:
        self.target.answer(f"/{self.at}/{step}", *answers)

    def requests(self, step: str) -> list[Seen]:
        return self.target.requests(f"/{self.at}/{step}")

    def await_request(self, step: str) -> None:
        self.target.await_requests(1, f"/{self.at}/{step}")

    def arm(self) -> None:
        self.server.arm(self.point)

    def die(self, method: str, path: str, body: Any = None, key: str | None = None) -> None:
        """Send the request during or after which the server dies at the point, and start it again."""
        self.arm()
        self.try_call(method, path, body, key)
        self.revive()

    def die_running(self, workflow: str = "two") -> None:
        """Start the story's run, on whose way the server dies, and start the server again."""
        self.die("POST", f"/v1/workflows/{workflow}/runs", {"input": {"at": self.at}}, self.at)

    def revive(self) -> None:
        """Wait for the death at the point, and start again without it."""
        assert self.server.await_end() == -signal.SIGKILL
        self.server.disarm()
        self.server.start()

    def check_run(self, state: str = "SUCCEEDED", again: int = 0) -> Shown:
        """The one run of this story ended as it must. Each step was called once, the one in flight at the death perhaps
        twice (`again` times more where the script asks for it), always with the step's own key."""
        run = self.shown(self.begin())
        assert run["state"] == state, run
        for step in ("first", "second"):
            keys = Counter(seen.key for seen in self.requests(step))
            assert set(keys) <= {f"{run['id']}/{step}"}
            assert keys.total() <= 2 + again
        if state == "SUCCEEDED":
            assert [step["state"] for step in run["steps"]] == ["SUCCEEDED"] * 3
        return run


Story = Callable[[Stage], None]
STORIES: list[tuple[Story, str]] = []


def dies_at(*calls: str) -> Callable[[Story], Story]:
    """Tell the story with a death before and after each of these calls: `finish_attempt 2` is the second one."""

    def add(story: Story) -> Story:
        STORIES.extend((story, f"{when} {call}") for call in calls for when in ("before", "after"))
        return story

    return add
