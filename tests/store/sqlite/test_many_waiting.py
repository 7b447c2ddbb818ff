"""A hundred thousand runs that wait cost rows only: what is done to find the next one does not grow with them.

Counted in steps of SQLite's virtual machine, so that the answer is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from taskforge.store.protocol import RunFilter
from taskforge.store.sql import load_queries
from taskforge.store.sqlite import consequences, leases, run_reads
from taskforge.store.sqlite.connection import Session, open_connection
from tests.store.desk import Desk
from tests.store.sqlite.conftest import OpenStore
from tests.support.clock import ManualClock
from tests.support.plans import WAITING

FEW, MANY = 300, 30_000
NOW = ManualClock().now()

GROUPS: dict[str, dict[str, str]] = {
    "for a signal": {"due_at": "NULL"},
    "for a time": {"due_at": f"{NOW + 1_000} + n"},
    "for a slot": {"due_at": f"{NOW - 1_000}", "needs_slot": "1", "state": "'RUNNING'"},
    "for a place": {"due_at": "NULL", "state": "'QUEUED'", "place": "'flow:a'", "place_limit": "1"},
    "for a parent that was not told": {"due_at": "NULL", "told": "0", "parent_key": "1"},
}
"""Runs that wait, each for something else, by the columns in which they differ from the first run."""


def clone(conn: apsw.Connection, first: int, count: int, other: dict[str, str]) -> None:
    columns = [str(row[1]) for row in conn.execute("PRAGMA table_info(runs)").fetchall()]
    own = {"key": "n", "number": "n", "id": "printf('run_%032d', n)", **other}
    chosen = ", ".join(own.get(name, f"runs.{name}") for name in columns)
    conn.execute(
        f"WITH RECURSIVE numbers (n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM numbers LIMIT {count})"
        f" INSERT INTO runs ({', '.join(columns)}) SELECT {chosen} FROM numbers, runs WHERE runs.key = 1"
    )


async def fill(open_store: OpenStore, path: Path, count: int) -> None:
    """Write `count` runs of each group, past the store, and two to find: one that is due, one that holds the place."""
    store = await open_store()
    desk = Desk(store, ManualClock())
    await desk.publish()
    await desk.publish("other")
    await desk.start(WAITING)
    await store.close()
    conn = apsw.Connection(str(path))
    with conn:
        for place, other in enumerate(GROUPS.values()):
            clone(conn, 2 + place * count, count, other)
        last = 2 + len(GROUPS) * count
        clone(conn, last, 1, {"due_at": str(NOW), "workflow": "'other'"})
        clone(conn, last + 1, 1, {"due_at": "NULL", "place": "'flow:a'", "placed": "1"})
    conn.close()


ACTS: dict[str, Callable[[Session], Any]] = {
    "next_due": lambda session: leases.next_due(session, False, True, ()),
    "next_due without slots": lambda session: leases.next_due(session, False, False, ()),
    "next_due of suspects": lambda session: leases.next_due(session, True, True, ()),
    "lease_steps": lambda session: leases.lease_steps(session, "me", NOW, 64, False, True, ()),
    "lease_steps without slots": lambda session: leases.lease_steps(session, "me", NOW, 64, False, False, ()),
    "list_runs": lambda session: run_reads.list_runs(session, RunFilter()),
    "list_runs by state": lambda session: run_reads.list_runs(session, RunFilter(states=("WAITING",))),
    "find_oldest_placed": lambda session: consequences.find_oldest_placed(session, "flow:a"),
    "a place to give": lambda session: consequences.give_places(session, "flow:a", NOW),
    "list_orphans": lambda session: consequences.list_orphans(session, 500),
    "list_untold_children": lambda session: consequences.list_untold_children(session, 500),
}


def count_work(path: Path) -> dict[str, int]:
    """Do every act once, and undo it; return how many steps each took."""
    session = Session(open_connection(path), load_queries("sqlite"))
    steps = 0

    def step() -> bool:
        nonlocal steps
        steps += 1
        return False

    session.conn.set_progress_handler(step, 1)
    found: dict[str, int] = {}
    for name, act in ACTS.items():
        session.execute("BEGIN")
        steps = 0
        act(session)
        found[name] = steps
        session.execute("ROLLBACK")
    session.conn.close()
    return found


async def test_the_work_to_find_the_next_run_does_not_grow_with_those_that_wait(
    open_store: OpenStore, path: Path, tmp_path: Path
) -> None:
    await fill(open_store, path, FEW)
    few = count_work(path)
    for file in tmp_path.glob("taskforge.db*"):
        file.unlink()
    await fill(open_store, path, MANY)
    assert count_work(path) == few


@pytest.mark.parametrize("count", [FEW, MANY])
async def test_a_run_that_is_due_in_a_held_workflow_costs_a_few_steps(
    open_store: OpenStore, path: Path, count: int
) -> None:
    """Those are passed over one by one, in the index alone."""
    await fill(open_store, path, count)
    session = Session(open_connection(path), load_queries("sqlite"))
    calls = 0

    def step() -> bool:
        nonlocal calls
        calls += 1
        return False

    session.conn.set_progress_handler(step, 1)
    assert leases.next_due(session, False, True, ("flow",)) == NOW
    assert calls < 200 + 25 * 2 * count
    session.conn.close()
