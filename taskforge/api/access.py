"""The one table that says which workflow a call is about, and the check of a token's scopes against it.

A token for the whole server needs the route's scope, and that is all. A token for single workflows (`run:uptime`) is
admitted by the rule below. A call without a rule is about the whole server, so that such a token is refused.

What such a token must not see is answered like what is not there: by id with 404. Where the caller names the workflow
itself, it is 403, whether there is one or not.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from taskforge.api.route import Route, Scope
from taskforge.core.errors import Forbidden, NotFound

if TYPE_CHECKING:
    from taskforge.api.call import Call


class About(Enum):
    """How a call's workflow is known."""

    SERVER = auto()
    """It is about more than one workflow: not for tokens of single ones."""
    NOTHING = auto()
    """It reads and changes nothing of the server: the scope for any workflow is enough."""
    NAME = auto()
    """`{name}` in the path."""
    DOCUMENT = auto()
    """The name in the document, or in the body; the handler asks `require`."""
    RUN = auto()
    """The workflow of the run `{run}`."""
    DEAD_LETTER = auto()
    """The workflow of the dead letter `{id}`."""
    DELIVERY = auto()
    """The workflow of the delivery `{id}`."""
    LIST = auto()
    """Those that the token may see; the handler asks `chosen_workflows`."""


RULES: Final[dict[str, About]] = {
    "GET /metrics": About.SERVER,
    "GET /v1/stats": About.SERVER,
    "GET /v1/hold": About.SERVER,
    "PUT /v1/hold": About.SERVER,
    "POST /v1/db:backup": About.SERVER,
    "POST /v1/db:prune": About.SERVER,
    "POST /v1/db:vacuum": About.SERVER,
    "PUT /v1/workflows/{name}": About.NAME,
    "POST /v1/workflows": About.DOCUMENT,
    "POST /v1/workflows:validate": About.DOCUMENT,
    "POST /v1/workflows:plan": About.SERVER,
    "POST /v1/workflows:apply": About.SERVER,
    "GET /v1/workflows": About.LIST,
    "GET /v1/workflows/{name}": About.NAME,
    "PATCH /v1/workflows/{name}": About.NAME,
    "DELETE /v1/workflows/{name}": About.NAME,
    "GET /v1/workflows/{name}/versions": About.NAME,
    "GET /v1/workflows/{name}/versions/{n}": About.NAME,
    "GET /v1/workflows/{name}/state": About.NAME,
    "PUT /v1/workflows/{name}/state/{key}": About.NAME,
    "DELETE /v1/workflows/{name}/state/{key}": About.NAME,
    "POST /v1/workflows/{name}/runs": About.NAME,
    "POST /v1/workflows/{name}/runs:batch": About.NAME,
    "GET /v1/runs": About.LIST,
    "GET /v1/runs/{run}": About.RUN,
    "POST /v1/runs/{run}/cancel": About.RUN,
    "POST /v1/runs/{run}/retry": About.RUN,
    "POST /v1/runs/{run}/replay": About.RUN,
    "POST /v1/runs/{run}/signals/{signal}": About.RUN,
    "GET /v1/runs/{run}/why": About.RUN,
    "POST /v1/runs/{run}/evaluate": About.RUN,
    "POST /v1/expressions:evaluate": About.NOTHING,
    "GET /v1/runs/{run}/logs": About.RUN,
    "GET /v1/runs/{run}/events": About.RUN,
    "GET /v1/events": About.LIST,
    "GET /v1/dead-letters": About.LIST,
    "GET /v1/dead-letters/{id}": About.DEAD_LETTER,
    "POST /v1/dead-letters/{id}/retry": About.DEAD_LETTER,
    "DELETE /v1/dead-letters/{id}": About.DEAD_LETTER,
    "GET /v1/secrets": About.SERVER,
    "PUT /v1/secrets/{name}": About.SERVER,
    "DELETE /v1/secrets/{name}": About.SERVER,
    "POST /v1/secrets:rotate-key": About.SERVER,
    "GET /v1/vars": About.SERVER,
    "PUT /v1/vars/{name}": About.SERVER,
    "DELETE /v1/vars/{name}": About.SERVER,
    "POST /v1/webhooks:verify": About.NOTHING,
    "POST /v1/webhooks:send": About.DOCUMENT,
    "GET /v1/deliveries": About.LIST,
    "GET /v1/deliveries/{id}": About.DELIVERY,
    "POST /v1/deliveries/{id}/replay": About.DELIVERY,
    "GET /v1/schedules": About.LIST,
    "POST /v1/schedules:preview": About.NOTHING,
    "GET /v1/audit": About.SERVER,
    "GET /v1/tokens": About.SERVER,
    "POST /v1/tokens": About.SERVER,
    "DELETE /v1/tokens/{id}": About.SERVER,
}
"""By method and path, as in `routes.ROUTES`."""


def rule_of(route: Route) -> About:
    """How the workflow of a call is known; SERVER where nobody has said."""
    return RULES.get(f"{route.method} {route.path}", About.SERVER)


async def admit(call: Call, route: Route, wanted: Scope) -> None:
    """Check a token that lacks the scope for the whole server. Raises Forbidden, or NotFound where the caller must not
    know that there is something."""
    about = rule_of(route)
    assert call.principal is not None
    grants = call.principal.grants
    if about is About.SERVER or not grants.reach(wanted):
        # Before anything is looked up: who has the scope nowhere learns nothing.
        raise _missing(wanted, call.params.get("name") if about is About.NAME else None)
    if about is About.NAME:
        require(call, call.params["name"])
    elif about is About.RUN:
        await _admit_run(call, call.params["run"])
    elif about is About.DEAD_LETTER:
        id = call.params["id"]
        _admit_found(call, (await call.service.get_dead_letter(id)).workflow, f"there is no dead letter {id}")
    elif about is About.DELIVERY:
        id = call.params["id"]
        row, _ = await call.service.get_delivery(id)
        _admit_found(call, row.workflow, f"there is no delivery {id}")


def require(call: Call, workflow: str) -> None:
    """Refuse with Forbidden where the call's scope is not given for a workflow that the caller has named."""
    wanted = call.route.scope
    if wanted is not None and call.principal is not None and not call.principal.grants.admits(wanted, workflow):
        raise _missing(wanted, workflow)


def chosen_workflows(call: Call) -> tuple[str, ...] | None:
    """The workflows that a list is about: the one that was asked for, else all that the token may see; None: all.

    Raises Forbidden for one that it may not see."""
    asked: str | None = call.asked.get("workflow")
    if asked is not None:
        require(call, asked)
        return (asked,)
    if call.principal is None or call.route.scope is None:
        return None
    return call.principal.grants.reach(call.route.scope)


async def _admit_run(call: Call, ref: str) -> None:
    name, hash_sign, _ = ref.rpartition("#")
    if hash_sign:
        require(call, name)
    else:
        rows, _, _ = await call.service.get_run(ref, steps="none")
        _admit_found(call, rows.run.workflow, f"there is no run {ref}")


def _admit_found(call: Call, workflow: str, unknown: str) -> None:
    assert call.principal is not None
    if call.principal.grants.at(workflow) is None:
        raise NotFound(unknown)
    require(call, workflow)


def _missing(wanted: Scope, workflow: str | None) -> Forbidden:
    word = wanted.name.lower()
    if workflow is None:
        return Forbidden(f"this call needs a token with the scope {word} for the whole server", detail={"scope": word})
    return Forbidden(
        f"this call needs a token with the scope {word}, or {word}:{workflow}",
        detail={"scope": word, "workflow": workflow},
    )
