"""`runs logs`: what happened in a run, line by line; with `--follow` until it ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any

import click

from taskforge.cli.command import Example, Session, command, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Paint

_STYLES = {"error": "bad", "warning": "magenta"}


@command(
    "logs",
    examples=[
        Example("taskforge runs logs uptime#42"),
        Example("taskforge runs logs -f uptime#42"),
        Example("taskforge runs logs uptime#42 --tail 20"),
    ],
)
@click.argument("run", metavar="RUN")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends, over restarts of the server.")
@click.option("--tail", type=click.IntRange(0), metavar="N", help="Only the last N lines that there are by now.")
@pass_session
def logs(session: Session, run: str, follow: bool, tail: int | None) -> None:
    """Print what happened in a run, line by line, oldest first."""
    from taskforge.cli.run_view import name_of

    client = session.client
    past = client.pages("runs", run, "logs")
    after = ""
    if tail is not None:
        newest = list(deque(past, max(tail, 1)))
        after = newest[-1]["id"] if newest else ""
        past = iter(newest[len(newest) - tail :] if tail < len(newest) else newest)
    elif follow:
        past = iter(())
    if not follow:
        _print(session, past)
        return
    found = client.get("runs", run, steps="none")
    name = name_of(found, run)
    try:
        with closing(_following(session, found["id"], name, past, after)) as lines:
            _print(session, lines)
    except KeyboardInterrupt:
        hint = f"taskforge runs logs -f {name}   end it: taskforge runs cancel {name}"
        raise CommandError(f"stopped watching {name}; it goes on", hint=hint, code=Exit.INTERRUPTED) from None


def _print(session: Session, lines: Iterator[dict[str, Any]]) -> None:
    screen = session.screen
    if session.machine:
        screen.document({"items": list(lines), "next_cursor": None})
        return
    for line in lines:
        style = _STYLES.get(line["level"], "")
        screen.line(Paint(f"{line['at']}  ", "dim"), Paint(f"{line['level']:<7} ", style), line["message"])
        if screen.reader_left:
            return


def _following(
    session: Session, run_id: str, name: str, past: Iterator[Any], after: str
) -> Generator[dict[str, Any], None, None]:
    """These lines of a run, then those after the one with this id, as they come."""
    from taskforge.cli.follow import away_words
    from taskforge.cli.stream import Away, Event, Feed, GivenUp

    told = False
    yield from past
    feed = Feed(session.client, run_id, after)
    try:
        while session.machine or session.screen.has_reader():
            news = feed.next(0.5)
            if isinstance(news, GivenUp):
                raise _given_up(news.fault, name)
            if isinstance(news, Away) and not told:
                told = True
                session.screen.note(away_words(name))
            elif isinstance(news, Event):
                if news.kind == "end":
                    return
                yield _line(news.id, news.data)
    finally:
        feed.close()


def _given_up(fault: CommandError, name: str) -> CommandError:
    if fault.refused:
        return fault
    return CommandError(fault.message, hint=f"go on with: taskforge runs logs -f {name}", code=Exit.UNREACHABLE)


def _line(id: str, data: dict[str, Any]) -> dict[str, Any]:
    """An event in the shape of `GET /v1/runs/{run}/logs`."""
    line = {"id": id, "at": data.get("at"), "level": data.get("level", "info"), "message": data.get("line", "")}
    return line | {key: data[key] for key in ("step", "attempt") if data.get(key) is not None}
