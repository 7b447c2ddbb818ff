"""`validate`: workflow files checked without a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from taskforge.cli.checking import Checked, check_files, warning_line
from taskforge.cli.command import Example, Session, command, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Paint
from taskforge.cli.sources import find_files, read_sources


@command(
    "validate",
    examples=[
        Example("taskforge validate uptime.yaml"),
        Example("taskforge validate workflows/", "every file, and what they are to each other"),
        Example("taskforge validate workflows/*.yaml -o json"),
        Example("cat uptime.yaml | taskforge validate -"),
    ],
)
@click.argument("files", metavar="FILE|DIR...", nargs=-1, required=True)
@pass_session
def validate(session: Session, files: tuple[str, ...]) -> int:
    """Check workflow files; needs no server.

    All errors at once, each as FILE:LINE:COL: message. Exit code 2 when a document is not valid. Of a directory, and
    those in it: *.yaml, *.yml and *.json, but what is hidden or named in .taskforgeignore.
    """
    screen = session.screen
    checked = check_files(read_sources(find_files(files)), screen.environ)
    if session.machine:
        found = [one.to_json() for one in checked]
        alone = len(files) == 1 and (files[0] == "-" or not Path(files[0]).is_dir())
        screen.document(found[0] if alone else {"items": found})
    warn(session, checked)
    refuse(checked, "")
    if not session.machine and not screen.quiet:
        for one in checked:
            screen.line(Paint("✔", "green"), f" {one.file}: ", Paint(one.name, "bold"), " is valid")
    return Exit.DONE


def warn(session: Session, checked: Sequence[Checked]) -> None:
    for one in checked:
        for warning in one.warnings:
            session.screen.note(Paint(warning_line(one, warning), "yellow"))


def refuse(checked: Sequence[Checked], consequence: str) -> None:
    """Raise CommandError with a line for every error, if there is one."""
    lines = [line for one in checked for line in one.error_lines()]
    if lines:
        wrong = [one.file for one in checked if one.errors]
        raise CommandError(told_errors(lines, wrong, len(checked)) + consequence, code=Exit.USAGE, lines=lines)


def told_errors(lines: Sequence[str], wrong: Sequence[str], files: int) -> str:
    """`3 errors in 2 of 7 files`."""
    where = wrong[0] if files == 1 and wrong else f"{len(wrong)} of {files} files"
    return f"{len(lines)} error{'s' if len(lines) > 1 else ''} in {where}"
