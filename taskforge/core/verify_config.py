"""How a webhook's sender is known: the `verify:` mapping of a trigger, read once. Pure data and checks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from taskforge.core.durations import format_duration, parse_duration
from taskforge.core.problem import quoted, suggest
from taskforge.core.record import dataclass

SCHEMES: Final = ("none", "token", "basic", "github", "stripe", "slack", "standard", "hmac")
ALGORITHMS: Final = ("sha1", "sha256", "sha512")
ENCODINGS: Final = ("hex", "base64")
TOLERANCE_MS: Final = 300_000
"""How far a sender's time may be from ours, in both directions, where nothing else is said."""

_MAX_TOLERANCE_MS = 86_400_000
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}", re.ASCII)
_FORMAT = "{timestamp}.{body}"
_SIGNATURE_HEADERS: Final = {
    "github": "x-hub-signature-256",
    "stripe": "stripe-signature",
    "slack": "x-slack-signature",
    "standard": "webhook-signature",
    "basic": "authorization",
}
_MEMBERS: Final[dict[str, tuple[str, ...]]] = {
    "none": (),
    "token": ("header", "parameter", "prefix"),
    "basic": ("user",),
    "github": (),
    "stripe": ("tolerance",),
    "slack": ("tolerance",),
    "standard": ("tolerance",),
    "hmac": ("header", "algorithm", "encoding", "prefix", "timestamp", "tolerance"),
}


@dataclass(frozen=True, slots=True)
class SignedTime:
    """Where a generic `hmac` sender says when it signed: `header` (lower-case), and what is signed, with
    `{timestamp}` and `{body}` standing for the header's text and the raw body."""

    header: str
    format: str = _FORMAT


@dataclass(frozen=True, slots=True)
class VerifyConfig:
    """A trigger's `verify:`. Header names are lower-case; `secrets` are names of stored secrets, newest first."""

    scheme: str
    secrets: tuple[str, ...] = ()
    header: str | None = None
    parameter: str | None = None
    prefix: str = ""
    user: str | None = None
    algorithm: str = "sha256"
    encoding: str = "hex"
    timestamp: SignedTime | None = None
    tolerance_ms: int = TOLERANCE_MS

    @property
    def redact(self) -> tuple[str, ...]:
        """Names of headers (lower-case) and query parameters that are stored as `[redacted]`, because of this scheme
        alone: `Authorization` and `Cookie` are redacted always."""
        found = (self.header, self.parameter)
        return tuple(name for name in found if name is not None)


def parse_verify(value: Any) -> VerifyConfig:
    """Read `none`, or a mapping with `scheme`. ValueError says in plain words what is wrong and what is accepted."""
    if value == "none":
        return VerifyConfig("none")
    if not isinstance(value, Mapping):
        raise ValueError("write `verify: none`, or a mapping with a `scheme`, such as {scheme: github, secret: NAME}")
    scheme = value.get("scheme")
    if scheme not in SCHEMES:
        word = "`scheme` is missing" if scheme is None else f"{quoted(str(scheme))} is no scheme"
        near = suggest(scheme, SCHEMES) if isinstance(scheme, str) else None
        raise ValueError(f"{word}; {near or 'accepted: ' + ', '.join(SCHEMES)}")
    # An explicit null is the same as nothing.
    given = {name: member for name, member in value.items() if member is not None and name != "scheme"}
    secrets = _secrets(given.pop("secret", None))
    _check_members(scheme, given)
    header, parameter = _name(given, "header", lower=True), _name(given, "parameter", lower=False)
    if scheme == "token" and (header is None) == (parameter is None):
        raise ValueError("scheme token needs either `header` or `parameter`: where the sender puts the token")
    if scheme == "hmac" and header is None:
        raise ValueError("scheme hmac needs `header`: the name of the header with the signature")
    timestamp, tolerance = _timestamp(given)
    if scheme == "hmac" and timestamp is None and tolerance is not None:
        raise ValueError(
            "`tolerance` needs `timestamp: {header: …}`: without a signed time there is nothing to compare"
        )
    return VerifyConfig(
        scheme=scheme,
        secrets=secrets,
        header=header or _SIGNATURE_HEADERS.get(scheme),
        parameter=parameter,
        prefix=_text(given, "prefix", 50) or "",
        user=_text(given, "user", 200),
        algorithm=_choice(given, "algorithm", ALGORITHMS, "sha256"),
        encoding=_choice(given, "encoding", ENCODINGS, "hex"),
        timestamp=timestamp,
        tolerance_ms=TOLERANCE_MS if tolerance is None else tolerance,
    )


