"""Secrets and variables: stored by name, replaced, listed, deleted; the store sees secrets sealed only."""

from __future__ import annotations

import pytest

from taskforge.core.errors import NotFound
from taskforge.store.values import SecretRow, VarRow
from tests.store.backends import Backend


async def test_a_secret_is_replaced_and_keeps_the_time_of_its_first_value(backend: Backend) -> None:
    assert await backend.store.put_secret("B", b"\x00\xff", "k1", 5) == SecretRow("B", b"\x00\xff", "k1", 5, 5)
    await backend.store.put_secret("A", b"a", "k1", 6)
    assert await backend.store.put_secret("B", b"new", "k2", 9) == SecretRow("B", b"new", "k2", 5, 9)
    store = await backend.reopen()
    assert await store.list_secrets() == [SecretRow("A", b"a", "k1", 6, 6), SecretRow("B", b"new", "k2", 5, 9)]
    await store.delete_secret("A")
    assert [row.name for row in await store.list_secrets()] == ["B"]


async def test_a_variable_is_replaced_listed_and_deleted(backend: Backend) -> None:
    assert await backend.store.put_var("B", "[1]", 5) == VarRow("B", "[1]", 5, 5)
    await backend.store.put_var("A", '"é"', 6)
    assert await backend.store.put_var("B", "null", 9) == VarRow("B", "null", 5, 9)
    assert await backend.store.list_vars() == [VarRow("A", '"é"', 6, 6), VarRow("B", "null", 5, 9)]
    await backend.store.delete_var("B")
    assert [row.name for row in await backend.store.list_vars()] == ["A"]


async def test_names_differ_by_case_and_secrets_from_variables(backend: Backend) -> None:
    await backend.store.put_secret("name", b"a", "k", 1)
    await backend.store.put_secret("NAME", b"b", "k", 1)
    assert len(await backend.store.list_secrets()) == 2
    assert await backend.store.list_vars() == []


async def test_what_is_not_there_is_not_deleted(backend: Backend) -> None:
    await backend.store.put_secret("A", b"a", "k", 1)
    await backend.store.put_var("V", "1", 1)
    before = backend.dump()
    for delete, name in ((backend.store.delete_secret, "V"), (backend.store.delete_var, "A")):
        with pytest.raises(NotFound):
            await delete(name)
    assert backend.dump() == before
