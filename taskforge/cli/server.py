"""`init serve status version`: the home, the server in the foreground, and what runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from taskforge.cli.command import Example, Session, command, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Cell, Paint

if TYPE_CHECKING:
    from taskforge.config.lock import Holder

_SILENCE_S = 5.0


@command(
    "init",
    examples=[
        Example("taskforge init", "in TASKFORGE_HOME, else ~/.taskforge"),
        Example("TASKFORGE_HOME=./here taskforge init"),
    ],
)
@pass_session
def init(session: Session) -> int:
    """Make the home: configuration, token and key.

    Run again, it changes nothing and says so.
    """
    from taskforge.config.home import create_home
    from taskforge.config.reading import load_settings, resolve_home

    screen = session.screen
    report = create_home(resolve_home(screen.environ))
    settings = load_settings(report.home, screen.environ)
    for warning in (*report.warnings, *settings.warnings):
        screen.note(Paint("warning:", "yellow"), " ", warning)
    if session.machine:
        screen.document({"home": str(report.home), "created": [name for name in report.created if name != "."]})
    elif screen.quiet:
        screen.line(str(report.home))
    elif report.created:
        screen.line(Paint("✔", "green"), f" {report.home} is ready: config.toml with the API token, secret.key")
        screen.line("  next: ", Paint("taskforge up", "bold"), ", then ", Paint("taskforge apply FILE", "bold"))
    else:
        screen.line(f"{report.home} was there already; nothing has changed")
    return Exit.DONE


@command("serve", examples=[Example("taskforge serve"), Example("taskforge serve --port 8080")])
@click.option("--host", metavar="H", help="Address to listen on, for this time only.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="P",
    help="Port to listen on, for this time only; 0 takes a free one.",
)
@pass_session
def serve(session: Session, host: str | None, port: int | None) -> int:
    """Run the server in the foreground.

    In a new home it does what `init` does first. Prints one line when it is ready, a JSON object with -o json. Ctrl-C
    or SIGTERM ends it: running attempts get a grace time, and what they leave goes on at the next start.
    """
    from taskforge.app import serve as run_server
    from taskforge.config.reading import resolve_home

    given: dict[str, str | int] = {}
    if host is not None:
        given["server.host"] = host
    if port is not None:
        given["server.port"] = port
    return run_server(resolve_home(session.screen.environ), given, machine=session.machine)


@command("version", examples=[Example("taskforge version"), Example("taskforge version -o json")])
@pass_session
def version(session: Session) -> int:
    """Print the program's version."""
    from taskforge import __version__

    if session.machine:
        session.screen.document({"version": __version__})
    else:
        session.screen.line(__version__ if session.screen.quiet else f"taskforge {__version__}")
    return Exit.DONE


@command("status", examples=[Example("taskforge status"), Example("taskforge status -o json")])
@pass_session
def status(session: Session) -> int:
    """Show what runs, and where.

    Exit code 0: the server is ready. 1: it is there, but not ready. 3: there is none.
    """
    client, screen = session.client, session.screen
    holder = _holder(session)
    if holder is not None:
        _refuse_silence(session, holder)
    try:
        hindrance = client.alive()
        stats: dict[str, Any] = client.get("stats")
    except CommandError as fault:
        raise _explained(session, fault, holder) from None
    if holder is not None and holder.stopping:
        hindrance = "it is stopping"
    home, version = str(client.connection.home), client.server_version()
    if session.machine:
        facts: dict[str, Any] = {"server": client.connection.url, "ready": hindrance is None, "reason": hindrance}
        facts["chosen_by"] = client.connection.chosen_by
        process = {"pid": holder and holder.pid, "ready_at": _time(holder)}
        screen.document({**facts, **process, "home": home, "version": version, "stats": stats})
        return Exit.DONE if hindrance is None else Exit.FAILED
    if screen.quiet:
        screen.line(client.connection.url)
    else:
        ready: Cell = Paint("ready", "green") if hindrance is None else Paint("not ready", "bad")
        screen.line(Paint("server".ljust(14), "dim"), client.connection.url, "  ", ready)
        if client.connection.local:
            screen.line(Paint("home".ljust(14), "dim"), home)
        else:
            screen.line(Paint("chosen by".ljust(14), "dim"), client.connection.chosen_by)
        if holder is not None:
            screen.line(Paint("process".ljust(14), "dim"), f"{holder.pid}, ready since {_time(holder) or 'unknown'}")
        screen.line(Paint("version".ljust(14), "dim"), _versions(version))
        for label, text in _figures(stats):
            screen.line(Paint(label.ljust(14), "dim"), text)
    if hindrance is not None:
        raise CommandError(f"the server is there, but not ready: {hindrance}", hint="its log says more: taskforge logs")
    return Exit.DONE


