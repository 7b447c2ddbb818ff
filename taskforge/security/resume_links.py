"""One-time links that resume a waiting step: for people and programs that have no token.

Who has the link may resume this one step of this one run, once. That it is used once is the engine's to see; this
module sees that nobody makes or changes one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import NamedTuple

from taskforge.core.jsontext import JsonError, dumps, loads
from taskforge.security.keys import LINK_PURPOSE, derive_key

PATH = "/hooks/-/resume/"
_LONGEST = 2_000  # characters of a token; a path of ten loops needs less


class ResumeTarget(NamedTuple):
    """What a link resumes: a wait step of a run, as it stands in one generation."""

    run: str
    path: str
    generation: int


class ResumeLinks:
    """Makes and reads links. A token is what it resumes, and an HMAC-SHA256 over that."""

    def __init__(self, key: bytes, base_url: str) -> None:
        self.use_keys(key)
        self._base_url = base_url.rstrip("/")

    def use_keys(self, key: bytes, earlier: Sequence[bytes] = ()) -> None:
        """Sign with the home's key from now on; also read what was signed with these derived keys of earlier ones."""
        self._keys = (derive_key(key, LINK_PURPOSE), *earlier)

    def url(self, target: ResumeTarget) -> str:
        """Return the link for a step."""
        return f"{self._base_url}{PATH}{self.token(target)}"

    def token(self, target: ResumeTarget) -> str:
        payload = _encode(dumps(list(target)).encode())
        return f"{payload}.{_signature(self._keys[0], payload)}"

    def read(self, token: str) -> ResumeTarget | None:
        """Return what a token of ours resumes; None for anything else, however little it differs."""
        payload, _, signature = token.partition(".")
        if len(token) > _LONGEST or not token.isascii():
            return None
        if not any(hmac.compare_digest(_signature(key, payload), signature) for key in self._keys):
            return None
        try:
            run, path, generation = loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        except (binascii.Error, JsonError, ValueError, TypeError):
            return None
        return ResumeTarget(run, path, generation)


def _signature(key: bytes, payload: str) -> str:
    # Over the text itself: no second spelling of the same bytes is good.
    return _encode(hmac.digest(key, payload.encode(), hashlib.sha256))


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
