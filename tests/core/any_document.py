"""Random workflow documents with everything that the language has, and scripts of what their actions come to."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from taskforge.core.errors import Failure
from taskforge.core.model import JSON, AttemptFailure
from tests.core.driven import BROKEN, REFUSED, WRONG

MOST_STEPS = 24
TIMED_OUT = AttemptFailure(Failure("ATTEMPT_TIMEOUT", "too long"), "timeout", timed_out=True)


@dataclass
class _Writer:
    """Writes steps; `once` and `limited` say whether `effect: once` and rate limits may be among them."""

    draw: st.DrawFn
    once: bool
    limited: bool
    count: int = 0
    handling: int = 0
    """How many handlers are around what is being written: nothing is undone there."""

    def chance(self, of: int) -> bool:
        return self.draw(st.integers(0, of)) == of

    def steps(self, depth: int, *, least: int = 1, most: int = 3, together: bool = False) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for _ in range(self.draw(st.integers(least, most))):
            if self.count >= MOST_STEPS and len(found) >= least:
                break
            step = self.step(depth, [other["id"] for other in found])
            if together and found and self.chance(1):
                step["needs"] = [other["id"] for other in found if self.chance(1)]
            found.append(step)
        return found

    def handler(self, depth: int, *, most: int) -> list[dict[str, Any]]:
        self.handling += 1
        found = self.steps(depth, most=most)
        self.handling -= 1
        return found

    def step(self, depth: int, before: list[str]) -> dict[str, Any]:
        step: dict[str, Any] = {"id": f"s{self.count}"}
        self.count += 1
        plain = ["act"] * 6 + ["transform", "wait", "wait", "workflow", "set_state"] + ["fail"] * self.chance(4)
        blocks = ["foreach", "parallel", "switch", "repeat"] * 2
        kind = self.draw(st.sampled_from(plain + (blocks if depth < 4 and self.count < MOST_STEPS else [])))
        step[kind] = getattr(self, f"_{kind}")(depth, before)
        self._settings(step, kind, depth)
        return step

    def _settings(self, step: dict[str, Any], kind: str, depth: int) -> None:
        if self.chance(8):
            step["if"] = self.draw(st.sampled_from([False, False, "${{ true }}", "${{ 1 }}"]))
        if self.chance(4):
            step["continue_on_error"] = True
        if self.chance(7):
            step["timeout"] = self.draw(st.sampled_from(["1s", "5s", "60s"]))
        for handler in ("catch", "finally", "undo"):
            if depth < 4 and self.count < MOST_STEPS and self.chance(8) and not (handler == "undo" and self.handling):
                step[handler] = self.handler(depth + 2, most=2)
        if kind in ("act", "set_state", "workflow"):
            step["retry"] = {"max_attempts": self.draw(st.integers(1, 3)), "jitter": "none"}
            if self.chance(6):
                step["retry"]["when"] = self.draw(st.sampled_from(["${{ true }}", '${{ $error.code == "X" }}']))
        if kind == "act" and self.once and self.chance(3):
            step["effect"] = "once"
            if self.chance(1) and self.count < MOST_STEPS:
                step["probe"] = self.handler(depth + 3, most=1)
        if kind == "act" and self.limited and self.chance(7):
            step["rate_limit"] = {"key": "k", "max": 1, "per": "2s"}

    def _act(self, depth: int, before: list[str]) -> JSON:
        return 1

    def _transform(self, depth: int, before: list[str]) -> JSON:
        return self.draw(st.sampled_from([1, 1, None, "${{ $now }}", "${{ $run.id }}", "x" * 200, "${{ {} + 1 }}"]))

    def _fail(self, depth: int, before: list[str]) -> JSON:
        return {}

    def _set_state(self, depth: int, before: list[str]) -> JSON:
        return {"key": "k", "value": 1}

    def _workflow(self, depth: int, before: list[str]) -> JSON:
        return {"name": "other"}

    def _wait(self, depth: int, before: list[str]) -> JSON:
        choice = self.draw(st.integers(0, 4))
        if choice == 0:
            return {"for": self.draw(st.sampled_from(["1s", "1h"]))}
        if choice == 1:
            return {"until": self.draw(st.sampled_from(["2001-01-01T00:00:00Z", 1_800_000_002, "${{ [] }}"]))}
        config: dict[str, Any] = {"signal": self.draw(st.sampled_from(["go", "stop"])), "timeout": "1m"}
        if choice == 4 and self.count < MOST_STEPS:
            config["on_timeout"] = self.steps(depth + 1, most=2)
        return config

    def _switch(self, depth: int, before: list[str]) -> JSON:
        conditions = [True, False, "${{ $index == 1 }}", *(f"${{{{ ${id} == 1 }}}}" for id in before)]
        branches: list[dict[str, Any]] = [
            {"when": self.draw(st.sampled_from(conditions)), "steps": self.steps(depth + 1, least=0, most=2)}
            for _ in range(self.draw(st.integers(1, 2)))
        ]
        if self.chance(1):
            branches.append({"else": self.steps(depth + 1, least=0, most=2)})
        return branches

    def _foreach(self, depth: int, before: list[str]) -> JSON:
        lists: list[Any] = [[1, 2], [1, 2, 3], [5, 6, 7, 8], "${{ [1, 2, 3] }}", [1], [], "${{ 5 }}"]
        items = self.draw(st.sampled_from(lists))
        return {
            "items": items,
            "max_parallel": self.draw(st.integers(1, 3)),
            "fail_fast": self.chance(2),
            "steps": self.steps(depth + 1, most=2),
        }

    def _parallel(self, depth: int, before: list[str]) -> JSON:
        return {"steps": self.steps(depth + 1, most=4, together=True), "fail_fast": self.chance(2)}

    def _repeat(self, depth: int, before: list[str]) -> JSON:
        steps = self.steps(depth + 1, most=2)
        last = steps[-1]["id"]
        untils = ["${{ $index >= 1 }}", "${{ $index >= 2 }}", f"${{{{ ${last} == 1 }}}}", True, "${{ 7 }}"]
        every = self.draw(st.sampled_from(["0s", "3s"]))
        return {
            "until": self.draw(st.sampled_from(untils)),
            "every": every,
            "max": self.draw(st.integers(1, 4)),
            "steps": steps,
        }


@st.composite
def documents(draw: st.DrawFn, *, once: bool = True, limited: bool = True, places: bool = True) -> dict[str, Any]:
    writer = _Writer(draw, once, limited)
    document: dict[str, Any] = {"name": "w", "steps": writer.steps(0, least=2, most=5)}
    for handler in ("on_failure", "finally"):
        if writer.chance(3):
            document[handler] = writer.handler(2, most=2)
    if writer.chance(1):
        document["output"] = draw(st.sampled_from([1, "${{ {} + 1 }}", f"${{{{ ${document['steps'][-1]['id']} }}}}"]))
    if writer.chance(5):
        document["timeout"] = draw(st.sampled_from(["2s", "30s", "10m"]))
    if places and writer.chance(5):
        document["concurrency"] = {"key": "k", "on_limit": draw(st.sampled_from(["queue", "skip"]))}
    return document


@dataclass
class Script:
    """What every attempt, child run and evaluation of a run comes to: the same each time that it is asked."""

    seed: int
    chosen: dict[tuple[Any, ...], random.Random] = field(default_factory=dict)

    def _random(self, *about: Any) -> random.Random:
        return random.Random(f"{self.seed} {about}")

    def outcome(self, path: str, generation: int, failures: int) -> JSON | AttemptFailure:
        chance = self._random("outcome", path, generation, failures)
        if chance.random() < (0.0, 0.1, 0.2, 0.4)[self.seed % 4]:
            return chance.choice([REFUSED, BROKEN, WRONG, TIMED_OUT])
        small = [1, 1, 1, True, False, None, {"done": True, "output": 1}, {"done": False}, [1, 2]]
        return "x" * 200 if chance.random() < 0.03 else chance.choice(small)

    def child(self, path: str, generation: int) -> tuple[str, JSON]:
        chance = self._random("child", path, generation)
        states = ["SUCCEEDED"] * 6 + ["FAILED", "CANCELLED"]
        return chance.choice(states), chance.choice([1, 2, None])

    def in_child(self, path: str, name: str) -> bool:
        return self._random("in child", path, name).random() < 0.25

    def is_sent(self, path: str, generation: int) -> bool:
        """Whether somebody sends the signal that a `wait` step waits for."""
        return self._random("sent", path, generation).random() < 0.7

    def turn(self, path: str, generation: int, failures: int) -> float:
        """Which of the attempts under way ends first."""
        return self._random("turn", path, generation, failures).random()
