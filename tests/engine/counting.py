"""Counts what runs cost: the same on every machine, however busy. `tests/engine/test_costs.py` holds the figures,
`python -m tests.bench.counts` prints them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

import apsw
import orjson

from taskforge.core import jsontext
from taskforge.store.sqlite.store import SqliteStore
from tests.engine.engine import Engine

TRANSFORMS = """
name: transforms
steps:
  - {id: a, transform: {n: 1, name: "${{ $input.name }}"}}
  - {id: b, transform: "${{ $a.name }}"}
  - {id: c, transform: {first: "${{ $a.n }}", second: "${{ $b }}"}}
output: ${{ $c }}
"""
REQUESTS = """
name: requests
steps:
  - {id: a, http: {url: "URL/a"}}
  - {id: b, http: {url: "URL/b"}}
  - {id: c, http: {url: "URL/c?n=${{ $a.status }}"}}
"""
REFUSED = """
name: refused
steps: [{id: a, http: {url: "http://127.0.0.1:1/"}, retry: {max_attempts: 1}}]
"""
IN_CHILD = """
name: in-child
steps: [{id: a, transform: "${{ [limit(3; repeat($input.name))] | join(\\"-\\") }}"}]
"""


@contextmanager
def counted(engine: Engine) -> Iterator[Counter[str]]:
    """Count what happens in the body: statements and transactions of the writing connection (each transaction is one
    fsync), questions to jq children, texts made of JSON values, and iterations of the event loop."""
    store: SqliteStore = engine.store
    counts: Counter[str] = Counter()
    commits, conn = store.commits, store._writer._session.conn
    ask = engine.evaluator.evaluate
    loop = asyncio.get_running_loop()
    run_once = loop._run_once  # type: ignore[attr-defined]

    def statement(event: dict[str, object]) -> None:
        counts["statements"] += 1

    def dumps(value: object) -> bytes:
        counts["JSON texts"] += 1
        return orjson.dumps(value)

    async def evaluate(*args: object, **named: object) -> object:
        counts["jq round trips"] += 1
        return await ask(*args, **named)  # type: ignore[arg-type]

    def iterate() -> None:
        counts["loop iterations"] += 1
        run_once()

    with (
        mock.patch.object(
            jsontext,
            "orjson",
            SimpleNamespace(dumps=dumps, loads=orjson.loads, JSONDecodeError=orjson.JSONDecodeError),
        ),
        mock.patch.object(engine.evaluator, "evaluate", evaluate),
        mock.patch.object(loop, "_run_once", iterate),
    ):
        conn.trace_v2(apsw.SQLITE_TRACE_STMT, statement)
        try:
            yield counts
        finally:
            conn.trace_v2(0)
    counts["transactions"] = store.commits - commits
