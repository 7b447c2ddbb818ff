"""The audit log: an entry goes with its change, in one transaction, and goes by age alone."""

from __future__ import annotations

import pytest

from taskforge.core.errors import NotFound
from taskforge.store.audit import AuditEntry, AuditFilter, recorded
from tests.store.backends import Backend


def entry(*verbs: str, at: int = 5) -> AuditEntry:
    return AuditEntry(at, "tok_1", "ci", "an_act", "vars/A", "127.0.0.1", frozenset(verbs), {"n": 1})


async def test_an_entry_is_written_with_the_change_of_its_verb_alone(backend: Backend) -> None:
    waiting = entry("put_var")
    with recorded(waiting):
        await backend.store.put_secret("A", b"x", "k", 1)
        assert (await backend.store.list_audit(AuditFilter()), waiting.is_claimed) == ([], False)
        await backend.store.put_var("A", "1", 1)
        await backend.store.put_var("B", "1", 1)
    await backend.store.put_var("C", "1", 1)
    store = await backend.reopen()
    (row,) = await store.list_audit(AuditFilter())
    assert row[1:] == (5, "tok_1", "ci", "an_act", "vars/A", "DONE", "127.0.0.1", '{"n":1}')
    assert waiting.is_claimed


async def test_a_refused_change_writes_no_entry_and_leaves_it_to_the_next(backend: Backend) -> None:
    waiting = entry("delete_var", "put_var")
    before = backend.dump()
    with recorded(waiting):
        with pytest.raises(NotFound):
            await backend.store.delete_var("A")
        assert backend.dump() == before
        assert not waiting.is_claimed
        await backend.store.put_var("A", "1", 1)
    assert len(await backend.store.list_audit(AuditFilter())) == 1


async def test_what_the_verb_returns_is_described_or_nothing_is_written(backend: Backend) -> None:
    waiting = entry("put_var")
    waiting.describe = lambda row: {"name": row.name}
    with recorded(waiting):
        await backend.store.put_var("B", "1", 1)
    unchanged = entry("put_var")
    unchanged.describe, unchanged.detail = lambda row: None, {}
    with recorded(unchanged):
        await backend.store.put_var("B", "1", 1)
    (row,) = await backend.store.list_audit(AuditFilter())
    assert row.detail == '{"n":1,"name":"B"}'


async def test_old_entries_go_and_newer_ones_stay(backend: Backend) -> None:
    for at in (10, 20, 30, 40):
        row = entry(at=at).row()
        assert row is not None
        await backend.store.add_audit(row)
    assert await backend.store.prune_audit(30, 1) == 1
    assert await backend.store.prune_audit(30, 9) == 1
    assert await backend.store.prune_audit(30, 9) == 0
    assert [row.at for row in await backend.store.list_audit(AuditFilter())] == [40, 30]
    assert [row.at for row in await backend.store.list_audit(AuditFilter(until=35))] == [30]
    row = entry(at=50).row()
    assert row is not None
    await backend.store.add_audit(row)
    assert [row.id for row in await backend.store.list_audit(AuditFilter(limit=2))] == [5, 4]
