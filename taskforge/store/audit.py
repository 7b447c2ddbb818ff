"""The audit log: every change that was made through the API, who made it, and what became of it.

An entry is announced before the change (`RECORDED`), and the verb that makes the change writes it in its own
transaction: whoever asks for it names the verb. So a stored change has its entry, and an entry its change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import field
from typing import Any, Final, NamedTuple, Protocol

from taskforge.core.jsontext import dumps
from taskforge.core.record import dataclass

DONE: Final = "DONE"
"""The outcome of a change that was made; else it is the code of the refusal."""


class AuditRow(NamedTuple):
    """One entry. `token` is None for the configuration's own; `detail` is JSON text, never with a value of a secret."""

    id: int
    at: int
    token: str | None
    actor: str
    action: str
    target: str
    outcome: str
    address: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """`actor` is a token's name or id; `target` also matches what lies below it (`runs` means all runs). `cursor` is
    the id after which the list goes on (newest first)."""

    since: int | None = None
    until: int | None = None
    actor: str | None = None
    action: str | None = None
    target: str | None = None
    cursor: int | None = None
    limit: int = 50


@dataclass(slots=True)
class AuditEntry:
    """An entry that waits for its change. `describe` adds to the detail from what the verb returns; None: nothing was
    changed; then there is nothing to write, unless the detail says more."""

    at: int
    token: str | None
    actor: str
    action: str
    target: str
    address: str | None
    verbs: frozenset[str]
    detail: dict[str, Any] = field(default_factory=dict)
    describe: Callable[[Any], dict[str, Any] | None] | None = None
    is_claimed: bool = False
    """A verb has taken it along. It stays so unless the verb is refused."""

    def row(self, result: Any = None, outcome: str = DONE) -> AuditRow | None:
        """What is stored, when the verb has returned `result`."""
        added = self.describe(result) if self.describe is not None and outcome == DONE else {}
        if added is None and not self.detail:
            return None
        detail = dumps(self.detail | (added or {}))
        return AuditRow(0, self.at, self.token, self.actor, self.action, self.target, outcome, self.address, detail)


RECORDED: Final[ContextVar[AuditEntry | None]] = ContextVar("taskforge_recorded", default=None)
"""The entry of the change that is being made. What is done on the side must not see it (`unrecorded`)."""


@contextmanager
def recorded(entry: AuditEntry | None) -> Iterator[None]:
    """Have the next call of one of the entry's verbs write it; with None, nothing is written."""
    token = RECORDED.set(entry)
    try:
        yield
    finally:
        RECORDED.reset(token)


def name_target(target: str) -> None:
    """Say what is being changed, where the call's path does not."""
    entry = RECORDED.get()
    if entry is not None:
        entry.target = target


class AuditStore(Protocol):
    """Part of `store.protocol.Store`. Entries are never changed, and go only by `prune_audit`."""

    async def add_audit(self, row: AuditRow) -> None:
        """Store an entry by itself: of a change that no verb could take it along with, or of a refusal."""
        ...

    async def list_audit(self, chosen: AuditFilter) -> list[AuditRow]:
        """Newest first."""
        ...

    async def prune_audit(self, before: int, limit: int) -> int:
        """Delete at most `limit` of the oldest entries, all made before the time. Returns how many."""
        ...
