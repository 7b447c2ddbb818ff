"""`secret set/list/delete` and `var set/list/delete`."""

from __future__ import annotations

import re
from typing import Any

import click

from taskforge.cli.command import Example, Group, Session, pass_session
from taskforge.cli.render import Paint
from taskforge.cli.shown import encode


@click.group("secret", cls=Group, default="list")
def secret() -> None:
    """Secrets: sealed values, seen as $secrets.NAME in every workflow. A value is never shown again."""


@secret.command(
    "set",
    examples=[
        Example("taskforge secret set GITHUB_TOKEN"),
        Example("taskforge secret set GITHUB_TOKEN --file token.txt"),
        Example("pass show github | taskforge secret set GITHUB_TOKEN"),
    ],
)
@click.argument("name")
@click.option("--file", metavar="FILE", help="Read the value from a file; - is standard input.")
@pass_session
def set_secret(session: Session, name: str, file: str | None) -> None:
    """Store a secret. The value is asked for, or read from a file or standard input; one newline at its end is lost."""
    from taskforge.cli.secret_text import read_secret

    stored = session.client.put("secrets", name, body={"value": read_secret(name, file, twice=True)})
    screen = session.screen
    if session.machine:
        screen.document(stored)
    elif not screen.quiet:
        screen.line(Paint("✔", "green"), " ", Paint(name, "bold"), " is stored")
        if not stored["masked"]:
            screen.note("a value of fewer than 4 characters is not masked in outputs and logs")


@secret.command("list", examples=[Example("taskforge secret list")])
@pass_session
def list_secrets(session: Session) -> None:
    """List secrets and where each comes from; never their values."""
    page, screen = session.client.get("secrets"), session.screen
    if session.machine:
        screen.document(page)
    elif screen.quiet:
        for item in page["items"]:
            screen.line(item["name"])
    elif page["items"]:
        rows = [[item["name"], item["source"], *_row(item)[1:]] for item in page["items"]]
        screen.table(("NAME", "FROM", "CREATED", "CHANGED"), rows)
    else:
        screen.note("no secrets yet; taskforge secret set NAME stores one")


@secret.command("delete", examples=[Example("taskforge secret delete GITHUB_TOKEN")])
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@pass_session
def delete_secret(session: Session, names: tuple[str, ...]) -> None:
    """Delete secrets. Steps that name one fail from now on."""
    _delete(session, "secrets", names)


@secret.command("rotate-key", examples=[Example("taskforge secret rotate-key")])
@click.option("--end-links", is_flag=True, help="One-time links that are out end, too: the old key may be known.")
@pass_session
def rotate_key(session: Session, end_links: bool) -> None:
    """Change the home's key: every secret is sealed anew with it. The server has to run; it goes on meanwhile.

    Backups of the database made before need the old secret.key.
    """
    done = session.client.post("secrets:rotate-key", body={"keep_links": not end_links})
    screen = session.screen
    if session.machine:
        screen.document(done)
    elif screen.quiet:
        screen.line(done["key_id"])
    else:
        count = done["resealed"]
        some = f"{count} secret{'' if count == 1 else 's'}"
        screen.line(Paint("✔", "green"), f" the key is {done['key_id']} now, {some} sealed anew")
        screen.note("copy the new secret.key to where you keep its copy; backups made before need the old one,")
        screen.note(f"{done['previous_key_id']}: keep that with them, or make a new one: taskforge db backup")


@click.group("var", cls=Group, default="list")
def var() -> None:
    """Variables: settings, seen as $vars.NAME in every workflow."""


@var.command(
    "set",
    examples=[
        Example("taskforge var set API_URL https://api.example.com"),
        Example("taskforge var set LIMITS '{\"per_day\": 100}'"),
        Example("taskforge var set REGIONS @regions.json"),
    ],
)
@click.argument("name")
@click.argument("value", metavar="JSON|@FILE|TEXT")
@pass_session
def set_var(session: Session, name: str, value: str) -> None:
    """Store a variable. A VALUE that is JSON (3, true, [1]) counts as JSON."""
    from taskforge.cli.run_input import read_value

    stored = session.client.put("vars", name, body={"value": read_value(value, "value")})
    screen = session.screen
    if session.machine:
        screen.document(stored)
    elif not screen.quiet:
        screen.line(Paint("✔", "green"), " ", Paint(name, "bold"), f" is {encode(stored['value'], indent=None)}")


@var.command("list", examples=[Example("taskforge var list")])
@pass_session
def list_vars(session: Session) -> None:
    """List variables with their values."""
    page, screen = session.client.get("vars"), session.screen
    if session.machine:
        screen.document(page)
    elif screen.quiet:
        for item in page["items"]:
            screen.line(item["name"])
    elif page["items"]:
        rows = [[item["name"], encode(item["value"], indent=None), *_row(item)[1:]] for item in page["items"]]
        screen.table(("NAME", "VALUE", "CREATED", "CHANGED"), rows)
    else:
        screen.note("no variables yet; taskforge var set NAME VALUE stores one")


@var.command("delete", examples=[Example("taskforge var delete API_URL")])
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@pass_session
def delete_var(session: Session, names: tuple[str, ...]) -> None:
    """Delete variables. Steps that name one fail from now on."""
    _delete(session, "vars", names)


def _delete(session: Session, kind: str, names: tuple[str, ...]) -> None:
    for name in names:
        session.client.delete(kind, name)
        if not session.machine and not session.screen.quiet:
            session.screen.line(Paint("✔", "green"), " ", Paint(name, "bold"), " is deleted")
    if session.machine:
        session.screen.document({"deleted": list(names)})


def _row(item: dict[str, Any]) -> list[str]:
    return [item["name"], *(re.sub(r"\.\d+Z$", "Z", item[key] or "") for key in ("created_at", "updated_at"))]
