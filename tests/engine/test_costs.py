"""What a run costs in things that can be counted: the same on every machine, however busy.

A figure that rises here is a regression of `docs/performance.md`; one that falls is to be written down there.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import apsw
import pytest

from taskforge.core import jsontext
from taskforge.engine.starting import StartRequest
from taskforge.store.sqlite.store import SqliteStore
from tests.engine.engine import Engine

RUNS = 20
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
IN_CHILD = """
name: in-child
steps: [{id: a, transform: "${{ [limit(3; repeat($input.name))] | join(\\"-\\") }}"}]
"""


@contextmanager
def counted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count what happens in the body: statements and transactions of the writing connection, questions to jq children,
    and texts made of JSON values."""
    store: SqliteStore = engine.store
    counts: Counter[str] = Counter()
    commits, conn = store.commits, store._writer._session.conn
    encode, ask = jsontext.dump_bytes, engine.evaluator.evaluate

    def statement(event: dict[str, object]) -> None:
        counts["statements"] += 1

    def dump_bytes(value: object) -> bytes:
        counts["JSON texts"] += 1
        return encode(value)

    async def evaluate(*args: object, **named: object) -> object:
        counts["jq round trips"] += 1
        return await ask(*args, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(jsontext, "dump_bytes", dump_bytes)
        patch.setattr(engine.evaluator, "evaluate", evaluate)
        conn.trace_v2(apsw.SQLITE_TRACE_STMT, statement)
        try:
            yield counts
        finally:
            conn.trace_v2(0)
    counts["transactions"] = store.commits - commits


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (TRANSFORMS, {"transactions": 1, "statements": 8, "jq round trips": 0, "JSON texts": 7}),
        (REQUESTS, {"transactions": 4, "statements": 38, "jq round trips": 0, "JSON texts": 10}),
        (IN_CHILD, {"transactions": 2, "statements": 18, "jq round trips": 1, "JSON texts": 6}),
    ],
    ids=["three transforms", "three requests", "one transform in jq"],
)
async def test_a_run_costs_so_much(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, document: str, expected: dict[str, int]
) -> None:
    name = await engine.publish(document)
    await engine.end(await engine.begin(name, input={"name": "x"}))
    with counted(engine, monkeypatch) as counts:
        for _ in range(RUNS):
            await engine.end(await engine.begin(name, input={"name": "x"}))
    found = {what: counts[what] / RUNS for what in expected}
    print(name, found)
    assert found == expected


async def test_a_batch_shares_its_statements(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    name = await engine.publish(TRANSFORMS)
    inputs = [{"name": "x"}] * 128
    await engine.service.start_runs(StartRequest(name), inputs)
    with counted(engine, monkeypatch) as counts:
        await engine.service.start_runs(StartRequest(name), inputs)
    # BEGIN, the numbers, 2 inserts of runs, 6 of steps, 2 of journal entries, 2 of statistics, COMMIT.
    assert (counts["transactions"], counts["statements"]) == (1, 15)


@pytest.mark.parametrize("document", [TRANSFORMS, REQUESTS], ids=["three transforms", "three requests"])
async def test_a_run_that_has_ended_leaves_nothing_to_the_garbage_collector(engine: Engine, document: str) -> None:
    name = await engine.publish(document)
    await engine.end(await engine.begin(name, input={"name": "x"}))
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(RUNS):
            await engine.end(await engine.begin(name, input={"name": "x"}))
        gc.collect()
        circles = Counter(type(left).__name__ for left in gc.garbage)
    finally:
        gc.garbage.clear()
        gc.set_debug(0)
        gc.enable()
    assert not {"RunSnapshot", "StepRun", "Frame", "Driver", "Changes", "Decision"} & circles.keys(), circles
