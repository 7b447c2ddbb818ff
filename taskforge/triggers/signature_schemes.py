"""The schemes by which senders of webhooks are known: each checks a request, signs one, and names its delivery."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from taskforge.core.durations import format_duration
from taskforge.core.problem import quoted
from taskforge.core.record import dataclass
from taskforge.core.verify_config import VerifyConfig

_DIGITS = re.compile(r"[0-9]{1,15}", re.ASCII)
_MS_FROM = 100_000_000_000
"""A time of a generic sender from this number on is milliseconds: in seconds it would be the year 5138."""

_MAX_SIGNATURES = 50
STANDARD_PREFIX = b"whsec_"
_ASYMMETRIC_PREFIXES = (b"whpk_", b"whsk_")
_MISMATCH: Final = "no signature fits this body and secret"


class Refused(Exception):
    """Why a request is not verified: a stable code, and words that tell no secret."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as a scheme looks at it."""

    config: VerifyConfig
    headers: Sequence[tuple[str, str]]
    query: Mapping[str, str]
    body: bytes
    now_ms: int

    def header(self, name: str) -> str:
        """The one header of a lower-case name. Refuses a missing, an empty and a repeated one."""
        found = [value for key, value in self.headers if key.lower() == name]
        if not found:
            raise Refused("HEADER_MISSING", f"the header {name} is missing")
        if len(found) > 1:
            # Which one counts is what proxies and programs disagree about.
            raise Refused("HEADER_REPEATED", f"the header {name} came {len(found)} times; send it once")
        value = found[0].strip(" \t")
        if not value:
            raise Refused("HEADER_MISSING", f"the header {name} is empty")
        return value

    def find_header(self, name: str) -> str | None:
        return next((value.strip(" \t") for key, value in self.headers if key.lower() == name), None)

    def check_time(self, text: str, where: str, *, milliseconds: bool = False) -> None:
        """Refuses a time that is no number, or too far from now in either direction."""
        if _DIGITS.fullmatch(text) is None:
            raise Refused("TIMESTAMP_MALFORMED", f"the time in {where} must be a whole number of seconds since 1970")
        value = int(text)
        sent_ms = value if milliseconds and value >= _MS_FROM else value * 1000
        tolerance = self.config.tolerance_ms
        away = self.now_ms - sent_ms
        if abs(away) > tolerance:
            code, word = ("TIMESTAMP_TOO_OLD", "old") if away > 0 else ("TIMESTAMP_IN_FUTURE", "in the future")
            far = format_duration(abs(away)) if abs(away) < 10**14 else "far"
            allowed = format_duration(tolerance)
            raise Refused(code, f"the time in {where} is {far} {word}; {allowed} is allowed: compare the two clocks")


class Scheme(Protocol):
    """One way to know a sender."""

    def check(self, seen: Seen, secrets: Sequence[bytes]) -> None:
        """Return when one of the secrets was used. Raises Refused."""

    def sign(
        self, config: VerifyConfig, secret: bytes, body: bytes, now_ms: int, delivery_id: str | None
    ) -> list[tuple[str, str]]:
        """The headers that the sender would send."""

    def delivery_id(self, seen: Seen, event: Mapping[str, object]) -> object:
        """What the sender calls this delivery; `event` is the body where the scheme's bodies are JSON."""


