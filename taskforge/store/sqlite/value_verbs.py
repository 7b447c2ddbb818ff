"""Verbs of values and access: secrets, variables, tokens."""

from __future__ import annotations

from collections.abc import Sequence

from taskforge.store.audit import AuditFilter, AuditRow
from taskforge.store.sqlite import (
    audit,
    stored_values,
    tokens,
)
from taskforge.store.sqlite.verbs import Verbs
from taskforge.store.values import SecretRow, TokenRow, VarRow


class ValueVerbs(Verbs):
    """Part of `SqliteStore`: values and access."""

    # ---- secrets and variables

    async def put_secret(self, name: str, sealed: bytes, key_id: str, now: int) -> SecretRow:
        return await self._writer.submit(stored_values.put_secret, name, sealed, key_id, now)

    async def list_secrets(self) -> list[SecretRow]:
        return await self._readers.submit(stored_values.list_secrets)

    async def reseal_secrets(self, rows: Sequence[SecretRow]) -> int:
        return await self._writer.submit(stored_values.reseal_secrets, rows)

    async def delete_secret(self, name: str) -> None:
        await self._writer.submit(stored_values.delete_secret, name)

    async def put_var(self, name: str, value: str, now: int) -> VarRow:
        return await self._writer.submit(stored_values.put_var, name, value, now)

    async def list_vars(self) -> list[VarRow]:
        return await self._readers.submit(stored_values.list_vars)

    async def delete_var(self, name: str) -> None:
        await self._writer.submit(stored_values.delete_var, name)

    # ---- access

    async def create_token(self, row: TokenRow) -> None:
        await self._writer.submit(tokens.create_token, row)

    async def list_tokens(self) -> list[TokenRow]:
        return await self._readers.submit(tokens.list_tokens)

    async def find_token(self, hash: str) -> TokenRow | None:
        return await self._readers.submit(tokens.find_token, hash)

    async def revoke_token(self, id: str) -> None:
        await self._writer.submit(tokens.revoke_token, id)

    # ---- the audit log

    async def add_audit(self, row: AuditRow) -> None:
        await self._writer.submit(audit.add_audit, row)

    async def list_audit(self, chosen: AuditFilter) -> list[AuditRow]:
        return await self._readers.submit(audit.list_audit, chosen)

    async def prune_audit(self, before: int, limit: int) -> int:
        return await self._writer.submit(audit.prune_audit, before, limit)
