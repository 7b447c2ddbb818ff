"""The store's verbs for secrets, variables and tokens: part of `store.protocol.Store`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class SecretRow(NamedTuple):
    """A secret as it is stored: sealed with the key that `key_id` names."""

    name: str
    sealed: bytes
    key_id: str
    created_at: int
    updated_at: int


class VarRow(NamedTuple):
    """A variable; `value` is JSON text."""

    name: str
    value: str
    created_at: int
    updated_at: int


class TokenRow(NamedTuple):
    """An API token; only its SHA-256 is stored. `scopes` is JSON text of a list."""

    id: str
    name: str
    hash: str
    scopes: str
    created_at: int
    expires_at: int | None


class ValueStore(Protocol):
    """Secrets and variables of the whole home. There are few, so lists are not paged."""

    async def put_secret(self, name: str, sealed: bytes, key_id: str, now: int) -> SecretRow:
        """Store a secret, or replace it; `created_at` stays that of the first."""
        ...

    async def list_secrets(self) -> list[SecretRow]:
        """By name."""
        ...

    async def delete_secret(self, name: str) -> None:
        """Raises NotFound."""
        ...

    async def reseal_secrets(self, rows: Sequence[SecretRow]) -> int:
        """Put these in the place of the stored ones of their names, all in one transaction: `sealed` and `key_id` alone
        change. One that was deleted meanwhile stays so. Returns how many there were."""
        ...

    async def put_var(self, name: str, value: str, now: int) -> VarRow:
        """Store a variable (JSON text), or replace it."""
        ...

    async def list_vars(self) -> list[VarRow]:
        """By name."""
        ...

    async def delete_var(self, name: str) -> None:
        """Raises NotFound."""
        ...

    async def create_token(self, row: TokenRow) -> None: ...
    async def list_tokens(self) -> list[TokenRow]: ...
    async def find_token(self, hash: str) -> TokenRow | None: ...
    async def revoke_token(self, id: str) -> None:
        """Raises NotFound."""
        ...
