"""`why`: the decisions of a run, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click

from taskforge.cli.command import Example, Session, command, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Cell, Paint, state
from taskforge.core.clock import from_rfc3339
from taskforge.core.durations import format_duration

_INDEX = re.compile(r"\[\d+\]")
_MANY = 6
"""So many decisions of a kind about items of a loop are told as one."""


@command("why", examples=[Example("taskforge why uptime#42"), Example("taskforge why uptime#42 'each[3].post'")])
@click.argument("run", metavar="RUN")
@click.argument("step", metavar="[STEP]", required=False)
@pass_session
def why(session: Session, run: str, step: str | None) -> None:
    """Explain a run: why it waits, was skipped or retried.

    What holds it now stands at the end. With STEP (a path), only what concerns that step.
    """
    screen, client = session.screen, session.client
    try:
        answer = client.get("runs", run, "why", step=step, limit=500)
    except CommandError as fault:
        if step is not None and fault.code == Exit.NOT_FOUND:
            fault.hint = f"its steps: taskforge runs show {run}"
        raise
    while answer["next_cursor"]:
        more = client.get("runs", run, "why", step=step, limit=500, cursor=answer["next_cursor"])
        answer = more | {"items": answer["items"] + more["items"]}
    if session.machine:
        screen.document(answer)
        return
    if not screen.quiet:
        screen.line(Paint(f"{answer['workflow']}#{answer['number']}", "bold"), "  ", state(answer["state"]))
    for item, more in gathered(answer["items"]):
        _tell(session, item, more)
    if not answer["items"]:
        screen.note("nothing to explain: no step was skipped, retried or held up, and none waits")
    if step is not None and any(item["code"] == "IF_FALSE" for item in answer["items"]):
        _tell_condition(session, answer, step)


def gathered(items: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], int]]:
    """The decisions in their order; of those that are the same for many items of a loop the first, and how many more
    there are."""

    def kind(item: dict[str, Any]) -> tuple[Any, ...]:
        return item["code"], item["message"], item["current"], _INDEX.sub("[]", item.get("step") or "")

    counts: dict[tuple[Any, ...], int] = {}
    for item in items:
        counts[kind(item)] = counts.get(kind(item), 0) + 1
    told: set[tuple[Any, ...]] = set()
    for item in items:
        count = counts[kind(item)]
        if count < _MANY or "[" not in (item.get("step") or ""):
            yield item, 0
        elif kind(item) not in told:
            told.add(kind(item))
            yield item, count - 1


def _tell_condition(session: Session, answer: dict[str, Any], step: str) -> None:
    """The `if` that was false, and how to see why."""
    from taskforge.cli.run_view import read_document
    from taskforge.cli.tree import find_step

    name = f"{answer['workflow']}#{answer['number']}"
    run = session.client.get("runs", answer["id"], steps="none")
    found = find_step(read_document(session, run), step.rpartition(".")[2])
    if found is None or "if" not in found:
        return
    session.screen.note(Paint("  its if:     ", "dim"), str(found["if"]))
    session.screen.note(Paint("  what it saw: ", "dim"), f"taskforge eval {name} EXPRESSION --step '{step}'")


def _tell(session: Session, item: dict[str, Any], more: int) -> None:
    screen = session.screen
    if screen.quiet:
        screen.line(item["code"])
        return
    when = "now" if item["current"] else item["at"]
    head: list[Cell] = [Paint(f"  {when:<24}  ", "bold" if item["current"] else "dim")]
    head.append(Paint(f"{item['code']:<18} ", "yellow" if item["current"] else "cyan"))
    what = f"{item['step']}: " if item.get("step") else ""
    others = f" (and for {more} more items)" if more else ""
    screen.paragraph(*head, f"{what}{item['message']}{_until(item)}{others}", hang=28)


def _until(item: dict[str, Any]) -> str:
    if not item.get("until"):
        return ""
    if not item["current"]:
        return f", until {item['until']}"
    from taskforge.core.clock import SystemClock

    left = from_rfc3339(item["until"]) - SystemClock().wall()
    return f", until {item['until']}" + (f" (in {format_duration(left)})" if left > 0 else "")
