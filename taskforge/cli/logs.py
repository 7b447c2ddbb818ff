"""`logs`: what the server of the home says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from taskforge.cli.command import Example, Session, command, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Paint

if TYPE_CHECKING:
    from taskforge.cli.log_lines import LogLine
    from taskforge.config.lock import Holder

_STYLES = {"error": "bad", "critical": "bad", "warning": "yellow", "debug": "dim"}
_FOREGROUND = "a server in the foreground (taskforge serve) writes to its own terminal"
_JOURNAL = "journalctl --user -u taskforge"


@command(
    "logs",
    examples=[
        Example("taskforge logs"),
        Example("taskforge logs -n 20 --level warning"),
        Example("taskforge logs -f", "goes on when the server restarts; Ctrl-C ends it"),
        Example("taskforge logs -o json | jq '.items[] | select(.event == \"ready\")'"),
    ],
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option("-n", "--lines", type=click.IntRange(0), default=100, show_default=True, metavar="N",
              help="How many of the last lines.")  # fmt: skip
@click.option("--level", type=click.Choice(["debug", "info", "warning", "error"]), default="debug",
              help="Only lines of this level and above.")  # fmt: skip
@pass_session
def logs(session: Session, follow: bool, lines: int, level: str) -> None:
    """Show the server's log: serve.log in the home.

    That is where a server writes that `taskforge up` started. One in the foreground writes to its terminal, one under
    systemd to the journal: journalctl --user -u taskforge. What happens in a run is shown by `taskforge runs logs`.
    With -f, -o json prints one object a line.
    """
    from taskforge.cli.log_lines import following_lines
    from taskforge.config.home import LOG_FILE
    from taskforge.config.lock import is_held, read_holder
    from taskforge.config.reading import resolve_home

    screen = session.screen
    home = resolve_home(screen.environ)
    path = home / LOG_FILE
    holder = read_holder(home) if is_held(home) else None
    elsewhere = other_place(holder, path)
    if not path.is_file():
        raise CommandError(f"there is no {path}", hint=elsewhere or _nothing_yet(holder), code=Exit.NOT_FOUND)
    if elsewhere:
        screen.note(Paint("warning:", "yellow"), " these lines are of an earlier server: ", elsewhere)
    found, place = _last(path, lines, level)
    if session.machine and not follow:
        screen.document({"path": str(path), "items": [line.to_json() for line in found]})
        return
    for line in found:
        _show(session, line)
    if follow:
        for line in following_lines(path, place, level):
            _show(session, line)
            if screen.reader_left:
                return


def other_place(holder: Holder | None, path: Path) -> str | None:
    """Where the server writes that runs, when it does not write to the file; None also where this cannot be seen."""
    if holder is None:
        return None
    try:
        target = os.readlink(f"/proc/{holder.pid}/fd/2")
        unit = Path(f"/proc/{holder.pid}/cgroup").read_text().strip().rpartition("/")[2]
    except OSError:
        return None
    if os.path.realpath(target) == os.path.realpath(path):
        return None
    if unit.endswith(".service") and target.startswith("socket:"):
        return f"process {holder.pid} runs under systemd; read it with: journalctl --user -u {unit}"
    return f"process {holder.pid} writes to {target}; {_FOREGROUND}"


def _nothing_yet(holder: Holder | None) -> str:
    if holder is not None:
        return f"{_FOREGROUND}; one under systemd to the journal: {_JOURNAL}"
    return f"it comes with: taskforge up   ({_FOREGROUND}; one under systemd to the journal: {_JOURNAL})"


def _last(path: Path, count: int, level: str) -> tuple[list[LogLine], int]:
    """The last lines, from the log that was put aside, too, where the new one does not have enough."""
    from taskforge.cli.log_lines import last_lines
    from taskforge.observe.log_file import older

    found, place = last_lines(path, count, level)
    if len(found) < count and older(path).is_file():
        earlier, _ = last_lines(older(path), count - len(found), level)
        found = earlier + found
    return found, place


def _show(session: Session, line: LogLine) -> None:
    from taskforge.cli.shown import encode

    screen = session.screen
    if session.machine:
        screen.text(encode(line.to_json(), None))
        return
    style = _STYLES.get(line.level, "")
    fields = " ".join(f"{key}={_value(value)}" for key, value in line.fields.items())
    words = f"{line.event} {fields}" if fields else line.event
    if line.time is None:
        screen.paragraph(Paint(words, style), hang=4)
        return
    head = Paint(f"{line.time}  ", "dim")
    screen.paragraph(head, Paint(f"{line.level:<8}", style), f"{line.logger}: " if line.logger else "", words, hang=4)
    for text in (line.exception or "").splitlines():
        screen.paragraph("    ", Paint(text, "dim"), hang=6)


def _value(value: object) -> str:
    from taskforge.cli.shown import encode

    plain = isinstance(value, str) and value and not set(value) & set(' "=\\\n\t')
    return str(value) if plain else encode(value, None)
