"""`runs list/show`, and the group of what else is done with runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from taskforge.cli.command import Example, Group, Session, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Paint
from taskforge.cli.run_acts import cancel, replay, retry, signal
from taskforge.cli.run_logs import logs
from taskforge.cli.run_timeline import timeline
from taskforge.cli.run_view import HEADS, fetch_run, name_of, row_of, show_run

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
        Example("taskforge runs list --state RUNNING,WAITING --watch"),
        Example("taskforge runs list --state FAILED -q | taskforge runs retry -"),
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
@click.option("-w", "--watch", is_flag=True, help="Go on looking, once a second; in a pipe, lines of what has moved.")
@pass_session
def list_runs(session: Session, /, states: tuple[str, ...], everything: bool, watch: bool, **chosen: Any) -> None:
    """List runs, newest first."""
    chosen |= {"state": ",".join(_known_states(states)) or None}
    chosen |= {"since": _moment(chosen["since"]), "until": _moment(chosen["until"])}
    client, screen = session.client, session.screen
    if watch:
        if session.machine or everything or chosen["cursor"]:
            words = "--watch is for people, and for the newest runs: not with -o, --all or --cursor"
            raise CommandError(words, hint="taskforge run … --wait -o json waits for a run", code=Exit.USAGE)
        from taskforge.cli.run_watch import watch_runs

        watch_runs(session, chosen)
        return
    if everything:
        del chosen["limit"], chosen["cursor"]
        page: Any = {"items": list(client.pages("runs", **chosen)), "next_cursor": None}
    else:
        page = client.get("runs", **chosen)
    if session.machine:
        screen.document(page)
    elif screen.quiet:
        for run in page["items"]:
            screen.line(name_of(run))
    elif page["items"]:
        screen.table(HEADS, [row_of(run, None, screen.columns) for run in page["items"]], keep=(0, 1))
    else:
        screen.note("no runs", " match" if states or chosen["workflow"] else " yet; start one: taskforge run WORKFLOW")
    if page.get("next_cursor") and not session.machine:
        screen.note(Paint(f"there are more: --cursor {page['next_cursor']}, or --all", "dim"))


@runs.command(
    "show",
    examples=[
        Example("taskforge runs show uptime#42"),
        Example("taskforge runs show uptime#42 --all"),
        Example("taskforge runs show uptime#42 --follow"),
    ],
)
@click.argument("run", metavar="RUN")
@click.option("--steps", type=click.Choice(["none", "failed", "all"]), help="Which steps; as data, else the first 500.")
@click.option("--all", "everything", is_flag=True, help="Every item of a foreach, not only what failed or goes on.")
@click.option(
    "-f", "--follow", is_flag=True, help="Watch until it ends, as `run --follow` does. Exit code 1: not well."
)
@pass_session
def show(session: Session, run: str, steps: str | None, everything: bool, follow: bool) -> int:
    """Show a run: its steps as a tree, with states, durations, attempts and errors.

    Of a foreach or repeat with many items, those that failed or go on are shown, and the others counted.
    """
    if follow:
        from taskforge.cli.run import watch

        found = session.client.get("runs", run, steps="none")
        return watch(session, found["id"], name_of(found), None, follow=True)
    show_run(session, fetch_run(session, run, "all" if everything else steps), everything=everything)
    return 0


for _command in (logs, timeline, cancel, retry, replay, signal):
    runs.add_command(_command)


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
