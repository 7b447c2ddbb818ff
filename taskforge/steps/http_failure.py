"""Why an HTTP request failed: one table of codes, and how aiohttp's errors map onto it."""

from __future__ import annotations

import errno
import ssl
from typing import Final, Literal

import aiohttp

from taskforge.steps.http_connect import AddressDenied, Flight, NameNotResolved

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


def failure_of(error: aiohttp.ClientError | OSError, where: str, flight: Flight) -> HttpFailure:
    """Map an error of aiohttp or the system onto a failure.

    `where` is `scheme://host:port` of the hop, for the message: paths and queries may hold secrets.
    """
    denied = flight.denied
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, AddressDenied):
        denied = denied or str(error.os_error)
    if denied is not None:
        return HttpFailure("EGRESS_DENIED", f"{where} is closed to steps: {denied}", sent=flight.answered)
    code, said = _code_of(error)
    return HttpFailure(code, f"{where}: {said}", sent=flight.sent, detail=_detail_of(error))


def _code_of(error: aiohttp.ClientError | OSError) -> tuple[str, str]:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "DNS_FAILED", _dns_text(error.os_error)
        case aiohttp.ClientConnectorCertificateError():
            return "TLS_FAILED", f"the certificate is not trusted: {error.certificate_error}"
        case aiohttp.ClientConnectorError():
            return _connect_code(error.os_error)
        case aiohttp.ConnectionTimeoutError():
            return "CONNECT_TIMEOUT", "the connection was not made in time"
        case aiohttp.ServerTimeoutError():
            return "READ_TIMEOUT", "the server was silent for longer than the read timeout"
        case aiohttp.ClientPayloadError() | aiohttp.ClientResponseError():
            return _answer_code(error)
        case aiohttp.InvalidURL():
            return "INVALID_URL", "the URL cannot be requested"
        case ssl.SSLError():
            return _tls_code(error)
        case aiohttp.ClientOSError() if isinstance(error.__cause__, ssl.SSLError):
            return _tls_code(error.__cause__)
        case aiohttp.ClientConnectionError() | OSError():
            return "CONNECTION_RESET", "the connection broke before the answer was complete"
        case _:
            return "BAD_RESPONSE", f"the answer cannot be read ({type(error).__name__})"


def _connect_code(error: OSError) -> tuple[str, str]:
    if isinstance(error, ssl.SSLError):
        return _tls_code(error)
    # A handshake that the peer ends raises a ConnectionResetError without a number.
    reset = isinstance(error, ConnectionError) and error.errno is None
    code = "CONNECTION_RESET" if reset else _CONNECT_CODES.get(error.errno or 0, "CONNECT_FAILED")
    if code == "CONNECT_REFUSED":
        return code, "the connection was refused; is the server running and the port right?"
    if code == "CONNECTION_RESET":
        return code, "the connection broke while it was made"
    return code, f"the connection could not be made: {error.strerror or error}"


def _tls_code(error: ssl.SSLError) -> tuple[str, str]:
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "CONNECTION_RESET", "the connection broke during the TLS handshake"
    reason = (error.reason or error.strerror or "unknown").replace("_", " ").lower()
    return "TLS_FAILED", f"TLS failed ({reason}); does this port speak TLS, and a version this side accepts?"


def _dns_text(error: OSError) -> str:
    if isinstance(error, NameNotResolved):
        return str(error)
    return f"the host name could not be resolved: {error.strerror or error}"


def _answer_code(error: aiohttp.ClientPayloadError | aiohttp.ClientResponseError) -> tuple[str, str]:
    if isinstance(error, aiohttp.ClientPayloadError) and "not completed" in str(error):
        return "HALF_BODY", "the answer ended before its announced end"
    said = str(getattr(error, "message", "") or error).splitlines()
    return "BAD_RESPONSE", f"the answer is not valid HTTP: {said[0][:200] if said else type(error).__name__}"


def _detail_of(error: BaseException) -> dict[str, object]:
    cause = getattr(error, "os_error", None)
    if not isinstance(cause, OSError) or isinstance(cause, NameNotResolved):
        return {}
    name = errno.errorcode.get(cause.errno or 0)
    return {} if name is None else {"errno": name}
