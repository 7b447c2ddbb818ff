"""What is kept for a workflow beside its versions: holds and `$state`; and the state of rate limits."""

from __future__ import annotations

from typing import Final

from taskforge.core.errors import NotFound
from taskforge.store.sqlite.connection import Session

EVERYTHING: Final = "*"
"""Stands for all workflows among the holds."""

RATES_KEPT_MS: Final = 24 * 3_600_000
"""How long the state of a rate limit is kept that admits everything again."""


def set_hold(session: Session, workflow: str | None, held: bool, now: int) -> None:
    if workflow is not None and session.row("get_workflow", (workflow,)) is None:
        # A workflow that was deleted while it was held can still be let go on.
        if held or workflow == EVERYTHING or not session.write("set_hold_off", (workflow,)):
            raise NotFound(f"there is no workflow {workflow}")
        return
    name = EVERYTHING if workflow is None else workflow
    if held:
        session.write("set_hold", (name, now))
    else:
        session.write("set_hold_off", (name,))
        session.write("set_hold_wake", (workflow,))


def list_holds(session: Session) -> list[str]:
    return [name for (name,) in session.rows("list_holds")]


def get_state(session: Session, workflow: str) -> dict[str, str]:
    return dict(session.rows("get_state", (workflow,)))


def set_state(
    session: Session,
    workflow: str,
    key: str,
    value: str | None,
    writer: str,
    expected: str | None,
    compare: bool,
    now: int,
) -> bool:
    row = session.row("set_state_find", (workflow, key))
    if row is None and session.row("set_state_workflow", (workflow,)) is None:
        raise NotFound(f"there is no workflow {workflow}")
    current, last_writer = row if row is not None else (None, None)
    if last_writer == writer and current == value:
        return True
    if compare and current != expected:
        return False
    # A value that was removed stays as NULL: its writer may come again, after a crash.
    session.write("set_state", (workflow, key, value, writer, now))
    return True


def list_rates(session: Session) -> dict[str, int]:
    return dict(session.rows("list_rates"))


def forget_rates(session: Session, now: int) -> None:
    """Delete the state of rate limits that has meant nothing for a day."""
    session.write("forget_rates", (now - RATES_KEPT_MS,))
