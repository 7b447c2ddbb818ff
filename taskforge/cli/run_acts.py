"""`runs cancel/retry/replay/signal`: one act on one run or on many, whose names may come from another command."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from taskforge.cli.command import Example, Session, command, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Paint, state
from taskforge.cli.run_view import name_of


@command(
    "cancel",
    examples=[
        Example("taskforge runs cancel uptime#42"),
        Example("taskforge runs cancel uptime#42 uptime#43 --reason 'wrong input'"),
        Example("taskforge runs list --state WAITING -q | taskforge runs cancel -"),
    ],
)
@click.argument("references", metavar="RUN...", nargs=-1, required=True)
@click.option("--reason", metavar="TEXT", help="Kept with the run.")
@pass_session
def cancel(session: Session, references: tuple[str, ...], reason: str | None) -> int:
    """Cancel runs that have not ended.

    RUN may be several, and - for names on standard input, one a line.
    """
    body = {"reason": reason} if reason else {}
    return _each(session, references, lambda run: session.client.post("runs", run, "cancel", body=body))


@command(
    "retry",
    examples=[
        Example("taskforge runs retry uptime#42"),
        Example("taskforge runs retry uptime#42 --from-step 'each[3].post'"),
        Example("taskforge runs list --state FAILED --since 2h -q | taskforge runs retry -"),
    ],
)
@click.argument("references", metavar="RUN...", nargs=-1, required=True)
@click.option("--from-step", metavar="PATH", help="Run this step, and all that came after it, again.")
@pass_session
def retry(session: Session, references: tuple[str, ...], from_step: str | None) -> int:
    """Take up failed runs at the failed step; what had succeeded is kept.

    RUN may be several, and - for names on standard input, one a line.
    """
    body = {"from_step": from_step} if from_step else {}
    return _each(session, references, lambda run: session.client.post("runs", run, "retry", body=body))


@command(
    "replay",
    examples=[
        Example("taskforge runs replay uptime#42"),
        Example("taskforge runs replay uptime#42 --version 3 --input site=example.com"),
    ],
)
@click.argument("references", metavar="RUN...", nargs=-1, required=True)
@click.option("--version", "number", type=click.IntRange(1), metavar="N", help="The version to run; else the run's.")
@click.option("--input", "inputs", multiple=True, metavar="JSON|@FILE|KEY=VALUE",
              help="Another input; KEY=VALUE changes single keys of the run's.")  # fmt: skip
@pass_session
def replay(session: Session, references: tuple[str, ...], number: int | None, inputs: tuple[str, ...]) -> int:
    """Start a new run with the input of an earlier one.

    RUN may be several, and - for names on standard input, one a line.
    """
    from taskforge.cli.run_input import is_pair, read_input

    if "-" in references and "@-" in inputs:
        raise CommandError("standard input cannot give both the runs and the input", code=Exit.USAGE)
    given: Any = read_input(inputs)
    merges = all(map(is_pair, inputs))

    def start(reference: str) -> Any:
        client = session.client
        old = client.get("runs", reference, steps="none")
        body: dict[str, Any] = {} if number is None else {"version": number}
        if inputs:
            body["input"] = old["input"] | given if merges and isinstance(old["input"], dict) else given
        return client.post("runs", reference, "replay", body=body), f"{old['workflow']}"

    def say(answer: Any, reference: str) -> None:
        from taskforge.cli.run import say_started

        started, workflow = answer
        say_started(session, f"{workflow}#{started['number']}", started)

    return _each(session, references, start, say, lambda answer: answer[0])


@command(
    "signal",
    examples=[
        Example("taskforge runs signal deploy#7 approved"),
        Example("taskforge runs signal deploy#7 approved --data by=anna --data ok=true"),
        Example("taskforge runs list --workflow deploy --state WAITING -q | taskforge runs signal - approved"),
    ],
)
@click.argument("references", metavar="RUN...", nargs=-1, required=True)
@click.argument("name")
@click.option("--data", "parts", multiple=True, metavar="JSON|@FILE|KEY=VALUE",
              help="What the waiting step gets; may be repeated, later keys win. @- reads standard input.")  # fmt: skip
@pass_session
def signal(session: Session, references: tuple[str, ...], name: str, parts: tuple[str, ...]) -> int:
    """Send a signal to a run: a step that waits for it goes on, else it is kept.

    RUN may be several, and - for names on standard input, one a line.
    """
    from taskforge.cli.run_input import read_input

    if "-" in references and "@-" in parts:
        raise CommandError("standard input cannot give both the runs and the data", code=Exit.USAGE)
    data = read_input(parts, "--data")
    body = {} if data is None else {"data": data}
    return _each(session, references, lambda run: session.client.post("runs", run, "signals", name, body=body))


def _each(
    session: Session,
    references: Sequence[str],
    act: Callable[[str], Any],
    say: Callable[[Any, str], None] | None = None,
    shape: Callable[[Any], Any] = lambda answer: answer,
) -> int:
    """One act for each run, in their order. A refusal does not keep the others from theirs: each is told, and the
    exit code is the highest of them. A server that has gone away ends it."""
    screen, answers, faults = session.screen, list[Any](), list[CommandError]()
    for reference in _named(references):
        try:
            answer = act(reference)
        except CommandError as fault:
            fault.message = f"{reference}: {fault.message}"
            if not fault.refused:
                raise
            faults.append(fault)
            if references != (reference,):
                screen.error(fault)
            continue
        answers.append(shape(answer))
        if not session.machine:
            (say or _teller(session))(answer, reference)
    if references == (references[0],) and references[0] != "-":
        if faults:
            raise faults[0]
        if session.machine:
            screen.document(answers[0])
    elif session.machine:
        screen.document({"items": answers})
    if faults:
        screen.note(Paint(f"{len(faults)} of {len(faults) + len(answers)} were refused", "dim"))
    return max((int(fault.code) for fault in faults), default=Exit.DONE)


def _teller(session: Session) -> Callable[[Any, str], None]:
    def say(answer: Any, reference: str) -> None:
        screen = session.screen
        if screen.quiet:
            screen.line(name_of(answer, reference))
        else:
            named = Paint(name_of(answer, reference), "bold")
            screen.line(Paint("✔", "green"), " ", named, "  ", state(answer["state"]))

    return say


def _named(references: Sequence[str]) -> Iterator[str]:
    """The names that were given, each once; `-` stands for those on standard input."""
    from taskforge.cli.run_input import read_stdin

    given: list[str] = []
    for reference in references:
        given += read_stdin().decode(errors="replace").split() if reference == "-" else [reference]
    yield from dict.fromkeys(given)
