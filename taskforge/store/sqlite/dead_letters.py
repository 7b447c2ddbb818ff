"""Steps that have used up their attempts."""

from __future__ import annotations

from taskforge.core.errors import DeadLetterClosed, NotFound
from taskforge.store.protocol import DeadLetterRow
from taskforge.store.sqlite.connection import Session

_AFTER_ALL_IDS = "\U0010ffff"


def get_dead_letter(session: Session, id: str) -> DeadLetterRow:
    row = session.row("get_dead_letter", (id,))
    if row is None:
        raise NotFound(f"there is no dead letter {id}")
    return DeadLetterRow._make(row)


def list_dead_letters(
    session: Session, state: str | None, cursor: str | None, limit: int, workflow: str | None
) -> list[DeadLetterRow]:
    before = _AFTER_ALL_IDS if cursor is None else cursor
    if workflow is not None:
        rows = session.rows("list_dead_letters_of_workflow", (workflow, before, state, limit))
    elif state is None:
        rows = session.rows("list_dead_letters", (before, limit))
    else:
        rows = session.rows("list_dead_letters_in_state", (state, before, limit))
    return [DeadLetterRow._make(row) for row in rows]


def discard_dead_letter(session: Session, id: str, now: int) -> DeadLetterRow:
    if session.write("discard_dead_letter", (id, now)):
        session.add("dead_letter", "OPEN", -1)
        session.add("dead_letter", "DISCARDED", 1)
        return get_dead_letter(session, id)
    found = get_dead_letter(session, id)
    raise DeadLetterClosed(f"dead letter {id} is {found.state}", detail={"state": found.state})
