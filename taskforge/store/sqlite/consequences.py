"""What a decision about one run means for others, in the same transaction: places in `concurrency`, child runs, and
the runs that begin when it ends.

Places are derived from the rows of live runs; there is no counter that could leak.
"""

from __future__ import annotations

from typing import Any

from taskforge.core.snapshot import Changes, StepRecord
from taskforge.core.states import RUN_TERMINAL, STEP_TERMINAL, RunState
from taskforge.store.sqlite.connection import Session

_WAITED_FOR, _ORPHAN = 0, 2
"""Values of `runs.told`; 1 is written by `apply_told`."""


def consequences(session: Session, key: int, changes: Changes) -> int | None:
    """Give places to who is next, and let go of children. Return the time since when a run is due that was given a
    place, or None."""
    run = changes.run
    for step in changes.steps:
        if step.state in STEP_TERMINAL and _may_have_child(step):
            session.execute(session.sql["step_ended"], (key, step.path))
    if run.state in RUN_TERMINAL:
        session.execute(session.sql["parent_ended"], (key,))
        note_end(session, key, run.state)
    elif changes.claim is not None and run.state == RunState.QUEUED and run.place is not None:
        due_at = None if changes.claim.queues else changes.now
        session.execute(session.sql["place_claim"], (key, changes.claim.limit, due_at))
    else:
        return None
    return None if run.place is None else give_places(session, run.place, changes.now)


def note_end(session: Session, key: int, state: str, workflow: str | None = None) -> None:
    """Leave an entry for every workflow that begins when this run ends; mostly there is none, which is remembered."""
    sources = session.sources
    if sources is None:
        sources = session.sources = frozenset(source for (source,) in session.rows("list_sources"))
    if sources and (workflow is None or workflow in sources):
        session.execute(session.sql["run_ended"], (key, f'"{state}"'))


def told_of_start(session: Session, parent_key: int | None, parent: Any) -> int | None:
    """Return `told` of a child run that begins: nobody waits, its parent's step waits, or that has ended meanwhile."""
    if parent_key is None or "signal" not in parent:
        return None
    found = session.row("start_run_parent", (parent_key, parent["path"]))
    ended = found is None or found[0] in RUN_TERMINAL or found[1] in STEP_TERMINAL
    return _ORPHAN if ended else _WAITED_FOR


def _may_have_child(step: StepRecord) -> bool:
    return step.kind == "workflow" or (step.data is not None and "!child:" in step.data)


def give_places(session: Session, place: str, now: int) -> int | None:
    """Give free places to the runs that wait for them, by priority and then by age. Each asked under the limit of its
    own version; behind one that has to wait, nobody passes."""
    granted: int | None = None
    holders: int | None = None
    while (first := session.row("place_first_queued", (place,))) is not None:
        key, limit = first
        if holders is None:
            holders = session.rows("place_holders", (place,))[0][0]
        if holders >= limit:
            break
        session.execute(session.sql["place_grant"], (key, now))
        holders += 1
        granted = now
    return granted


def find_oldest_placed(session: Session, place: str) -> int | None:
    row = session.row("find_oldest_placed", (place,))
    return None if row is None else int(row[0])


def find_replaced(session: Session, place: str) -> int | None:
    row = session.row("find_replaced", (place,))
    return None if row is None else int(row[0])


def list_queued(session: Session, after: str, limit: int) -> list[tuple[str, int]]:
    return [(place, key) for place, key in session.rows("list_queued", (after, limit))]


def list_children(session: Session, key: int) -> list[int]:
    return [child for (child,) in session.rows("list_children", (key,))]


def list_untold_children(session: Session, limit: int) -> list[int]:
    return [child for (child,) in session.rows("list_untold_children", (limit,))]


def list_orphans(session: Session, limit: int) -> list[int]:
    return [child for (child,) in session.rows("list_orphans", (limit,))]
