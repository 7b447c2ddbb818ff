"""`db check`: the database file itself, with or without a running server."""

from __future__ import annotations

import click

from taskforge.cli.command import Example, Group, Session, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Paint


@click.group("db", cls=Group)
def db() -> None:
    """Check the database file."""


@db.command("check", examples=[Example("taskforge db check"), Example("taskforge db check -o json")])
@pass_session
def check(session: Session) -> None:
    """Look for damage: the file's integrity, migrations, statistics and the invariants of runs. Changes nothing."""
    from taskforge.config.home import DATABASE_FILE
    from taskforge.config.reading import resolve_home
    from taskforge.core.errors import StartupError
    from taskforge.store.sqlite.health import check_file

    path = resolve_home(session.screen.environ) / DATABASE_FILE
    try:
        findings = check_file(path)
    except StartupError as error:
        raise CommandError(error.message, code=Exit.FAILED) from None
    screen = session.screen
    if session.machine:
        screen.document({"path": str(path), "sound": not findings, "findings": findings})
    elif findings:
        for finding in findings:
            screen.line(finding)
    else:
        screen.note(Paint("✔", "green"), f" {path} is sound")
    if findings:
        hint = "stop the server, keep a copy of the file, and restore a backup"
        raise CommandError(f"{path} has {len(findings)} findings", hint=hint, code=Exit.FAILED)
