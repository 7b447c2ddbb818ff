"""The plans of stored versions, read once and kept while they are used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from taskforge.core.jsontext import loads
from taskforge.core.model import JSON, Plan
from taskforge.store.protocol import Store

_KEPT = 512


class Plans:
    """Versions never change, so a plan is good for ever; the least recently used ones are let go."""

    def __init__(self, store: Store, load_plan: Callable[[JSON], Plan]) -> None:
        self._store = store
        self._load_plan = load_plan
        self._plans: OrderedDict[tuple[str, int], Plan] = OrderedDict()

    async def get(self, workflow: str, version: int) -> Plan:
        """Raises NotFound."""
        plan = self._plans.get((workflow, version))
        if plan is None:
            row = await self._store.get_version(workflow, version)
            plan = self._load_plan(loads(row.document))
            self.keep(workflow, version, plan)
        else:
            self._plans.move_to_end((workflow, version))
        return plan

    def keep(self, workflow: str, version: int, plan: Plan) -> None:
        self._plans[workflow, version] = plan
        if len(self._plans) > _KEPT:
            self._plans.popitem(last=False)
