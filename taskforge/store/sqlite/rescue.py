"""Freeing what a dead process held, or what a process has not renewed in time."""

from __future__ import annotations

from typing import Any, Final

from taskforge.core.decide import ALONE, CONVICTED, CRASH_LIMIT, SUSPECT
from taskforge.core.errors import Failure
from taskforge.core.jsontext import dumps
from taskforge.store.protocol import Rescued
from taskforge.store.sqlite.connection import Session

CHUNK: Final = 500
"""Most runs freed in one transaction, so that other verbs get their turn."""


def held_by(session: Session) -> list[str]:
    """Return every owner that holds a run or an attempt."""
    return [owner for (owner,) in session.rows("rescue_leases_owners")]


def rescue_owner(session: Session, owner: str, now: int) -> Rescued:
    """Free at most CHUNK runs of a dead owner. `runs` is 0 when nothing is left."""
    keys = dict.fromkeys(key for (key,) in session.rows("rescue_leases_runs", (owner, CHUNK)))
    keys |= dict.fromkeys(key for (key,) in session.rows("rescue_leases_strays", (owner, CHUNK)))
    attempts = sum(_free(session, key, owner, now, died=True) for key in keys)
    return Rescued(attempts, len(keys))


def rescue_lapsed(session: Session, keep: str | None, now: int) -> Rescued:
    """Free at most CHUNK runs with a lapsed lease. All attempts that the same owner has in such a run are LOST with it:
    the run moves on, so the owner could end none of them any more."""
    lapsed = session.rows("rescue_leases_lapsed", (keep, now, CHUNK))
    attempts = sum(_free(session, key, owner, now, died=False) for key, owner in lapsed)
    return Rescued(attempts, len(lapsed))


def _free(session: Session, key: int, owner: str, now: int, *, died: bool) -> int:
    """Free one run; return how many of its attempts are LOST."""
    entries: list[dict[str, Any]] = []
    at_limit = False
    attempts = session.rows("rescue_leases_attempts", (owner, key))
    for path, generation, number in attempts:
        failure = _failure(path, number, died)
        error = dumps(failure.to_json())
        session.write("rescue_leases_attempt", (key, path, generation, number, now, error))
        entries.append({"step": path, "attempt": number, "ended": "LOST", "error": failure.code})
        step = session.row("rescue_leases_step", (key, path, generation, now, 1 if died else 0))
        if step is not None:
            at_limit = at_limit or (died and step[0] >= CRASH_LIMIT)
            entries.append({"step": path, "from": "RUNNING", "to": "QUEUED", "code": "LOST"})
            session.add("step", "RUNNING", -1)
            session.add("step", "QUEUED", 1)
    suspect = session.rows("rescue_leases_suspect", (key,))[0][0]
    if died and attempts and suspect == ALONE:
        suspect = CONVICTED
    elif at_limit:
        suspect = max(suspect, SUSPECT)
    session.write("rescue_leases_free", (key, now, suspect))
    if entries:
        session.write("apply_journal", (key, now, dumps(entries)))
    return len(attempts)


def _failure(path: str, number: int, died: bool) -> Failure:
    if died:
        return Failure("PROCESS_DIED", "the server's process ended while the attempt ran", path, number)
    return Failure("LEASE_EXPIRED", "the attempt's lease lapsed before it ended", path, number)
