"""`$state`: the small durable key-value store of each workflow, for "what did I see last"."""

from __future__ import annotations

from taskforge.core.clock import Clock
from taskforge.core.jsontext import dumps, loads
from taskforge.core.model import JSON
from taskforge.store.protocol import Store


class WorkflowState:
    """Values by workflow, kept once they were asked for: on SQLite this process is the only one that writes them."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._values: dict[str, dict[str, JSON]] = {}

    def find(self, workflow: str) -> dict[str, JSON] | None:
        """Return the values, or None when they are not in memory: then `load` them."""
        return self._values.get(workflow)

    async def load(self, workflow: str) -> dict[str, JSON]:
        values = self._values.get(workflow)
        if values is None:
            stored = await self._store.get_state(workflow)
            values = self._values.setdefault(workflow, {key: loads(text) for key, text in stored.items()})
        return values

    async def set(self, workflow: str, key: str, value: JSON, writer: str, expected: JSON, *, compare: bool) -> bool:
        """Store a value (None removes it); with `compare` only where it is `expected` now. See `Store.set_state`."""
        text = None if value is None else dumps(value)
        before = None if expected is None else dumps(expected)
        done = await self._store.set_state(workflow, key, text, writer, before, compare, self._clock.now())
        # Read anew: what is stored decides, whoever else wrote.
        self._values.pop(workflow, None)
        await self.load(workflow)
        return done
