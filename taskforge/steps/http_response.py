"""What comes back: the answer, and how its headers and body are read as values."""

from __future__ import annotations

import base64
import codecs
import email.utils
import re
from collections.abc import Mapping
from datetime import UTC
from functools import lru_cache
from typing import Final

from taskforge.core.jsontext import JSON, JsonError, loads, replace_lone_surrogates
from taskforge.core.record import dataclass
from taskforge.steps.http_failure import HttpFailure

_CHARSETS: Final = re.compile(
    r"utf-?8|utf-?(?:16|32)(?:-?[lb]e)?|(?:us-)?ascii|iso-?8859-?[0-9]{1,2}|latin-?[0-9]{1,2}|(?:windows|cp)-?125[0-8]|"
    r"koi8-[ru]|macintosh|(?:ibm|cp)-?866|gbk|gb2312|gb18030|big5|euc-(?:jp|kr)|iso-2022-jp|shift_?jis|tis-620"
)
_SECONDS: Final = re.compile(r"[0-9]+(?:\.[0-9]*)?")


@dataclass(slots=True)
class Response:
    """An answer. Header names are lower case; repeated headers are joined with `, `, Set-Cookie with a line break.

    `url` is where the answer came from after `hops` redirects; it may hold secrets of the request's URL.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    duration_ms: int
    url: str
    hops: int


def header_texts(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers as a Response has them: bytes are read as UTF-8, else as Latin-1."""
    found: dict[str, str] = {}
    for name, data in raw:
        key = _key(name)
        value = header_text(data)
        if key in found:
            value = f"{found[key]}{chr(10) if key == 'set-cookie' else ', '}{value}"
        found[key] = value
    return found


@lru_cache(maxsize=512)
def _key(name: bytes) -> str:
    return name.decode("latin-1").lower()


def header_text(data: bytes) -> str:
    try:
        return data.decode().strip(" \t")
    except UnicodeDecodeError:
        return data.decode("latin-1").strip(" \t")


def parse_body(response: Response) -> JSON:
    """Return the body as a JSON value: parsed JSON, text, or `{"base64": …}`.

    JSON where the content type says so (an empty body is null; one that is not JSON is HttpFailure INVALID_BODY), text
    where it is text, by its charset, else UTF-8, with U+FFFD for what cannot be decoded. Without a content type: null
    where empty, text where it is UTF-8 without control characters. All else is base64.
    """
    kind, charset = _content_type(response.headers.get("content-type", ""))
    body = response.body
    if kind == "application/json" or kind.endswith("+json"):
        return _parse_json(body, charset) if body.strip() else None
    if kind.startswith("text/") or kind.endswith("+xml") or kind in _TEXT_TYPES:
        return _decode(body, charset)
    if not kind:
        if not body:
            return None
        text = _plain_text(body)
        if text is not None:
            return text
    return {"base64": base64.b64encode(body).decode("ascii")}


_TEXT_TYPES: Final = frozenset(
    {
        "application/ecmascript",
        "application/graphql",
        "application/javascript",
        "application/jsonl",
        "application/sql",
        "application/toml",
        "application/x-javascript",
        "application/x-ndjson",
        "application/x-sh",
        "application/x-www-form-urlencoded",
        "application/x-yaml",
        "application/xml",
        "application/yaml",
    }
)


def _content_type(header: str) -> tuple[str, str | None]:
    if header == "application/json":
        return header, None
    kind, *parameters = header.split(";")
    charset = None
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            charset = value.strip().strip("\"'").lower() or None
    return kind.strip().lower(), charset


def _decode(body: bytes, charset: str | None) -> str:
    """Decode with the named charset, as UTF-8 where there is none of that name. Never gives a lone surrogate."""
    text = body.decode(_codec(charset), "replace")
    return text if text.isascii() else replace_lone_surrogates(text).removeprefix("\ufeff")


def _codec(charset: str | None) -> str:
    """The codec for a charset. Python has more of them than the web; some are slow, some are no charsets."""
    if charset is None or _CHARSETS.fullmatch(charset) is None:
        return "utf-8"
    try:
        return codecs.lookup(charset).name
    except LookupError:
        return "utf-8"


def _plain_text(body: bytes) -> str | None:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if re.search(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]", text) else text


def _parse_json(body: bytes, charset: str | None) -> JSON:
    codec = _codec(charset)
    try:
        if codec == "utf-8":
            return loads(body.removeprefix(codecs.BOM_UTF8))
        return loads(body.decode(codec).removeprefix("\ufeff"))
    except (JsonError, UnicodeError) as error:
        raise HttpFailure(
            "INVALID_BODY",
            f"the answer says that it is JSON, but its body cannot be read as JSON: {error}",
            sent=True,
        ) from None


def retry_after_ms(headers: Mapping[str, str], now_ms: int, cap_ms: int) -> int | None:
    """Read `Retry-After` (seconds or an HTTP date) as milliseconds from `now_ms`, 0 to `cap_ms`; None for rubbish."""
    value = headers.get("retry-after", "").strip()
    if not value or len(value) > 400:
        return None
    if _SECONDS.fullmatch(value) is not None:
        return cap_ms if len(value.partition(".")[0]) > 12 else min(round(float(value) * 1000), cap_ms)
    if not value[0].isalpha():
        return None
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, min(round(moment.timestamp() * 1000) - now_ms, cap_ms))
