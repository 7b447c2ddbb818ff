"""`export`: the server's workflows as files, as they were given."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import click

from taskforge.cli.command import Example, Session, command, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Paint
from taskforge.cli.sources import Source, find_files, read_sources
from taskforge.core.record import dataclass

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

State = Literal["new", "same", "like", "differs"]
"""What a file is to the server's document: not there, byte for byte the same, the same but for comments and the order
of keys, or another."""


@dataclass(frozen=True, slots=True)
class Target:
    """A workflow and the file it goes to."""

    name: str
    version: int
    content: bytes
    file: Path
    state: State


@command(
    "export",
    examples=[
        Example("taskforge export workflows/"),
        Example("taskforge export workflows/ uptime issue-digest", "only these"),
    ],
)
@click.argument("folder", metavar="DIR")
@click.argument("workflows", metavar="[WORKFLOW...]", nargs=-1)
@click.option("--force", is_flag=True, help="Overwrite files that differ.")
@pass_session
def export(session: Session, folder: str, workflows: tuple[str, ...], force: bool) -> int:
    """Write the server's workflows to files.

    One file each, byte for byte the text that was given, comments kept: NAME.yaml or NAME.json, or the file of the
    directory that has the workflow already. A file that differs is not overwritten without --force; then nothing is
    written. One that differs in comments or the order of keys only is left as it is. No file is removed. Secrets,
    variables, and whether a workflow is enabled are no part of it.
    """
    targets = list(_targets(session, Path(folder), _wanted(session, workflows)))
    differing = [target for target in targets if target.state == "differs"]
    if differing and not force:
        lines = [f"{target.file}: differs from version {target.version} of {target.name}" for target in differing]
        raise CommandError(
            f"{len(differing)} of {len(targets)} files differ; nothing was written",
            hint="--force overwrites them; taskforge plan shows the differences",
            code=Exit.CONFLICT,
            lines=lines,
        )
    written = [target for target in targets if target.state in ("new", "differs") or (force and target.state == "like")]
    Path(folder).mkdir(parents=True, exist_ok=True)
    for target in written:
        _write(target.file, target.content)
    _tell(session, targets, written)
    return Exit.DONE


def _wanted(session: Session, workflows: Sequence[str]) -> list[str]:
    if workflows:
        return list(dict.fromkeys(workflows))
    return [item["name"] for item in session.client.pages("workflows")]


def _targets(session: Session, folder: Path, names: Sequence[str]) -> Iterator[Target]:
    known = _known(folder)
    for name in names:
        found = session.client.get("workflows", name)
        if _NAME.fullmatch(found["name"]) is None or found["media"] not in ("yaml", "json"):
            raise CommandError(f"the server's answer about {name} is none that a file can be made of")
        content = found["source"].encode()
        for file in known.get(found["name"]) or [folder / f"{found['name']}.{found['media']}"]:
            state = _state(file, content, found["media"])
            if state in ("like", "differs") and file.suffix == ".json" and found["media"] == "yaml":
                raise CommandError(
                    f"{file} is JSON, and the server has YAML; nothing was written",
                    hint=f"remove the file; {found['name']}.yaml is written then",
                    code=Exit.CONFLICT,
                )
            yield Target(found["name"], found["version"], content, file, state)


def _known(folder: Path) -> dict[str, list[Path]]:
    """The files of the directory by the name of their workflow."""
    found: dict[str, list[Path]] = {}
    if folder.is_dir():
        for source in read_sources(find_files([str(folder)], allow_empty=True)):
            value = _value(source)
            if isinstance(value, dict) and isinstance(value.get("name"), str):
                found.setdefault(value["name"], []).append(Path(source.file))
    return found


def _value(source: Source) -> Any:
    from taskforge.core.document import parse_document
    from taskforge.core.problem import InvalidDocument

    try:
        return parse_document(source.content, source.media).value
    except InvalidDocument:
        return None


def _state(file: Path, content: bytes, media: str) -> State:
    if not os.path.lexists(file):
        return "new"
    (source,) = read_sources([str(file)])
    if source.problem is not None:
        raise CommandError(f"{file}: {source.problem}")
    if source.content == content:
        return "same"
    from taskforge.core.differences import same_document

    theirs = _value(Source(str(file), content, "json" if media == "json" else "yaml"))
    return "like" if same_document(_value(source), theirs) else "differs"


def _write(file: Path, content: bytes) -> None:
    """Write the whole file or nothing; through a link, to what it leads to."""
    file = Path(os.path.realpath(file))
    beside = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(content)
        if file.exists():
            beside.chmod(file.stat().st_mode & 0o777)
        os.replace(beside, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise CommandError(f"{file}: {(error.strerror or str(error)).lower()}") from None


def _tell(session: Session, targets: Sequence[Target], written: Sequence[Target]) -> None:
    screen = session.screen
    if session.machine:
        items = [
            {"name": one.name, "version": one.version, "file": str(one.file), "written": one in written}
            for one in targets
        ]
        screen.document({"items": items})
        return
    words = {"same": "unchanged", "like": "same but for comments or the order of keys; left as it is"}
    for one in targets:
        if screen.quiet:
            screen.line(str(one.file))
            continue
        word = Paint("written", "green") if one in written else Paint(words.get(one.state, ""), "dim")
        screen.line(Paint("✔", "green"), f" {one.file}: ", Paint(one.name, "bold"), f" version {one.version}  ", word)
    if not targets:
        screen.note("the server has no workflow")
