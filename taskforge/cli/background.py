"""`up` and `down`: the server in the background."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import click

from taskforge.cli.command import Example, Session, command, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Paint

_START_S = 30.0
_LOOK_S = 0.05
_MARGIN_S = 15.0


@command("up", examples=[Example("taskforge up"), Example("taskforge up --port 8080")])
@click.option("--host", metavar="H", help="Address to listen on, for this time only.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="P", help="Port to listen on; 0 takes a free one.")
@pass_session
def up(session: Session, host: str | None, port: int | None) -> int:
    """Start the server in the background; wait until it is ready.

    In a new home it does what `init` does first. What the server says goes to serve.log in the home.
    """
    from taskforge.cli.process import LOG_FILE, ServerChild
    from taskforge.config.home import create_home
    from taskforge.config.lock import is_held, read_holder
    from taskforge.config.reading import load_settings, resolve_home

    environ = session.screen.environ
    home = create_home(resolve_home(environ)).home
    load_settings(home, environ)  # what is wrong with it is said here, not in the log
    if is_held(home):
        holder = read_holder(home)
        url, pid = (holder.url or "", holder.pid) if holder else ("", 0)
        _say(session, url, pid, home, "runs already")
        return Exit.DONE
    arguments = [*(["--host", host] if host else []), *(["--port", str(port)] if port is not None else [])]
    child = ServerChild(home, environ, arguments)
    try:
        url = child.wait_until_ready(_START_S)
    except BaseException as fault:
        child.kill()
        if isinstance(fault, CommandError):
            fault.hint = f"all it said: {home / LOG_FILE}"
        raise
    holder = read_holder(home)
    _say(session, url, holder.pid if holder else child.process.pid, home, "is ready")
    return Exit.DONE


@command("down", examples=[Example("taskforge down")])
@pass_session
def down(session: Session) -> int:
    """Stop the server; attempts get their grace time.

    What is not finished by then goes on at the next start. Nothing to stop is no error.
    """
    from taskforge.config.lock import is_held, read_holder
    from taskforge.config.reading import load_settings, resolve_home

    screen = session.screen
    home = resolve_home(screen.environ)
    settings = load_settings(home, screen.environ)
    holder = read_holder(home) if is_held(home) else None
    if holder is None:
        if session.machine:
            screen.document({"stopped": False, "home": str(home)})
        else:
            screen.note(f"no server runs on {home}")
        return Exit.DONE
    _stop(holder.pid, home)
    patience = settings.engine.grace_seconds + _MARGIN_S
    for _ in range(round(patience / _LOOK_S)):
        if not is_held(home):
            break
        time.sleep(_LOOK_S)
    else:
        raise CommandError(
            f"the server (process {holder.pid}) has not ended within {patience:g} s",
            hint=f"end it at once with: kill -9 {holder.pid}   (nothing that was accepted is lost)",
        )
    if session.machine:
        screen.document({"stopped": True, "pid": holder.pid, "home": str(home)})
    elif not screen.quiet:
        screen.line(Paint("✔", "green"), f" the server (process {holder.pid}) has ended")
    return Exit.DONE


def _stop(pid: int, home: Path) -> None:
    """SIGTERM to the process, if it is the server and not another one of the same number."""
    descriptors = Path(f"/proc/{pid}/fd")
    try:
        if Path("/proc/self/fd").is_dir() and not any(
            os.path.realpath(entry) == str((home / "serve.pid").resolve()) for entry in descriptors.iterdir()
        ):
            raise ProcessLookupError
        os.kill(pid, signal.SIGTERM)
    except (ProcessLookupError, FileNotFoundError, PermissionError):
        raise CommandError(
            f"the server of {home} is process {pid}, which cannot be reached from here",
            hint="it may run in a container or as another user; stop it there",
        ) from None


def _say(session: Session, url: str, pid: int, home: Path, words: str) -> None:
    screen = session.screen
    if session.machine:
        screen.document({"server": url, "pid": pid, "home": str(home)})
    elif screen.quiet:
        screen.line(url)
    else:
        screen.line(Paint("✔", "green"), " the server ", words, " at ", Paint(url, "bold"), f"  (process {pid})")
        screen.note(Paint("  next: ", "dim"), "taskforge apply FILE, taskforge status, taskforge down")
