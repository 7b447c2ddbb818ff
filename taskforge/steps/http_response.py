"""What comes back: the answer, its body within bounds, and how both are read."""

from __future__ import annotations

import asyncio
import base64
import codecs
import email.utils
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Final

import aiohttp

from taskforge.core.jsontext import JSON, JsonError, loads, replace_lone_surrogates
from taskforge.steps.http_failure import HttpFailure

_PIECE: Final = 262_144
_MAX_MEMBERS: Final = 1_000
_CODINGS: Final = frozenset({"gzip", "x-gzip", "deflate"})
_UNREADABLE_CODINGS: Final = frozenset({"br", "compress", "x-compress", "dcb", "dcz", "zstd"})
_CHARSETS: Final = re.compile(
    r"utf-?8|utf-?(?:16|32)(?:-?[lb]e)?|(?:us-)?ascii|iso-?8859-?[0-9]{1,2}|latin-?[0-9]{1,2}|(?:windows|cp)-?125[0-8]|"
    r"koi8-[ru]|macintosh|(?:ibm|cp)-?866|gbk|gb2312|gb18030|big5|euc-(?:jp|kr)|iso-2022-jp|shift_?jis|tis-620"
)
_SECONDS: Final = re.compile(r"[0-9]+(?:\.[0-9]*)?")


@dataclass(frozen=True, slots=True)
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


def response_headers(raw: aiohttp.ClientResponse) -> dict[str, str]:
    """Return the headers as valid text: bytes are read as UTF-8, else as Latin-1."""
    found: dict[str, str] = {}
    for name, value in raw.headers.items():
        key = name.lower()
        if not value.isascii():
            value = _valid_text(value)
        if key in found:
            value = f"{found[key]}{chr(10) if key == 'set-cookie' else ', '}{value}"
        found[key] = value
    return found


def _valid_text(value: str) -> str:
    data = value.encode("utf-8", "surrogateescape")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


async def read_body(raw: aiohttp.ClientResponse, headers: Mapping[str, str], max_bytes: int, where: str) -> bytes:
    """Read the body, decoded, holding never more than `max_bytes` and one piece of it.

    HttpFailure RESPONSE_TOO_LARGE, HALF_BODY, BAD_RESPONSE; errors of aiohttp for what happens on the wire. The caller
    closes `raw` on any of them.
    """
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes and raw.method != "HEAD" and raw.status not in (204, 304):
        raise _too_large(where, max_bytes)
    coding = _coding(headers.get("content-encoding", ""), where)
    protocol = None if raw.connection is None else raw.connection.protocol
    if coding is None:
        body = await _read_plain(raw.content, max_bytes, where)
    else:
        body = await _read_coded(raw.content, coding, max_bytes, where)
    ends_with_connection = not length and "transfer-encoding" not in headers
    # Such a body ends when the connection does; only aiohttp's protocol object knows whether that was by a reset.
    if ends_with_connection and protocol is not None and isinstance(protocol.exception(), OSError):
        raise _half(where)
    return body


async def _read_plain(content: aiohttp.StreamReader, max_bytes: int, where: str) -> bytes:
    first = await content.readany()
    if len(first) <= max_bytes and content.at_eof():
        return first
    pieces, total = [first], len(first)
    while total <= max_bytes:
        piece = await content.readany()
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
        total += len(piece)
    raise _too_large(where, max_bytes)


async def _read_coded(content: aiohttp.StreamReader, coding: str, max_bytes: int, where: str) -> bytes:
    inflater = Inflater(coding)
    pieces: list[bytes] = []
    received = total = unyielded = 0
    try:
        while data := await content.readany():
            received += len(data)
            for piece in inflater.feed(data):
                pieces.append(piece)
                total += len(piece)
                unyielded += len(piece)
                if total > max_bytes:
                    raise _too_large(where, max_bytes)
                if unyielded > 4 * _PIECE:
                    unyielded = 0
                    await asyncio.sleep(0)
            # Coded bytes that give nothing (empty blocks, endless headers) are bounded too.
            if received > max_bytes + max_bytes // 64 + 4_096:
                raise _too_large(where, max_bytes)
    except zlib.error as error:
        raise HttpFailure("BAD_RESPONSE", f"{where}: the body is not valid {coding}: {error}", sent=True) from error
    if not inflater.complete:
        raise _half(where)
    return b"".join(pieces)


class Inflater:
    """Decodes gzip (with several members) and deflate (with or without zlib's header), piece by piece."""

    def __init__(self, coding: str) -> None:
        self._gzip = coding != "deflate"
        self._decoder: zlib._Decompress | None = None
        self._members = 0

    @property
    def complete(self) -> bool:
        """Whether the last member has ended, or nothing came at all."""
        return self._decoder is None or self._decoder.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` decodes to, in pieces of at most 256 KiB. zlib.error for what is not valid."""
        while data:
            decoder = self._decoder
            if decoder is None or decoder.eof:
                if decoder is not None and not (self._gzip and data.lstrip(b"\0")):
                    return  # padding, or bytes behind the end, which everybody ignores
                decoder = self._decoder = self._new_decoder(data)
            piece = decoder.decompress(data, _PIECE)
            data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            if piece:
                yield piece
            while not decoder.eof and len(piece) == _PIECE and not data:
                piece = decoder.decompress(b"", _PIECE)
                if piece:
                    yield piece

    def _new_decoder(self, data: bytes) -> zlib._Decompress:
        self._members += 1
        if self._members > _MAX_MEMBERS:
            raise zlib.error(f"more than {_MAX_MEMBERS} members")
        if self._gzip:
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        has_header = data[0] & 0x0F == 8 and data[0] >> 4 <= 7
        return zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)


def _coding(header: str, where: str) -> str | None:
    if not header:
        return None
    codings = [word for word in (part.strip().lower() for part in header.split(",")) if word in _CODINGS]
    unreadable = [word for word in (part.strip().lower() for part in header.split(",")) if word in _UNREADABLE_CODINGS]
    if unreadable or len(codings) > 1:
        raise HttpFailure(
            "BAD_RESPONSE",
            f"{where}: the body is encoded as {header[:60]!r}, which was not asked for; "
            "leave out Accept-Encoding or set it to gzip, deflate or identity",
            sent=True,
        )
    return codings[0] if codings else None


def _too_large(where: str, max_bytes: int) -> HttpFailure:
    return HttpFailure(
        "RESPONSE_TOO_LARGE",
        f"{where}: the answer's body is larger than the limit of {max_bytes} bytes; "
        "ask for less, or raise the limit in the configuration",
        sent=True,
        detail={"limit_bytes": max_bytes},
    )


def _half(where: str) -> HttpFailure:
    return HttpFailure("HALF_BODY", f"{where}: the answer ended before its announced end", sent=True)


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
