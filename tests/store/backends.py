"""The stores under test. A second database adds a class here and a name in `conftest.py`, and passes the same suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import apsw

from taskforge.store.protocol import Store
from taskforge.store.sqlite.store import SqliteStore
from tests.support.clock import ManualClock

Dump = dict[str, list[tuple[Any, ...]]]


class Backend(Protocol):
    """A database with an open store."""

    @property
    def store(self) -> Store: ...

    async def reopen(self) -> Store:
        """Close the store and open it again on what is stored."""
        ...

    async def close(self) -> None: ...

    def dump(self) -> Dump:
        """Every row of every table that a verb may change, read past the store."""
        ...


class SqliteBackend:
    """A database file in a directory of the test's own."""

    def __init__(self, path: Path, clock: ManualClock) -> None:
        self.path = path
        self.clock = clock
        self.store: SqliteStore

    async def open(self) -> SqliteBackend:
        self.store = await SqliteStore.open(self.path, clock=self.clock)
        return self

    async def reopen(self) -> SqliteStore:
        await self.store.close()
        self.store = await SqliteStore.open(self.path, clock=self.clock)
        return self.store

    async def close(self) -> None:
        await self.store.close()

    def dump(self) -> Dump:
        conn = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE)
        conn.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        try:
            tables = [name for (name,) in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            return {
                name: sorted(conn.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr)
                for name in tables
                if name not in ("schema_migrations", "properties", "sqlite_sequence")
            }
        finally:
            conn.close()
