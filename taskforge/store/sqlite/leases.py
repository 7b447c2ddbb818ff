"""Who holds which run, and for how long."""

from __future__ import annotations

from typing import Final

from taskforge.core.errors import LeaseLost
from taskforge.store.sqlite.connection import Session

_HIGHEST: Final = 2**62


def lease_steps(session: Session, owner: str, now: int, limit: int, suspects: bool) -> list[int]:
    """Take due runs that nobody holds; return their keys in the order in which they are to be driven."""
    if suspects:
        keys = [key for (key,) in session.rows("lease_steps_suspects", (now, limit))]
    else:
        keys = []
        for priority in _priorities(session):
            if len(keys) >= limit:
                break
            keys += [key for (key,) in session.rows("lease_steps_due", (priority, now, limit - len(keys)))]
    session.executemany(session.sql["lease_steps_take"], [(key, owner) for key in keys])
    return keys


def next_due(session: Session, suspects: bool) -> int | None:
    if suspects:
        found: int | None = session.rows("next_due_suspect")[0][0]
        return found
    times = [session.rows("next_due", (priority,))[0][0] for priority in _priorities(session)]
    return min(times, default=None)


def release_run(session: Session, key: int, revision: int, due_at: int) -> None:
    if not session.write("release_run", (key, revision, due_at)):
        raise LeaseLost(f"run {key} has moved on from revision {revision}")


def give_back(session: Session, keys: list[int], owner: str, now: int) -> None:
    """Undo `lease_steps` for runs that could not be loaded."""
    session.executemany(session.sql["lease_steps_give_back"], [(key, owner, now) for key in keys])


def renew_leases(session: Session, owner: str, until: int) -> int:
    return session.write("renew_leases", (owner, until))


def _priorities(session: Session) -> list[int]:
    """Return the priorities of runs that wait, highest first: there are few, and each is one look into the index."""
    found: list[int] = []
    below = _HIGHEST
    while (row := session.row("lease_steps_next_priority", (below,))) is not None:
        below = row[0]
        found.append(below)
    return found