def _check_members(scheme: str, given: Mapping[str, Any]) -> None:
    accepted = _MEMBERS[scheme]
    for name in given:
        if name not in accepted:
            known = ("scheme", "secret", *accepted) if scheme != "none" else ("scheme",)
            near = suggest(str(name), known)
            raise ValueError(f"scheme {scheme} has no {quoted(str(name))}; {near or 'accepted: ' + ', '.join(known)}")


def _secrets(value: Any) -> tuple[str, ...]:
    names = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError("`secret` must be the name of a secret, or a list of names, newest first")
    return tuple(names)


def _name(given: Mapping[str, Any], key: str, *, lower: bool) -> str | None:
    value = given.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or (lower and _HEADER.fullmatch(value) is None) or not 0 < len(value) <= 100:
        raise ValueError(f"`{key}` must be the name of a {'header' if lower else 'query parameter'}")
    return value.lower() if lower else value


def _text(given: Mapping[str, Any], key: str, limit: int) -> str | None:
    value = given.get(key)
    if value is not None and (not isinstance(value, str) or len(value) > limit):
        raise ValueError(f"`{key}` must be a text of at most {limit} characters")
    return value


def _choice(given: Mapping[str, Any], key: str, accepted: tuple[str, ...], default: str) -> str:
    value = given.get(key, default)
    if not isinstance(value, str) or value not in accepted:
        raise ValueError(f"`{key}` must be one of {', '.join(accepted)}")
    return value


def _timestamp(given: Mapping[str, Any]) -> tuple[SignedTime | None, int | None]:
    """The signed time of `hmac`, and the tolerance, which may stand inside `timestamp` or beside it."""
    value, tolerance = given.get("timestamp"), given.get("tolerance")
    found = None
    if value is not None:
        members = {"header": value} if isinstance(value, str) else value
        if not isinstance(members, Mapping):
            raise ValueError("`timestamp` must be {header: NAME, tolerance: 5m, format: …} or the header's name")
        for name in members:
            if name not in ("header", "tolerance", "format"):
                raise ValueError(f"`timestamp` has no {quoted(str(name))}; accepted: header, tolerance, format")
        header = _name(members, "header", lower=True)
        if header is None:
            raise ValueError("`timestamp` needs `header`: the name of the header with the sender's time")
        found = SignedTime(header, _format(members.get("format")))
        tolerance = members.get("tolerance", tolerance)
    return found, None if tolerance is None else _tolerance(tolerance)


def _format(value: Any) -> str:
    if value is None:
        return _FORMAT
    if not isinstance(value, str) or len(value) > 200:
        raise ValueError("`timestamp.format` must be a text of at most 200 characters")
    if value.count("{body}") != 1 or value.count("{timestamp}") != 1:
        raise ValueError(f"`timestamp.format` must have {{timestamp}} and {{body}} once each, as in {_FORMAT!r}")
    return value


def _tolerance(value: Any) -> int:
    try:
        tolerance = parse_duration(value)
    except ValueError as error:
        raise ValueError(f"`tolerance`: {error}") from None
    if not 1_000 <= tolerance <= _MAX_TOLERANCE_MS:
        raise ValueError(f"`tolerance` must be from 1s to {format_duration(_MAX_TOLERANCE_MS)}")
    return tolerance
