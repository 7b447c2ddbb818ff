"""`run`: start a run, and perhaps wait for its end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from taskforge.cli.command import Command, Example, Session, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Paint
from taskforge.cli.timeline import TERMINAL

_ENDLESS = "until it ends"
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5
_LONG_POLL_S = 20.0
_HINT = "taskforge runs show {}"


class RunCommand(Command):
    """`--wait` takes a time or none: `run --wait uptime` waits without a limit for `uptime`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given: list[str] = []
        at = 0
        while at < len(args):
            if args[at] == "--wait":
                timed = at + 1 < len(args) and _duration(args[at + 1]) is not None
                given.append(f"--wait={args[at + 1] if timed else _ENDLESS}")
                at += timed
            else:
                given.append(args[at])
            at += 1
        return super().parse_args(ctx, given)


@click.command(
    "run",
    cls=RunCommand,
    examples=[
        Example("taskforge run uptime"),
        Example("taskforge run uptime --input site=example.com --input tries=3 --wait 1m"),
        Example('taskforge run uptime --input \'{"site": "example.com"}\' --follow'),
        Example("taskforge run uptime --input @input.json --idempotency-key 2026-11-23"),
        Example("taskforge run uptime --wait -o json | jq .output"),
    ],
)
@click.argument("workflow")
@click.option("--input", "inputs", multiple=True, metavar="JSON|@FILE|KEY=VALUE",
              help="The run's input; may be repeated, later keys win. @- reads standard input.")  # fmt: skip
@click.option(
    "--wait", metavar="[TIME]", help="Wait until the run has ended, at most this long. Exit code 1: not well."
)
@click.option("--follow", is_flag=True, help="Wait, and show what happens: a live tree on a terminal, else lines.")
@click.option("--idempotency-key", metavar="K", help="The same key never starts a second run.")
@click.option("--version", "number", type=click.IntRange(1), metavar="N", help="The version to run, if not the newest.")
@click.option("--delay", metavar="TIME", help="Start later: 30s, 10m, 2h.")
@click.option("--priority", type=int, metavar="N", help="Higher goes first.")
@pass_session
def run(session: Session, /, workflow: str, inputs: Sequence[str], wait: str | None, follow: bool, **more: Any) -> int:
    """Start a run.

    The run is on disk when this returns. In KEY=VALUE, a VALUE that is JSON (3, true, [1]) counts as JSON.
    """
    from taskforge.cli.run_input import read_input

    limit = _limit(wait)
    body = {
        "input": read_input(inputs),
        "version": more["number"],
        "delay": more["delay"],
        "priority": more["priority"],
    }
    key = more["idempotency_key"]
    if key is not None and not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
        raise CommandError("--idempotency-key takes 1 to 255 printable ASCII characters", code=Exit.USAGE)
    started = session.client.post(
        "workflows", workflow, "runs",
        body={name: value for name, value in body.items() if value is not None},
        headers={"idempotency-key": key} if key else None,
    )  # fmt: skip
    name = f"{workflow}#{started['number']}"
    if wait is None and not follow:
        say_started(session, name, started)
        return Exit.DONE
    words = None if session.machine else f"{name} has started"
    return watch(session, str(started["id"]), name, limit, follow=follow, words=words)


def watch(
    session: Session, run_id: str, name: str, limit_s: float | None, *, follow: bool, words: str | None = None
) -> int:
    """Say the words, wait for a run's end and show it. Exit code 1 unless it SUCCEEDED."""
    from taskforge.cli.follow import come_back, follow_run
    from taskforge.cli.run_view import show_run

    try:
        if words is not None:
            session.screen.note(words)
        found = follow_run(session, run_id, name, limit_s) if follow else _await_end(session, run_id, name, limit_s)
    except KeyboardInterrupt:
        raise CommandError(f"stopped watching; {name} goes on", hint=come_back(name), code=Exit.INTERRUPTED) from None
    show_run(session, found)
    if found["state"] not in TERMINAL:
        raise CommandError(f"{name} has not ended: it is {found['state']}", hint=_HINT.format(name))
    return Exit.DONE if found["state"] == "SUCCEEDED" else Exit.FAILED


def _await_end(session: Session, run_id: str, name: str, limit_s: float | None) -> dict[str, Any]:
    from taskforge.cli.follow import away_words, come_back
    from taskforge.cli.stream import PATIENCE_S
    from taskforge.core.clock import SystemClock

    monotonic = SystemClock().monotonic
    began, away, pause = monotonic(), 0.0, _FIRST_PAUSE_S
    while True:
        left = None if limit_s is None else max(limit_s - (monotonic() - began), 0.0)
        asked = monotonic()
        found = _look(session, run_id, left)
        if found is not None:
            if found["state"] in TERMINAL or left == 0:
                return found
            away = 0.0
            if monotonic() - asked > _LONGEST_PAUSE_S:
                pause = _FIRST_PAUSE_S
                continue
            # An answer that came early is that of a server which shuts down.
        elif not away:
            away = monotonic()
            session.screen.note(away_words(name))
        elif monotonic() - away > PATIENCE_S:
            words = f"the server did not come back within {PATIENCE_S:g} s"
            raise CommandError(words, hint=come_back(name), code=Exit.UNREACHABLE)
        time.sleep(pause if left is None else min(pause, left))
        pause = min(pause * 1.5, _LONGEST_PAUSE_S)


def _look(session: Session, run_id: str, left_s: float | None) -> dict[str, Any] | None:
    """The run at its end, or as it is when the time is over. None: no server."""
    wait = f"{round(min(_LONG_POLL_S, left_s if left_s is not None else _LONG_POLL_S) * 1000)}ms"
    try:
        found: dict[str, Any] = session.client.get("runs", run_id, wait=wait)
    except CommandError as fault:
        if fault.refused:
            raise
        return None
    return found


def say_started(session: Session, name: str, started: dict[str, Any]) -> None:
    """Tell of a run that was started."""
    screen = session.screen
    if session.machine:
        screen.document(started)
    elif screen.quiet:
        screen.line(name)
    else:
        screen.line(
            Paint("✔", "green"), " ", Paint(name, "bold"), f" is {started['state']}  ", Paint(started["id"], "dim")
        )
        screen.note(Paint("  watch it: ", "dim"), f"taskforge runs show {name}")


def _limit(wait: str | None) -> float | None:
    if wait is None or wait == _ENDLESS:
        return None
    limit = _duration(wait)
    if limit is None:
        raise CommandError(f"--wait {wait!r} is no time", hint="write it like 30s, 10m or 2h", code=Exit.USAGE)
    return limit


def _duration(text: str) -> float | None:
    from taskforge.core.durations import parse_duration

    try:
        return parse_duration(text) / 1000
    except ValueError:
        return None
