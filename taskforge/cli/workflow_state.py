"""`state list/set/delete`."""

from __future__ import annotations

from typing import Any

import click

from taskforge.cli.command import Example, Group, Session, pass_session
from taskforge.cli.render import Paint
from taskforge.cli.shown import encode


@click.group("state", cls=Group)
def state() -> None:
    """A workflow's state: values that outlive its runs. Expressions see them as $state."""


@state.command("list", examples=[Example("taskforge state list uptime"), Example("taskforge state list uptime -q")])
@click.argument("workflow")
@pass_session
def list_state(session: Session, workflow: str) -> None:
    """List the values of a workflow's state."""
    found, screen = session.client.get("workflows", workflow, "state"), session.screen
    if session.machine:
        screen.document(found)
    elif screen.quiet:
        for key in sorted(found["state"]):
            screen.line(key)
    elif found["state"]:
        rows = [[key, encode(value, indent=None)] for key, value in sorted(found["state"].items())]
        screen.table(("KEY", "VALUE"), rows)
    else:
        screen.note("no values yet; a set_state step, or taskforge state set, stores some")


@state.command(
    "set",
    examples=[
        Example("taskforge state set uptime cursor 42"),
        Example("taskforge state set uptime cursor 43 --expect 42"),
        Example("taskforge state set uptime seen @seen.json"),
    ],
)
@click.argument("workflow")
@click.argument("key")
@click.argument("value", metavar="JSON|@FILE|TEXT")
@click.option("--expect", "expected", metavar="JSON|@FILE|TEXT", help="Only where the value is this now; else exit 5.")
@pass_session
def set_state(session: Session, workflow: str, key: str, value: str, expected: str | None) -> None:
    """Store a value in a workflow's state. A VALUE that is JSON (3, true, [1]) counts as JSON; null removes the key."""
    from taskforge.cli.run_input import read_value

    body: dict[str, Any] = {"value": read_value(value, "value")}
    if expected is not None:
        body["expected"] = read_value(expected, "expected value")
    stored = session.client.put("workflows", workflow, "state", key, body=body)
    screen = session.screen
    if session.machine:
        screen.document(stored)
    elif not screen.quiet:
        shown = encode(stored["value"], indent=None)
        screen.line(Paint("✔", "green"), " ", Paint(key, "bold"), f" is {shown}")


@state.command("delete", examples=[Example("taskforge state delete uptime cursor")])
@click.argument("workflow")
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
@pass_session
def delete_state(session: Session, workflow: str, keys: tuple[str, ...]) -> None:
    """Remove values from a workflow's state."""
    for key in keys:
        session.client.delete("workflows", workflow, "state", key)
        if not session.machine and not session.screen.quiet:
            session.screen.line(Paint("✔", "green"), " ", Paint(key, "bold"), " is deleted")
    if session.machine:
        session.screen.document({"deleted": list(keys)})
