"""`why`: the decisions of a run, in words."""

from __future__ import annotations

from typing import Any

import click

from taskforge.cli.command import Example, Session, command, pass_session
from taskforge.cli.render import Cell, Paint, state
from taskforge.core.clock import from_rfc3339
from taskforge.core.durations import format_duration


@command("why", examples=[Example("taskforge why uptime#42"), Example("taskforge why uptime#42 'each[3].post'")])
@click.argument("run", metavar="RUN")
@click.argument("step", metavar="[STEP]", required=False)
@pass_session
def why(session: Session, run: str, step: str | None) -> None:
    """Explain a run: why it waits, was skipped or retried.

    What holds it now stands at the end. With STEP (a path), only what concerns that step.
    """
    screen, client = session.screen, session.client
    answer = client.get("runs", run, "why", step=step, limit=500)
    while answer["next_cursor"]:
        more = client.get("runs", run, "why", step=step, limit=500, cursor=answer["next_cursor"])
        answer = more | {"items": answer["items"] + more["items"]}
    if session.machine:
        screen.document(answer)
        return
    if not screen.quiet:
        screen.line(Paint(f"{answer['workflow']}#{answer['number']}", "bold"), "  ", state(answer["state"]))
    for item in answer["items"]:
        _tell(session, item)
    if not answer["items"]:
        screen.note("nothing to explain: no step was skipped, retried or held up, and none waits")


def _tell(session: Session, item: dict[str, Any]) -> None:
    screen = session.screen
    if screen.quiet:
        screen.line(item["code"])
        return
    when = "now" if item["current"] else item["at"]
    head: list[Cell] = [Paint(f"  {when:<24}  ", "bold" if item["current"] else "dim")]
    head.append(Paint(f"{item['code']:<18} ", "yellow" if item["current"] else "cyan"))
    what = f"{item['step']}: " if item.get("step") else ""
    screen.paragraph(*head, f"{what}{item['message']}{_until(item)}", hang=28)


def _until(item: dict[str, Any]) -> str:
    if not item.get("until"):
        return ""
    if not item["current"]:
        return f", until {item['until']}"
    from taskforge.core.clock import SystemClock

    left = from_rfc3339(item["until"]) - SystemClock().wall()
    return f", until {item['until']}" + (f" (in {format_duration(left)})" if left > 0 else "")
