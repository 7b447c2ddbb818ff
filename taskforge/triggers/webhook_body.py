"""What a delivery's body says, by its content type. Pure; raises ValueError with plain words."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import parse_qsl

from taskforge.core.jsontext import JsonError, loads

MAX_FIELDS: Final = 1_000
_FORM = "application/x-www-form-urlencoded"
_PARAMETER = re.compile(r';\s*([!#-.0-9A-Z^-z|~]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))', re.ASCII)
_TEXT_TYPES = ("application/xml", "application/javascript", "application/yaml", "application/graphql")

JSON = Any


def parse_body(content_type: str | None, body: bytes) -> JSON:
    """JSON as JSON, a form as an object of texts, text as text, anything else as `{base64: …}`; nothing as null.

    Of a multipart form each field is a text, a file `{filename, content_type, base64}`; a name that comes several times
    has a list. Without a content type, what is UTF-8 text is text.
    """
    if not body:
        return None
    name, parameters = _content_type(content_type or "")
    if name == "application/json" or name.endswith("+json"):
        try:
            return loads(body)
        except JsonError as error:
            raise ValueError(f"the body is not JSON: {error}") from None
    if name == _FORM:
        return _form(body)
    if name == "multipart/form-data":
        return _gather(_parts(body, parameters.get("boundary", "")))
    if name.startswith("text/") or name.endswith("+xml") or name in _TEXT_TYPES or not name:
        text = _decode(body, parameters.get("charset", "utf-8"))
        if text is not None:
            return text
    return as_base64(body)


def as_base64(body: bytes) -> JSON:
    return {"base64": base64.b64encode(body).decode()}


def raw_body(body: bytes) -> JSON:
    """The body as text where it is UTF-8, else `{base64: …}`."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return as_base64(body)


def gather(pairs: Iterable[tuple[str, JSON]]) -> dict[str, JSON]:
    """Fields by name; one that comes several times has a list."""
    return _gather(pairs)


def _content_type(text: str) -> tuple[str, dict[str, str]]:
    name = text.partition(";")[0].strip().lower()
    found: dict[str, str] = {}
    for key, quoted, plain in _PARAMETER.findall(text):
        found.setdefault(key.lower(), re.sub(r"\\(.)", r"\1", quoted) if quoted else plain)
    return name, found


def _decode(body: bytes, charset: str) -> str | None:
    try:
        return body.decode(charset)
    except (LookupError, UnicodeError, ValueError):
        return None


def _form(body: bytes) -> JSON:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except UnicodeDecodeError:
        raise ValueError("the form is not UTF-8") from None
    except ValueError:
        raise ValueError(f"the form has more than {MAX_FIELDS} fields") from None
    return _gather(pairs)


def _gather(pairs: Iterable[tuple[str, JSON]]) -> dict[str, JSON]:
    found: dict[str, list[JSON]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


# ---- multipart/form-data (RFC 7578)


def _parts(body: bytes, boundary: str) -> Iterator[tuple[str, JSON]]:
    if not boundary or len(boundary) > 200 or not boundary.isascii():
        raise ValueError("the multipart form's content type has no boundary")
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode())
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise ValueError("the multipart form is not complete: its last boundary is missing")
    if len(pieces) - 2 > MAX_FIELDS:
        raise ValueError(f"the form has more than {MAX_FIELDS} fields")
    for piece in pieces[1:-1]:
        head, separator, content = piece.lstrip(b" \t").removeprefix(b"\r\n").partition(b"\r\n\r\n")
        if not separator:
            raise ValueError("a part of the multipart form has no end to its headers")
        headers = _part_headers(head)
        _, disposition = _content_type(headers.get("content-disposition", ""))
        if "name" not in disposition:
            raise ValueError("a part of the multipart form has no name")
        yield disposition["name"], _part(headers, disposition, content)


def _part(headers: dict[str, str], disposition: dict[str, str], content: bytes) -> JSON:
    kind = headers.get("content-type")
    if "filename" in disposition:
        return {"filename": disposition["filename"], "content_type": kind, **as_base64(content)}
    if kind is not None and _content_type(kind)[0] == "application/json":
        try:
            return loads(content)
        except JsonError as error:
            raise ValueError(f"a part of the multipart form is not JSON: {error}") from None
    text = _decode(content, "utf-8")
    return as_base64(content) if text is None else text


def _part_headers(head: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in head.decode("utf-8", "replace").split("\r\n"):
        name, _, value = line.partition(":")
        found.setdefault(name.strip().lower(), value.strip())
    return found
