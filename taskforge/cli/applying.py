"""`plan` and `apply`: what files would change on the server, and the change."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click

from taskforge.cli.command import Example, Session, command, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Cell, Paint
from taskforge.cli.sources import find_files, read_sources
from taskforge.core.jsontext import JsonError, loads

MOST_FILES = 1_000
"""What the server takes in one request."""

MOST_WARNINGS = 50
"""How many a person is shown."""

_PRUNE = click.option("--prune", is_flag=True, help="Delete every workflow of the server that is in no file.")
_KEEP = click.option("--keep", metavar="NAME", multiple=True, help="Prune none of these; * stands for any characters.")
_EMPTY = click.option("--allow-empty", is_flag=True, help="Take a directory without workflows; --prune leaves nothing.")
_PATHS = click.argument("paths", metavar="FILE|DIR...", nargs=-1, required=True)


@command(
    "plan",
    examples=[
        Example("taskforge plan workflows/"),
        Example("taskforge plan workflows/ --prune", "with what would be deleted"),
        Example("taskforge plan workflows/ --detailed-exitcode", "for CI: 0 nothing to do, 2 changes, 1 error"),
        Example("taskforge plan workflows/ -o json > plan.json", "for apply --planned"),
    ],
)
@_PATHS
@_PRUNE
@_KEEP
@_EMPTY
@click.option("--detailed-exitcode", is_flag=True, help="Exit 0: nothing to do; 2: changes; 1: any error.")
@pass_session
def plan(
    session: Session,
    paths: tuple[str, ...],
    prune: bool,
    keep: tuple[str, ...],
    allow_empty: bool,
    detailed_exitcode: bool,
) -> int:
    """Show what apply would change, and what follows from it.

    Steps are compared by their ids, settings by their paths; comments and the order of keys are no change. Shows next
    firings that move, runs that stay on their version, what is missing on the server, and hosts that no workflow calls
    now. Changes nothing.
    """
    try:
        found = _plan(session, _gather(session, paths, prune, keep, allow_empty))
    except CommandError as fault:
        if detailed_exitcode:
            fault.code = Exit.FAILED
        raise
    _show_plan(session, found)
    return 2 if detailed_exitcode and found["changes"] else Exit.DONE


@command(
    "apply",
    examples=[
        Example("taskforge apply uptime.yaml"),
        Example("taskforge apply workflows/ --prune", "and delete what is not there"),
        Example("taskforge apply workflows/ --planned plan.json", "exactly what plan -o json showed, or nothing"),
        Example("cat uptime.yaml | taskforge apply -"),
    ],
)
@_PATHS
@_PRUNE
@_KEEP
@_EMPTY
@click.option("--planned", metavar="FILE", help="A plan (-o json); apply only if files and server are still as there.")
@click.option("--dry-run", is_flag=True, help="Only show what would change, as plan does.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before workflows are deleted.")
@pass_session
def apply(
    session: Session,
    paths: tuple[str, ...],
    prune: bool,
    keep: tuple[str, ...],
    allow_empty: bool,
    planned: str | None,
    dry_run: bool,
    yes: bool,
) -> int:
    """Make the server have these workflows.

    All of them in one transaction, or none: if one is not valid, nothing is stored. Of a directory, and those in it:
    *.yaml, *.yml and *.json, but what is hidden or named in .taskforgeignore. A document that means the same as the
    newest version makes no new one. --prune deletes every other workflow, whoever made it; a terminal is asked before.
    Deleted workflows come back when they are applied again; their runs go on and stay readable.
    """
    body = _gather(session, paths, prune, keep, allow_empty)
    if dry_run:
        _show_plan(session, _plan(session, body))
        return Exit.DONE
    if planned is not None:
        body["expected"] = _expected(planned, body)
    elif prune:
        found = _plan(session, body)
        body["expected"] = found["expected"]
        _confirm(session, [one["name"] for one in found["workflows"] if one["action"] == "deleted"], yes)
    answer = _send(session, "workflows:apply", body)
    _warn(session, answer["warnings"])
    _tell(session, answer, alone=_is_one_file(paths) and not prune)
    return Exit.DONE


def _is_one_file(paths: Sequence[str]) -> bool:
    return len(paths) == 1 and (paths[0] == "-" or not Path(paths[0]).is_dir())


# ---- from files to a request


def _gather(
    session: Session, paths: Sequence[str], prune: bool, keep: Sequence[str], allow_empty: bool
) -> dict[str, Any]:
    """The body of the request. What cannot even be sent is refused with every error of every file."""
    if prune and not any(path != "-" and Path(path).is_dir() for path in paths):
        raise CommandError("--prune deletes every workflow that is not given, so it takes a directory", code=Exit.USAGE)
    if keep and not prune:
        raise CommandError("--keep says what --prune leaves alone; there is no --prune", code=Exit.USAGE)
    sources = read_sources(find_files(paths, allow_empty=allow_empty))
    if len(sources) > MOST_FILES:
        raise CommandError(f"{len(sources)} files are more than the {MOST_FILES} of one request", code=Exit.USAGE)
    if any(source.problem is not None or source.text is None for source in sources):
        from taskforge.cli.checking import check_files
        from taskforge.cli.documents import refuse

        refuse(check_files(sources, session.screen.environ), "; nothing was stored")
    body: dict[str, Any] = {"documents": [source.to_json() for source in sources]}
    if prune:
        body |= {"prune": True, "keep": list(keep)}
    if allow_empty:
        body["allow_empty"] = True
    return body


def _send(session: Session, call: str, body: dict[str, Any]) -> Any:
    from taskforge.cli.documents import told_errors

    try:
        return session.client.send_documents(call, body=body)
    except CommandError as fault:
        wrong = list(dict.fromkeys(str(error["file"]) for error in fault.errors if error.get("file")))
        if wrong:
            fault.message = told_errors(fault.lines, wrong, len(body["documents"])) + "; nothing was stored"
        raise


def _plan(session: Session, body: dict[str, Any]) -> Any:
    return _send(session, "workflows:plan", body)


def _expected(file: str, body: dict[str, Any]) -> dict[str, int]:
    """The versions that a stored plan counts on, if the request is still what was planned. Raises CommandError."""
    try:
        found = loads(sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes())
        expected, planned = found["expected"], {one["sha256"]: one for one in found["workflows"] if one["sha256"]}
        deleted = [one["name"] for one in found["workflows"] if one["action"] == "deleted"]
    except OSError as error:
        raise CommandError(f"{file}: {(error.strerror or str(error)).lower()}", code=Exit.USAGE) from None
    except (JsonError, KeyError, TypeError):
        raise CommandError(
            f"{file} is no plan", hint="make one with: taskforge plan DIR -o json > plan.json", code=Exit.USAGE
        ) from None
    stay = [name for name in deleted if not body.get("prune") or any(fnmatchcase(name, each) for each in body["keep"])]
    if stay:
        raise CommandError(
            f"the plan deletes {', '.join(stay)}, and this would not", hint="say --prune and --keep as plan was told",
            code=Exit.USAGE,
        )  # fmt: skip
    given = {hashlib.sha256(one["source"].encode()).hexdigest(): one["file"] for one in body["documents"]}
    lines = [f"{given[digest]}: is not as it was planned" for digest in given if digest not in planned]
    lines += [f"{one['file']}: was planned, and is not given" for digest, one in planned.items() if digest not in given]
    if lines:
        raise CommandError(f"the files are not those of {file}; plan again", code=Exit.CONFLICT, lines=sorted(lines))
    return dict(expected)


def _confirm(session: Session, names: Sequence[str], yes: bool) -> None:
    """Ask a person before workflows are deleted. A script has said what it wants."""
    if yes or not names or not _is_person():
        return
    session.screen.note(Paint(f"This deletes {_count(len(names))}:", "yellow"))
    for name in names:
        session.screen.note("  ", Paint(name, "bold"))
    if not click.confirm("Go on?", err=True):
        raise CommandError("nothing was changed", code=Exit.FAILED)


def _is_person() -> bool:
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def _count(number: int) -> str:
    return f"{number} workflow{'' if number == 1 else 's'}"


# ---- answers


def _show_plan(session: Session, found: dict[str, Any]) -> None:
    screen = session.screen
    if session.machine:
        screen.document(found)
    elif screen.quiet:
        for one in found["workflows"]:
            if one["action"] != "unchanged":
                screen.line(one["name"])
    else:
        from taskforge.cli.planned import tell_plan

        _warn(session, [one for one in found["warnings"] if not one["message"].endswith("on the server yet")])
        tell_plan(screen, found)


def _warn(session: Session, warnings: Sequence[dict[str, Any]]) -> None:
    from taskforge.cli.client import place_line

    for warning in warnings[:MOST_WARNINGS]:
        place = ":".join(str(warning[part]) for part in ("file", "line", "column") if part in warning)
        told = place_line({"message": warning["message"], "hint": warning.get("hint")})
        session.screen.note(Paint(f"{place}: warning: {told}", "yellow"))
    if len(warnings) > MOST_WARNINGS:
        session.screen.note(Paint(f"and {len(warnings) - MOST_WARNINGS} more warnings; -o json has them all", "yellow"))


def _tell(session: Session, answer: dict[str, Any], *, alone: bool) -> None:
    screen = session.screen
    items, deleted = answer["items"], answer["deleted"]
    if session.machine:
        screen.document(items[0] | {"warnings": answer["warnings"]} if alone else answer)
        return
    wide = max((len(one["name"]) for one in (*items, *({"name": name} for name in deleted))), default=0)
    for one in items:
        if screen.quiet:
            screen.line(one["name"])
        else:
            screen.line(*_told(one, wide))
    for name in deleted if not screen.quiet else ():
        screen.line(Paint("✔", "green"), " ", Paint(f"{name:<{wide}}", "bold"), "  ", Paint("deleted", "red"))


def _told(one: dict[str, Any], wide: int) -> list[Cell]:
    word = Paint(one["action"], {"new": "green", "changed": "yellow"}.get(one["action"], "dim"))
    return [Paint("✔", "green"), " ", Paint(f"{one['name']:<{wide}}", "bold"), f"  version {one['version']}  ", word]
