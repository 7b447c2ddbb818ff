"""One-time links that resume a waiting step, for people and programs without a token.

A GET changes nothing, so that whoever previews a link does not use it; its page posts back to the same address.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from taskforge.api.call import Call, FormData, json_response
from taskforge.api.resume_page import form_properties, outcome_page, read_form, resume_page
from taskforge.core.errors import InvalidInput, TaskForgeError
from taskforge.engine.resuming import Resumable

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
}


async def get_resume_page(call: Call) -> Response:
    """A page that says which step of which run the link resumes, and asks for what the step's schema wants."""
    try:
        found = await call.service.get_resumable(call.params["token"])
    except TaskForgeError as error:
        if not _for_people(call):
            raise
        return _refused(error)
    return _html(resume_page(found.run, found.path, found.schema))


async def use_resume_link(call: Call) -> Response:
    """Resume the step, once: the body is what it gets, checked against its schema. A second use is 410."""
    is_form = isinstance(call.data, FormData)
    try:
        found = await call.service.get_resumable(call.params["token"])
        data = read_form(found.schema, call.data.fields) if isinstance(call.data, FormData) else call.data
        row = await call.service.use_resume_link(call.params["token"], data)
    except InvalidInput as error:
        if not is_form:
            raise
        return _html(_again(found, call.data, error), error.status)
    except TaskForgeError as error:
        if not is_form and not _for_people(call):
            raise
        return _refused(error)
    if is_form or _for_people(call):
        return _html(outcome_page("Done", f"The run {found.run} goes on at its step {found.path}."), 202)
    return json_response({"run": found.run, "step": found.path, "state": row.record.state}, 202)


def _again(found: Resumable, data: Any, error: InvalidInput) -> bytes:
    known = form_properties(found.schema)
    given = {name: text for name, text in data.fields if name in known}
    return resume_page(found.run, found.path, found.schema, error.problems, given)


def _refused(error: TaskForgeError) -> Response:
    return _html(outcome_page(error.title, error.message), error.status)


def _html(page: bytes, status: int = 200) -> Response:
    return Response(page, status, dict(_HEADERS), "text/html; charset=utf-8")


def _for_people(call: Call) -> bool:
    return b"text/html" in (call.header(b"accept") or b"")
