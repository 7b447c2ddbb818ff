"""`runs list --watch`: a table that is drawn again in place; in a pipe, a line for each run that has moved."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Cell, Paint, lay_out
from taskforge.cli.run_view import HEADS, name_of, row_of

if TYPE_CHECKING:
    from taskforge.cli.command import Session

_EVERY_S = 1.0


def watch_runs(session: Session, chosen: Mapping[str, Any]) -> None:
    """Look once a second until Ctrl-C or until nobody reads any more. CommandError: the server stayed away (3)."""
    from taskforge.cli.region import Region
    from taskforge.core.clock import SystemClock

    screen, clock = session.screen, SystemClock()
    region = Region(screen, clock.monotonic) if screen.is_live else None
    seen: dict[str, tuple[Any, ...]] = {}
    away: float | None = None
    try:
        while screen.has_reader():
            page = _look(session, chosen)
            if page is None:
                away = _wait_for(session, away, clock.monotonic())
            else:
                away = None
                if region is None:
                    _tell_moved(session, page, seen)
            if region is not None:
                region.draw(partial(_lines, page, clock.wall()))
            time.sleep(_EVERY_S)
    except KeyboardInterrupt:
        raise CommandError("stopped watching; the runs go on", code=Exit.INTERRUPTED) from None


def _look(session: Session, chosen: Mapping[str, Any]) -> list[Any] | None:
    """The runs, newest first; None when the server is away."""
    try:
        found: list[Any] = session.client.get("runs", **chosen)["items"]
    except CommandError as fault:
        if fault.refused:
            raise
        return None
    return found


def _wait_for(session: Session, away: float | None, now: float) -> float:
    from taskforge.cli.stream import PATIENCE_S

    if away is None:
        session.screen.note(f"the server cannot be reached; trying for {PATIENCE_S:g} s …")
        return now
    if now - away > PATIENCE_S:
        raise CommandError(
            f"the server did not come back within {PATIENCE_S:g} s",
            hint="taskforge status says what runs, and where",
            code=Exit.UNREACHABLE,
        )
    return away


def _tell_moved(session: Session, runs: list[Any], seen: dict[str, tuple[Any, ...]]) -> None:
    screen = session.screen
    for run in reversed(runs):
        stands = (run["state"], run.get("generation"))
        if seen.get(run["id"]) == stands:
            continue
        seen[run["id"]] = stands
        if screen.quiet:
            screen.line(name_of(run))
            continue
        name, moved, trigger, created, took, error = row_of(run)
        screen.line(f"{name:<24}  ", moved, f"  {trigger}  {created}  {took}  {error}".rstrip())


def _lines(runs: list[Any] | None, now: int, columns: int, rows: int) -> list[list[Cell]]:
    if runs is None:
        return [[Paint("the server cannot be reached; trying …", "yellow")]]
    shown = runs[: max(rows - 2, 1)]
    lines = lay_out(HEADS, [row_of(run, now, columns) for run in shown], columns, {0, 1})
    hidden = len(runs) - len(shown)
    told = f"{len(runs)} runs" + (f", {hidden} of them below" if hidden else "") + "; Ctrl-C ends this"
    return [*lines, [Paint(told, "dim")]]
