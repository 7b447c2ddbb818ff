"""`dead list/show/retry/discard`."""

from __future__ import annotations

import re
from typing import Any

import click

from taskforge.cli.command import Example, Group, Session, pass_session
from taskforge.cli.failure import CommandError
from taskforge.cli.paging import Paging, fetch_page, paged, tell_more
from taskforge.cli.render import Cell, Paint, state
from taskforge.cli.shown import encode
from taskforge.cli.timeline import failure


@click.group("dead", cls=Group, default="list")
def dead() -> None:
    """Dead letters: steps that have used up their attempts, kept until someone retries or discards them."""


@dead.command("list", examples=[Example("taskforge dead"), Example("taskforge dead list --state all -o json")])
@click.option("--state", "chosen", type=click.Choice(["OPEN", "RETRIED", "DISCARDED", "all"], case_sensitive=False),
              default="OPEN", show_default=True, help="Which ones.")  # fmt: skip
@paged
@pass_session
def list_dead(session: Session, chosen: str, paging: Paging) -> None:
    """List dead letters."""
    screen = session.screen
    wanted = None if chosen.casefold() == "all" else chosen.upper()
    page = fetch_page(session, "dead-letters", state=wanted, paging=paging)
    if session.machine:
        screen.document(page)
    elif screen.quiet:
        for letter in page["items"]:
            screen.line(letter["id"])
    elif page["items"]:
        screen.table(("ID", "STATE", "RUN", "STEP", "SINCE", "ERROR"), [_row(letter) for letter in page["items"]])
    else:
        screen.note("no dead letters")
    tell_more(session, page)


@dead.command("show", examples=[Example("taskforge dead show dead_0199")])
@click.argument("identifier", metavar="ID")
@pass_session
def show(session: Session, identifier: str) -> None:
    """Show a dead letter with its input and errors."""
    letter = session.client.get("dead-letters", identifier)
    screen = session.screen
    if session.machine:
        screen.document(letter)
        return
    if screen.quiet:
        screen.line(letter["id"])
        return
    screen.line(Paint(letter["id"], "bold"), "  ", state(letter["state"]))
    for label, text in (("run", _run(letter)), ("step", letter["path"]), ("since", letter.get("created_at"))):
        screen.line(Paint(f"  {label:<8}", "dim"), str(text or ""))
    error = letter.get("error") or {}
    screen.paragraph(Paint("  error   ", "dim"), Paint(failure(error), "red"), hang=10)
    if isinstance(error, dict) and error.get("detail"):
        screen.line(Paint("  detail  ", "dim"), encode(error["detail"], indent=None))
    for attempt in _attempts(session, letter):
        number = Paint(f"  attempt {attempt['number']:<3} ", "dim")
        screen.paragraph(number, state(attempt["state"]), "  ", failure(attempt.get("error")), hang=14)
    if letter.get("input") is not None:
        screen.line(Paint("  input", "dim"))
        screen.text("\n".join(f"    {line}" for line in encode(letter["input"]).splitlines()))
    if letter["state"] == "OPEN":
        unknown = isinstance(error, dict) and error.get("code") == "UNKNOWN_OUTCOME"
        screen.note(Paint("  next: ", "dim"), "find out whether it took effect; if not:" if unknown else "",
                    " " if unknown else "", f"taskforge dead retry {letter['id']}")  # fmt: skip
        if unknown:
            screen.note("        if so, so that it is not sent twice: ", f"taskforge dead discard {letter['id']}")


@dead.command(
    "retry",
    examples=[Example("taskforge dead retry dead_0199"), Example("taskforge dead -q | xargs taskforge dead retry")],
)
@click.argument("identifiers", metavar="ID...", nargs=-1, required=True)
@pass_session
def retry(session: Session, identifiers: tuple[str, ...]) -> None:
    """Take up the runs at these steps again."""
    answers = []
    for identifier in identifiers:
        answers.append(session.client.post("dead-letters", identifier, "retry", body={}))
        if not session.machine and not session.screen.quiet:
            told = _run(answers[-1]) if isinstance(answers[-1], dict) else ""
            session.screen.line(Paint("✔", "green"), f" {identifier} is tried again", f" in {told}" if told else "")
    _finish(session, answers)


@dead.command("discard", examples=[Example("taskforge dead discard dead_0199")])
@click.argument("identifiers", metavar="ID...", nargs=-1, required=True)
@pass_session
def discard(session: Session, identifiers: tuple[str, ...]) -> None:
    """Close dead letters without trying again; their rows stay."""
    answers = []
    for identifier in identifiers:
        answers.append(session.client.delete("dead-letters", identifier) or {"id": identifier, "state": "DISCARDED"})
        if not session.machine and not session.screen.quiet:
            session.screen.line(Paint("✔", "green"), f" {identifier} is discarded")
    _finish(session, answers)


def _attempts(session: Session, letter: dict[str, Any]) -> list[dict[str, Any]]:
    """All attempts of the step that the letter is about."""
    try:
        run = session.client.get("runs", letter["run_id"], steps="failed")
    except CommandError:
        return []
    return next((step["attempts"] for step in run["steps"] if step["path"] == letter["path"]), [])


def _finish(session: Session, answers: list[Any]) -> None:
    if session.machine:
        session.screen.document(answers[0] if len(answers) == 1 else {"items": answers})


def _row(letter: dict[str, Any]) -> list[Cell]:
    since = re.sub(r"\.\d+Z$", "Z", letter.get("created_at") or "")
    return [letter["id"], state(letter["state"]), _run(letter), letter["path"], since, failure(letter.get("error"))]


def _run(letter: dict[str, Any]) -> str:
    """The letter's run; an answer to `retry` is the run itself."""
    return f"{letter['workflow']}#{letter.get('run_number') or letter.get('number')}"
