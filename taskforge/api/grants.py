"""What a token may do: a scope for everything, or for some workflows, or both. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Final

from taskforge.api.route import Scope
from taskforge.core.record import dataclass

SCOPE_PATTERN: Final = r"^(read|run|write|admin)(:[a-z0-9][a-z0-9-]{0,62})?$"
"""A word of a token's scopes: `run` for everything, `run:uptime` for one workflow."""

_WORD = re.compile(SCOPE_PATTERN)


@dataclass(frozen=True, slots=True)
class Grants:
    """`everywhere` is the scope for the whole server (None: none), `workflows` the one for each workflow by name."""

    everywhere: Scope | None = None
    workflows: Mapping[str, Scope] = field(default_factory=dict)

    @classmethod
    def parse(cls, words: Iterable[str]) -> Grants:
        """From a token's scopes. A word that is none grants nothing."""
        everywhere: Scope | None = None
        workflows: dict[str, Scope] = {}
        for word in words:
            found = _WORD.fullmatch(word)
            if found is None:
                continue
            scope, name = Scope[found[1].upper()], (found[2] or "")[1:]
            if name:
                workflows[name] = max(scope, workflows.get(name, scope))
            else:
                everywhere = scope if everywhere is None else max(scope, everywhere)
        return cls(everywhere, workflows)

    def at(self, workflow: str) -> Scope | None:
        """The widest scope for a workflow; None where there is none."""
        found = [scope for scope in (self.everywhere, self.workflows.get(workflow)) if scope is not None]
        return max(found, default=None)

    def admits(self, scope: Scope, workflow: str | None) -> bool:
        """Whether the scope is given for a workflow; for None: for the whole server."""
        held = self.everywhere if workflow is None else self.at(workflow)
        return held is not None and held >= scope

    def reach(self, scope: Scope) -> tuple[str, ...] | None:
        """The workflows for which the scope is given, by name; None: all there are."""
        if self.admits(scope, None):
            return None
        return tuple(sorted(name for name, held in self.workflows.items() if held >= scope))


ALL: Final = Grants(Scope.ADMIN)
"""What the token of the configuration may do."""
