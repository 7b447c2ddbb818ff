"""`runs list/show/logs/cancel/retry`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click

from taskforge.cli.command import Example, Group, Session, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Cell, Paint, state
from taskforge.cli.timeline import failure, span

_STATES = ("QUEUED", "RUNNING", "WAITING", "SUCCEEDED", "FAILED", "CANCELLED")


@click.group("runs", cls=Group, default="list")
def runs() -> None:
    """List, show, cancel and retry runs.

    A run is named by its workflow and number, uptime#42, or by its id.
    """


@runs.command(
    "list",
    examples=[
        Example("taskforge runs"),
        Example("taskforge runs list --workflow uptime --state FAILED --since 24h"),
        Example("taskforge runs list --state FAILED -q | xargs -n1 taskforge runs retry"),
    ],
)
@click.option("--workflow", metavar="NAME", help="Only of this workflow.")
@click.option("--state", "states", multiple=True, metavar="STATE", help="Only in this state; may be repeated.")
@click.option("--trigger", metavar="TYPE", help="Only started so: manual, webhook, cron.")
@click.option("--since", metavar="TIME", help="Created at this time or later: 24h ago, or RFC 3339.")
@click.option("--until", metavar="TIME", help="Created before this time.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="How many at most.")
@click.option("--cursor", metavar="C", help="Go on after an earlier page.")
@click.option("--all", "everything", is_flag=True, help="All pages.")
@pass_session
def list_runs(session: Session, /, states: tuple[str, ...], everything: bool, **chosen: Any) -> None:
    """List runs, newest first."""
    chosen |= {"state": ",".join(_known_states(states)) or None}
    chosen |= {"since": _moment(chosen["since"]), "until": _moment(chosen["until"])}
    client, screen = session.client, session.screen
    if everything:
        del chosen["limit"], chosen["cursor"]
        page: Any = {"items": list(client.pages("runs", **chosen)), "next_cursor": None}
    else:
        page = client.get("runs", **chosen)
    if session.machine:
        screen.document(page)
    elif screen.quiet:
        for run in page["items"]:
            screen.line(_name(run))
    elif page["items"]:
        heads = ("RUN", "STATE", "TRIGGER", "CREATED", "TOOK", "ERROR")
        screen.table(heads, [_row(run) for run in page["items"]], keep=(0, 1))
    else:
        screen.note("no runs", " match" if states or chosen["workflow"] else " yet; start one: taskforge run WORKFLOW")
    if page.get("next_cursor") and not session.machine:
        screen.note(Paint(f"there are more: --cursor {page['next_cursor']}, or --all", "dim"))


@runs.command(
    "show", examples=[Example("taskforge runs show uptime#42"), Example("taskforge runs show uptime#42 -o json")]
)
@click.argument("run", metavar="RUN")
@click.option("--steps", type=click.Choice(["none", "failed", "all"]), help="Which steps; else the first 500.")
@pass_session
def show(session: Session, run: str, steps: str | None) -> None:
    """Show a run: its steps as a tree, with states, durations, attempts and errors."""
    show_run(session, session.client.get("runs", run, steps=steps))


@runs.command("logs", examples=[Example("taskforge runs logs uptime#42")])
@click.argument("run", metavar="RUN")
@pass_session
def logs(session: Session, run: str) -> None:
    """Print what happened in a run, line by line, oldest first."""
    lines, screen = session.client.pages("runs", run, "logs"), session.screen
    if session.machine:
        screen.document({"items": list(lines), "next_cursor": None})
        return
    for line in lines:
        style = {"error": "bad", "warning": "magenta"}.get(line["level"], "")
        screen.line(Paint(f"{line['at']}  ", "dim"), Paint(f"{line['level']:<7} ", style), line["message"])


@runs.command(
    "cancel",
    examples=[
        Example("taskforge runs cancel uptime#42"),
        Example("taskforge runs cancel uptime#42 uptime#43 --reason 'wrong input'"),
    ],
)
@click.argument("references", metavar="RUN...", nargs=-1, required=True)
@click.option("--reason", metavar="TEXT", help="Kept with the run.")
@pass_session
def cancel(session: Session, references: tuple[str, ...], reason: str | None) -> None:
    """Cancel runs that have not ended."""
    _each(session, references, "cancel", {"reason": reason} if reason else {})


@runs.command("retry", examples=[Example("taskforge runs retry uptime#42")])
@click.argument("references", metavar="RUN...", nargs=-1, required=True)
@pass_session
def retry(session: Session, references: tuple[str, ...]) -> None:
    """Take up failed runs at the failed step; what had succeeded is kept."""
    _each(session, references, "retry", {})


def show_run(session: Session, run: dict[str, Any]) -> None:
    """Print one run in the form that was asked for."""
    from taskforge.cli.tree import draw_run
    from taskforge.core.clock import SystemClock

    if session.machine:
        session.screen.document(run)
    elif session.screen.quiet:
        session.screen.line(_name(run))
    else:
        draw_run(session.screen, run, find_document(session, run), SystemClock().wall())


def find_document(session: Session, run: dict[str, Any]) -> Any:
    """The document of the run's version as data, for the order and nesting of its steps; None when it cannot be had."""
    if not run.get("steps"):
        return None
    from taskforge.core.document import parse_document
    from taskforge.core.problem import InvalidDocument

    try:
        version = session.client.get("workflows", run["workflow"], "versions", str(run["version"]))
        return parse_document(version["source"].encode(), version["media"]).value
    except (CommandError, InvalidDocument):
        return None


