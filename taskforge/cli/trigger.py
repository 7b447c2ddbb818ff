"""`trigger`: sends a webhook to one of the server's own triggers, signed as its sender would sign it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from taskforge.cli.command import Command, Example, Session, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Paint


@click.command(
    "trigger",
    cls=Command,
    examples=[
        Example("taskforge trigger issue-digest/github --body @event.json --secret-file secret.txt"),
        Example('taskforge trigger issue-digest/github --body \'{"action": "opened"}\' --header X-GitHub-Event=issues'),
    ],
)
@click.argument("target", metavar="WORKFLOW/TRIGGER")
@click.option("--body", "body", metavar="@FILE|TEXT", default="", help="What is sent, byte for byte; @- is stdin.")
@click.option("--header", "headers", metavar="KEY=VALUE", multiple=True, help="A header to send; may be repeated.")
@click.option("--query", "query", metavar="KEY=VALUE", multiple=True, help="A query parameter; may be repeated.")
@click.option("--method", metavar="METHOD", default="POST", show_default=True, help="The request's method.")
@click.option("--delivery-id", metavar="ID", help="The delivery's id, where the scheme has one; a new one without it.")
@click.option("--secret-file", metavar="FILE", help="The secret to sign with; asked for without it.")
@pass_session
def trigger(
    session: Session,
    target: str,
    body: str,
    headers: tuple[str, ...],
    query: tuple[str, ...],
    method: str,
    delivery_id: str | None,
    secret_file: str | None,
) -> None:
    """Send a webhook to a trigger, signed as its sender would.

    The server never shows a secret, so the one to sign with is asked for, or read from --secret-file or standard input.
    """
    from taskforge.core.clock import SystemClock
    from taskforge.triggers.signatures import sign

    workflow, _, name = target.partition("/")
    if not workflow or not name or "/" in name:
        raise CommandError(f"{target!r} is no trigger", hint="write WORKFLOW/TRIGGER", code=Exit.USAGE)
    config = _find_verify(session, workflow, name)
    content = _content(body)
    clock = SystemClock()
    sent = [("content-type", _content_type(content)), *_pairs(headers, "--header")]
    parameters = _pairs(query, "--query")
    if config.scheme != "none":
        secret = _secret(config, secret_file, stdin=body != "@-")
        if config.parameter is not None:
            parameters.append((config.parameter, secret))
        id = delivery_id or clock.new_id("msg")
        try:
            sent += sign(config, secret.encode(), content, clock.wall(), id)
        except ValueError as error:
            raise CommandError(str(error), code=Exit.USAGE) from None
    answer = session.client.send_hook(method.upper(), workflow, name, content=content, headers=sent, query=parameters)
    _show(session, target, answer.status, answer.body)


def _find_verify(session: Session, workflow: str, name: str) -> Any:
    """The trigger's `verify:` as the server's newest version has it."""
    from taskforge.core.document import parse_document
    from taskforge.core.problem import suggest
    from taskforge.core.verify_config import parse_verify

    found = session.client.get("workflows", workflow)
    triggers = parse_document(found["source"].encode(), found["media"]).value.get("triggers") or {}
    webhooks = {
        key: value["webhook"] for key, value in triggers.items() if isinstance(value, dict) and value.get("webhook")
    }
    if name not in webhooks:
        near = suggest(name, webhooks) or (f"it has {', '.join(webhooks)}" if webhooks else "it has none")
        message = f"workflow {workflow} has no webhook trigger {name!r}"
        raise CommandError(message, hint=near, code=Exit.NOT_FOUND)
    return parse_verify(webhooks[name]["verify"])


def _secret(config: Any, file: str | None, *, stdin: bool) -> str:
    from taskforge.cli.secret_text import read_secret

    return read_secret(config.secrets[0] if config.secrets else "the secret", file, stdin=stdin, option="--secret-file")


def _content(text: str) -> bytes:
    from taskforge.cli.run_input import read_stdin

    if not text.startswith("@"):
        return text.encode("utf-8", "surrogateescape")
    try:
        return read_stdin() if text == "@-" else Path(text[1:]).read_bytes()
    except OSError as error:
        raise CommandError(f"{text[1:]}: {str(error.strerror).lower()}", code=Exit.USAGE) from None


def _content_type(content: bytes) -> str:
    from taskforge.core.jsontext import JsonError, loads

    try:
        loads(content)
    except JsonError:
        return "text/plain; charset=utf-8" if _is_text(content) else "application/octet-stream"
    return "application/json"


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _pairs(texts: tuple[str, ...], option: str) -> list[tuple[str, str]]:
    found = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise CommandError(f"{option} {text!r} is no KEY=VALUE", code=Exit.USAGE)
        found.append((key.strip(), value.strip()))
    return found


def _show(session: Session, target: str, status: int, body: Any) -> None:
    screen = session.screen
    known = isinstance(body, dict) and "delivery" in body
    if session.machine:
        screen.document(body)
    elif screen.quiet and known:
        screen.line(str(body.get("id") or body["delivery"]))
    elif known and "id" in body:
        workflow = target.partition("/")[0]
        again = " (a duplicate: the first run)" if status == 200 else ""
        screen.line(Paint("✔", "green"), " ", Paint(f"{workflow}#{body['number']}", "bold"), f"  {body['id']}{again}")
        screen.note(Paint(f"delivery {body['delivery']}", "dim"))
    elif known:
        screen.line(Paint("✔", "green"), f" no run: the delivery {body['delivery']} is {body.get('state')}")
    else:
        from taskforge.cli.shown import encode

        screen.line(body if isinstance(body, str) else encode(body))
