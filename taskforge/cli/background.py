"""`up` and `down`: the server in the background."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from taskforge.cli.command import Example, Session, command, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Paint

if TYPE_CHECKING:
    from taskforge.config.lock import Holder

_START_TEXT = "60s"
_LOOK_S = 0.05
_MARGIN_S = 15.0
_DEFAULT_GRACE_S = 10.0


@command(
    "up",
    examples=[
        Example("taskforge up"),
        Example("taskforge up --port 8080"),
        Example("taskforge up --timeout 5m", "a large database after a crash"),
    ],
)
@click.option("--host", metavar="H", help="Address to listen on, for this time only.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="P", help="Port to listen on; 0 takes a free one.")
@click.option(
    "--timeout",
    metavar="TIME",
    default=_START_TEXT,
    show_default=True,
    help="How long the server may take to be ready.",
)
@pass_session
def up(session: Session, host: str | None, port: int | None, timeout: str) -> int:
    """Start the server in the background; wait until it is ready.

    In a new home it does what `init` does first. What the server says goes to serve.log in the home (taskforge logs).
    A server that runs already is left alone, and that is no error.
    """
    from taskforge.cli.process import ServerChild, ServerEnded
    from taskforge.config.home import LOG_FILE, create_home
    from taskforge.config.lock import is_held, read_holder
    from taskforge.config.reading import load_settings, resolve_home

    limit_s = seconds(timeout, "--timeout")
    environ = session.screen.environ
    report = create_home(resolve_home(environ))
    home = report.home
    settings = load_settings(home, environ)  # what is wrong with it is said here, not in the log
    arguments = [*(["--host", host] if host else []), *(["--port", str(port)] if port is not None else [])]
    if is_held(home) and _await_other(home, limit_s):
        return _runs_already(session, home, arguments)
    child = ServerChild(home, environ, arguments, settings.log.file_mib * 1024 * 1024)
    try:
        url = child.wait_until_ready(limit_s)
    except BaseException as fault:
        child.kill()
        if isinstance(fault, ServerEnded) and is_held(home) and _await_other(home, limit_s):
            return _runs_already(session, home, arguments)  # another `up` was quicker
        if isinstance(fault, CommandError):
            fault.hint = _who_is_there(fault.lines, settings.server.port if port is None else port)
            fault.hint += f"all it said: {home / LOG_FILE}"
        raise
    warnings = child.warnings()
    told = [words for words in report.warnings if words not in warnings]
    for warning in (*told, *warnings):
        session.screen.note(Paint("warning:", "yellow"), " ", warning)
    holder = read_holder(home)
    _say(session, url, holder.pid if holder else child.process.pid, home, started=True)
    return Exit.DONE


@command(
    "down",
    examples=[
        Example("taskforge down"),
        Example("taskforge down --timeout 5m", "give running attempts longer; see [engine] grace_seconds"),
        Example("taskforge down --timeout 20s --kill"),
    ],
)
@click.option("--timeout", metavar="TIME", help="How long to wait for its end; else the grace time and 15 seconds.")
@click.option("--kill", is_flag=True, help="When that time is over, end it at once; what was accepted is not lost.")
@pass_session
def down(session: Session, timeout: str | None, kill: bool) -> int:
    """Stop the server; attempts get their grace time.

    What is not finished by then goes on at the next start. Nothing to stop is no error.
    """
    from taskforge.config.lock import is_held, read_holder
    from taskforge.config.reading import resolve_home

    screen = session.screen
    home = resolve_home(screen.environ)
    patience = seconds(timeout, "--timeout") if timeout else _grace_seconds(home, screen.environ) + _MARGIN_S
    if not is_held(home):
        if session.machine:
            screen.document({"stopped": False, "home": str(home)})
        else:
            screen.note(f"no server runs on {home}")
        return Exit.DONE
    holder = read_holder(home)
    if holder is None:
        raise CommandError(
            f"a server holds {home}, but its serve.pid does not say which",
            hint=f"find it with: fuser {home / 'serve.pid'}   and end it with: kill PID",
        )
    if not holder.stopping:  # a second signal would end it at once
        _signal(holder.pid, home, signal.SIGTERM)
    killed = False
    if not _wait_for_end(home, patience):
        if not kill:
            raise CommandError(
                f"the server (process {holder.pid}) has not ended within {patience:g} s",
                hint="wait again, or end it at once with: taskforge down --timeout 1s --kill   "
                "(nothing that was accepted is lost)",
            )
        _signal(holder.pid, home, signal.SIGKILL)
        killed = True
        if not _wait_for_end(home, _MARGIN_S):
            raise CommandError(f"the server (process {holder.pid}) cannot be ended", hint="look at its state with ps")
    if session.machine:
        screen.document({"stopped": True, "pid": holder.pid, "home": str(home), "killed": killed})
    elif not screen.quiet:
        words = "was ended at once; what was under way goes on at the next start" if killed else "has ended"
        screen.line(Paint("✔", "green"), f" the server (process {holder.pid}) {words}")
    return Exit.DONE


def _who_is_there(said: list[str], port: int) -> str:
    """The program on a port that is taken, where it can be seen."""
    from taskforge.cli.doctor.listeners import find_listener

    who = find_listener(port) if any("address already in use" in line for line in said) else None
    return f"{who} listens there; " if who else ""


def seconds(text: str, option: str) -> float:
    """The time that an option gives, in seconds; CommandError for what is none."""
    from taskforge.core.durations import parse_duration

    try:
        found = parse_duration(text) / 1000
    except ValueError:
        found = 0.0
    if found <= 0:
        raise CommandError(f"{option}: {text!r} is no time", hint="write it like 30s or 5m", code=Exit.USAGE)
    return found


def _grace_seconds(home: Path, environ: os._Environ[str] | dict[str, str]) -> float:
    """What the server was probably started with; a configuration that is wrong by now must not keep it from ending."""
    from taskforge.config.reading import load_settings
    from taskforge.core.errors import StartupError

    try:
        return load_settings(home, environ).engine.grace_seconds
    except StartupError:
        return _DEFAULT_GRACE_S


def _await_other(home: Path, limit_s: float) -> bool:
    """Wait for a server that another has started: True when it is ready, False when it is gone.

    Raises CommandError when it is neither in time.
    """
    from taskforge.cli.process import is_ready
    from taskforge.config.lock import is_held, read_holder

    holder: Holder | None = None
    for _ in range(max(1, round(limit_s / _LOOK_S))):
        holder = read_holder(home)
        if holder is not None and holder.url and not holder.stopping and is_ready(holder):
            return True
        if not is_held(home):
            return False
        time.sleep(_LOOK_S)
    who = f"process {holder.pid}" if holder else "a process that serve.pid does not name"
    state = "is stopping" if holder and holder.stopping else "is not ready"
    raise CommandError(f"{who} serves {home} already, and {state} after {limit_s:g} s", hint="see: taskforge logs")


def _wait_for_end(home: Path, patience_s: float) -> bool:
    from taskforge.config.lock import is_held

    for _ in range(max(1, round(patience_s / _LOOK_S))):
        if not is_held(home):
            return True
        time.sleep(_LOOK_S)
    return not is_held(home)


def _signal(pid: int, home: Path, number: int) -> None:
    """Send it to the process, if it is the server and not another one of the same number."""
    descriptors = Path(f"/proc/{pid}/fd")
    try:
        if Path("/proc/self/fd").is_dir() and not any(
            os.path.realpath(entry) == str((home / "serve.pid").resolve()) for entry in descriptors.iterdir()
        ):
            raise ProcessLookupError
        os.kill(pid, number)
    except (ProcessLookupError, FileNotFoundError, PermissionError):
        raise CommandError(
            f"the server of {home} is process {pid}, which cannot be reached from here",
            hint="it may run in a container or as another user; stop it there",
        ) from None


def _runs_already(session: Session, home: Path, arguments: list[str]) -> int:
    from taskforge.config.lock import read_holder

    holder = read_holder(home)
    _say(session, (holder.url or "") if holder else "", holder.pid if holder else 0, home, started=False)
    if arguments:
        session.screen.note(
            Paint("warning:", "yellow"), f" it was not restarted, so {' '.join(arguments)} counts for nothing; "
            "run: taskforge down",
        )  # fmt: skip
    return Exit.DONE


def _say(session: Session, url: str, pid: int, home: Path, *, started: bool) -> None:
    screen = session.screen
    if session.machine:
        screen.document({"server": url, "pid": pid, "home": str(home), "started": started})
    elif screen.quiet:
        screen.line(url)
    else:
        words = "is ready" if started else "runs already"
        screen.line(Paint("✔", "green"), " the server ", words, " at ", Paint(url, "bold"), f"  (process {pid})")
        screen.note(Paint("  next: ", "dim"), "taskforge apply FILE, taskforge status, taskforge down")
