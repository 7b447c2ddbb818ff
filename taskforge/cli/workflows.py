"""`workflow list/show/enable/disable/hold/release/delete/versions`."""

from __future__ import annotations

import re
from typing import Any

import click

from taskforge.cli.command import Example, Group, Session, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.paging import Paging, fetch_page, paged, tell_more
from taskforge.cli.render import Cell, Paint


@click.group("workflow", cls=Group, default="list")
def workflow() -> None:
    """List, show, enable, disable, hold and delete workflows."""


@workflow.command("list", examples=[Example("taskforge workflow list"), Example("taskforge workflow list -q")])
@paged
@pass_session
def list_workflows(session: Session, paging: Paging) -> None:
    """List workflows."""
    screen = session.screen
    page = fetch_page(session, "workflows", paging=paging)
    if session.machine:
        screen.document(page)
    elif screen.quiet:
        for item in page["items"]:
            screen.line(item["name"])
    elif page["items"]:
        screen.table(("NAME", "VERSION", "ENABLED", "UPDATED", "DESCRIPTION"), [_row(item) for item in page["items"]])
    else:
        screen.note("no workflows yet; bring one: taskforge apply FILE")
    tell_more(session, page)


@workflow.command(
    "show",
    examples=[
        Example("taskforge workflow show uptime"),
        Example("taskforge workflow show uptime --version 2 --source"),
    ],
)
@click.argument("name")
@click.option("--version", "number", type=click.IntRange(1), metavar="N", help="This version; else the newest.")
@click.option("--source", is_flag=True, help="Only the document, as it was given.")
@pass_session
def show(session: Session, name: str, number: int | None, source: bool) -> None:
    """Show a workflow: its facts, and its document as it was given."""
    client, screen = session.client, session.screen
    if number is None:
        found = client.get("workflows", name)
        number = found["version"]
    else:
        found = client.get("workflows", name, "versions", str(number))
    if session.machine:
        screen.document(found)
        return
    if screen.quiet:
        screen.line(name)
        return
    text = found.get("source")
    if text is None:
        text = client.get("workflows", name, "versions", str(number)).get("source") or ""
    if not source:
        screen.line(Paint(name, "bold"), f"  version {number}  ", _enabled(found), f"  since {found.get('created_at')}")
        screen.line()
    screen.text(str(text))


@workflow.command("versions", examples=[Example("taskforge workflow versions uptime")])
@click.argument("name")
@paged
@pass_session
def versions(session: Session, name: str, paging: Paging) -> None:
    """List a workflow's versions, newest first."""
    page = fetch_page(session, "workflows", name, "versions", paging=paging)
    screen = session.screen
    if session.machine:
        screen.document(page)
    elif screen.quiet:
        for item in page["items"]:
            screen.line(str(item["version"]))
    else:
        screen.table(("VERSION", "CREATED"), [[str(item["version"]), _time(item)] for item in page["items"]])
    tell_more(session, page)


@workflow.command("enable", examples=[Example("taskforge workflow enable uptime")])
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@pass_session
def enable(session: Session, names: tuple[str, ...]) -> None:
    """Let workflows start runs again."""
    _set_enabled(session, names, True)


@workflow.command("disable", examples=[Example("taskforge workflow disable uptime")])
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@pass_session
def disable(session: Session, names: tuple[str, ...]) -> None:
    """Keep workflows from starting runs; what runs already goes on."""
    _set_enabled(session, names, False)


@workflow.command(
    "hold", examples=[Example("taskforge workflow hold uptime"), Example("taskforge workflow hold --all")]
)
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Everything, for maintenance of the whole.")
@pass_session
def hold(session: Session, names: tuple[str, ...], everything: bool) -> None:
    """Hold workflows back: no attempt begins, what runs now ends, new runs wait."""
    _set_held(session, names, everything, True)


@workflow.command(
    "release", examples=[Example("taskforge workflow release uptime"), Example("taskforge workflow release --all")]
)
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Everything; workflows that are held by themselves stay so.")
@pass_session
def release(session: Session, names: tuple[str, ...], everything: bool) -> None:
    """Let workflows that were held back go on."""
    _set_held(session, names, everything, False)


@workflow.command("delete", examples=[Example("taskforge workflow delete uptime")])
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@pass_session
def delete(session: Session, names: tuple[str, ...]) -> None:
    """Delete workflows. Their runs stay readable, and what runs goes on to its end."""
    for name in names:
        session.client.delete("workflows", name)
        if not session.machine and not session.screen.quiet:
            session.screen.line(Paint("✔", "green"), " ", Paint(name, "bold"), " is deleted")
    if session.machine:
        session.screen.document({"deleted": list(names)})


def _set_enabled(session: Session, names: tuple[str, ...], enabled: bool) -> None:
    answers = []
    for name in names:
        answers.append(session.client.patch("workflows", name, body={"enabled": enabled}))
        if not session.machine and not session.screen.quiet:
            words = "is enabled" if enabled else "is disabled"
            session.screen.line(Paint("✔", "green"), " ", Paint(name, "bold"), f" {words}")
    if session.machine:
        session.screen.document(answers[0] if len(answers) == 1 else {"items": answers})


def _set_held(session: Session, names: tuple[str, ...], everything: bool, held: bool) -> None:
    if bool(names) == everything:
        raise CommandError("name workflows, or say --all", code=Exit.USAGE)
    words = "held back" if held else "released"
    answers = []
    if everything:
        answers.append(session.client.put("hold", body={"held": held}))
    for name in names:
        answers.append(session.client.patch("workflows", name, body={"held": held}))
    if session.machine:
        session.screen.document(answers[0] if len(answers) == 1 else {"items": answers})
    elif not session.screen.quiet:
        for name in names or ("everything",):
            session.screen.line(Paint("✔", "green"), " ", Paint(name, "bold"), f" is {words}")


def _row(item: dict[str, Any]) -> list[Cell]:
    return [item["name"], str(item["version"]), _enabled(item), _time(item), item.get("description") or ""]


def _enabled(item: dict[str, Any]) -> Cell:
    enabled = item.get("enabled", True)
    if item.get("held"):
        return Paint("held" if enabled else "disabled, held", "yellow")
    return Paint("enabled" if enabled else "disabled", "green" if enabled else "yellow")


def _time(item: dict[str, Any]) -> str:
    return re.sub(r"\.\d+Z$", "Z", item.get("updated_at") or item.get("created_at") or "")
