"""Why an HTTP request failed: one table of codes, and how errors of sockets and TLS map onto it."""

from __future__ import annotations

import errno
import ssl
from typing import TYPE_CHECKING, Final, Literal

from taskforge.core.record import dataclass

if TYPE_CHECKING:
    from taskforge.steps.http_request import Hop

RetryClass = Literal["network", "timeout"]

RETRY_CLASSES: Final[dict[str, RetryClass | None]] = {
    # Never sent; may go well the next time.
    "DNS_FAILED": "network",
    "CONNECT_REFUSED": "network",
    "CONNECT_FAILED": "network",
    "CONNECT_TIMEOUT": "timeout",
    # Perhaps carried out by the receiver: the same Idempotency-Key goes with the next attempt.
    "CONNECTION_RESET": "network",
    "HALF_BODY": "network",
    "BAD_RESPONSE": "network",
    "READ_TIMEOUT": "timeout",
    "ATTEMPT_TIMEOUT": "timeout",
    # Not retried: the same request would end the same way.
    "TLS_FAILED": None,
    "RESPONSE_TOO_LARGE": None,
    "TOO_MANY_REDIRECTS": None,
    "REDIRECT_REFUSED": None,
    "EGRESS_DENIED": None,
    "INVALID_URL": None,
    "INVALID_HEADER": None,
    "INVALID_CONFIG": None,
    "INVALID_BODY": None,
}
"""Every code of `HttpFailure`, with the word of a step's `retry.on` that covers it; None is never retried."""

_CONNECT_CODES: Final = {
    errno.ECONNREFUSED: "CONNECT_REFUSED",
    errno.ETIMEDOUT: "CONNECT_TIMEOUT",
    errno.ECONNRESET: "CONNECTION_RESET",
    errno.ECONNABORTED: "CONNECTION_RESET",
    errno.EPIPE: "CONNECTION_RESET",
}


class HttpFailure(Exception):
    """A request that gave no usable answer.

    `sent` is False only where it is sure that no byte of the request left: then even a step with `effect: once` may try
    again. `detail` is plain JSON.
    """

    def __init__(self, code: str, message: str, *, sent: bool, detail: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_class = RETRY_CLASSES[code]
        self.sent = sent
        self.detail = detail or {}


def refused(code: str, message: str) -> HttpFailure:
    """A request that is not sent because it is wrong in itself."""
    return HttpFailure(code, message, sent=False)


@dataclass(slots=True)
class Flight:
    """One request under way, over all its hops."""

    hop: Hop
    """The one under way."""
    connecting: bool = True
    answered: bool = False

    @property
    def sent(self) -> bool:
        """Whether a byte of the request may have left. True where it is not known."""
        return self.answered or not self.connecting


class Broken(Exception):
    """What went wrong with a connection or an answer, before it is told where: `code` as in RETRY_CLASSES."""

    def __init__(self, code: str, said: str, detail: dict[str, object] | None = None) -> None:
        super().__init__(said)
        self.code = code
        self.said = said
        self.detail = detail

    def failure(self, where: str, flight: Flight) -> HttpFailure:
        """`where` is `scheme://host:port` of the hop: paths and queries may hold secrets."""
        link = " is closed to steps: " if self.code == "EGRESS_DENIED" else ": "
        return HttpFailure(self.code, f"{where}{link}{self.said}", sent=flight.sent, detail=self.detail)


def unconnected(error: OSError | RuntimeError) -> Broken:
    """Say why no connection could be made."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Broken("TLS_FAILED", f"the certificate is not trusted: {error}")
    if isinstance(error, ssl.SSLError):
        return _tls_failure(error)
    number = getattr(error, "errno", None)
    # A handshake that the peer ends raises a ConnectionResetError without a number.
    reset = isinstance(error, ConnectionError) and number is None
    code = "CONNECTION_RESET" if reset else _CONNECT_CODES.get(number or 0, "CONNECT_FAILED")
    name = errno.errorcode.get(number or 0)
    detail: dict[str, object] | None = None if name is None else {"errno": name}
    if code == "CONNECT_REFUSED":
        return Broken(code, "the connection was refused; is the server running and the port right?", detail)
    if code == "CONNECTION_RESET":
        return Broken(code, "the connection broke while it was made", detail)
    return Broken(code, f"the connection could not be made: {getattr(error, 'strerror', None) or error}", detail)


def _tls_failure(error: ssl.SSLError) -> Broken:
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return Broken("CONNECTION_RESET", "the connection broke during the TLS handshake")
    reason = (error.reason or error.strerror or "unknown").replace("_", " ").lower()
    return Broken("TLS_FAILED", f"TLS failed ({reason}); does this port speak TLS, and a version this side accepts?")
