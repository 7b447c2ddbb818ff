"""`graph`: a workflow as a picture in text, coloured by a run when one is given."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import click

from taskforge.cli.command import Example, Session, command, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Cell, Paint, state

_SUFFIXES = (".yaml", ".yml", ".json")
_HANDLERS = ("catch", "finally", "undo", "probe")


@command(
    "graph",
    examples=[
        Example("taskforge graph uptime"),
        Example("taskforge graph uptime#42"),
        Example("taskforge graph uptime.yaml --format mermaid"),
        Example("taskforge graph uptime --format dot | dot -Tsvg -o uptime.svg"),
    ],
)
@click.argument("target", metavar="WORKFLOW|RUN|FILE")
@click.option("--format", "form", type=click.Choice(["text", "mermaid", "dot"]), default="text", show_default=True,
              help="How it is written.")  # fmt: skip
@click.option("--version", "number", type=click.IntRange(1), metavar="N", help="A workflow's version; else the newest.")
@pass_session
def graph(session: Session, target: str, form: str, number: int | None) -> None:
    """Draw a workflow, or a run with the states of its steps.

    A FILE (a name with .yaml, .yml, .json or a /; - is standard input) needs no server.
    """
    from taskforge.cli.graph_model import graph_of, states_of

    document, steps = _find(session, target, number)
    states = states_of(steps)
    found, screen = graph_of(document, states), session.screen
    if session.machine:
        screen.document(found.to_json())
    elif form == "mermaid":
        from taskforge.cli.graph_text import mermaid_text

        screen.text(mermaid_text(found))
    elif form == "dot":
        from taskforge.cli.graph_text import dot_text

        screen.text(dot_text(found))
    else:
        for line in outline_lines(document, states, screen.marks):
            screen.line(*line)


def _find(session: Session, target: str, number: int | None) -> tuple[dict[str, Any], list[Any]]:
    """The document, and the steps of the run when it is one."""
    if target == "-" or target.lower().endswith(_SUFFIXES) or os.sep in target:
        if number is not None:
            raise CommandError("a file has no versions", code=Exit.USAGE)
        return _read_file(session, target), []
    client = session.client
    if "#" in target or target.startswith("run_"):
        from taskforge.cli.run_view import fetch_run, read_document

        run = fetch_run(session, target, "all")
        document = read_document(session, run)
        if not isinstance(document, dict):
            raise CommandError(f"the text of {run['workflow']} version {run['version']} cannot be had")
        return document, run["steps"]
    from taskforge.core.document import parse_document

    row = client.get("workflows", target) if number is None else {"version": number}
    version = client.get("workflows", target, "versions", str(row["version"]))
    found: dict[str, Any] = parse_document(version["source"].encode(), version["media"]).value
    return found, []


def _read_file(session: Session, file: str) -> dict[str, Any]:
    from taskforge.cli.checking import check_files
    from taskforge.cli.sources import read_sources

    (checked,) = check_files(read_sources([file]), session.screen.environ)
    if checked.definition is None or checked.errors:
        words = f"{checked.file} is no valid workflow"
        raise CommandError(words, lines=checked.error_lines(), code=Exit.USAGE)
    document = checked.definition.document
    assert isinstance(document, dict)
    return document


# ---- as an outline, for the terminal


def outline_lines(document: Mapping[str, Any], states: Mapping[str, str], marks: Mapping[str, str]) -> list[list[Cell]]:
    """The workflow as an indented tree, each step with its kind and what it does."""
    from taskforge.cli.graph_model import trigger_detail

    lines: list[list[Cell]] = [[Paint(str(document.get("name")), "bold")]]
    for name, config in (document.get("triggers") or {}).items():
        lines.append([Paint("  trigger  ", "dim"), f"{name}  ", Paint(" ".join(trigger_detail(config)), "dim")])
    parts: list[tuple[str, Any]] = [("", document.get("steps"))]
    parts += [(key, document[key]) for key in ("on_failure", "finally") if document.get(key)]
    for label, steps in parts:
        if label:
            lines.append([Paint(f"  {label}", "magenta")])
        lines += _tree(_steps(steps), "  ", states, marks)
    for entry in document.get("notify") or []:
        channel = next((key for key in entry if key != "on"), "")
        lines.append(
            [Paint("  notify   ", "dim"), f"{channel}  ", Paint(", ".join(map(str, entry.get("on", []))), "dim")]
        )
    return lines


Entry = tuple[str, Any]
"""A step (label "") or a named list of steps below one."""


def _steps(steps: Any) -> list[Entry]:
    return [("", step) for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []


def _tree(
    entries: list[Entry], margin: str, states: Mapping[str, str], marks: Mapping[str, str]
) -> Iterator[list[Cell]]:
    from taskforge.cli.graph_model import step_detail
    from taskforge.cli.tree import kind_of

    for at, (label, value) in enumerate(entries):
        last = at == len(entries) - 1
        head: list[Cell] = [Paint(margin + ("└─ " if last else "├─ "), "dim")]
        deeper = margin + ("   " if last else "│  ")
        if label:
            yield [*head, Paint(label, "magenta")]
            yield from _tree(_steps(value), deeper, states, marks)
            continue
        stands = states.get(str(value.get("id")), "")
        if stands:
            head.append(f"{marks.get(stands, '?')} ")
        needs = [f"needs {', '.join(value['needs'])}"] if value.get("needs") else []
        told = "  ".join([*needs, *step_detail(value)])
        facts: list[Cell] = [str(value.get("id")), Paint(f"  {kind_of(value)}", "cyan")]
        if stands:
            facts += ["  ", state(stands)]
        yield [*head, *facts, Paint(f"  {told}" if told else "", "dim")]
        yield from _tree(_inner(value), deeper, states, marks)


def _inner(step: dict[str, Any]) -> list[Entry]:
    """What stands below a step: its inner steps, its branches, its handlers."""
    from taskforge.cli.graph_model import expression_text
    from taskforge.cli.tree import kind_of

    kind = kind_of(step)
    config = step.get(kind)
    found: list[Entry] = []
    if kind == "switch" and isinstance(config, list):
        for branch in config:
            label = "else" if "else" in branch else f"when {expression_text(branch.get('when'))}"
            found.append((label, branch.get("else") or branch.get("steps")))
    elif kind in ("parallel", "foreach", "repeat"):
        found += _steps(config if isinstance(config, list) else (config or {}).get("steps"))
    elif kind == "wait" and isinstance(config, dict) and config.get("on_timeout"):
        found.append(("on_timeout", config["on_timeout"]))
    return found + [(handler, step[handler]) for handler in _HANDLERS if step.get(handler)]
