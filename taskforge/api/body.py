"""Reading request bodies: limits while the bytes arrive, then JSON against a route's members, or a document."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect

from taskforge.api.call import Call, FormData
from taskforge.api.route import Body, DataBody, DocumentBody, JsonBody, RawBody
from taskforge.core.errors import InvalidRequest, MalformedRequest, RequestTimeout, TooLarge, UnsupportedMediaType
from taskforge.core.jsontext import JsonError, loads
from taskforge.core.problem import Problem, format_path, quoted, suggest

BODY_SECONDS = 30.0
"""How long a body may take to arrive, once its request has been admitted."""

FORM_TYPE = "application/x-www-form-urlencoded"
YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")
_MAX_PROBLEMS = 100
_MAX_FIELDS = 1000
_PARSE_HERE = 256 * 1024
"""Bytes of JSON that are read on the event loop; more are read in a thread, so that others are answered meanwhile."""


async def take_body(call: Call, kind: Body) -> None:
    """Read the body of a call and leave what it says in `call.members`, `call.document`, or `call.data`."""
    assert not isinstance(kind, RawBody), "the call reads it itself"
    if isinstance(kind, DocumentBody):
        media = _document_media(call)
        call.document = (await read_body(call), media)
        return
    raw = await read_body(call, kind.max_bytes or 0 if isinstance(kind, JsonBody) else 0)
    if isinstance(kind, DataBody):
        call.data = _data(call, raw)
        return
    if raw:
        _check_type(call, json_type)
    elif kind.required:
        raise InvalidRequest(f"the request needs a JSON body with {_names(kind)}")
    value = await asyncio.to_thread(_parse, raw) if len(raw) > _PARSE_HERE else _parse(raw) if raw else {}
    call.members = _members(value, kind)


async def read_body(
    call: Call, at_least: int = 0, *, limit: int | None = None, setting: str = "[server] body_limit"
) -> bytes:
    """The whole body. Raises TooLarge as soon as it is known to be, whatever Content-Length says. `limit` is for calls
    with a setting of their own."""
    limit = max(call.context.settings.server.body_limit, at_least) if limit is None else limit
    length = call.header(b"content-length")
    if length is not None and length.isdigit() and (len(length) > 18 or int(length) > limit):
        raise _too_large(limit, setting)
    encoding = call.header(b"content-encoding")
    if encoding is not None and encoding.strip().lower() not in (b"", b"identity"):
        raise UnsupportedMediaType("bodies are taken as they are; send them without Content-Encoding")
    message = await call.receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        whole = message.get("body", b"")
        if len(whole) > limit:
            raise _too_large(limit, setting)
        return bytes(whole)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _read_on(call, message, limit, setting)
    except TimeoutError:
        raise RequestTimeout(f"the body did not arrive within {BODY_SECONDS:.0f} seconds") from None


async def _read_on(call: Call, message: Any, limit: int, setting: str) -> bytes:
    parts = bytearray()
    while True:
        if message["type"] != "http.request":
            raise ClientDisconnect()
        parts += message.get("body", b"")
        if len(parts) > limit:
            raise _too_large(limit, setting)
        if not message.get("more_body", False):
            return bytes(parts)
        message = await call.receive()


def _too_large(limit: int, setting: str) -> TooLarge:
    return TooLarge(f"the body is larger than {limit} bytes ({setting})", detail={"limit": limit})


def _data(call: Call, raw: bytes) -> Any:
    """The value of a JSON body, the fields of a form as `FormData`, or None without a body."""
    if not raw:
        return None
    if _check_type(call, data_type) == "json":
        return _parse(raw)
    try:
        text = raw.decode()
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        words = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"has more than {_MAX_FIELDS} fields"
        raise MalformedRequest(f"the form {words}") from None
    return FormData(pairs)


# ---- content types


def json_type(name: str) -> str | None:
    """The media `json` for a content type, or None."""
    return (
        "json" if name == "application/json" or (name.startswith("application/") and name.endswith("+json")) else None
    )


def document_type(name: str) -> str | None:
    """The media of a workflow document for a content type, or None."""
    return "yaml" if name in YAML_TYPES else json_type(name)


def data_type(name: str) -> str | None:
    """The media `json` or `form` for a content type, or None."""
    return "form" if name == FORM_TYPE else json_type(name)


def _document_media(call: Call) -> str:
    return _check_type(call, document_type)


def _check_type(call: Call, known: Any) -> str:
    wanted = _WANTED[known]
    raw = call.header(b"content-type")
    if raw is None or call.is_repeated(b"content-type"):
        raise UnsupportedMediaType(f"the request needs one Content-Type header: {wanted}")
    if raw == b"application/json":
        return "json"
    name, *parameters = raw.decode("latin-1").lower().split(";")
    media: str | None = known(name.strip())
    if media is None:
        raise UnsupportedMediaType(f"the content type must be {wanted}")
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "charset" and value.strip().strip('"') not in ("utf-8", "utf8", "us-ascii"):
            raise UnsupportedMediaType("the charset must be utf-8")
    return media


_WANTED: Final = {
    json_type: "application/json",
    document_type: "application/yaml or application/json",
    data_type: f"application/json or {FORM_TYPE}",
}


# ---- JSON


def _parse(raw: bytes) -> Any:
    try:
        return loads(raw, unique_keys=True)
    except JsonError as error:
        problem = Problem("", error.message, error.line or None, error.column or None)
        raise MalformedRequest(f"the body is not JSON: {error}", problems=[problem]) from None


def _members(value: Any, kind: JsonBody) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"the body must be a JSON object with {_names(kind)}")
    known = {entry.name: entry for entry in kind.fields}
    found: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, given in value.items():
        entry = known.get(name)
        if entry is None:
            hint = suggest(name, known) or f"accepted: {', '.join(known) or 'no members'}"
            problems.append(Problem(format_path((name,)), f"there is no member {quoted(name)} here", hint=hint))
            continue
        try:
            found[name] = entry.parse(given)
        except ValueError as error:
            problems.append(Problem(name, str(error)))
    if kind.at_least_one and not value:
        raise InvalidRequest(f"the body must say at least one of {_names(kind)}")
    missing = [entry.name for entry in kind.fields if entry.required and entry.name not in value]
    problems += [Problem(name, f"{quoted(name)} is missing") for name in missing]
    if problems:
        count = len(problems)
        message = problems[0].message if count == 1 else f"{count} problems; the first: {problems[0].message}"
        raise InvalidRequest(f"the body does not fit: {message}", problems=problems[:_MAX_PROBLEMS])
    return found


def _names(kind: JsonBody) -> str:
    return ", ".join(entry.name for entry in kind.fields) or "no members"
