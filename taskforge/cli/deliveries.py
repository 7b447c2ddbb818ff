"""`deliveries list/show/replay`."""

from __future__ import annotations

from typing import Any

import click

from taskforge.cli.command import Example, Group, Session, pass_session
from taskforge.cli.moments import brief, is_narrow
from taskforge.cli.paging import Paging, fetch_page, paged, tell_more
from taskforge.cli.render import Cell, Paint, state
from taskforge.cli.timeline import failure

_HEADS = ("ID", "STATE", "TRIGGER", "RUN", "RECEIVED", "BYTES", "DELIVERY ID")
_NARROW_HEADS = ("ID", "STATE", "RUN", "TRIGGER", "RECEIVED")
_STATES = ("ACCEPTED", "FILTERED", "DUPLICATE", "FAILED")


@click.group("deliveries", cls=Group, default="list")
def deliveries() -> None:
    """The webhook inbox: what came, byte for byte.

    Every verified delivery, and the run that it started."""


@deliveries.command(
    "list",
    examples=[
        Example("taskforge deliveries --workflow issue-digest --state FAILED"),
        Example("taskforge deliveries list --search 'pull_request'", "in headers, query and body"),
    ],
)
@click.option("--workflow", metavar="NAME", help="Only this workflow's.")
@click.option("--trigger", metavar="NAME", help="Only this trigger's.")
@click.option("--state", "chosen", type=click.Choice(_STATES, case_sensitive=False), help="Only in this state.")
@click.option("--search", metavar="TEXT", help="Only with this text in headers, query or body.")
@paged
@pass_session
def list_deliveries(
    session: Session,
    workflow: str | None,
    trigger: str | None,
    chosen: str | None,
    search: str | None,
    paging: Paging,
) -> None:
    """List deliveries, newest first."""
    screen = session.screen
    page = fetch_page(
        session,
        "deliveries",
        workflow=workflow,
        trigger=trigger,
        state=None if chosen is None else chosen.upper(),
        search=search,
        paging=paging,
    )
    if session.machine:
        screen.document(page)
        return
    if screen.quiet:
        for row in page["items"]:
            screen.line(row["id"])
    elif page["items"]:
        narrow = is_narrow(screen.columns)
        heads = _NARROW_HEADS if narrow else _HEADS
        screen.table(heads, [_narrow_row(row) if narrow else _row(row) for row in page["items"]])
    elif not page.get("next_cursor"):
        screen.note("no deliveries")
    tell_more(session, page)


@deliveries.command("show", examples=[Example("taskforge deliveries show dlv_0199")])
@click.argument("identifier", metavar="ID")
@pass_session
def show(session: Session, identifier: str) -> None:
    """Show a delivery with its headers and body. What is secret stands as [redacted]."""
    row = session.client.get("deliveries", identifier)
    screen = session.screen
    if session.machine:
        screen.document(row)
        return
    if screen.quiet:
        screen.line(row["id"])
        return
    screen.line(Paint(row["id"], "bold"), "  ", state(row["state"]))
    facts = (
        ("trigger", f"{row['workflow']}/{row['trigger']} of version {row['version']}"),
        ("received", row["received_at"]),
        ("run", _run(row)),
        ("sender", row["dedupe_key"]),
        ("first", row["duplicate_of"]),
        ("replays", row["replay_of"]),
        ("error", failure(row["error"]) if row["error"] else None),
    )
    for label, text in facts:
        if text:
            screen.line(Paint(f"  {label:<9}", "dim"), str(text))
    screen.line(Paint(f"  {row['method']}", "dim"), *([" ?", _query(row["query"])] if row["query"] else []))
    for name, value in row["headers"]:
        screen.line(Paint(f"    {name}: ", "dim"), value)
    if row["body_b64"] is None:
        screen.note(f"the body ({row['body_bytes']} bytes) is not kept any more")
    elif row["body"] is None:
        screen.note(f"the body has {row['body_bytes']} bytes that are no text: -o json shows them as base64")
    else:
        screen.text(row["body"])


@deliveries.command(
    "replay",
    examples=[
        Example("taskforge deliveries replay dlv_0199"),
        Example("taskforge deliveries -q --state FAILED | xargs taskforge deliveries replay", "many at once"),
    ],
)
@click.argument("identifiers", metavar="ID...", nargs=-1, required=True)
@click.option("--version", type=click.IntRange(min=1), metavar="N", help="On this version; default the newest.")
@pass_session
def replay(session: Session, identifiers: tuple[str, ...], version: int | None) -> None:
    """Take deliveries again, each as a new run. They are not verified again; filters and inputs are evaluated anew."""
    answers = []
    for identifier in identifiers:
        body = {} if version is None else {"version": version}
        answers.append(session.client.post("deliveries", identifier, "replay", body=body))
        if session.machine:
            continue
        answer = answers[-1]
        if session.screen.quiet:
            session.screen.line(answer.get("id", answer["delivery"]))
        elif "id" in answer:
            session.screen.line(Paint("✔", "green"), f" {identifier} is run again, as {answer['id']}")
        else:
            session.screen.line(Paint("•", "dim"), f" {identifier} was filtered out again")
    if session.machine:
        session.screen.document(answers[0] if len(answers) == 1 else {"items": answers})


def _row(row: dict[str, Any]) -> list[Cell]:
    return [
        row["id"],
        state(row["state"]),
        f"{row['workflow']}/{row['trigger']}",
        _run(row),
        brief(row["received_at"]),
        str(row["body_bytes"]),
        row["dedupe_key"] or "",
    ]


def _narrow_row(row: dict[str, Any]) -> list[Cell]:
    """The run stands first of what may be cut."""
    return [row["id"], state(row["state"]), _run(row), f"{row['workflow']}/{row['trigger']}",
            brief(row["received_at"], 0)]  # fmt: skip


def _run(row: dict[str, Any]) -> str:
    return f"{row['workflow']}#{row['run']['number']}" if row["run"] else ""


def _query(pairs: list[list[str]]) -> str:
    return "&".join(f"{name}={value}" for name, value in pairs)
