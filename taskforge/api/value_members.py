"""The members of bodies about secrets, variables and webhook signatures."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

from taskforge.api.route import Field, JsonBody
from taskforge.core.clock import from_rfc3339
from taskforge.core.definition_triggers import METHODS
from taskforge.core.verify_config import VerifyConfig, parse_verify

MAX_VERIFIED: Final = 4 * 1024 * 1024
"""Bytes of a request whose signature is looked at."""

_MAX_SECRETS = 20
_MAX_HEADERS = 500
_MAX_SECONDS = 253_402_300_799
_PAIR = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}


def _secret(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("it must be a text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("it must be true or false")
    return value


def _verify(value: Any) -> VerifyConfig:
    return parse_verify(value)


def _secrets(value: Any) -> list[bytes]:
    if not isinstance(value, list) or len(value) > _MAX_SECRETS or not all(isinstance(item, str) for item in value):
        raise ValueError(f"it must be a list of at most {_MAX_SECRETS} texts, the newest secret first")
    return [item.encode() for item in value]


def _headers(value: Any) -> list[tuple[str, str]]:
    """As a server has them: the UTF-8 bytes of each value, read as Latin-1."""
    pairs = list(value.items()) if isinstance(value, dict) else value
    form = "it must be an object of texts, or a list of [name, value]"
    if not isinstance(pairs, list) or len(pairs) > _MAX_HEADERS:
        raise ValueError(f"{form}, at most {_MAX_HEADERS}")
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise ValueError(form)
    return [(name, text.encode("utf-8", "replace").decode("latin-1")) for name, text in pairs]


def _pairs(value: Any) -> list[tuple[str, str]]:
    return [(name, text.encode("latin-1").decode()) for name, text in _headers(value)]


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 63:
        raise ValueError("it must be a name")
    return value


def _method(value: Any) -> str:
    if value not in METHODS:
        raise ValueError(f"it must be one of {', '.join(METHODS)}")
    return str(value)


def _delivery_id(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not 0 < len(value) <= 500 or not value.isprintable()):
        raise ValueError("it must be a printable text of at most 500 characters")
    return value


def _query(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("it must be an object of texts")
    return dict(value)


def _body(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError("it must be a text: the raw body in base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("it is not base64 (RFC 4648, with its padding)") from None


def _now(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MAX_SECONDS:
        return round(value * 1000)
    if isinstance(value, str):
        return from_rfc3339(value)
    raise ValueError("it must be an RFC 3339 time such as 2026-11-23T02:37:01.123Z, or seconds since 1970")


PUT_SECRET = JsonBody(
    (Field("value", _secret, {"type": "string", "minLength": 1}, "Kept sealed; never shown again.", required=True),),
    "PutSecret",
)
ROTATE_KEY = JsonBody(
    (
        Field(
            "keep_links",
            _flag,
            {"type": "boolean", "default": True},
            "Whether one-time links that are out stay good; false where the old key may be in wrong hands.",
        ),
    ),
    "RotateKey",
)
PUT_VAR = JsonBody(
    (Field("value", lambda value: value, {}, "Any JSON; shown to whoever may read.", required=True),), "PutVar"
)
_PAIRS = {
    "anyOf": [
        {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": _MAX_HEADERS},
        {"type": "array", "items": _PAIR, "maxItems": _MAX_HEADERS},
    ]
}
_NAMED = {"type": "string", "minLength": 1, "maxLength": 63}
SEND_WEBHOOK = JsonBody(
    (
        Field("workflow", _name, _NAMED, "The workflow.", required=True),
        Field("trigger", _name, _NAMED, "Its webhook trigger.", required=True),
        Field("body_b64", _body, {"type": "string", "contentEncoding": "base64"}, "The body in base64; empty without."),
        Field("headers", _headers, _PAIRS, "Further headers: an object, or pairs."),
        Field("query", _pairs, _PAIRS, "Query parameters: an object, or pairs."),
        Field("method", _method, {"enum": list(METHODS)}, "Default POST."),
        Field(
            "delivery_id",
            _delivery_id,
            {"type": ["string", "null"], "minLength": 1, "maxLength": 500},
            "The delivery's id, where the scheme has one in a header; a new one without it.",
        ),
    ),
    "SendWebhook",
)
VERIFY_WEBHOOK = JsonBody(
    (
        Field("verify", _verify, {"type": ["object", "string"]}, "As a trigger has it: {scheme: …}.", required=True),
        Field(
            "secrets",
            _secrets,
            {"type": "array", "items": {"type": "string"}, "maxItems": _MAX_SECRETS},
            "The values of the secrets, the newest first.",
            required=True,
        ),
        Field(
            "headers",
            _headers,
            _PAIRS,
            "The request's headers: an object, or pairs.",
            required=True,
        ),
        Field(
            "body_b64",
            _body,
            {"type": "string", "contentEncoding": "base64"},
            f"The raw body in base64, at most {MAX_VERIFIED} bytes.",
            required=True,
        ),
        Field(
            "query",
            _query,
            {"type": "object", "additionalProperties": {"type": "string"}},
            "The request's query parameters, for scheme token.",
        ),
        Field("now", _now, {"type": ["string", "number", "null"]}, "The receiver's time; the server's without it."),
    ),
    "VerifyWebhook",
    max_bytes=MAX_VERIFIED * 4 // 3 + 256 * 1024,
)
