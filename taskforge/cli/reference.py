"""The command line in full, made from the commands themselves: `contracts/cli.txt` and `docs/cli.md`.

`python -m taskforge.cli.reference FILE` writes the manual to a file.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from taskforge.cli.command import Command, Example, Group, Root
from taskforge.cli.failure import Exit
from taskforge.cli.main import root

_CODES = {
    Exit.DONE: "done",
    Exit.FAILED: "the thing asked for failed, as a run that was waited for",
    Exit.USAGE: "wrong usage, or a document that is not valid",
    Exit.UNREACHABLE: "no server, or no access to it",
    Exit.NOT_FOUND: "not found",
    Exit.CONFLICT: "conflict: the state of the thing forbids it",
    Exit.INTERRUPTED: "interrupted with Ctrl-C",
}
_VARIABLES = {
    "TASKFORGE_HOME": "the home directory; else ~/.taskforge",
    "TASKFORGE_SERVER": "the server to talk to, as http://127.0.0.1:7788; else the home's",
    "TASKFORGE_TOKEN": "the API token; else the home's, which goes to the home's server and to this machine only",
    "TASKFORGE_<SECTION>__<KEY>": "a setting, as TASKFORGE_SERVER__PORT; before config.toml",
    "NO_COLOR": "no colour, also on a terminal",
}


class Entry(NamedTuple):
    """One command, as it is called."""

    path: str
    command: click.Command
    section: str


def entries() -> Iterator[Entry]:
    """Every command in the order of `taskforge --help`; a group stands before its own."""
    context = click.Context(root, info_name="taskforge")
    for section, places in root.sections.items():
        for name in places:
            found = root.get_command(context, name)
            assert found is not None
            yield Entry(f"taskforge {name}", found, section)
            if isinstance(found, Group):
                for sub, command in found.commands.items():
                    yield Entry(f"taskforge {name} {sub}", command, section)


def cli_reference() -> str:
    """Commands, arguments, options, variables and exit codes as text: the contract."""
    lines = [*_global_lines(root), ""]
    for entry in entries():
        lines += [_usage(entry), f"    {_summary(entry.command)}"]
        lines += [f"    {_flags(option)}  {_told(option)}" for option in _options(entry.command)]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def cli_manual() -> str:
    """The same for people, in Markdown."""
    lines = [
        "# The command line",
        "",
        "<!-- Made by `python -m taskforge.cli.reference docs/cli.md`; change the commands, not this file. -->",
        "",
        "`taskforge COMMAND --help` says the same on a terminal. Examples use a workflow `uptime`; `uptime#42` is its",
        "run 42, and stands wherever a run is named. [A session](session.md) shows the commands at work.",
        "",
        "Options that every command takes, before or after its name:",
        "",
    ]
    lines += [f"- `{_flags(option)}`: {_told(option)}" for option in _options(root)]
    lines += ["", "| variable | meaning |", "| --- | --- |"]
    lines += [f"| `{name}` | {words} |" for name, words in _VARIABLES.items()]
    lines += ["", "| exit code | meaning |", "| --- | --- |"]
    lines += [f"| {code.value} | {words} |" for code, words in _CODES.items()]
    lines += [
        "",
        "Answers go to standard output, remarks and errors to standard error. With `-o json` standard output has",
        "exactly one JSON document, as the API returned it; `-o yaml` says the same. `-q` prints what names a thing,",
        "one a line, for the next command: `taskforge runs -q --state FAILED | xargs taskforge runs retry`. Colour",
        "appears on a terminal only. Control characters in data are shown escaped. Lists show 50 and say when there",
        "are more: `--limit`, `--cursor`, `--all`. Times are RFC 3339 or so long ago (`24h`).",
    ]
    section = ""
    lines += _index()
    for entry in entries():
        if entry.section != section:
            section = entry.section
            lines += ["", f"## {section}"]
        lines += _chapter(entry)
    return "\n".join(lines) + "\n"


def _index() -> list[str]:
    """What there is, by section, each command with its line and a link."""
    lines: list[str] = []
    section = ""
    for entry in entries():
        if entry.section != section:
            section = entry.section
            lines += ["", f"**{section}**", "", "| command | does |", "| --- | --- |"]
        if isinstance(entry.command, Group):
            continue
        name = entry.path.removeprefix("taskforge ")
        lines.append(f"| [`{name}`](#{entry.path.replace(' ', '-')}) | {_summary(entry.command)} |")
    return lines


def _chapter(entry: Entry) -> list[str]:
    deeper = "####" if entry.path.count(" ") > 1 else "###"
    lines = ["", f"{deeper} {entry.path}", ""]
    if not isinstance(entry.command, Group):
        lines += ["```", _usage(entry), "```", ""]
    lines.append(inspect.cleandoc(entry.command.help or "").replace("\b\n", ""))
    options = list(_options(entry.command))
    if options:
        lines += ["", *(f"- `{_flags(option)}`: {_told(option)}" for option in options)]
    examples: tuple[Example, ...] = entry.command.examples if isinstance(entry.command, Command) else ()
    if examples:
        wide = max(len(example.line) for example in examples)
        shown = [f"{example.line:<{wide}}  # {example.what}" if example.what else example.line for example in examples]
        lines += ["", "```sh", *shown, "```"]
    return lines


def _global_lines(program: Root) -> Iterator[str]:
    yield "taskforge [OPTIONS] COMMAND"
    for option in _options(program):
        yield f"    {_flags(option)}  {_told(option)}"
    yield ""
    yield "variables"
    for name, words in _VARIABLES.items():
        yield f"    {name}  {words}"
    yield ""
    yield "exit codes"
    for code, words in _CODES.items():
        yield f"    {code.value}  {words}"


def _usage(entry: Entry) -> str:
    if isinstance(entry.command, Group):
        return f"{entry.path} COMMAND" + (f"   (without one: {entry.command.default})" if entry.command.default else "")
    arguments = [
        param.make_metavar(_context(entry)) for param in entry.command.params if isinstance(param, click.Argument)
    ]
    options = ["[OPTIONS]"] if list(_options(entry.command)) else []
    return " ".join([entry.path, *options, *arguments])


def _context(entry: Entry) -> click.Context:
    return click.Context(entry.command, info_name=entry.path)


def _options(command: click.Command) -> Iterator[click.Option]:
    """A command's own options; not the global ones."""
    return (param for param in command.params if isinstance(param, click.Option) and not param.hidden)


def _flags(option: click.Option) -> str:
    names = ", ".join(option.opts)
    if option.is_flag:
        return names
    if option.metavar:
        return f"{names} {option.metavar}"
    if isinstance(option.type, click.Choice):
        return f"{names} {'|'.join(option.type.choices)}"
    return f"{names} N"


def _told(option: click.Option) -> str:
    extra = []
    if option.multiple:
        extra.append("may be repeated")
    if option.required:
        extra.append("required")
    if option.show_default and option.default is not None:
        extra.append(f"default: {option.default}")
    words = option.help or ""
    extra = [part for part in extra if part not in words]
    return f"{words} ({'; '.join(extra)})" if extra else words


def _summary(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "").partition("\n\n")[0].replace("\n", " ")


def main(arguments: list[str]) -> int:
    """Write the manual to the file that is named, else to `docs/cli.md`."""
    Path(arguments[0] if arguments else "docs/cli.md").write_text(cli_manual(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
