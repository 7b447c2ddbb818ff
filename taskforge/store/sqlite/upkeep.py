"""Nodes, retention and statistics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from taskforge.core.states import DeadLetterState, RunState, StepState
from taskforge.store.protocol import Stats
from taskforge.store.sqlite.connection import Session
from taskforge.store.sqlite.rescue import held_by
from taskforge.store.sqlite.workflow_state import forget_rates


def register_node(session: Session, id: str, info: str, now: int) -> list[str]:
    session.write("register_node", (id, info, now))
    # The home's lock is ours, so every other process of this database is dead.
    session.write("register_node_forget", (id,))
    forget_rates(session, now)
    return [owner for owner in held_by(session) if owner != id]


def find_ended(
    session: Session, created_from: int, ended_before: int, keyed_before: int, limit: int
) -> list[tuple[int, int]]:
    """Return (key, created_at) of runs that may be deleted, oldest first. A run with an open dead letter is kept."""
    return session.rows("prune_runs_find", (created_from, ended_before, keyed_before, limit))


def count_ended(session: Session, ended_before: int, keyed_before: int) -> int:
    return int(session.rows("count_ended", (ended_before, keyed_before))[0][0])


def prune_runs(session: Session, keys: Sequence[int], ended_before: int, keyed_before: int) -> int:
    """Delete runs with all their rows; those that are no longer as they were found are left."""
    deleted = 0
    for key in keys:
        found = session.row("prune_runs_state", (key, ended_before, keyed_before))
        if found is None:
            continue
        session.add("run", found[0], -1)
        for kind, name in (("step", "prune_runs_steps"), ("dead_letter", "prune_runs_dead_letters")):
            for state, n in session.rows(name, (key,)):
                session.add(kind, state, -n)
        session.write("prune_runs_delete", (key,))
        deleted += 1
    return deleted


def free_pages(session: Session, limit: int, keep: int) -> int:
    free = session.pragma("freelist_count")
    if free > keep:
        session.execute(f"PRAGMA incremental_vacuum({min(free - keep, limit)})").fetchall()
        free = session.pragma("freelist_count")
    return free


def stats(session: Session, now: int, path: Path) -> Stats:
    found = Stats(
        runs=dict.fromkeys(map(str, RunState), 0),
        steps=dict.fromkeys(map(str, StepState), 0),
    )
    for kind, state, n in session.rows("stats_counts"):
        if kind == "run":
            found.runs[state] = n
        elif kind == "step":
            found.steps[state] = n
        elif kind == "dead_letter" and state == DeadLetterState.OPEN:
            found.dead_letters = n
    ready, oldest = session.rows("stats_ready", (now,))[0]
    found.ready_steps = ready
    found.oldest_ready_ms = None if oldest is None else max(0, now - oldest)
    found.db_bytes = session.pragma("page_count") * session.pragma("page_size")
    found.free_bytes = session.pragma("freelist_count") * session.pragma("page_size")
    wal = Path(f"{path}-wal")
    found.wal_bytes = wal.stat().st_size if wal.exists() else 0
    return found
