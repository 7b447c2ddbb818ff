"""An application whose service knows tokens and nothing else: for what happens before a call is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from taskforge.api.auth import hash_token
from taskforge.api.server import Api, create_api
from taskforge.config.settings import AuthSettings, ServerSettings, Settings
from taskforge.core.errors import NotFound
from taskforge.engine.service import Service
from taskforge.store.values import TokenRow
from tests.support.clock import ManualClock

ADMIN = "tf_admin_0123456789"


class TokenBook:
    """The part of the service that the gate asks; every other call ends with NotFound, whatever it is."""

    stopping = False
    held: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.rows: dict[str, TokenRow] = {}
        self.lookups = 0

    def add(self, token: str, *scopes: str, expires_at: int | None = None) -> None:
        text = "[" + ",".join(f'"{scope}"' for scope in scopes) + "]"
        digest = hash_token(token)
        self.rows[digest] = TokenRow(f"tok_{len(self.rows)}", token, digest, text, 0, expires_at)

    async def find_token(self, digest: str) -> TokenRow | None:
        self.lookups += 1
        return self.rows.get(digest)

    def liveness(self) -> str | None:
        return None

    async def readiness(self) -> str | None:
        return None

    def __getattr__(self, name: str) -> Any:
        async def refuse(*_: Any, **__: Any) -> Any:
            raise NotFound("there is nothing here")

        return refuse


def make_gate(book: TokenBook | None = None, **server: Any) -> tuple[Api, TokenBook, ManualClock]:
    """The real gate and table over a `TokenBook`."""
    book, clock = book or TokenBook(), ManualClock()
    settings = Settings(Path("unused"), AuthSettings(ADMIN), ServerSettings(**server))
    return create_api(cast(Service, book), settings, clock), book, clock