def raw(text: str) -> bytes:
    """A header's bytes: Latin-1 as it came from the wire; whatever else somebody wrote stays comparable."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def any_equal(expected: Iterable[bytes], given: Iterable[bytes]) -> bool:
    """Compare all with all, in a time that does not depend on which bytes differ."""
    candidates, found = list(given), False
    for wanted in expected:
        for candidate in candidates:
            found |= hmac.compare_digest(wanted, candidate)
    return found


def _need(matches: bool) -> None:
    if not matches:
        raise Refused("SIGNATURE_MISMATCH", _MISMATCH)


def _few(signatures: list[str], header: str) -> list[bytes]:
    if len(signatures) > _MAX_SIGNATURES:
        raise Refused("SIGNATURE_MALFORMED", f"the header {header} has more than {_MAX_SIGNATURES} signatures")
    return [raw(signature) for signature in signatures]


def _hex(secret: bytes, message: bytes, algorithm: str = "sha256") -> bytes:
    return hmac.digest(secret, message, algorithm).hex().encode()


def _base64(secret: bytes, message: bytes, algorithm: str = "sha256") -> bytes:
    return base64.b64encode(hmac.digest(secret, message, algorithm))


def _seconds(now_ms: int) -> str:
    return str(now_ms // 1000)


class NoneScheme:
    """Nothing is verified."""

    def check(self, seen: Seen, secrets: Sequence[bytes]) -> None:
        return None

    def sign(
        self, config: VerifyConfig, secret: bytes, body: bytes, now_ms: int, delivery_id: str | None
    ) -> list[tuple[str, str]]:
        return []

    def delivery_id(self, seen: Seen, event: Mapping[str, object]) -> object:
        return None


class GithubScheme(NoneScheme):
    """`X-Hub-Signature-256: sha256=<hex>` over the body (docs.github.com, "Validating webhook deliveries")."""

    def check(self, seen: Seen, secrets: Sequence[bytes]) -> None:
        given = seen.header("x-hub-signature-256")
        if not given.startswith("sha256="):
            raise Refused("SIGNATURE_MALFORMED", "the header x-hub-signature-256 must begin with sha256=")
        _need(any_equal([b"sha256=" + _hex(secret, seen.body) for secret in secrets], [raw(given)]))

    def sign(
        self, config: VerifyConfig, secret: bytes, body: bytes, now_ms: int, delivery_id: str | None
    ) -> list[tuple[str, str]]:
        headers = [("X-Hub-Signature-256", "sha256=" + _hex(secret, body).decode())]
        return headers if delivery_id is None else [("X-GitHub-Delivery", delivery_id), *headers]

    def delivery_id(self, seen: Seen, event: Mapping[str, object]) -> object:
        return seen.find_header("x-github-delivery")


class StripeScheme(NoneScheme):
    """`Stripe-Signature: t=<seconds>,v1=<hex>,…` over `t.body` (docs.stripe.com/webhooks/signature). Other versions
    are ignored, so that nobody can fall back to a weaker one."""

    def check(self, seen: Seen, secrets: Sequence[bytes]) -> None:
        pairs = [part.partition("=") for part in seen.header("stripe-signature").split(",")]
        times = [value for name, _, value in pairs if name == "t"]
        if len(times) != 1:
            raise Refused("SIGNATURE_MALFORMED", "the header stripe-signature must be t=<seconds>,v1=<hex>, with one t")
        signatures = [value for name, _, value in pairs if name == "v1" and value]
        if not signatures:
            raise Refused("SIGNATURE_UNSUPPORTED", "the header stripe-signature has no v1= signature")
        seen.check_time(times[0], "stripe-signature")
        message = raw(times[0]) + b"." + seen.body
        _need(any_equal([_hex(secret, message) for secret in secrets], _few(signatures, "stripe-signature")))

    def sign(
        self, config: VerifyConfig, secret: bytes, body: bytes, now_ms: int, delivery_id: str | None
    ) -> list[tuple[str, str]]:
        time = _seconds(now_ms)
        return [("Stripe-Signature", f"t={time},v1={_hex(secret, time.encode() + b'.' + body).decode()}")]

    def delivery_id(self, seen: Seen, event: Mapping[str, object]) -> object:
        return event.get("id")


class SlackScheme(NoneScheme):
    """`X-Slack-Signature: v0=<hex>` over `v0:time:body` (docs.slack.dev, "Verifying requests from Slack")."""

    def check(self, seen: Seen, secrets: Sequence[bytes]) -> None:
        given = seen.header("x-slack-signature")
        time = seen.header("x-slack-request-timestamp")
        if not given.startswith("v0="):
            raise Refused("SIGNATURE_MALFORMED", "the header x-slack-signature must begin with v0=")
        seen.check_time(time, "x-slack-request-timestamp")
        message = b"v0:" + raw(time) + b":" + seen.body
        _need(any_equal([b"v0=" + _hex(secret, message) for secret in secrets], [raw(given)]))

    def sign(
        self, config: VerifyConfig, secret: bytes, body: bytes, now_ms: int, delivery_id: str | None
    ) -> list[tuple[str, str]]:
        time = _seconds(now_ms)
        signature = _hex(secret, b"v0:" + time.encode() + b":" + body).decode()
        return [("X-Slack-Request-Timestamp", time), ("X-Slack-Signature", f"v0={signature}")]

    def delivery_id(self, seen: Seen, event: Mapping[str, object]) -> object:
        return event.get("event_id")


class StandardScheme(NoneScheme):
    """Standard Webhooks: `webhook-signature: v1,<base64> …` over `id.time.body`, with a secret in base64."""

    def check(self, seen: Seen, secrets: Sequence[bytes]) -> None:
        id, time = seen.header("webhook-id"), seen.header("webhook-timestamp")
        versions = [part.partition(",") for part in seen.header("webhook-signature").split(" ") if part]
        signatures = [signature for version, _, signature in versions if version == "v1" and signature]
        if not signatures:
            if any(version == "v1a" for version, _, _ in versions):
                words = "the signature is asymmetric (v1a), which is not supported; have the sender use a shared secret"
                raise Refused("SIGNATURE_UNSUPPORTED", words)
            raise Refused("SIGNATURE_MALFORMED", "the header webhook-signature has no v1,<base64> signature")
        keys = [standard_key(secret) for secret in secrets]
        seen.check_time(time, "webhook-timestamp")
        message = raw(id) + b"." + raw(time) + b"." + seen.body
        _need(any_equal([_base64(key, message) for key in keys], _few(signatures, "webhook-signature")))

    def sign(
        self, config: VerifyConfig, secret: bytes, body: bytes, now_ms: int, delivery_id: str | None
    ) -> list[tuple[str, str]]:
        if not delivery_id:
            raise ValueError("scheme standard needs an id of the delivery")
        time = _seconds(now_ms)
        message = raw(delivery_id) + b"." + time.encode() + b"." + body
        signature = f"v1,{_base64(standard_key(secret), message).decode()}"
        return [("webhook-id", delivery_id), ("webhook-timestamp", time), ("webhook-signature", signature)]

    def delivery_id(self, seen: Seen, event: Mapping[str, object]) -> object:
        return seen.find_header("webhook-id")


def standard_key(secret: bytes) -> bytes:
    """The key of a Standard Webhooks secret: base64 behind `whsec_`, which may be left out. Raises Refused."""
    text = secret.strip()
    if text.startswith(_ASYMMETRIC_PREFIXES):
        words = "the secret is an asymmetric key (whpk_, whsk_), which is not supported; use a whsec_ secret"
        raise Refused("SIGNATURE_UNSUPPORTED", words)
    text = text.removeprefix(STANDARD_PREFIX).rstrip(b"=")
    try:
        key = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        words = "a secret of scheme standard must be base64, as the sender shows it: whsec_…"
        raise Refused("SECRET_MALFORMED", words) from None
    if not key:
        raise Refused("EMPTY_SECRET", "a secret is empty; an empty secret verifies nothing")
    return key


class HmacScheme(NoneScheme):
    """Any sender that signs the body, or its time and the body, with HMAC. Several signatures may stand in the header,
    with spaces or commas between."""

    def check(self, seen: Seen, secrets: Sequence[bytes]) -> None:
        config = seen.config
        assert config.header is not None
        given = seen.header(config.header)
        message = seen.body
        if config.timestamp is not None:
            time = seen.header(config.timestamp.header)
            seen.check_time(time, config.timestamp.header, milliseconds=True)
            message = _signed(config, raw(time), seen.body)
        signatures = _signatures(given, config.prefix)
        if not signatures:
            words = f"the header {config.header} must begin with {quoted(config.prefix)}"
            raise Refused("SIGNATURE_MALFORMED", words)
        candidates = _few(signatures, config.header)
        if config.encoding == "hex":
            candidates = [candidate.lower() for candidate in candidates]
        _need(any_equal([_digest(config, secret, message) for secret in secrets], candidates))

    def sign(
        self, config: VerifyConfig, secret: bytes, body: bytes, now_ms: int, delivery_id: str | None
    ) -> list[tuple[str, str]]:
        assert config.header is not None
        headers, message = [], body
        if config.timestamp is not None:
            time = _seconds(now_ms)
            headers.append((config.timestamp.header, time))
            message = _signed(config, time.encode(), body)
        return [*headers, (config.header, config.prefix + _digest(config, secret, message).decode())]


def _signatures(given: str, prefix: str) -> list[str]:
    """The whole value, and its parts between spaces and commas, each with the prefix taken off."""
    parts = [given, *given.split(), *re.split(r"[\s,]+", given)]
    return [part[len(prefix) :] for part in dict.fromkeys(parts) if part.startswith(prefix) and part != prefix]


def _signed(config: VerifyConfig, time: bytes, body: bytes) -> bytes:
    """Put time and body into their places, whatever braces they have themselves."""
    assert config.timestamp is not None
    parts = re.split(r"(\{timestamp\}|\{body\})", config.timestamp.format)
    values = {"{timestamp}": time, "{body}": body}
    return b"".join(values[part] if part in values else part.encode() for part in parts)


def _digest(config: VerifyConfig, secret: bytes, message: bytes) -> bytes:
    return (_hex if config.encoding == "hex" else _base64)(secret, message, config.algorithm)


class TokenScheme(NoneScheme):
    """The secret itself, in a header or a query parameter. In `Authorization`, `Bearer` may stand before it."""

    def check(self, seen: Seen, secrets: Sequence[bytes]) -> None:
        config = seen.config
        if config.parameter is not None:
            value = seen.query.get(config.parameter)
            if not value:
                raise Refused("PARAMETER_MISSING", f"the query parameter {quoted(config.parameter)} is missing")
            given = value.encode("utf-8", "surrogatepass")
        else:
            assert config.header is not None
            given = raw(seen.header(config.header))
        prefix = config.prefix.encode()
        if not given.startswith(prefix):
            raise Refused("TOKEN_MALFORMED", f"the token must begin with {quoted(config.prefix)}")
        candidates = [given[len(prefix) :]]
        if config.header == "authorization" and not prefix and given[:7].lower() == b"bearer ":
            candidates.append(given[7:].lstrip(b" "))
        if not any_equal(secrets, candidates):
            raise Refused("TOKEN_MISMATCH", "the token is not the secret")

    def sign(
        self, config: VerifyConfig, secret: bytes, body: bytes, now_ms: int, delivery_id: str | None
    ) -> list[tuple[str, str]]:
        if config.header is None:
            return []
        bearer = "Bearer " if config.header == "authorization" and not config.prefix else ""
        return [(config.header, bearer + config.prefix + secret.decode("latin-1"))]


class BasicScheme(NoneScheme):
    """HTTP Basic (RFC 7617). The secret is the password, or `user:password` where no `user` is set."""

    def check(self, seen: Seen, secrets: Sequence[bytes]) -> None:
        kind, _, credentials = seen.header("authorization").partition(" ")
        if kind.lower() != "basic":
            raise Refused("TOKEN_MALFORMED", "the header authorization must begin with Basic")
        expected = [base64.b64encode(_credentials(seen.config, secret)) for secret in secrets]
        if not any_equal(expected, [raw(credentials.strip(" "))]):
            raise Refused("TOKEN_MISMATCH", "user or password is not the one that is expected")

    def sign(
        self, config: VerifyConfig, secret: bytes, body: bytes, now_ms: int, delivery_id: str | None
    ) -> list[tuple[str, str]]:
        return [("Authorization", "Basic " + base64.b64encode(_credentials(config, secret)).decode())]


def _credentials(config: VerifyConfig, secret: bytes) -> bytes:
    return secret if config.user is None else config.user.encode("utf-8", "surrogatepass") + b":" + secret


SCHEMES: Final[Mapping[str, Scheme]] = {
    "none": NoneScheme(),
    "github": GithubScheme(),
    "stripe": StripeScheme(),
    "slack": SlackScheme(),
    "standard": StandardScheme(),
    "hmac": HmacScheme(),
    "token": TokenScheme(),
    "basic": BasicScheme(),
}
