"""`token create/list/revoke`."""

from __future__ import annotations

import re
from typing import Any

import click

from taskforge.cli.command import Example, Group, Session, pass_session
from taskforge.cli.moments import ahead
from taskforge.cli.render import Paint


@click.group("token", cls=Group, default="list")
def token() -> None:
    """Create, list and revoke API tokens."""


@token.command(
    "create",
    examples=[
        Example("taskforge token create dashboard --scope read"),
        Example("taskforge token create ci --scope write --expires 90d -q > token"),
        Example("taskforge token create shop --scope run:order-digest --scope read:stock"),
    ],
)
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, required=True, metavar="S",
              help="What it may do: read, run, write, admin; each includes those before it. run:NAME is run for the "
                   "workflow NAME alone.")  # fmt: skip
@click.option("--expires", metavar="TIME", help="When it ends: 90d, or RFC 3339. Never, without it.")
@pass_session
def create(session: Session, name: str, scopes: tuple[str, ...], expires: str | None) -> None:
    """Create a token. Its value is shown now and never again; the server keeps a hash."""
    words = [word.strip() for text in scopes for word in text.split(",")]
    body: dict[str, Any] = {"name": name, "scopes": words}
    if expires is not None:
        body["expires_at"] = ahead(expires)
    made = session.client.post("tokens", body=body)
    screen = session.screen
    if session.machine:
        screen.document(made)
    elif screen.quiet:
        screen.line(made["token"])
    else:
        screen.note(Paint("✔", "green"), f" {made['id']}  {made['name']}: {', '.join(made['scopes'])}")
        screen.line(made["token"])
        screen.note(Paint("it is shown this once only", "dim"))


@token.command("list", examples=[Example("taskforge token list")])
@pass_session
def list_tokens(session: Session) -> None:
    """List tokens; never their values."""
    page, screen = session.client.get("tokens"), session.screen
    if session.machine:
        screen.document(page)
    elif screen.quiet:
        for item in page["items"]:
            screen.line(item["id"])
    else:
        heads = ("ID", "NAME", "SCOPES", "CREATED", "EXPIRES")
        screen.table(heads, [[item["id"], item["name"], ", ".join(item["scopes"]), _time(item.get("created_at")),
                              _time(item.get("expires_at")) or "never"] for item in page["items"]])  # fmt: skip


@token.command("revoke", examples=[Example("taskforge token revoke tok_0199")])
@click.argument("identifiers", metavar="ID...", nargs=-1, required=True)
@pass_session
def revoke(session: Session, identifiers: tuple[str, ...]) -> None:
    """Revoke tokens; they stop working at once."""
    for identifier in identifiers:
        session.client.delete("tokens", identifier)
        if not session.machine and not session.screen.quiet:
            session.screen.line(Paint("✔", "green"), f" {identifier} is revoked")
    if session.machine:
        session.screen.document({"revoked": list(identifiers)})


def _time(text: str | None) -> str:
    return re.sub(r"\.\d+Z$", "Z", text or "")
