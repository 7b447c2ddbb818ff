"""The audit log's side of a call: what is recorded of it, and when.

Every call that changes something is recorded, but for starts of runs: a run says itself who started it. The entry goes
into the transaction of the change where the verb below makes it; else it is stored right after. Of refusals, those for
want of a scope are recorded, a bounded number a minute for each token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from taskforge.api.auth import CONFIG
from taskforge.api.route import Route, Scope
from taskforge.core.errors import Forbidden, TaskForgeError
from taskforge.observe.logs import get_logger
from taskforge.store.audit import AuditEntry, AuditRow, recorded

if TYPE_CHECKING:
    from taskforge.api.call import Call

log = get_logger("audit")

UNRECORDED: Final = frozenset({"start_run", "start_runs", "send_delivery"})
"""Calls that change something and are not recorded."""

VERBS: Final[dict[str, frozenset[str]]] = {
    "change_workflow": frozenset({"set_enabled", "set_hold"}),
    "rotate_key": frozenset({"reseal_secrets"}),
    "delete_state": frozenset({"set_state"}),
    "retry_dead_letter": frozenset({"retry_run"}),
    "replay_run": frozenset({"start_run"}),
    "replay_delivery": frozenset({"accept_delivery"}),
}
"""The verbs of the store that make a call's change, where they are not of its name."""

MEMBERS: Final[dict[str, tuple[str, ...]]] = {
    "change_workflow": ("enabled", "held"),
    "set_hold": ("held",),
    "create_token": ("name", "scopes"),
    "rotate_key": ("keep_links",),
    "retry_run": ("from_step",),
    "replay_run": ("version",),
    "replay_delivery": ("version",),
}
"""Members of bodies that are recorded. Values, inputs and data of signals never are."""

_REFUSALS_A_MINUTE = 60


def _published(result: Any) -> dict[str, Any] | None:
    return {"version": result.version} if result.changed else None


def _applied(result: Any) -> dict[str, Any] | None:
    versions = {one.name: one.version for one in result.published if one.changed}
    return {"versions": versions, "deleted": result.deleted} if versions or result.deleted else None


def _started(result: Any) -> dict[str, Any]:
    return {"run": result.id}


_RESULTS: Final[dict[str, Callable[[Any], dict[str, Any] | None]]] = {
    "publish_workflow": _published,
    "apply_workflows": _applied,
    "replay_run": _started,
}
"""What is recorded of the verb's result; None: nothing was changed."""


class Recorder:
    """Records the calls of one application."""

    def __init__(self) -> None:
        self._minute = -1
        self._refusals: Counter[str] = Counter()

    @staticmethod
    def is_recorded(route: Route) -> bool:
        """Whether the call changes something that is to be recorded."""
        scope = route.scope
        return route.method != "GET" and scope is not None and scope > Scope.READ and route.operation not in UNRECORDED

    async def respond(self, call: Call, carry_out: Callable[[Call], Awaitable[Response]]) -> Response:
        """Carry the call out and record it."""
        entry = call.entry = _entry(call)
        try:
            with recorded(entry):
                response = await carry_out(call)
        except Forbidden as error:
            await self._record_refusal(call, entry, error)
            raise
        if not entry.is_claimed:
            # No verb has taken it along: the change is stored, and now its entry is.
            entry.describe = None
            await self._store(call, entry.row())
        return response

    @staticmethod
    async def _store(call: Call, row: AuditRow | None) -> None:
        if row is not None:
            await call.service.add_audit(row)

    async def _record_refusal(self, call: Call, entry: AuditEntry, refusal: TaskForgeError) -> None:
        minute = entry.at // 60_000
        if minute != self._minute:
            self._minute, self._refusals = minute, Counter()
        self._refusals[entry.token or CONFIG] += 1
        log.warning("refused", actor=entry.actor, action=entry.action, target=entry.target, code=refusal.code)
        if self._refusals[entry.token or CONFIG] <= _REFUSALS_A_MINUTE:
            try:
                await self._store(call, entry.row(outcome=refusal.code))
            except TaskForgeError as error:
                log.warning("refusal_not_recorded", error=error.message)


def _entry(call: Call) -> AuditEntry:
    principal, action = call.principal, call.route.operation
    assert principal is not None
    client = call.scope.get("client")
    return AuditEntry(
        at=call.context.clock.now(),
        token=None if principal.id == CONFIG else principal.id,
        actor=principal.name,
        action=action,
        target=_target(call),
        address=client[0] if client else None,
        verbs=VERBS.get(action, frozenset({action})),
        describe=_RESULTS.get(action),
    )


def _target(call: Call) -> str:
    """The path up to its last parameter: what is changed, without the words for how."""
    parts, pattern = call.scope["path"].split("/"), call.route.path.split("/")
    last = max((index for index, part in enumerate(pattern) if part.startswith("{")), default=len(pattern) - 1)
    found: str = "/".join(parts[2 : last + 1])
    return found.partition(":")[0] if last == len(pattern) - 1 and not pattern[last].startswith("{") else found


def note_members(call: Call) -> None:
    """Add what is recorded of the body, once it is read."""
    entry = call.entry
    if entry is not None:
        members = call.members
        entry.detail |= {name: members[name] for name in MEMBERS.get(entry.action, ()) if name in members}
