"""`eval`: an expression against what a run saw."""

from __future__ import annotations

from typing import Any

import click

from taskforge.cli.command import Example, Session, command, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.shown import encode


@command(
    "eval",
    examples=[
        Example("taskforge eval uptime#42 '$fetch.body | keys'"),
        Example("taskforge eval uptime#42 '$steps.fetch.error' -o json"),
        Example("taskforge eval uptime#42 '$item.id' --step 'each[3].post'"),
        Example("taskforge eval uptime#42 .name --step fetch --raw"),
    ],
)
@click.argument("run", metavar="RUN")
@click.argument("expression")
@click.option("--step", metavar="PATH", help="See what this step saw ($item, $error, …); `.` is its output.")
@click.option("--input", "given", metavar="JSON|@FILE", help="What `.` is instead; @- reads standard input.")
@click.option("-r", "--raw", is_flag=True, help="Texts without their quotes.")
@pass_session
def evaluate(session: Session, run: str, expression: str, step: str | None, given: str | None, raw: bool) -> None:
    """Try an expression against what a run saw.

    The names are those of the workflow: $input, $trigger, every step's output, $steps, $vars, $run. Every result is
    printed; ${{ }} may stand around the expression. Values of secrets are not seen: $secrets.NAME is its mask.
    """
    from taskforge.cli.run_input import read_value

    body: dict[str, Any] = {"expression": expression, "step": step}
    if given is not None:
        body["input"] = read_value(given, "--input")
    try:
        answer = session.client.post("runs", run, "evaluate", body={k: v for k, v in body.items() if v is not None})
    except CommandError as fault:
        if step is not None and fault.code == Exit.NOT_FOUND:
            fault.hint = f"its steps: taskforge runs show {run}"
        places = _places(fault, expression)
        if places:
            fault.lines, fault.message = places, "the expression gives no result"
        raise
    if session.machine:
        session.screen.document(answer)
        return
    for result in answer["results"]:
        session.screen.text(result if raw and isinstance(result, str) else encode(result))
    if not answer["results"]:
        session.screen.note("no result")


def _places(fault: CommandError, expression: str) -> list[str]:
    """Where the expression is wrong: its line, and a mark under the place."""
    lines, shown = expression.split("\n"), list[str]()
    for error in fault.errors:
        line, column = error.get("line"), error.get("column")
        if error.get("path") != "expression" or not isinstance(line, int) or not isinstance(column, int):
            return []
        if line <= len(lines):
            shown += [lines[line - 1], " " * (column - 1) + "^ " + str(error.get("message"))]
        hint = error.get("hint")
        shown += [f"  {hint}"] if hint else []
    return shown
