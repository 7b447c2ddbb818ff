"""`trigger`: sends a webhook to one of the server's own triggers, signed as its sender would sign it."""

from __future__ import annotations

import sys
from base64 import b64encode
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
        Example("taskforge trigger issue-digest/github --body @event.json"),
        Example("taskforge trigger issue-digest/github --body @event.json --secret-file secret.txt", "tries a secret"),
        Example('taskforge trigger issue-digest/github --body \'{"action": "opened"}\' --header X-GitHub-Event=issues'),
    ],
)
@click.argument("target", metavar="WORKFLOW/TRIGGER")
@click.option("--body", "body", metavar="@FILE|TEXT", default="", help="What is sent, byte for byte; @- is stdin.")
@click.option("--header", "headers", metavar="KEY=VALUE", multiple=True, help="A header to send; may be repeated.")
@click.option("--query", "query", metavar="KEY=VALUE", multiple=True, help="A query parameter; may be repeated.")
@click.option("--method", metavar="METHOD", default="POST", show_default=True, help="The request's method.")
@click.option("--delivery-id", metavar="ID", help="The delivery's id, where the scheme has one; a new one without it.")
@click.option("--secret-file", metavar="FILE", help="The secret to sign with; - is standard input.")
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

    The server signs it with the trigger's own secret, which it never shows. With --secret-file, or a secret on standard
    input, it is signed here and sent as from outside: that tries the secret, too.
    """
    workflow, _, name = target.partition("/")
    if not workflow or not name or "/" in name:
        raise CommandError(f"{target!r} is no trigger", hint="write WORKFLOW/TRIGGER", code=Exit.USAGE)
    config = _find_verify(session, workflow, name)
    content = _content(body)
    sent = [("content-type", _content_type(content)), *_pairs(headers, "--header")]
    parameters = _pairs(query, "--query")
    secret = _find_secret(config, secret_file, stdin=body != "@-")
    if config.scheme != "none" and secret is None:
        answer = session.client.post(
            "webhooks:send",
            body={
                "workflow": workflow,
                "trigger": name,
                "method": method.upper(),
                "headers": sent,
                "query": parameters,
                "body_b64": b64encode(content).decode(),
                "delivery_id": delivery_id,
            },
        )
        _show(session, target, answer["status"], answer["body"])
        return
    if secret is not None:
        if config.parameter is not None:
            parameters.append((config.parameter, secret))
        sent += _sign(config, secret, content, delivery_id)
    answer = session.client.send_hook(method.upper(), workflow, name, content=content, headers=sent, query=parameters)
    _show(session, target, answer.status, answer.body)


def _sign(config: Any, secret: str, content: bytes, delivery_id: str | None) -> list[tuple[str, str]]:
    from taskforge.core.clock import SystemClock
    from taskforge.triggers.signatures import sign

    clock = SystemClock()
    try:
        return sign(config, secret.encode(), content, clock.wall(), delivery_id or clock.new_id("msg"))
    except ValueError as error:
        raise CommandError(str(error), code=Exit.USAGE) from None


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


def _find_secret(config: Any, file: str | None, *, stdin: bool) -> str | None:
    """The secret that was given, or None: then the server signs. Nobody is asked for it."""
    from taskforge.cli.run_input import read_stdin
    from taskforge.cli.secret_text import decode_secret, read_secret

    name = config.secrets[0] if config.secrets else "the secret"
    if config.scheme == "none":
        return None
    if file is not None:
        return read_secret(name, file, option="--secret-file")
    if not stdin or sys.stdin is None or sys.stdin.isatty():
        return None
    given = read_stdin()
    return decode_secret(name, given) if given else None


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

        screen.text(body if isinstance(body, str) else encode(body))
