"""Who calls, and what they may do. Tokens are compared as SHA-256, in constant time; none is kept as text."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import TYPE_CHECKING

from taskforge.api.grants import ALL, Grants
from taskforge.api.route import Scope
from taskforge.core.clock import Clock
from taskforge.core.errors import Unauthorized
from taskforge.core.record import dataclass

if TYPE_CHECKING:
    from taskforge.engine.service import Service
    from taskforge.store.values import TokenRow

CONFIG = "admin"
"""How the token of the configuration is called, as it has no id and no name."""

_KEPT_SECONDS = 0.5  # a revoked token is refused by every node within this time
_KEPT_ENTRIES = 4096
_LONGEST = 1024  # bytes; no token is that long, so that a huge one costs nothing


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller. `scope` is the widest that the token has for the whole server; None: none."""

    id: str
    name: str
    grants: Grants
    scope: Scope | None
    expires_at: int | None = None


def hash_token(token: str) -> str:
    """The SHA-256 that stands for a token in the store, as hex."""
    return hashlib.sha256(token.encode()).hexdigest()


def principal_of(row: TokenRow) -> Principal:
    """The caller whose token this is."""
    grants = Grants.parse(json.loads(row.scopes))
    return Principal(row.id, row.name, grants, grants.everywhere, row.expires_at)


class Authenticator:
    """Checks `Authorization: Bearer`. Only that header counts: never a query parameter, never a cookie."""

    def __init__(self, service: Service, clock: Clock, admin_token: str) -> None:
        self._service = service
        self._clock = clock
        self._admin = hashlib.sha256(admin_token.encode()).digest() if admin_token else None
        self._principal = Principal(CONFIG, CONFIG, ALL, ALL.everywhere)
        self._known: dict[bytes, tuple[float, Principal | None]] = {}

    async def authenticate(self, header: bytes | None) -> Principal:
        """Return the caller; raises Unauthorized, with the same words for every wrong token."""
        if header is None:
            raise Unauthorized("a token is needed: send the header Authorization: Bearer <token>")
        scheme, _, rest = header.partition(b" ")
        token = rest.strip(b" \t")
        if scheme.lower() != b"bearer" or not 0 < len(token) <= _LONGEST:
            raise Unauthorized("the Authorization header must read: Bearer <token>")
        digest = hashlib.sha256(token).digest()
        if self._admin is not None and hmac.compare_digest(digest, self._admin):
            return self._principal
        principal = await self._find(digest)
        if principal is None or (principal.expires_at is not None and principal.expires_at <= self._clock.now()):
            raise Unauthorized("the token is not known, has expired or was revoked")
        return principal

    def forget(self) -> None:
        """Ask the store again for every token: one was made or revoked here."""
        self._known.clear()

    async def _find(self, digest: bytes) -> Principal | None:
        now = self._clock.monotonic()
        known = self._known.get(digest)
        if known is not None and known[0] > now:
            return known[1]
        row = await self._service.find_token(digest.hex())
        principal = None if row is None else principal_of(row)
        if len(self._known) >= _KEPT_ENTRIES:
            # Wrong tokens do not push out good ones.
            good = {key: entry for key, entry in self._known.items() if entry[1] is not None}
            self._known = good if len(good) < _KEPT_ENTRIES else {}
        self._known[digest] = (now + _KEPT_SECONDS, principal)
        return principal
