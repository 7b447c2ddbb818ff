"""Verifies and makes the signatures of webhooks. Pure: raw bytes and the time come as arguments.

`verify` never raises, whatever a sender writes. Everything that depends on a secret is compared in constant time, over
bytes, against the one text that the scheme's own signer would have written: no second spelling of a signature is good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taskforge.core.jsontext import JsonError, loads
from taskforge.core.record import dataclass
from taskforge.core.verify_config import VerifyConfig, parse_verify
from taskforge.triggers.signature_schemes import SCHEMES, Refused, Seen

__all__ = ["Verdict", "VerifyConfig", "parse_verify", "sign", "verify"]

Headers = Sequence[tuple[str, str]]

_MAX_EVENT_BYTES = 4 * 1024 * 1024
_MAX_ID = 500


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a sender is who the trigger expects. `code` is stable; `reason` is for people, and tells no secret.

    `delivery_id`: what the scheme itself calls the delivery; None where it names none. `challenge`: the text to answer
    Slack's url_verification with. `redact`: header names (lower-case) and query parameters stored as `[redacted]`.
    """

    valid: bool
    code: str
    reason: str
    delivery_id: str | None = None
    challenge: bytes | None = None
    redact: tuple[str, ...] = ()


def verify(
    scheme: VerifyConfig,
    secrets: Sequence[bytes],
    headers: Headers,
    body: bytes,
    query: Mapping[str, str],
    now_ms: int,
) -> Verdict:
    """Judge a request. `secrets` are the values, newest first: any of them may have been used. `headers` in the order
    in which they came, each as Latin-1 text; `body` the raw bytes; `now_ms` the time of the wall clock."""
    seen = Seen(scheme, headers, query, body, now_ms)
    judge = SCHEMES[scheme.scheme]
    try:
        used = [] if scheme.scheme == "none" else _usable(secrets)
        judge.check(seen, used)
    except Refused as refused:
        return Verdict(False, refused.code, refused.reason, redact=scheme.redact)
    event = _event(body) if scheme.scheme in ("slack", "stripe") else {}
    words = "the trigger verifies nothing" if scheme.scheme == "none" else "the sender is verified"
    return Verdict(
        True,
        "VALID" if scheme.scheme != "none" else "NOT_VERIFIED",
        words,
        _short(judge.delivery_id(seen, event)),
        _challenge(event) if scheme.scheme == "slack" else None,
        scheme.redact,
    )


def sign(
    scheme: VerifyConfig, secret: bytes, body: bytes, now_ms: int, delivery_id: str | None = None
) -> list[tuple[str, str]]:
    """The headers that a sender of this scheme would send, at this time, for this delivery. A `token` in a query
    parameter has none: see `VerifyConfig.parameter`. ValueError for a secret that the scheme cannot use."""
    if scheme.scheme == "none":
        return []
    try:
        return SCHEMES[scheme.scheme].sign(scheme, secret, body, now_ms, delivery_id)
    except Refused as refused:
        raise ValueError(refused.reason) from None


def _usable(secrets: Sequence[bytes]) -> list[bytes]:
    if not secrets:
        raise Refused("NO_SECRET", "there is no secret to verify with")
    if not all(secrets):
        # An empty one would make a signature that anyone can compute.
        raise Refused("EMPTY_SECRET", "a secret is empty; an empty secret verifies nothing")
    return list(secrets)


def _event(body: bytes) -> Mapping[str, object]:
    if len(body) > _MAX_EVENT_BYTES or not body.lstrip().startswith(b"{"):
        return {}
    try:
        event = loads(body)
    except JsonError:
        return {}
    return event if isinstance(event, dict) else {}


def _challenge(event: Mapping[str, object]) -> bytes | None:
    challenge = event.get("challenge")
    if event.get("type") != "url_verification" or not isinstance(challenge, str):
        return None
    return challenge.encode("utf-8", "replace")


def _short(delivery_id: object) -> str | None:
    return delivery_id if isinstance(delivery_id, str) and 0 < len(delivery_id) <= _MAX_ID else None
