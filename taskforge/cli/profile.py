"""`profile add/list/use/remove`: several servers, each with its token."""

from __future__ import annotations

import stat

import click

from taskforge.cli.command import Example, Group, Session, pass_session
from taskforge.cli.connection import checked_url
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Paint
from taskforge.config.profiles import PROFILE_NAME, Profile, Profiles, load_profiles


@click.group("profile", cls=Group, default="list")
def profile() -> None:
    """Profiles: servers to talk to, each with its token."""


@profile.command(
    "add",
    examples=[
        Example("taskforge profile add prod --server https://flows.example.com"),
        Example("taskforge profile add ci --server http://10.0.0.7:7788 --token-file token.txt"),
    ],
)
@click.argument("name")
@click.option("--token-file", "file", metavar="FILE", help="Read the token from a file; - is standard input.")
@click.option("--use", "use_it", is_flag=True, help="Use it from now on.")
@pass_session
def add(session: Session, name: str, file: str | None, use_it: bool) -> None:
    """Add a profile, or replace it. --server says where; the token is asked for, or read from a file.

    The file with the tokens lies in the user's configuration directory and can be read by nobody else.
    """
    if PROFILE_NAME.fullmatch(name) is None:
        hint = "use letters, digits and . _ -, at most 63, not beginning with a sign"
        raise CommandError(f"{name!r} is no name for a profile", hint=hint, code=Exit.USAGE)
    if not session.server:
        hint = f"taskforge profile add {name} --server https://flows.example.com"
        raise CommandError("a profile needs --server URL", hint=hint, code=Exit.USAGE)
    profiles = load_profiles(session.screen.environ)
    replaced = name in profiles.known
    token = session.token or _token(session, name, file)
    profiles.known[name] = Profile(checked_url(session.server), token)
    if use_it:
        profiles.current = name
    profiles.save()
    screen = session.screen
    if session.machine:
        screen.document(_shape(profiles, name))
    elif screen.quiet:
        screen.line(name)
    else:
        words = " is replaced" if replaced else " is added"
        screen.line(Paint("✔", "green"), " ", Paint(name, "bold"), words, f": {profiles.known[name].server}")
        if not token:
            screen.note("it has no token; --token-file FILE gives it one")
        if profiles.current != name:
            screen.note(f"taskforge profile use {name} makes it the one that is used; or say --profile {name}")


@profile.command("list", examples=[Example("taskforge profile list")])
@pass_session
def list_profiles(session: Session) -> None:
    """List profiles; never their tokens."""
    profiles, screen = load_profiles(session.screen.environ), session.screen
    if profiles.known and stat.S_IMODE(profiles.path.stat().st_mode) & 0o077:
        screen.note(Paint("warning:", "yellow"), f" {profiles.path} can be read by others; run: chmod 600", " ",
                    str(profiles.path))  # fmt: skip
    names = sorted(profiles.known)
    if session.machine:
        screen.document({"items": [_shape(profiles, name) for name in names], "next_cursor": None})
    elif screen.quiet:
        for name in names:
            screen.line(name)
    elif names:
        rows = [
            [name, profiles.known[name].server, "yes" if profiles.known[name].token else "no",
             "used" if name == profiles.current else ""]
            for name in names
        ]  # fmt: skip
        screen.table(("NAME", "SERVER", "TOKEN", ""), rows)
    else:
        screen.note("no profiles yet; taskforge profile add NAME --server URL adds one")


@profile.command("use", examples=[Example("taskforge profile use prod"), Example("taskforge profile use --home")])
@click.argument("name", required=False)
@click.option("--home", is_flag=True, help="Use no profile, but the home's own server.")
@pass_session
def use(session: Session, name: str | None, home: bool) -> None:
    """Choose the profile that commands use where nothing else is said."""
    if (name is None) != home:
        raise CommandError("say which: the NAME of a profile, or --home", code=Exit.USAGE)
    profiles, screen = load_profiles(session.screen.environ), session.screen
    if name is not None:
        require_profile(profiles, name)
    profiles.current = name
    profiles.save()
    if session.machine:
        screen.document({"current": name})
    elif screen.quiet:
        screen.line(name or "")
    else:
        server = "the home's own server" if name is None else profiles.known[name].server
        screen.line(Paint("✔", "green"), " commands go to ", Paint(server, "bold"), " from now on")
        stronger = [key for key in ("TASKFORGE_SERVER", "TASKFORGE_PROFILE") if screen.environ.get(key)]
        if stronger:
            screen.note(f"but {stronger[0]} is set here, and goes before it")


@profile.command("remove", examples=[Example("taskforge profile remove prod")])
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@pass_session
def remove(session: Session, names: tuple[str, ...]) -> None:
    """Remove profiles with their tokens. The servers know nothing of it: revoke a token with token revoke."""
    profiles, screen = load_profiles(session.screen.environ), session.screen
    for name in names:
        require_profile(profiles, name)
    for name in names:
        profiles.known.pop(name, None)
        if profiles.current == name:
            profiles.current = None
    profiles.save()
    if session.machine:
        screen.document({"removed": list(names)})
    elif not screen.quiet:
        for name in names:
            screen.line(Paint("✔", "green"), " ", Paint(name, "bold"), " is removed")


def require_profile(profiles: Profiles, name: str) -> Profile:
    """The profile of this name. Raises CommandError."""
    found = profiles.known.get(name)
    if found is None:
        from taskforge.core.problem import suggest

        near = suggest(name, profiles.known)
        hint = "taskforge profile list shows those that there are"
        message = f"there is no profile {name!r}" + (f"; {near}" if near else "")
        raise CommandError(message, hint=hint, code=Exit.NOT_FOUND)
    return found


def _token(session: Session, name: str, file: str | None) -> str:
    import sys

    if file is None and (sys.stdin is None or not sys.stdin.isatty() or session.machine or session.screen.quiet):
        return ""
    from taskforge.cli.secret_text import read_secret

    token = read_secret(f"the token of {name}", file, stdin=False).strip()
    if not all("!" <= char <= "~" for char in token):
        raise CommandError("the token has characters that no token has", code=Exit.USAGE)
    return token


def _shape(profiles: Profiles, name: str) -> dict[str, object]:
    found = profiles.known[name]
    return {"name": name, "server": found.server, "token": bool(found.token), "current": name == profiles.current}
