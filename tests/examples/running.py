"""Runs the examples of the docs on a real server, against a scripted target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.server import ROOT, ServerProcess
from tests.support.target import Target

EXAMPLES = ROOT / "docs" / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))


def path_of(name: str) -> Path:
    return EXAMPLES / f"{name}.yaml"


@dataclass(frozen=True)
class Stage:
    """A server that knows every example, and the target that the examples are sent to."""

    server: ServerProcess
    target: Target

    def start(self, name: str, **input: Any) -> dict[str, Any]:
        """Start a run; return `{id, number, state}`."""
        status, started = self.server.call("POST", f"/v1/workflows/{name}/runs", {"input": input})
        assert status == 202, started
        found: dict[str, Any] = started
        return found

    def run(self, name: str, **input: Any) -> dict[str, Any]:
        """Start a run and return it when it has ended."""
        status, run = self.server.call("POST", f"/v1/workflows/{name}/runs?wait=30s", {"input": input})
        assert status == 200, run
        assert run["finished_at"] is not None, run
        found: dict[str, Any] = run
        return found

    def show(self, id: str) -> dict[str, Any]:
        status, run = self.server.call("GET", f"/v1/runs/{id}")
        assert status == 200, run
        found: dict[str, Any] = run
        return found

    def runs(self, name: str) -> list[dict[str, Any]]:
        """All runs of a workflow, newest first."""
        status, page = self.server.call("GET", f"/v1/runs?workflow={name}")
        assert status == 200, page
        found: list[dict[str, Any]] = page["items"]
        return found

    def await_end(self, id: str) -> dict[str, Any]:
        """Read the run's events until they end, which they do with the run; return the run."""
        status, _ = self.server.call("GET", f"/v1/runs/{id}/events")
        assert status == 200
        run = self.show(id)
        assert run["finished_at"] is not None, run
        return run

    def signal(self, id: str, name: str, data: Any) -> int:
        return self.server.call("POST", f"/v1/runs/{id}/signals/{name}", {"data": data})[0]

    def seen(self) -> list[str]:
        """Every request in its order, as `METHOD /path?query`."""
        return [
            f"{seen.method} {seen.path}" + (f"?{seen.query}" if seen.query else "") for seen in self.target.requests()
        ]

    def bodies(self, path: str) -> list[Any]:
        return [seen.json for seen in self.target.requests(path)]


def states(run: dict[str, Any]) -> dict[str, str]:
    """The state of every step, by path."""
    return {step["path"]: step["state"] for step in run["steps"]}


def ended_well(run: dict[str, Any]) -> bool:
    """Whether a run SUCCEEDED; shows the error of one that did not."""
    assert run["state"] == "SUCCEEDED", run["error"]
    return True


def in_any_order(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Whether two lists have the same items: branches that run together have no order."""
    assert sorted(map(str, found)) == sorted(map(str, expected))
    return True
