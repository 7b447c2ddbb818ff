"""`runs list/show/logs/cancel/retry/replay/signal`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click

from taskforge.cli.command import Example, Group, Session, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Cell, Paint, state
from taskforge.cli.timeline import failure, span

_MOST_STEPS = 20_000
_MOST_CHILDREN = 50
_STATES = ("QUEUED", "RUNNING", "WAITING", "SUCCEEDED", "FAILED", "CANCELLED")


@click.group("runs", cls=Group, default="list")
def runs() -> None:
    """List, show, cancel, retry, replay and signal runs.

    A run is named by its workflow and number, uptime#42, or by its id.
    """


@runs.command(
    "list",
    examples=[
        Example("taskforge runs"),
        Example("taskforge runs list --workflow uptime --state FAILED --since 24h"),
        Example("taskforge runs list --state FAILED -q | xargs -n1 taskforge runs retry"),
    ],
)
@click.option("--workflow", metavar="NAME", help="Only of this workflow.")
@click.option("--state", "states", multiple=True, metavar="STATE", help="Only in this state; may be repeated.")
@click.option("--trigger", metavar="TYPE", help="Only started so: manual, webhook, cron.")
@click.option("--since", metavar="TIME", help="Created at this time or later: 24h ago, or RFC 3339.")
@click.option("--until", metavar="TIME", help="Created before this time.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="How many at most.")
@click.option("--cursor", metavar="C", help="Go on after an earlier page.")
@click.option("--all", "everything", is_flag=True, help="All pages.")
@pass_session
def list_runs(session: Session, /, states: tuple[str, ...], everything: bool, **chosen: Any) -> None:
    """List runs, newest first."""
    chosen |= {"state": ",".join(_known_states(states)) or None}
    chosen |= {"since": _moment(chosen["since"]), "until": _moment(chosen["until"])}
    client, screen = session.client, session.screen
    if everything:
        del chosen["limit"], chosen["cursor"]
        page: Any = {"items": list(client.pages("runs", **chosen)), "next_cursor": None}
    else:
        page = client.get("runs", **chosen)
    if session.machine:
        screen.document(page)
    elif screen.quiet:
        for run in page["items"]:
            screen.line(_name(run))
    elif page["items"]:
        heads = ("RUN", "STATE", "TRIGGER", "CREATED", "TOOK", "ERROR")
        screen.table(heads, [_row(run) for run in page["items"]], keep=(0, 1))
    else:
        screen.note("no runs", " match" if states or chosen["workflow"] else " yet; start one: taskforge run WORKFLOW")
    if page.get("next_cursor") and not session.machine:
        screen.note(Paint(f"there are more: --cursor {page['next_cursor']}, or --all", "dim"))


@runs.command(
    "show", examples=[Example("taskforge runs show uptime#42"), Example("taskforge runs show uptime#42 --all")]
)
@click.argument("run", metavar="RUN")
@click.option("--steps", type=click.Choice(["none", "failed", "all"]), help="Which steps; as data, else the first 500.")
@click.option("--all", "everything", is_flag=True, help="Every item of a foreach, not only what failed or goes on.")
@pass_session
def show(session: Session, run: str, steps: str | None, everything: bool) -> None:
    """Show a run: its steps as a tree, with states, durations, attempts and errors.

    Of a foreach or repeat with many items, those that failed or go on are shown, and the others counted.
    """
    client = session.client
    found = client.get("runs", run, steps="all" if everything else steps)
    if found.get("steps_cursor") and not session.machine:
        # The tree needs every step; of very many, those that matter.
        few = (found.get("steps_total") or 0) <= _MOST_STEPS
        rest = client.get("runs", run, steps="all" if few else "failed")
        known = {step["path"] for step in found["steps"]}
        found["steps"] += [step for step in rest["steps"] if step["path"] not in known]
        found["steps_cursor"] = None if few else found["steps_cursor"]
    show_run(session, found, everything=everything)


@runs.command("logs", examples=[Example("taskforge runs logs uptime#42")])
@click.argument("run", metavar="RUN")
@pass_session
def logs(session: Session, run: str) -> None:
    """Print what happened in a run, line by line, oldest first."""
    lines, screen = session.client.pages("runs", run, "logs"), session.screen
    if session.machine:
        screen.document({"items": list(lines), "next_cursor": None})
        return
    for line in lines:
        style = {"error": "bad", "warning": "magenta"}.get(line["level"], "")
        screen.line(Paint(f"{line['at']}  ", "dim"), Paint(f"{line['level']:<7} ", style), line["message"])


@runs.command(
    "cancel",
    examples=[
        Example("taskforge runs cancel uptime#42"),
        Example("taskforge runs cancel uptime#42 uptime#43 --reason 'wrong input'"),
    ],
)
@click.argument("references", metavar="RUN...", nargs=-1, required=True)
@click.option("--reason", metavar="TEXT", help="Kept with the run.")
@pass_session
def cancel(session: Session, references: tuple[str, ...], reason: str | None) -> None:
    """Cancel runs that have not ended."""
    _each(session, references, "cancel", {"reason": reason} if reason else {})


@runs.command(
    "retry",
    examples=[
        Example("taskforge runs retry uptime#42"),
        Example("taskforge runs retry uptime#42 --from-step 'each[3].post'"),
    ],
)
@click.argument("references", metavar="RUN...", nargs=-1, required=True)
@click.option("--from-step", metavar="PATH", help="Run this step, and all that came after it, again.")
@pass_session
def retry(session: Session, references: tuple[str, ...], from_step: str | None) -> None:
    """Take up failed runs at the failed step; what had succeeded is kept."""
    _each(session, references, "retry", {"from_step": from_step} if from_step else {})


@runs.command(
    "replay",
    examples=[
        Example("taskforge runs replay uptime#42"),
        Example("taskforge runs replay uptime#42 --version 3 --input site=example.com"),
    ],
)
@click.argument("reference", metavar="RUN")
@click.option("--version", "number", type=click.IntRange(1), metavar="N", help="The version to run; else the run's.")
@click.option("--input", "inputs", multiple=True, metavar="JSON|@FILE|KEY=VALUE",
              help="Another input; KEY=VALUE changes single keys of the run's.")  # fmt: skip
@pass_session
def replay(session: Session, reference: str, number: int | None, inputs: tuple[str, ...]) -> None:
    """Start a new run with the input of an earlier one."""
    from taskforge.cli.run import say_started
    from taskforge.cli.run_input import is_pair, read_input

    client = session.client
    body: dict[str, Any] = {} if number is None else {"version": number}
    old = client.get("runs", reference, steps="none")
    if inputs:
        given = read_input(inputs)
        merges = isinstance(old["input"], dict) and all(map(is_pair, inputs))
        body["input"] = old["input"] | given if merges else given
    started = client.post("runs", reference, "replay", body=body)
    say_started(session, f"{old['workflow']}#{started['number']}", started)


@runs.command(
    "signal",
    examples=[
        Example("taskforge runs signal deploy#7 approved"),
        Example("taskforge runs signal deploy#7 approved --data by=anna --data ok=true"),
    ],
)
@click.argument("reference", metavar="RUN")
@click.argument("name")
@click.option("--data", "parts", multiple=True, metavar="JSON|@FILE|KEY=VALUE",
              help="What the waiting step gets; may be repeated, later keys win. @- reads standard input.")  # fmt: skip
@pass_session
def signal(session: Session, reference: str, name: str, parts: tuple[str, ...]) -> None:
    """Send a signal to a run: a step that waits for it goes on, else it is kept."""
    from taskforge.cli.run_input import read_input

    data = read_input(parts, "--data")
    answer = session.client.post("runs", reference, "signals", name, body={} if data is None else {"data": data})
    screen = session.screen
    if session.machine:
        screen.document(answer)
    elif screen.quiet:
        screen.line(_name(answer, reference))
    else:
        told: list[Cell] = [Paint(_name(answer, reference), "bold"), "  ", state(answer["state"])]
        screen.line(Paint("✔", "green"), " ", *told)


def show_run(session: Session, run: dict[str, Any], *, everything: bool = False) -> None:
    """Print one run in the form that was asked for; without `everything`, loops of many items are folded."""
    from taskforge.cli.tree import draw_run
    from taskforge.core.clock import SystemClock

    if session.machine:
        session.screen.document(run)
    elif session.screen.quiet:
        session.screen.line(_name(run))
    else:
        names = find_relatives(session, run)
        draw_run(session.screen, run, find_document(session, run), SystemClock().wall(), names, fold=not everything)


def find_relatives(session: Session, run: dict[str, Any]) -> dict[str, str]:
    """What runs that this one names are called, and the states of child runs: id → `name#number STATE`."""
    ids = [run.get("replay_of"), (run.get("parent") or {}).get("run")]
    children = [step["child"] for step in run.get("steps") or [] if step.get("child")]
    found: dict[str, str] = {}
    for id in [*filter(None, ids), *children[:_MOST_CHILDREN]]:
        try:
            other = session.client.get("runs", id, steps="none")
        except CommandError:
            continue
        found[id] = f"{_name(other)} {other['state']}" if id in children else _name(other)
    return found


def find_document(session: Session, run: dict[str, Any]) -> Any:
    """The document of the run's version as data, for the order and nesting of its steps; None when it cannot be had."""
    if not run.get("steps"):
        return None
    from taskforge.core.document import parse_document
    from taskforge.core.problem import InvalidDocument

    try:
        version = session.client.get("workflows", run["workflow"], "versions", str(run["version"]))
        return parse_document(version["source"].encode(), version["media"]).value
    except (CommandError, InvalidDocument):
        return None


