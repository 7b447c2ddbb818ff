"""Many documents at once: plan and apply."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from taskforge.api.call import Call, JsonResponse
from taskforge.core.clock import to_rfc3339
from taskforge.core.differences import Difference, Place
from taskforge.core.errors import InvalidRequest
from taskforge.core.jsontext import dump_bytes
from taskforge.core.problem import Problem, format_path
from taskforge.engine.planning import Firing, Request, WorkflowPlan, WorkflowsPlan

_ACTIONS = ("new", "changed", "unchanged", "deleted")


async def plan_workflows(call: Call) -> Response:
    """What applying the documents would change, and what follows from it; nothing is changed."""
    plan = await call.service.plan_workflows(_request(call))
    return JsonResponse(dump_bytes(plan_shape(plan)), 200)


async def apply_workflows(call: Call) -> Response:
    """Store every document as a new version, unless its content is the newest version's; with `prune`, delete the other
    workflows. All of it, or nothing."""
    applied = await call.service.apply_workflows(_request(call), call.members.get("expected"))
    body: dict[str, Any] = {
        "items": [
            {"name": one.name, "version": one.version, "changed": one.changed, "action": _action(one)}
            for one in applied.published
        ],
        "deleted": list(applied.deleted),
        "warnings": [warning.to_json() for warning in applied.warnings],
    }
    return JsonResponse(dump_bytes(body), 200)


def _action(one: Any) -> str:
    return ("new" if one.created else "changed") if one.changed else "unchanged"


def _request(call: Call) -> Request:
    members = call.members
    if not members["documents"] and not members.get("allow_empty"):
        words = "there is no document; say `allow_empty` if that is meant"
        raise InvalidRequest(words, problems=[Problem("documents", words)])
    return Request(members["documents"], members.get("prune", False), members.get("keep", ()))


# ---- shapes


def plan_shape(plan: WorkflowsPlan) -> dict[str, Any]:
    counts = {action: sum(one.action == action for one in plan.workflows) for action in _ACTIONS}
    return {
        "changes": counts["unchanged"] < len(plan.workflows),
        "summary": counts,
        "workflows": [_workflow(one) for one in plan.workflows],
        "missing": {
            noun: [{"name": name, "workflows": users} for name, users in names.items()]
            for noun, names in plan.missing.items()
        },
        "hosts": [{"host": host, "workflows": users} for host, users in plan.hosts.items()],
        "computed_hosts": plan.computed,
        "warnings": [warning.to_json() for warning in plan.warnings],
        "expected": plan.expected,
    }


def _workflow(one: WorkflowPlan) -> dict[str, Any]:
    return {
        "name": one.name,
        "action": one.action,
        "file": one.file,
        "version": one.version,
        "new_version": one.becomes,
        "enabled": one.enabled,
        "returns": one.returns,
        "sha256": one.digest,
        "differences": [_difference(each) for each in one.differences],
        "triggers": [{"name": each.name, "change": each.change, "settings": each.config} for each in one.triggers],
        "firings": [
            {"trigger": each.trigger, "old": _firing(each.old), "new": _firing(each.new)} for each in one.firings
        ],
        "runs": {
            "total": sum(each.runs for each in one.runs.counts) if one.runs else 0,
            "counts": [
                {"version": each.version, "state": each.state, "runs": each.runs}
                for each in (one.runs.counts if one.runs else ())
            ],
            "names": one.runs.named if one.runs else [],
        },
    }


def _difference(each: Difference) -> dict[str, Any]:
    """`old` and `new` are there where there is a value; places where a step has one."""
    shape: dict[str, Any] = {"change": each.change, "path": format_path(each.path)}
    if each.step is not None:
        shape |= {"step": each.step, "kind": each.kind}
    if each.change in ("removed", "changed"):
        shape["old"] = each.old
    if each.change in ("added", "changed"):
        shape["new"] = each.new
    if each.was is not None:
        shape["old_place"] = _place(each.was)
    if each.now is not None:
        shape["new_place"] = _place(each.now)
    return shape


def _place(place: Place) -> dict[str, Any]:
    return {"block": place.block, "after": place.after}


def _firing(firing: Firing | None) -> dict[str, Any] | None:
    if firing is None:
        return None
    return {
        "at": None if firing.at is None else to_rfc3339(firing.at),
        "local": firing.local,
        "timezone": firing.timezone,
        "schedule": firing.schedule,
    }
