"""The OpenAPI 3.1 document, made from the table of routes. It is a contract: `contracts/openapi.json` is this."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import getdoc
from typing import Any

import orjson

import taskforge
from taskforge.api.body import FORM_TYPE
from taskforge.api.components import components
from taskforge.api.members import SIGNAL_NAME, STATE_KEY
from taskforge.api.problems import MEDIA_TYPE
from taskforge.api.route import Answer, Body, DataBody, DocumentBody, Param, RawBody, Route, Schema
from taskforge.core.errors import (
    Forbidden,
    InvalidRequest,
    MalformedRequest,
    MisdirectedHost,
    RequestTimeout,
    TaskForgeError,
    TooLarge,
    Unauthorized,
    UnsupportedMediaType,
)

_PARAM_DOCS = {
    "name": "The name of the workflow, the secret or the variable.",
    "n": "The version's number.",
    "run": "The run's id (`run_…`) or `name#number`, with `#` written as `%23`.",
    "id": "The id, as the list shows it.",
    "signal": "The signal's name.",
    "key": "The key in the workflow's state.",
    "token": "The secret part of the link.",
    "workflow": "The workflow's name.",
    "trigger": "The trigger's name.",
}
_PARAM_SCHEMAS: dict[str, Schema] = {
    "n": {"type": "integer", "minimum": 1},
    "signal": {"type": "string", "pattern": SIGNAL_NAME.pattern},
    "key": {"type": "string", "pattern": STATE_KEY.pattern},
}
_ANY_CALL: tuple[type[TaskForgeError], ...] = (TaskForgeError, MalformedRequest, MisdirectedHost, InvalidRequest)
_BODY_CALL: tuple[type[TaskForgeError], ...] = (TooLarge, UnsupportedMediaType, RequestTimeout)


def openapi_document(routes: Iterable[Route]) -> dict[str, Any]:
    """The document as data."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "TaskForge",
            "version": taskforge.__version__,
            "summary": "Durable workflows: accepted runs survive crashes and always end.",
            "description": "Times are RFC 3339 UTC with milliseconds. Errors are RFC 9457 problems with a stable code.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def openapi_bytes(routes: Iterable[Route]) -> bytes:
    """The document as it is served and kept in `contracts/`: indented, with a line break at the end."""
    return orjson.dumps(openapi_document(routes), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _operation(route: Route) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "tags": [route.tag],
    }
    doc = getdoc(route.handler) or ""
    if doc:
        found["description"] = doc
    if route.scope is None:
        found["security"] = []
    else:
        found["x-scope"] = route.scope.name.lower()
    parameters = [*_path_params(route), *map(_query_param, route.query), *_header_params(route)]
    if parameters:
        found["parameters"] = parameters
    if route.body is not None:
        found["requestBody"] = _request_body(route.body)
    found["responses"] = _responses(route)
    return found


def _operation_id(route: Route) -> str:
    if route.takes_anything:
        return f"{route.operation}_by_{route.method.lower()}"
    # One act may have two calls: PUT and POST of a workflow.
    second = route.method == "POST" and route.operation == "publish_workflow"
    return f"{route.operation}_by_document" if second else route.operation


def _path_params(route: Route) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    return [
        {"name": name, "in": "path", "required": True, "description": _PARAM_DOCS[name],
         "schema": _PARAM_SCHEMAS.get(name, {"type": "string", "minLength": 1})}
        for name in names
    ]  # fmt: skip


def _query_param(param: Param) -> dict[str, Any]:
    found: dict[str, Any] = {"name": param.name, "in": "query", "description": param.doc, "schema": param.schema}
    if param.multiple:
        found |= {"style": "form", "explode": False}
    return found


def _header_params(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "description": doc, "schema": {"type": "string", "pattern": pattern}}
        for name, (doc, pattern) in route.headers.items()
    ]


def _request_body(body: Body) -> dict[str, Any]:
    if isinstance(body, RawBody):
        return {"required": False, "content": {"*/*": {"schema": {}}}}
    if isinstance(body, DataBody):
        form = {"schema": {"type": "object", "additionalProperties": {"type": "string"}}}
        return {"required": False, "content": {"application/json": {"schema": {}}, FORM_TYPE: form}}
    if isinstance(body, DocumentBody):
        return {
            "required": True,
            "description": "The workflow document itself.",
            "content": {
                "application/yaml": {"schema": {"$ref": "#/components/schemas/WorkflowDocument"}},
                "application/json": {"schema": {"$ref": "#/components/schemas/WorkflowDocument"}},
            },
        }
    schema = {"$ref": f"#/components/schemas/{body.schema_name}"}
    return {"required": body.required, "content": {"application/json": {"schema": schema}}}


def _responses(route: Route) -> dict[str, Any]:
    responses = {str(status): _answer(answer) for status, answer in route.answers.items()}
    codes: dict[int, set[str]] = {}
    for error in _refusals(route):
        codes.setdefault(error.status, set()).add(error.code)
    for status, names in sorted(codes.items()):
        responses[str(status)] = {
            "description": "A problem: " + ", ".join(sorted(names)) + ".",
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        if status == Unauthorized.status:
            responses[str(status)]["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return responses


def _refusals(route: Route) -> tuple[type[TaskForgeError], ...]:
    needs_token = () if route.scope is None else (Unauthorized, Forbidden)
    return (*_ANY_CALL, *needs_token, *(_BODY_CALL if route.body is not None else ()), *route.refusals)


def _answer(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = {"description": answer.doc}
    if answer.headers:
        found["headers"] = {
            name: {"description": doc, "schema": {"type": "string"}} for name, doc in answer.headers.items()
        }
    if answer.schema is not None:
        found["content"] = {answer.media: {"schema": {"$ref": f"#/components/schemas/{answer.schema}"}}}
    elif answer.media != "application/json":
        found["content"] = {answer.media: {"schema": {"type": "string"}}}
    return found
