"""Finds out why a signature does not fit, for a person who holds the secret: what senders and receivers get wrong.

Costs several signatures of the body, so that it is for `POST /v1/webhooks:verify` alone and never for a hook.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from taskforge.core.verify_config import VerifyConfig
from taskforge.triggers.signature_schemes import SCHEMES, STANDARD_PREFIX, Refused, Seen

_OTHERS = {
    "x-hub-signature-256": "github",
    "stripe-signature": "stripe",
    "x-slack-signature": "slack",
    "webhook-signature": "standard",
}


def find_hint(
    config: VerifyConfig,
    secrets: Sequence[bytes],
    headers: Sequence[tuple[str, str]],
    body: bytes,
    query: Mapping[str, str],
    now_ms: int,
    code: str,
) -> str | None:
    """Return in plain words what would make the request fit, or None. `code` is the verdict's."""
    if code == "HEADER_MISSING":
        names = {name.lower() for name, _ in headers}
        for header, scheme in _OTHERS.items():
            if header in names and scheme != config.scheme:
                return f"the request has {header}, as scheme {scheme} does"
        if config.scheme == "github" and "x-hub-signature" in names:
            return "X-Hub-Signature (SHA-1) alone is not accepted; set a secret on GitHub, which sends both"
        return None
    if code not in ("SIGNATURE_MISMATCH", "TOKEN_MISMATCH") or not secrets:
        return None
    seen = Seen(config, headers, query, body, now_ms)
    for words, other, keys in _variants(seen, secrets):
        try:
            SCHEMES[config.scheme].check(other, keys)
        except Refused:
            continue
        return words
    return None


def _variants(seen: Seen, secrets: Sequence[bytes]) -> Iterator[tuple[str, Seen, list[bytes]]]:
    config, body, same = seen.config, seen.body, list(secrets)
    stripped = [secret.strip() for secret in secrets]
    if stripped != same and all(stripped):
        yield "it fits the secret without the white space around it: store it without", seen, stripped
    yield "it fits the secret with a newline at its end: the sender has one too many", seen, [s + b"\n" for s in same]
    if config.scheme in ("github", "stripe", "slack", "hmac"):
        bare = [secret.removeprefix(STANDARD_PREFIX) for secret in secrets]
        if bare != same and all(bare):
            yield "it fits the secret without whsec_", seen, bare
    for changed in dict.fromkeys((body.rstrip(b"\r\n"), body + b"\n", body.replace(b"\r\n", b"\n"))):
        if changed != body:
            yield (
                "it fits the body with other line ends: the body was changed on its way",
                replace(seen, body=changed),
                same,
            )
    if body:
        yield "it fits an empty body: the body was lost, or not signed", replace(seen, body=b""), same
    if config.scheme == "hmac":
        for algorithm in ("sha1", "sha256", "sha512"):
            for encoding in ("hex", "base64"):
                other = replace(config, algorithm=algorithm, encoding=encoding)
                if other != config:
                    yield f"it fits `algorithm: {algorithm}, encoding: {encoding}`", replace(seen, config=other), same
