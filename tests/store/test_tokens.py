"""API tokens: stored by hash, found, listed, revoked."""

from __future__ import annotations

import pytest

from taskforge.core.errors import NotFound
from taskforge.store.protocol import Store
from taskforge.store.values import TokenRow
from tests.store.backends import Backend


def token(n: int, expires_at: int | None = None) -> TokenRow:
    return TokenRow(f"tok_{n}", "same name", f"{n:064x}", '["run","read"]', n, expires_at)


async def test_a_token_is_found_by_its_hash_alone(backend: Backend) -> None:
    store: Store = backend.store
    await store.create_token(token(1, expires_at=9))
    assert await store.find_token(f"{1:064x}") == token(1, expires_at=9)
    for other in ("", "tok_1", f"{2:064x}", f"{1:064x}"[:-1], "é"):
        assert await store.find_token(other) is None


async def test_tokens_are_listed_in_the_order_of_their_ids(backend: Backend) -> None:
    for n in (3, 1, 2):
        await backend.store.create_token(token(n))
    assert await backend.store.list_tokens() == [token(1), token(2), token(3)]


async def test_a_revoked_token_is_gone(backend: Backend) -> None:
    await backend.store.create_token(token(1))
    await backend.store.create_token(token(2))
    await backend.store.revoke_token("tok_1")
    assert await backend.store.find_token(f"{1:064x}") is None
    assert await backend.store.list_tokens() == [token(2)]


async def test_an_unknown_token_is_not_revoked(backend: Backend) -> None:
    await backend.store.create_token(token(1))
    before = backend.dump()
    for id in ("tok_2", "", f"{1:064x}"):
        with pytest.raises(NotFound):
            await backend.store.revoke_token(id)
    assert backend.dump() == before