def _each(session: Session, references: tuple[str, ...], act: str, body: dict[str, Any]) -> None:
    """One call for each run. The first refusal ends it, after telling what was done."""
    screen, answers = session.screen, []
    for reference in references:
        try:
            answer = session.client.post("runs", reference, act, body=body)
        except CommandError as fault:
            fault.message = f"{reference}: {fault.message}"
            raise
        answers.append(answer)
        if session.machine:
            continue
        if screen.quiet:
            screen.line(_name(answer, reference))
        else:
            screen.line(Paint("✔", "green"), " ", Paint(_name(answer, reference), "bold"), "  ", state(answer["state"]))
    if session.machine:
        screen.document(answers[0] if len(answers) == 1 else {"items": answers})


def _row(run: dict[str, Any]) -> list[Cell]:
    from taskforge.core.durations import format_duration

    took, trigger = span(run), run.get("trigger")
    return [
        _name(run),
        state(run["state"]),
        str(trigger.get("type") if isinstance(trigger, dict) else trigger or ""),
        re.sub(r"\.\d+Z$", "Z", run.get("created_at") or ""),
        "" if took is None else format_duration(took),
        failure(run.get("error")),
    ]


def _name(run: Any, fallback: str = "") -> str:
    from taskforge.cli.tree import reference

    return reference(run) if isinstance(run, dict) and run.get("id") and run.get("workflow") else fallback


def _known_states(states: tuple[str, ...]) -> Iterator[str]:
    from taskforge.core.problem import quoted, suggest

    for word in (part.strip() for text in states for part in text.split(",")):
        if word.upper() not in _STATES:
            near = suggest(word.upper(), _STATES)
            hint = near or "there are: " + ", ".join(_STATES)
            raise CommandError(f"--state {quoted(word)} is no state of a run", hint=hint, code=Exit.USAGE)
        yield word.upper()


def _moment(text: str | None) -> str | None:
    """RFC 3339 as it is; a duration is so long ago."""
    if text is None:
        return None
    from taskforge.core.clock import SystemClock, from_rfc3339, to_rfc3339
    from taskforge.core.durations import parse_duration

    try:
        return to_rfc3339(from_rfc3339(text))
    except ValueError:
        pass
    try:
        return to_rfc3339(SystemClock().wall() - parse_duration(text))
    except ValueError:
        raise CommandError(
            f"{text!r} is no time", hint="write 24h (so long ago) or 2026-11-23T02:37:01Z", code=Exit.USAGE
        ) from None
