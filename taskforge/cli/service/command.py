"""`service install/uninstall/status`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from taskforge.cli.command import Example, Group, Session, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Paint

if TYPE_CHECKING:
    from taskforge.cli.service.managers import Manager
    from taskforge.config.settings import Settings

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_CONFLICT_HINT: Final = "a second service needs a name of its own: --name NAME; taskforge service uninstall removes one"

_name_option = click.option(
    "--name", default="taskforge", show_default=True, metavar="NAME", help="The service's name, for several homes."
)


@click.group("service", cls=Group, default="status")
def service() -> None:
    """Run the server as a service of yours: systemd, or launchd on macOS."""


@service.command(
    "install",
    examples=[
        Example("taskforge service install --now"),
        Example("taskforge service install --print", "show the file, write nothing"),
        Example("TASKFORGE_HOME=~/second taskforge service install --name second"),
    ],
)
@click.option("--now", is_flag=True, help="Start it at once, too; restart it when its file has changed.")
@click.option("--no-enable", is_flag=True, help="Write the file only.")
@click.option("--print", "only_print", is_flag=True, help="Print the file instead of writing it.")
@_name_option
@pass_session
def install(session: Session, now: bool, no_enable: bool, only_print: bool, name: str) -> int:
    """Have the server started when you log in, and again when it fails.

    Writes a unit for this program and this home, and enables it. In a new home it does what `init` does first. Run
    again, it changes what has changed and says what that was; a file that is not from here is never overwritten.
    """
    from taskforge.cli.service.managers import find_manager
    from taskforge.config.home import create_home
    from taskforge.config.reading import load_settings, resolve_home

    if now and no_enable:
        raise CommandError("--now and --no-enable exclude each other", code=Exit.USAGE)
    environ = session.screen.environ
    home = resolve_home(environ)
    manager = find_manager(environ)
    path = manager.path(_checked(name))
    if only_print:
        session.screen.text(_content(manager, name, load_settings(home, environ)).decode())
        return Exit.DONE
    if not no_enable and (why := manager.missing()) is not None:
        raise CommandError(
            why, hint="the file alone is written by: taskforge service install --no-enable; a server in the background "
            "needs no service: taskforge up",
        )  # fmt: skip
    before = _read_ours(path, home)
    if now:
        _refuse_rival(manager, name, home)
    content = _content(manager, name, load_settings(create_home(home).home, environ))
    done: list[str] = []
    if before != content:
        _write(path, content)
        done.append("written" if before is None else "changed")
    changed = bool(done)
    if not no_enable:
        enabled = manager.status(name).enabled
        done += [word for word in manager.enable(name, now=now, changed=changed) if word != "enabled" or not enabled]
    _say_installed(session, manager, name, home, done, enabled=not no_enable)
    return Exit.DONE


@service.command("uninstall", examples=[Example("taskforge service uninstall")])
@_name_option
@pass_session
def uninstall(session: Session, name: str) -> int:
    """Stop the service, disable it and remove its file. The home stays as it is.

    Nothing to remove is no error.
    """
    from taskforge.cli.service.managers import find_manager

    screen = session.screen
    manager = find_manager(screen.environ)
    path = manager.path(_checked(name))
    done: list[str] = []
    if _read_ours(path, None) is not None:
        missing = manager.missing()
        if missing is None:
            done += manager.disable(name)
        else:
            screen.note(Paint("warning:", "yellow"), f" {missing}; the file is removed all the same")
        path.unlink()
        done.append("removed")
        if missing is None:
            manager.forget(name)
    if session.machine:
        screen.document({"name": name, "manager": manager.kind, "path": str(path), "done": done})
    elif done:
        if not screen.quiet:
            screen.line(Paint("✔", "green"), f" {name} is {_listed(done)}: {path}")
    else:
        screen.note(f"there is no {path}")
    return Exit.DONE


@service.command("status", examples=[Example("taskforge service status"), Example("taskforge service status -o json")])
@_name_option
@pass_session
def status(session: Session, name: str) -> int:
    """Show whether the service is installed, enabled and active.

    Exit code 0: it is active. 1: it is installed, but not active. 4: it is not installed.
    """
    from taskforge.cli.service.managers import find_manager
    from taskforge.cli.service.texts import unit_home

    screen = session.screen
    manager = find_manager(screen.environ)
    path = manager.path(_checked(name))
    content = path.read_bytes() if path.is_file() else None
    missing = manager.missing()
    if content is None:
        hint = missing or "taskforge service install"
        raise CommandError(f"the service {name} is not installed: there is no {path}", hint=hint, code=Exit.NOT_FOUND)
    home = unit_home(content)
    found = None if missing else manager.status(name)
    current = _is_current(session, manager, name, content)
    if session.machine:
        facts: dict[str, Any] = {"name": name, "manager": manager.kind, "path": str(path), "home": home}
        facts |= {"enabled": found and found.enabled, "active": found and found.active}
        facts |= {"state": found and found.state, "pid": found and found.pid, "current": current, "reason": missing}
        screen.document(facts)
    elif not screen.quiet:
        state = missing or f"{found.state}{f', process {found.pid}' if found.pid else ''}" if found else missing
        rows = [("service", f"{name} ({manager.kind})"), ("file", str(path)), ("home", home or "unknown"),
                ("enabled", "unknown" if found is None else "yes" if found.enabled else "no"),
                ("state", state or "unknown"), ("log", manager.logs.format(name=name))]  # fmt: skip
        for label, text in rows:
            screen.paragraph(Paint(label.ljust(14), "dim"), text, hang=14)
        if current is False:
            screen.note(Paint("warning:", "yellow"), " the file is not what this program would write; "
                        "taskforge service install writes it anew")  # fmt: skip
    return Exit.DONE if found is not None and found.active else Exit.FAILED


def _checked(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise CommandError(
            f"{name!r} is no name of a service", hint="lower-case letters, digits and -", code=Exit.USAGE
        )
    return name


def _content(manager: Manager, name: str, settings: Settings) -> bytes:
    from taskforge.cli.process import own_command
    from taskforge.cli.service.texts import Facts, Unwritable

    command, added = own_command()
    try:
        facts = Facts(name, settings.home, [*command, "serve"], added, settings.engine.grace_seconds)
        return manager.content(facts)
    except Unwritable as error:
        raise CommandError(str(error), hint="move the home or the program to a path without them") from None


def _read_ours(path: Path, home: Path | None) -> bytes | None:
    """The file as it is, or None; CommandError when it is not from here, or serves another home than `home`."""
    from taskforge.cli.service.texts import is_ours, unit_home

    if not path.exists():
        return None
    content = path.read_bytes()
    if not is_ours(content):
        raise CommandError(
            f"{path} was not made by taskforge", hint="move it away, or choose --name", code=Exit.CONFLICT
        )
    other = unit_home(content)
    if home is not None and other is not None and other != str(home):
        raise CommandError(f"{path} serves another home, {other}", hint=_CONFLICT_HINT, code=Exit.CONFLICT)
    return content


def _refuse_rival(manager: Manager, name: str, home: Path) -> None:
    """A server that was started otherwise holds the home: the service would fail again and again."""
    from taskforge.config.lock import is_held, read_holder

    if not is_held(home):
        return
    holder, own = read_holder(home), manager.status(name)
    if own.active and not own.state.startswith("activating"):
        return
    who = f"process {holder.pid}" if holder else "another process"
    raise CommandError(
        f"a server runs already on {home} ({who}), which the service did not start",
        hint="stop it first: taskforge down   (nothing was changed)",
        code=Exit.CONFLICT,
    )


def _is_current(session: Session, manager: Manager, name: str, content: bytes) -> bool | None:
    """Is the file what `install` would write now? None where that cannot be said: another home, a wrong setting."""
    from taskforge.cli.service.texts import unit_home
    from taskforge.config.reading import load_settings, resolve_home
    from taskforge.core.errors import StartupError

    home = resolve_home(session.screen.environ)
    if unit_home(content) != str(home):
        return None
    try:
        return _content(manager, name, load_settings(home, session.screen.environ)) == content
    except (StartupError, CommandError):
        return None


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.new-{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        unfinished.chmod(0o644)
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _say_installed(
    session: Session, manager: Manager, name: str, home: Path, done: list[str], *, enabled: bool
) -> None:
    screen = session.screen
    path = manager.path(name)
    ignored = sorted(variable for variable in screen.environ if re.fullmatch(r"TASKFORGE_[A-Z]+__[A-Z_]+", variable))
    if session.machine:
        screen.document({"name": name, "manager": manager.kind, "path": str(path), "home": str(home), "done": done})
    elif screen.quiet:
        screen.line(str(path))
    elif done:
        screen.line(Paint("✔", "green"), f" {name} is {_listed(done)}: {path}")
    else:
        screen.line(f"{path} was there already; nothing has changed")
    if ignored:
        screen.note(Paint("warning:", "yellow"), f" the service does not see {', '.join(ignored)} of this shell; "
                    f"write it into {home / 'config.toml'}")  # fmt: skip
    if enabled:
        boot = manager.at_boot()
        if boot:
            screen.note(Paint("  note: ", "dim"), boot)
        screen.note(Paint("  log:  ", "dim"), manager.logs.format(name=name))


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
