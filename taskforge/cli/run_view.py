"""One run on its way to the screen: fetched with what its tree needs, and printed in the form that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskforge.cli.failure import CommandError

if TYPE_CHECKING:
    from taskforge.cli.command import Session

HEADS = ("RUN", "STATE", "TRIGGER", "CREATED", "TOOK", "ERROR")
_MOST_STEPS = 20_000
_MOST_CHILDREN = 50


def fetch_run(session: Session, run: str, steps: str | None) -> dict[str, Any]:
    """A run with the steps that are asked for; where a person is to see it, with all that its tree needs."""
    client = session.client
    found: dict[str, Any] = client.get("runs", run, steps=steps)
    if found.get("steps_cursor") and not session.machine:
        # The tree needs every step; of very many, those that matter.
        few = (found.get("steps_total") or 0) <= _MOST_STEPS
        rest = client.get("runs", run, steps="all" if few else "failed")
        known = {step["path"] for step in found["steps"]}
        found["steps"] += [step for step in rest["steps"] if step["path"] not in known]
        found["steps_cursor"] = None if few else found["steps_cursor"]
    return found


def show_run(session: Session, run: dict[str, Any], *, everything: bool = False) -> None:
    """Print one run in the form that was asked for; without `everything`, loops of many items are folded."""
    from taskforge.cli.tree import draw_run
    from taskforge.core.clock import SystemClock

    if session.machine:
        session.screen.document(run)
    elif session.screen.quiet:
        session.screen.line(name_of(run))
    else:
        names = find_relatives(session, run)
        draw_run(session.screen, run, find_document(session, run), SystemClock().wall(), names, fold=not everything)


def find_relatives(session: Session, run: dict[str, Any]) -> dict[str, str]:
    """What runs that this one names are called, and the states of child runs: id → `name#number STATE`."""
    ids = [run.get("replay_of"), (run.get("parent") or {}).get("run")]
    children = [step["child"] for step in run.get("steps") or [] if step.get("child")]
    found: dict[str, str] = {}
    for id in [*filter(None, ids), *children[:_MOST_CHILDREN]]:
        try:
            other = session.client.get("runs", id, steps="none")
        except CommandError:
            continue
        found[id] = f"{name_of(other)} {other['state']}" if id in children else name_of(other)
    return found


def find_document(session: Session, run: dict[str, Any]) -> Any:
    """The document of a run that has steps, for their order and nesting; None when it cannot be had."""
    return read_document(session, run) if run.get("steps") else None


def read_document(session: Session, run: dict[str, Any]) -> Any:
    """The document of the run's version as data; None when it cannot be had."""
    from taskforge.core.document import parse_document
    from taskforge.core.problem import InvalidDocument

    try:
        version = session.client.get("workflows", run["workflow"], "versions", str(run["version"]))
        return parse_document(version["source"].encode(), version["media"]).value
    except (CommandError, InvalidDocument):
        return None


def name_of(run: Any, fallback: str = "") -> str:
    """`uptime#42`; the fallback where the answer does not say."""
    from taskforge.cli.tree import reference

    return reference(run) if isinstance(run, dict) and run.get("id") and run.get("workflow") else fallback


def row_of(run: dict[str, Any], now: int | None = None, columns: int | None = None) -> list[Any]:
    """A run as a row under HEADS, for so many columns; one that goes on has taken the time until `now`."""
    from taskforge.cli.moments import brief
    from taskforge.cli.render import state
    from taskforge.cli.timeline import failure, span
    from taskforge.core.durations import format_duration

    took, trigger = span(run, now), run.get("trigger")
    return [
        name_of(run),
        state(run["state"]),
        str(trigger.get("type") if isinstance(trigger, dict) else trigger or ""),
        brief(run.get("created_at"), columns),
        "" if took is None else format_duration(took),
        failure(run.get("error")),
    ]
