"""Workflows and their versions."""

from __future__ import annotations

import contextlib
from typing import Any

from starlette.responses import Response

from taskforge.api.access import chosen_workflows, require
from taskforge.api.call import Call, JsonResponse, json_response
from taskforge.api.paging import page
from taskforge.api.query import VERSIONS, WORKFLOWS, parse_whole
from taskforge.api.schemas import version_shape, workflow_shape
from taskforge.core.errors import InvalidDefinition, NotFound
from taskforge.core.jsontext import dump_bytes
from taskforge.core.problem import quoted


async def publish_workflow(call: Call) -> Response:
    """Store the document as a new version, unless its content is the newest version's."""
    source, media = call.document
    name = call.params.get("name")
    if name is None and not _is_everywhere(call):
        definition = await call.service.validate_workflow(source, _media(media))
        name = definition.plan.name
        require(call, name)
    published, warnings = await call.service.publish_workflow(source, _media(media), name)
    body: dict[str, Any] = {"name": published.name, "version": published.version, "changed": published.changed}
    if warnings:
        body["warnings"] = [warning.to_json() for warning in warnings]
    location = f"/v1/workflows/{published.name}"
    return JsonResponse(dump_bytes(body), 201 if published.created else 200, location)


async def validate_workflow(call: Call) -> Response:
    """Check a document; nothing is stored."""
    source, media = call.document
    try:
        # What the server has, and names that are nearly right, are told only to those who may see all of it.
        definition = await call.service.validate_workflow(source, _media(media), offline=not _is_everywhere(call))
    except InvalidDefinition as error:
        found = [problem for problem in error.problems if problem.severity == "error"]
        warnings = [problem for problem in error.problems if problem.severity == "warning"]
    else:
        require(call, definition.plan.name)
        found, warnings = [], list(definition.warnings)
    body = {
        "valid": not found,
        "errors": [problem.to_json() for problem in found],
        "warnings": [problem.to_json() for problem in warnings],
    }
    return JsonResponse(dump_bytes(body), 200)


async def list_workflows(call: Call) -> Response:
    """Workflows by name."""

    names = chosen_workflows(call)

    async def fetch(cursor: Any, limit: int) -> list[Any]:
        if names is None:
            return await call.service.list_workflows(cursor, limit)
        found = []
        for name in names:
            if cursor is None or name > cursor:
                with contextlib.suppress(NotFound):
                    found.append((await call.service.get_workflow(name))[0])
        return found[:limit]

    held = await call.service.list_holds()
    return await page(call, WORKFLOWS, fetch, lambda row: row.name, lambda row: workflow_shape(row, held))


async def get_workflow(call: Call) -> Response:
    """A workflow with the text of its newest version."""
    row, version = await call.service.get_workflow(call.params["name"])
    held = await call.service.list_holds()
    return json_response(workflow_shape(row, held) | {"media": version.media, "source": version.source})


async def change_workflow(call: Call) -> Response:
    """Enable or disable a workflow (runs in flight go on), or hold it back (they pause, and new ones wait)."""
    name, members = call.params["name"], call.members
    if "held" in members:
        await call.service.set_hold(name, members["held"])
    if "enabled" in members:
        await call.service.set_enabled(name, members["enabled"])
    row, _ = await call.service.get_workflow(name)
    return json_response(workflow_shape(row, await call.service.list_holds()))


async def delete_workflow(call: Call) -> Response:
    """Hide a workflow. Its runs go on and stay readable."""
    await call.service.delete_workflow(call.params["name"])
    return Response(status_code=204)


async def list_versions(call: Call) -> Response:
    """Versions, newest first."""
    name = call.params["name"]

    async def fetch(cursor: Any, limit: int) -> list[Any]:
        rows = await call.service.list_versions(name, cursor, limit)
        if not rows and cursor is None:
            raise NotFound(f"there is no workflow {quoted(name)}")
        return rows

    return await page(call, VERSIONS, fetch, lambda row: row.version, version_shape)


async def get_version(call: Call) -> Response:
    """One version."""
    try:
        number = parse_whole(1, 2**31 - 1, call.params["n"])
    except ValueError:
        raise NotFound(f"{quoted(call.params['n'])} is not a version number") from None
    return json_response(version_shape(await call.service.get_version(call.params["name"], number)))


def _is_everywhere(call: Call) -> bool:
    """Whether the caller has the call's scope for every workflow."""
    scope = call.route.scope
    return call.principal is None or scope is None or call.principal.grants.admits(scope, None)


def _media(media: str) -> Any:
    return media
