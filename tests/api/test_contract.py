from __future__ import annotations

import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from taskforge.api.docs_page import docs_page
from taskforge.api.openapi import openapi_document
from taskforge.api.problems import problem_body
from taskforge.api.route import Route
from taskforge.api.routes import ROUTES
from taskforge.core.errors import RunEnded, TaskForgeError
from taskforge.core.problem import Problem
from tests.api.asgi import request
from tests.api.gate import make_gate

DOCUMENT = openapi_document(ROUTES)


def _references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(_references, value.values()))
    return set().union(*map(_references, value)) if isinstance(value, list) else set()


def test_every_schema_that_is_named_exists_and_is_one() -> None:
    known = DOCUMENT["components"]["schemas"]
    named = {reference.removeprefix("#/components/schemas/") for reference in _references(DOCUMENT)}
    assert named <= set(known)
    for schema in known.values():
        Draft202012Validator.check_schema(schema)
    body_schemas = {name for name in known if name not in named}
    assert body_schemas == set(), "a schema that nothing uses"


def test_operations_have_different_ids_and_every_call_its_words() -> None:
    operations = [operation for path in DOCUMENT["paths"].values() for operation in path.values()]
    assert len(operations) == len(ROUTES)
    assert len({operation["operationId"] for operation in operations}) == len(ROUTES)
    assert all(operation["summary"] and operation["description"] for operation in operations)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_refusal_that_a_call_can_give_is_in_the_document(route: Route) -> None:
    responses = DOCUMENT["paths"][route.path][route.method.lower()]["responses"]
    needed = {400, 421, 422, 500} | ({401, 403} if route.scope is not None else set())
    needed |= {408, 413, 415} if route.body is not None else set()
    needed |= {kind.status for kind in route.refusals} | set(route.answers)
    assert {int(status) for status in responses} == needed


def test_a_call_under_v1_needs_a_token_and_says_which() -> None:
    for path, operations in DOCUMENT["paths"].items():
        for operation in operations.values():
            is_public = path in {"/healthz", "/readyz", "/openapi.json", "/docs"} or path.startswith("/hooks/")
            assert ("security" in operation) == is_public
            assert ("x-scope" in operation) == ("security" not in operation)


async def test_the_document_and_the_page_are_served_to_anyone_and_fetch_nothing() -> None:
    app, _, _ = make_gate()
    for _ in range(2):
        reply = await request(app, "GET", "/openapi.json")
        assert reply.json() == DOCUMENT
        page = await request(app, "GET", "/docs")
    assert page.header("content-type") == "text/html; charset=utf-8"
    assert "default-src 'none'" in (page.header("content-security-policy") or "")
    assert not re.search(rb"<script|https?://|src=|@import|url\(", page.body)


def test_the_page_names_every_call() -> None:
    page = docs_page(ROUTES).decode()
    for route in ROUTES:
        assert f"<code>{route.method} {route.path}</code>" in page


def test_a_problem_has_the_members_of_rfc_9457_and_ours() -> None:
    error = RunEnded("the run has ended", detail={"state": "FAILED", "title": "no"}, problems=[Problem("a", "b", 1, 2)])
    assert problem_body(error) == {
        "type": "urn:taskforge:problem:run-ended",
        "title": "The run has ended",
        "status": 409,
        "code": "RUN_ENDED",
        "detail": "the run has ended",
        "state": "FAILED",
        "errors": [{"path": "a", "line": 1, "column": 2, "message": "b"}],
    }


def test_every_problem_fits_the_schema() -> None:
    schema = {"$ref": "#/components/schemas/Problem", "components": DOCUMENT["components"]}
    validator = Draft202012Validator(schema)
    for route in ROUTES:
        kinds: tuple[type[TaskForgeError], ...] = (TaskForgeError, *route.refusals)
        for kind in kinds:
            validator.validate(problem_body(kind("why", problems=[Problem("", "x", hint="y")])))