def _each(session: Session, references: tuple[str, ...], act: str, body: dict[str, Any]) -> None:
    """One call for each run. The first refusal ends it, after telling what was done."""
    screen, answers = session.screen, []
    for reference in references:
        try:
            answer = session.client.post("runs", reference, act, body=body)
        except CommandError as fault:
            fault.message = f"{reference}: {fault.message}"
            raise
        answers.append(answer)
        if session.machine:
            continue
        if screen.quiet:
            screen.line(_name(answer, reference))
        else:
            screen.line(Paint("✔", "green"), " ", Paint(_name(answer, reference), "bold"), "  ", state(answer["state"]))
    if session.machine:
        screen.document(answers[0] if len(answers) == 1 else {"items": answers})


def _row(run: dict[str, Any]) -> list[Cell]:
    from taskforge.core.durations import format_duration

    took, trigger = span(run), run.get("trigger")
    return [
        _name(run),
        state(run["state"]),
        str(trigger.get("type") if isinstance(trigger, dict) else trigger or ""),
        re.sub(r"\.\d+Z$", "Z", run.get("created_at") or ""),
        "" if took is None else format_duration(took),
        failure(run.get("error")),
    ]


def _name(run: Any, fallback: str = "") -> str:
    from taskforge.cli.tree import reference

    return reference(run) if isinstance(run, dict) and run.get("id") and run.get("workflow") else fallback


def _known_states(states: tuple[str, ...]) -> Iterator[str]:
    from taskforge.core.problem import quoted, suggest

    for word in (part.strip() for text in states for part in text.split(",")):
        if word.upper() not in _STATES:
            near = suggest(word.upper(), _STATES)
            hint = near or "there are: " + ", ".join(_STATES)
            raise CommandError(f"--state {quoted(word)} is no state of a run", hint=hint, code=Exit.USAGE)
        yield word.upper()


def _moment(text: str | None) -> str | None:
    """RFC 3339 as it is; a duration is so long ago."""
    if text is None:
        return None
    from taskforge.core.clock import SystemClock, from_rfc3339, to_rfc3339
    from taskforge.core.durations import parse_duration

    try:
        return to_rfc3339(from_rfc3339(text))
    except ValueError:
        pass
    try:
        return to_rfc3339(SystemClock().wall() - parse_duration(text))
    except ValueError:
        raise CommandError(
            f"{text!r} is no time", hint="write 24h (so long ago) or 2026-11-23T02:37:01Z", code=Exit.USAGE
        ) from None
