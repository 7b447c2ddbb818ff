"""What is sent: a request, its checks before anything leaves, and the request that a redirect asks for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from taskforge.core.record import dataclass
from taskforge.steps.http_failure import HttpFailure, refused
from taskforge.steps.http_url import Url, read_url

_METHOD: Final = re.compile(r"[A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]{0,31}")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_BAD_VALUE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
_HOST_HEADER: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")

_FRAMING_HEADERS: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_BODY_HEADERS: Final = frozenset({"content-encoding", "content-language", "content-location", "content-type"})
_CREDENTIAL: Final = re.compile(r"auth|cookie|credential|passw|secret|session|signature|token|api-?key|access-?key")


class Request(NamedTuple):
    """One HTTP request. Times in milliseconds; `max_bytes` bounds the decoded body of the answer.

    `query` is added to what the URL has. `max_redirects=0` returns a redirect as it is; None takes the client's limit.
    `fresh` makes a connection for this request alone, so that a connection that the server just closed cannot leave
    open whether the request arrived.
    """

    method: str
    url: str
    headers: Sequence[tuple[str, str]] = ()
    query: Sequence[tuple[str, str]] = ()
    body: bytes | None = None
    timeout_ms: int = 30_000
    connect_timeout_ms: int | None = None
    read_timeout_ms: int | None = None
    max_bytes: int = 1_048_576
    max_redirects: int | None = None
    fresh: bool = False


@dataclass(slots=True)
class Hop:
    """One request on the wire, checked. `headers` hold what the user set, and nothing of HTTP's framing."""

    method: str
    url: Url
    headers: Sequence[tuple[str, str]]
    body: bytes | None

    @property
    def where(self) -> str:
        """`scheme://host:port`, for messages: a path or query may hold a secret."""
        return self.url.place


def first_hop(request: Request) -> Hop:
    """Check `request` and make its first hop. HttpFailure INVALID_URL, INVALID_HEADER or INVALID_CONFIG."""
    method = request.method.upper()
    if _METHOD.fullmatch(request.method) is None or method in ("CONNECT", "TRACE"):
        raise refused("INVALID_CONFIG", f"{request.method[:40]!r} is no method that a step may use; try GET or POST")
    url = parse_url(request.url)
    if request.query:
        for name, value in request.query:
            if _has_surrogate(name) or _has_surrogate(value):
                raise refused("INVALID_URL", f"the query parameter {_shown(name)} is not valid Unicode")
        url = url.with_parameters(request.query)
    return Hop(method, url, checked_headers(request.headers), request.body)


def checked_headers(pairs: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return the headers to send. HttpFailure INVALID_HEADER names the one that must not be sent, never its value."""
    for name, value in pairs:
        problem = _name_problem(name)
        if problem is not None:
            raise refused("INVALID_HEADER", problem)
        if _BAD_VALUE.search(value) is not None:
            raise refused(
                "INVALID_HEADER",
                f"the value of header {name} has a line break or another control character; "
                'if it comes from data, remove it there (in jq: gsub("[\\\\x00-\\\\x1f]"; ""))',
            )
    hosts = [value for name, value in pairs if name.lower() == "host"]
    if hosts and (len(hosts) > 1 or _HOST_HEADER.fullmatch(hosts[0]) is None):
        raise refused("INVALID_HEADER", "the header Host must be given once, as name or name:port")
    return tuple(pairs)


@lru_cache(maxsize=1024)
def _name_problem(name: str) -> str | None:
    if _HEADER_NAME.fullmatch(name) is None:
        return f"{_shown(name)} is no header name; letters, digits and - are usual"
    if name.lower() in _FRAMING_HEADERS:
        return f"the header {name} is set by TaskForge itself; leave it out"
    return None


@lru_cache(maxsize=1024)
def parse_url(text: str) -> Url:
    """Read an absolute http or https URL; what is valid in it is sent as it was written. HttpFailure INVALID_URL."""
    try:
        return read_url(text)
    except ValueError as error:
        raise refused("INVALID_URL", str(error)) from None


def next_hop(hop: Hop, status: int, locations: Sequence[str]) -> Hop:
    """Make the hop that a redirect asks for. HttpFailure REDIRECT_REFUSED where it leads to no place for a step.

    As browsers do it (RFC 9110, 15.4): 303 turns everything but HEAD into GET, 301 and 302 turn POST into GET; 307 and
    308 repeat method and body. To another origin, headers whose name speaks of credentials stay behind, as does Host.
    """
    if len(set(locations)) != 1:
        raise _redirect_refused(hop, status, "it has several different Location headers")
    try:
        url = read_url(locations[0].strip(" \t"), hop.url)
    except ValueError as error:
        raise _redirect_refused(hop, status, str(error)) from None
    method, body = hop.method, hop.body
    dropped: set[str] = set()
    if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):
        method, body = "GET", None
        dropped |= _BODY_HEADERS
    names = {name.lower() for name, _ in hop.headers}
    if url.origin != hop.url.origin:
        dropped |= {name for name in names if name == "host" or _CREDENTIAL.search(name) is not None}
    headers = tuple(pair for pair in hop.headers if pair[0].lower() not in dropped)
    return Hop(method, url, headers, body)


def _redirect_refused(hop: Hop, status: int, why: str) -> HttpFailure:
    return HttpFailure(
        "REDIRECT_REFUSED", f"{hop.where} answered {status} with a redirect that is not followed: {why}", sent=True
    )


def _has_surrogate(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _shown(text: str) -> str:
    return ascii(text[:60])
