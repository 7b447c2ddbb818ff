"""`audit list`: who has changed what."""

from __future__ import annotations

from typing import Any

import click

from taskforge.cli.command import Example, Group, Session, pass_session
from taskforge.cli.moments import ago, brief
from taskforge.cli.render import Cell, Paint
from taskforge.cli.shown import encode


@click.group("audit", cls=Group, default="list")
def audit() -> None:
    """The audit log: who has changed what, and when."""


@audit.command(
    "list",
    examples=[
        Example("taskforge audit list --since 7d"),
        Example("taskforge audit list --actor ci --action publish_workflow"),
        Example("taskforge audit list --target secrets"),
    ],
)
@click.option("--since", metavar="TIME", help="Made at this time or later: 7d ago, or RFC 3339.")
@click.option("--until", metavar="TIME", help="Made at this time or earlier.")
@click.option("--actor", metavar="NAME", help="Only by this token, by name or id; admin is the configuration's.")
@click.option("--action", metavar="ACT", help="Only this act, such as put_secret.")
@click.option("--target", metavar="WHAT", help="Only what lies here: secrets, workflows/uptime.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="How many at most.")
@click.option("--cursor", metavar="C", help="Go on after an earlier page.")
@click.option("--all", "everything", is_flag=True, help="All pages.")
@pass_session
def list_audit(session: Session, /, everything: bool, **chosen: Any) -> None:
    """List changes made through the API, newest first. It needs a token with the scope admin."""
    chosen |= {"since": ago(chosen["since"]), "until": ago(chosen["until"])}
    client, screen = session.client, session.screen
    if everything:
        del chosen["limit"], chosen["cursor"]
        page: Any = {"items": list(client.pages("audit", **chosen)), "next_cursor": None}
    else:
        page = client.get("audit", **chosen)
    if session.machine:
        screen.document(page)
    elif screen.quiet:
        for item in page["items"]:
            screen.line(str(item["id"]))
    elif page["items"]:
        screen.table(("AT", "WHO", "ACTION", "TARGET", "OUTCOME", "FROM"),
                     [_row(item, screen.columns) for item in page["items"]])  # fmt: skip
        if page["next_cursor"]:
            screen.note(f"more: --cursor {page['next_cursor']}, or --all")
    else:
        screen.note("no changes are recorded that fit")


def _row(item: dict[str, Any], columns: int | None) -> list[Cell]:
    outcome: Cell = item["outcome"] if item["outcome"] == "DONE" else Paint(item["outcome"], "bad")
    detail = encode(item["detail"], indent=None) if item["detail"] else ""
    target = f"{item['target']} {detail}" if detail else item["target"]
    return [brief(item["at"], columns), item["actor"], item["action"], target, outcome, item["address"] or ""]
