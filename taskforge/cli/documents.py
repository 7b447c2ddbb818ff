"""`validate` and `apply`: from files to checked workflows, and from there to the server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from taskforge.cli.checking import Checked, check_files, find_files, warning_line
from taskforge.cli.command import Example, Session, command, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Cell, Paint


@command(
    "validate",
    examples=[
        Example("taskforge validate uptime.yaml"),
        Example("taskforge validate workflows/*.yaml -o json"),
        Example("cat uptime.yaml | taskforge validate -"),
    ],
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@pass_session
def validate(session: Session, files: tuple[str, ...]) -> int:
    """Check workflow files; needs no server.

    All errors at once, each as FILE:LINE:COL: message. Exit code 2 when a document is not valid.
    """
    screen = session.screen
    checked = check_files(find_files(files), screen.environ)
    if session.machine:
        found = [one.to_json() for one in checked]
        screen.document(found[0] if len(found) == 1 else {"items": found})
    _warn(session, checked)
    _refuse(checked, "")
    if not session.machine and not screen.quiet:
        for one in checked:
            screen.line(Paint("✔", "green"), f" {one.file}: ", Paint(one.name, "bold"), " is valid")
    return Exit.DONE


@command(
    "apply",
    examples=[
        Example("taskforge apply uptime.yaml"),
        Example("taskforge apply workflows/ --prune", "and delete what is not there"),
        Example("cat uptime.yaml | taskforge apply -"),
    ],
)
@click.argument("paths", metavar="FILE|DIR...", nargs=-1, required=True)
@click.option("--prune", is_flag=True, help="Delete the server's workflows that the directory does not have.")
@pass_session
def apply(session: Session, paths: tuple[str, ...], prune: bool) -> int:
    """Make the server have these workflows.

    Of a directory: *.yaml, *.yml and *.json. Every file is checked first; if one is not valid, nothing is sent.
    A document that is the newest version's makes no new version.
    """
    if prune and not any(path != "-" and Path(path).is_dir() for path in paths):
        raise CommandError("--prune deletes every workflow that is not given, so it takes a directory", code=Exit.USAGE)
    checked = check_files(find_files(paths), session.screen.environ)
    _warn(session, checked)
    _refuse(checked, "; nothing was sent")
    _refuse_twins(checked)
    if len(checked) > 1:
        _ask_server(session, checked)
    answers = _send(session, checked)
    deleted = _prune(session, {one.name for one in checked}) if prune else []
    if session.machine:
        alone = len(paths) == 1 and paths[0] == checked[0].file and not prune
        many = {"items": answers} | ({"deleted": deleted} if prune else {})
        session.screen.document(answers[0] if alone or paths == ("-",) else many)
    return Exit.DONE


def _warn(session: Session, checked: Sequence[Checked]) -> None:
    for one in checked:
        for warning in one.warnings:
            session.screen.note(Paint(warning_line(one, warning), "yellow"))


def _refuse(checked: Sequence[Checked], consequence: str) -> None:
    lines = [line for one in checked for line in one.error_lines()]
    if lines:
        wrong = sum(1 for one in checked if one.errors)
        where = checked[0].file if len(checked) == 1 else f"{wrong} of {len(checked)} files"
        count = f"{len(lines)} error{'s' if len(lines) > 1 else ''}"
        raise CommandError(f"{count} in {where}{consequence}", code=Exit.USAGE, lines=lines)


def _refuse_twins(checked: Sequence[Checked]) -> None:
    first: dict[str, Checked] = {}
    for one in checked:
        twin = first.setdefault(one.name, one)
        if twin is not one:
            line = f"{one.file}:1:1: workflow {one.name} is also in {twin.file}"
            raise CommandError("two files have the same workflow; nothing was sent", code=Exit.USAGE, lines=[line])


def _ask_server(session: Session, checked: Sequence[Checked]) -> None:
    """A server may be stricter than this program: ask it about every file before the first one is stored."""
    from taskforge.cli.client import place_line

    lines = []
    for one in checked:
        answer = session.client.send_document("POST", "workflows:validate", content=one.content, media=one.media)
        lines += [place_line(error, one.file) for error in answer.body.get("errors") or []]
    if lines:
        raise CommandError("the server does not take these; nothing was sent", code=Exit.USAGE, lines=lines)


def _send(session: Session, checked: Sequence[Checked]) -> list[Any]:
    from taskforge.cli.client import place_line

    screen = session.screen
    answers: list[Any] = []
    wide = max(len(one.name) for one in checked)
    for one in checked:
        try:
            answer = session.client.send_document("PUT", "workflows", one.name, content=one.content, media=one.media)
        except CommandError as fault:
            fault.lines = [place_line(error, one.file) for error in fault.errors] or fault.lines
            if answers:
                fault.hint = f"stored before: {', '.join(str(done['name']) for done in answers)}"
            raise
        answers.append(answer.body)
        if session.machine:
            continue
        if screen.quiet:
            screen.line(answer.body["name"])
        else:
            screen.line(*_told(answer.status, answer.body, wide))
    return answers


def _told(status: int, body: dict[str, Any], wide: int) -> list[Cell]:
    if not body.get("changed"):
        word = Paint("unchanged", "dim")
    else:
        word = Paint("new", "green") if status == 201 else Paint("changed", "yellow")
    return [Paint("✔", "green"), " ", Paint(f"{body['name']:<{wide}}", "bold"), f"  version {body['version']}  ", word]


def _prune(session: Session, kept: set[str]) -> list[str]:
    deleted = []
    for name in [item["name"] for item in session.client.pages("workflows") if item["name"] not in kept]:
        session.client.delete("workflows", name)
        deleted.append(name)
        if not session.machine and not session.screen.quiet:
            session.screen.line(Paint("✔", "green"), " ", Paint(name, "bold"), "  ", Paint("deleted", "red"))
    return deleted