def _holder(session: Session) -> Holder | None:
    """The process that serves the home, if it is the home's server that is asked."""
    from taskforge.config.lock import is_held, read_holder

    connection = session.client.connection
    return read_holder(connection.home) if connection.local and is_held(connection.home) else None


def _refuse_silence(session: Session, holder: Holder) -> None:
    """A server that hangs takes connections and never answers: that is told within seconds."""
    from taskforge.cli.probing import probe

    connection = session.client.connection
    if holder.url and probe(connection.url, patience_s=_SILENCE_S) is None:
        fault = CommandError(f"there is no answer at {connection.url}", code=Exit.UNREACHABLE)
        raise _explained(session, fault, holder)


def _time(holder: Holder | None) -> str | None:
    from taskforge.core.clock import to_rfc3339

    return None if holder is None or holder.ready_at is None else to_rfc3339(holder.ready_at)


def _explained(session: Session, fault: CommandError, holder: Holder | None) -> CommandError:
    """Tell a home without a server from one whose server is silent, and from a server of another home."""
    connection = session.client.connection
    if not connection.local or fault.code != Exit.UNREACHABLE:
        return fault
    if holder is not None and not fault.refused:
        return CommandError(
            f"process {holder.pid} serves {connection.home}, but {fault.message}",
            hint="it may be starting, or hang; its log says more: taskforge logs   (and: taskforge doctor)",
            code=Exit.UNREACHABLE,
        )
    if holder is None and fault.refused:
        return CommandError(
            f"no server runs on {connection.home}; the one at {connection.url} belongs to another home",
            hint="set TASKFORGE_HOME to that home; or choose another [server] port here, then: taskforge up",
            code=Exit.UNREACHABLE,
        )
    return fault


def _versions(server: str | None) -> str:
    from taskforge import __version__

    return __version__ if server == __version__ else f"{server or 'unknown'} (this program: {__version__})"


def _figures(stats: dict[str, Any]) -> list[tuple[str, str]]:
    runs = ", ".join(f"{count} {name}" for name, count in stats.get("runs", {}).items() if count) or "none yet"
    ready = stats.get("ready_steps") or 0
    oldest = stats.get("oldest_ready_s")
    waiting = f"{ready} ready" + (f", the oldest for {float(oldest):.1f}s" if ready and oldest is not None else "")
    size = (stats.get("db_bytes") or 0) + (stats.get("wal_bytes") or 0)
    found: list[tuple[str, str]] = []
    if stats.get("held") or stats.get("held_workflows"):
        count = stats.get("held_workflows") or 0
        some = f"{count} workflow{'s' if count != 1 else ''}" if count else ""
        found.append(("held", "everything" if stats.get("held") else some))
    found += [("runs", runs), ("steps", waiting), ("dead letters", f"{stats.get('dead_letters') or 0} open")]
    if stats.get("schedules_overdue"):
        found.append(("schedules", f"{stats['schedules_overdue']} overdue"))
    return [*found, ("database", f"{size / 1024 / 1024:.1f} MiB")]
