"""Commands and groups: global options in every place, examples in every help, suggestions, a default subcommand."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Screen

if TYPE_CHECKING:
    from taskforge.cli.client import Client

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Session:
    """What one call of the program has: its screen, the global options, and a client once one is needed."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.server: str | None = None
        self.token: str | None = None
        self.profile: str | None = None
        self.patience_s: float | None = None
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        if self._client is None:
            from taskforge.cli.client import Client
            from taskforge.cli.connection import find_connection

            connection = find_connection(self.server, self.token, self.screen.environ, self.profile)
            self._client = Client(connection, self.patience_s)
        return self._client

    @property
    def asked(self) -> bool:
        """Has a server answered this command?"""
        return self._client is not None and self._client.answered

    @property
    def machine(self) -> bool:
        """Is the answer wanted as one document?"""
        return self.screen.form != "table"

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


pass_session = click.make_pass_decorator(Session)


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """A global option counts wherever it stands; the one that stands last wins."""
    session = context.find_object(Session)
    if session is None or value is None or value is False:
        return
    if parameter.name == "output":
        session.screen.form = value
    elif parameter.name == "quiet":
        session.screen.quiet = True
    else:
        setattr(session, parameter.name or "", value)


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from taskforge import __version__

        context.ensure_object(Session).screen.line(f"taskforge {__version__}")
        context.exit()


def _global_options(*, hidden: bool) -> list[click.Option]:
    def option(*names: str, **more: Any) -> click.Option:
        return click.Option(names, expose_value=False, callback=_remember, hidden=hidden, **more)

    return [
        option("--server", metavar="URL", help="The server to talk to; else TASKFORGE_SERVER, else the home's."),
        option("--token", metavar="T", help="The API token; else TASKFORGE_TOKEN, else the home's."),
        option("--profile", metavar="P", help="The profile to use; else TASKFORGE_PROFILE, else the current one."),
        option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), help="How the answer looks."),
        option("-q", "--quiet", is_flag=True, help="Only references that feed the next command; no remarks."),
    ]


class Example(NamedTuple):
    """A line for the help and the reference. Tests run every one of them."""

    line: str
    what: str = ""


class Command(click.Command):
    """A command of ours. `examples` end its help."""

    def __init__(self, *args: Any, examples: Sequence[Example] = (), **settings: Any) -> None:
        settings["context_settings"] = HELP | settings.get("context_settings", {})
        super().__init__(*args, **settings)
        self.params.extend(_global_options(hidden=True))
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Examples"):
                wide = max(len(example.line) for example in self.examples)
                for example in self.examples:
                    gap = " " * (wide - len(example.line) + 2)
                    formatter.write(f"  {example.line}{gap if example.what else ''}{example.what}\n")
        with formatter.section("Global options"):
            formatter.write("  --server URL  --token T  --profile P  -o table|json|yaml  -q  (taskforge -h)\n")


class Group(click.Group):
    """A group of ours. `default` is the subcommand that is meant when none is named."""

    command_class = Command

    def __init__(self, *args: Any, default: str | None = None, **settings: Any) -> None:
        settings["context_settings"] = HELP | settings.get("context_settings", {})
        super().__init__(*args, **settings)
        self.params.extend(_global_options(hidden=True))
        self.default = default
        self.no_args_is_help = False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if self.default is not None:
            at = _after_globals(args)
            if at == len(args) or (args[at].startswith("-") and args[at] not in ("-h", "--help")):
                args = [*args[:at], self.default, *args[at:]]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            from taskforge.core.problem import quoted, suggest

            near = suggest(args[0], known)
            raise CommandError(
                f"there is no command {quoted(f'{ctx.command_path} {args[0]}')}" + (f"; {near}" if near else ""),
                hint=f"{ctx.command_path} --help",
                code=Exit.USAGE,
            )
        return super().resolve_command(ctx, args)


def _after_globals(args: Sequence[str]) -> int:
    at = 0
    while at < len(args):
        name, _, value = args[at].partition("=")
        if name in ("--server", "--token", "--profile", "--output") or args[at] == "-o":
            at += 1 if value else 2
        elif args[at] in ("-q", "--quiet") or (args[at].startswith("-o") and len(args[at]) > 2):
            at += 1
        else:
            break
    return min(at, len(args))


class Place(NamedTuple):
    """Where a command is, and its line in the list of commands, so that the list needs no imports."""

    module: str
    name: str
    line: str


class Root(Group):
    """The program itself: commands in sections, each imported when it is called."""

    def __init__(self, *args: Any, sections: Mapping[str, Mapping[str, Place]], **settings: Any) -> None:
        super().__init__(*args, **settings)
        for option in self.params:
            if isinstance(option, click.Option):
                option.hidden = False
        words = "Show the version, and exit."
        self.params.append(
            click.Option(
                ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help=words
            )
        )
        self.sections = sections

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in self.sections.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for section in self.sections.values():
            if cmd_name in section:
                place = section[cmd_name]
                found: click.Command = getattr(importlib.import_module(place.module), place.name)
                return found
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(len(name) for name in self.list_commands(ctx))
        for title, section in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), place.line) for name, place in section.items()])


def command(name: str, *, examples: Sequence[Example] = (), **settings: Any) -> Callable[[Callable[..., Any]], Command]:
    """Declare a command that stands for itself."""
    return click.command(name, cls=Command, examples=examples, **settings)
