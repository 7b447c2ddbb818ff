"""Who holds which run, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from taskforge.core.errors import LeaseLost
from taskforge.core.jsontext import dumps
from taskforge.store.sqlite.connection import Session
from taskforge.store.sqlite.workflow_state import EVERYTHING

_HIGHEST: Final = 2**62


def lease_steps(
    session: Session, owner: str, now: int, limit: int, suspects: bool, slots: bool, held: Sequence[str]
) -> list[int]:
    """Take due runs that nobody holds; return their keys in the order in which they are to be driven."""
    if EVERYTHING in held:
        return []
    but = dumps(list(held))
    if suspects:
        keys = [key for (key,) in session.rows("lease_steps_suspects", (int(slots), now, but, limit))]
    else:
        keys = []
        for priority, needs in _priorities(session, slots):
            left = limit - len(keys)
            if left <= 0:
                break
            due: list[tuple[int, int]] = []
            for needs_slot in needs:
                due += session.rows("lease_steps_due", (needs_slot, priority, now, but, left))
            keys += [key for _, key in sorted(due)[:left]]
        if not slots and len(keys) < limit:
            keys += [key for (key,) in session.rows("lease_steps_latest", (now, but, limit - len(keys)))]
    session.executemany(session.sql["lease_steps_take"], [(key, owner) for key in keys])
    return keys


def next_due(session: Session, suspects: bool, slots: bool, held: Sequence[str]) -> int | None:
    if EVERYTHING in held:
        return None
    but = dumps(list(held))
    if suspects:
        found: int | None = session.rows("next_due_suspect", (int(slots), but))[0][0]
        return found
    times: list[int] = []
    for priority, needs in _priorities(session, slots):
        for needs_slot in needs:
            times += [due_at for (due_at,) in session.rows("next_due", (needs_slot, priority, but))]
    if not slots:
        times += [latest_at for (latest_at,) in session.rows("next_latest", (but,))]
    return min(times, default=None)


def release_run(session: Session, key: int, revision: int, due_at: int) -> None:
    if not session.write("release_run", (key, revision, due_at)):
        raise LeaseLost(f"run {key} has moved on from revision {revision}")


def give_back(session: Session, keys: list[int], owner: str, now: int) -> None:
    """Undo `lease_steps` for runs that could not be loaded."""
    session.executemany(session.sql["lease_steps_give_back"], [(key, owner, now) for key in keys])


def renew_leases(session: Session, owner: str, until: int) -> int:
    return session.write("renew_leases", (owner, until))


def _priorities(session: Session, slots: bool) -> list[tuple[int, list[int]]]:
    """Return the priorities of runs that wait, highest first, each with the values of `needs_slot` that it has: there
    are few, and each is one look into the index."""
    found: dict[int, list[int]] = {}
    for needs_slot in (0, 1) if slots else (0,):
        below = _HIGHEST
        while (row := session.row("lease_steps_next_priority", (needs_slot, below))) is not None:
            below = row[0]
            found.setdefault(below, []).append(needs_slot)
    return sorted(found.items(), reverse=True)
