"""What the tests of the language in a running server share: starting runs, signals, looking at what came of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.following import await_end, await_step
from tests.support.server import ServerProcess, running_server
from tests.support.target import Target, running_target

Shown = dict[str, Any]


class Stage:
    """One server and the target of its http steps. Documents may say `{url}` for the target's address."""

    def __init__(self, server: ServerProcess, target: Target) -> None:
        self.server = server
        self.target = target

    def publish(self, *documents: str) -> None:
        for document in documents:
            text = document.replace("{url}", self.target.url)
            status, answer = self.server.call("POST", "/v1/workflows", text.encode())
            assert status in (200, 201), json.dumps(answer, indent=1)

    def start(self, workflow: str, input: Any = None, **body: Any) -> str:
        """Start a run; returns its id."""
        given = body if input is None else body | {"input": input}
        return str(self.call("POST", f"/v1/workflows/{workflow}/runs", given)["id"])

    def call(self, method: str, path: str, body: Any = None, status: int | None = None) -> Any:
        found, answer = self.server.call(method, path, body)
        assert found == status if status is not None else found < 300, (found, answer)
        return answer

    def signal(self, run: str, name: str, data: Any = None) -> Shown:
        answer: Shown = self.call("POST", f"/v1/runs/{run}/signals/{name}", {"data": data})
        return answer

    def cancel(self, run: str) -> None:
        self.call("POST", f"/v1/runs/{run}/cancel")

    def show(self, run: str) -> Shown:
        answer: Shown = self.call("GET", f"/v1/runs/{run}?steps=all")
        return answer

    def end(self, run: str, state: str = "SUCCEEDED") -> Shown:
        """Wait for the run's end, which must be this one."""
        found: Shown = await_end(self.server, run)
        assert found["state"] == state, json.dumps(found, indent=1)
        return found

    def reach(self, run: str, path: str, state: str = "WAITING", times: int = 1) -> None:
        """Return when a step has come to a state as often as this."""
        await_step(self.server, run, path, state, times)

    def child(self, run: str, path: str) -> str:
        """The id of the run that a step has started."""
        id: str = self.step(run, path)["child"]
        assert id is not None
        return id

    def step(self, run: str, path: str) -> Shown:
        return next(step for step in self.show(run)["steps"] if step["path"] == path)

    def states(self, run: str) -> dict[str, str]:
        return {step["path"]: step["state"] for step in self.show(run)["steps"]}

    def keys(self, run: str) -> list[str]:
        """What the run's requests were for, in their order: the part of their keys after the run."""
        return [seen.key.removeprefix(f"{run}/") for seen in self.target.requests() if seen.key.startswith(run)]


@contextlib.contextmanager
def running_stage(tmp_path: Path, **config: Any) -> Iterator[Stage]:
    """A server and a target of its own."""
    with running_target() as target, running_server(tmp_path, **config) as server:
        yield Stage(server, target)
