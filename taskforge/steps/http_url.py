"""A URL as it is needed to send a request: read once, and what is valid in it left as it was written.

RFC 3986 by `urllib.parse`, host names in other scripts by `idna` (UTS 46), numbers as hosts as browsers read them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple, Self
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from taskforge.security.egress import literal_address

_BAD: Final = re.compile(r"[\x00-\x20\x7f\ud800-\udfff]")
_AS_WRITTEN: Final = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*")
_LONE_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,253})|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*")
_IN_BRACKETS: Final = re.compile(r"\[[^\[\]]*\](?::[0-9]*)?")
"""`urllib.parse` overlooks what stands before and behind the brackets: it takes `api.example[::1]` for ::1."""
_RESERVED: Final = "%:/?[]@!$&'()*+,;="
_IN_PARAMETERS: Final = "/?:@!$'()*,"
_PORTS: Final = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """What a connection is made to; requests to the same one share connections. `host` has no brackets."""

    tls: bool
    host: str
    port: int


class Url(NamedTuple):
    """An http or https URL without a fragment. `target` is its path and query, as it goes onto the wire."""

    origin: Origin
    target: str
    host_port: str
    """`host`, or `host:port` where it is not the scheme's own; an IPv6 address in brackets."""

    def __str__(self) -> str:
        return f"{self.place}{self.target}"

    @property
    def place(self) -> str:
        """`scheme://host:port`, for messages: a path or query may hold a secret."""
        return f"{'https' if self.origin.tls else 'http'}://{self.host_port}"

    def with_parameters(self, pairs: Sequence[tuple[str, str]]) -> Self:
        """This URL with more parameters behind those that its query has."""
        joint = "?" if "?" not in self.target else "" if self.target.endswith("&") else "&"
        return self._replace(target=self.target + joint + urlencode(pairs, safe=_IN_PARAMETERS))


def read_url(text: str, base: Url | None = None) -> Url:
    """Read an absolute URL, or one relative to `base` (RFC 3986, 5.2).

    ValueError says what is wrong, and does not repeat the text: it may hold a secret.
    """
    if _BAD.search(text) is not None:
        raise ValueError(
            "the URL has a space, a line break or another control character in it; encode data with jq's @uri"
        )
    if "\\" in text.partition("?")[0]:
        raise ValueError("the URL has a backslash in it; write / or %5C")
    try:
        parts = urlsplit(text)
        if base is not None and not parts.scheme:
            parts = urlsplit(_joined(base, parts, text))
        name, port = parts.hostname or "", parts.port
        host = name if name.isascii() else _in_ascii(name)
    except ValueError:
        raise ValueError("the URL cannot be read; it must look like https://host/path") from None
    if parts.scheme not in _PORTS:
        raise ValueError(f"the URL's scheme is {parts.scheme[:60]!a}; only http and https are possible")
    if "@" in parts.netloc:
        raise ValueError("the URL has a user name or password in it; use an Authorization header instead")
    in_brackets = _IN_BRACKETS.fullmatch(parts.netloc) is not None
    if _HOST.fullmatch(host) is None or in_brackets != ("[" in parts.netloc) or in_brackets != (":" in host):
        raise ValueError("the URL has no valid host; it must look like https://host/path")
    if port == 0:
        raise ValueError("the URL's port is 0")
    try:
        host = literal_address(host) or host
    except ValueError as error:
        raise ValueError(f"the URL's host cannot be read: {error}") from None
    usual = _PORTS[parts.scheme]
    origin = Origin(parts.scheme == "https", host, port or usual)
    host_port = f"[{host}]" if ":" in host else host
    if origin.port != usual:
        host_port += f":{port}"
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    return Url(origin, target if _AS_WRITTEN.fullmatch(target) is not None else _quoted(target), host_port)


def _joined(base: Url, parts: SplitResult, text: str) -> str:
    """RFC 3986, 5.2.2. `urljoin` loses empty segments (`/https://h/` + `x`), a `;` at the end, and an empty host."""
    if text.startswith("//"):
        return f"{'https' if base.origin.tls else 'http'}:{text}"
    path, _, query = base.target.partition("?")
    if parts.path:
        kept: list[str] = []
        segments = (parts.path if parts.path[0] == "/" else path.rpartition("/")[0] + "/" + parts.path).split("/")
        for segment in segments[1:]:
            if segment == "..":
                del kept[-1:]
            elif segment != ".":
                kept.append(segment)
        if segments[-1] in (".", ".."):
            kept.append("")
        path, query = "/" + "/".join(kept), parts.query
    elif text.startswith("?"):
        query = parts.query
    return f"{base.place}{path}?{query}"


def _in_ascii(name: str) -> str:
    # Its tables take half a megabyte; names in other scripts are rare.
    import idna

    return idna.encode(name, uts46=True).decode()


def _quoted(target: str) -> str:
    return quote(_LONE_PERCENT.sub("%25", target), safe=_RESERVED)
