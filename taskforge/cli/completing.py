"""What could come next on a command line: commands, options, choices, files, and names that the server knows.

The scripts of `taskforge completion` call `taskforge __complete SHELL …`. Nothing here fails: a line that makes no
sense, and a server that is not there, have no candidates.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import click

from taskforge.cli.command import Group, Root, Session
from taskforge.cli.shown import escape

_ASKING_S = 1.5
_HOLDS_FILE = re.compile(r"FILE|DIR")
# What a shell would act upon in a word that is not quoted.
_SPECIAL = re.compile(r"""([\s\\'"`$&;|<>()\[\]{}*?!~])""")


class Candidate(NamedTuple):
    """`kind`: `value`, `open` (the word goes on after it), `file` or `dir` (the shell knows those)."""

    text: str
    about: str = ""
    kind: str = "value"


class Line(NamedTuple):
    """What stands before the cursor: the command that was reached, its words so far, and the unfinished word.

    `option` is the one whose value is unfinished; `before` is what the unfinished word begins with, as `--output=`.
    """

    command: click.Command
    path: tuple[str, ...]
    words: tuple[str, ...]
    option: click.Option | None
    unfinished: str
    before: str = ""


def complete(root: Root, session: Session, arguments: Sequence[str]) -> None:
    """Answer a shell. `arguments`: the shell's name, then for bash its word breaks and the line, else the words."""
    shell, *words = arguments or [""]
    breaks = quoted = ""
    if shell == "bash":
        breaks, text = (*words, "", "")[:2]
        words = split_line(text)
        quoted = "'\"" if words and _opened(text) else ""
    elif shell == "fish" and words:
        words = [*words[:-1], (split_line(f"_ {words[-1]}") or [""])[-1]]
    line = read_line(root, session, words)
    if line is None:
        return
    for candidate in candidates(line, session):
        session.screen.raw(_shown(candidate, line, shell, breaks, bool(quoted)))


def split_line(text: str) -> list[str]:
    """The words after the program's name, the last of which is unfinished; an open quote ends with the text."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    try:
        words.extend(lexer)
        ended = not text or (text[-1].isspace() and not text.endswith("\\ "))
    except ValueError:
        words.append(lexer.token.lstrip("'\"") if lexer.token else "")
        ended = False
    words = [*words, ""] if ended else words
    return words[1:]


def read_line(root: Root, session: Session, words: Sequence[str]) -> Line | None:
    """Follow the words through the tree of commands. None where they lead nowhere."""
    command: click.Command = root
    context = click.Context(root, info_name="taskforge", obj=session)
    path: list[str] = []
    given: list[str] = []
    waiting: click.Option | None = None
    *done, unfinished = words or [""]
    options = True
    for word in done:
        if waiting is not None:
            _keep(session, waiting, word)
            waiting = None
        elif options and word == "--":
            options = False
        elif options and word.startswith("-") and len(word) > 1:
            name, equals, value = word.partition("=")
            command, path = _default_of(command, name, context, path)
            found = _find_option(command, name, context)
            if found is not None and not found.is_flag:
                if equals:
                    _keep(session, found, value)
                else:
                    waiting = found
        elif isinstance(command, Group):
            below = command.get_command(context, word)
            if below is None:
                return None
            command = below
            path.append(word)
        else:
            given.append(word)
    reached = (tuple(path), tuple(given))
    if waiting is not None:
        return Line(command, *reached, waiting, unfinished)
    if options and unfinished.startswith("--") and "=" in unfinished:
        name, _, value = unfinished.partition("=")
        command, path = _default_of(command, name, context, path)
        found = _find_option(command, name, context)
        return Line(command, *reached, found, value, f"{name}=") if found is not None and not found.is_flag else None
    return Line(command, *reached, None, unfinished)


def candidates(line: Line, session: Session) -> Iterable[Candidate]:
    """What fits, in the order in which it is shown."""
    if line.option is not None:
        return _values(line, line.option, session)
    if line.unfinished.startswith("-"):
        return _options(line)
    if isinstance(line.command, Group):
        return _commands(line)
    arguments = [param for param in line.command.params if isinstance(param, click.Argument)]
    at = 0
    for argument in arguments:
        if at + max(argument.nargs, 1) > len(line.words) or argument.nargs == -1:
            return _values(line, argument, session)
        at += argument.nargs
    return ()


def is_file(param: click.Parameter) -> bool:
    """Does the parameter take a file's name, or `@` and one?"""
    words = param.metavar or (param.name or "").upper()
    return bool(_HOLDS_FILE.search(words)) or isinstance(param.type, (click.Path, click.File))


# ---- commands and options


def _commands(line: Line) -> list[Candidate]:
    group = line.command
    if isinstance(group, Root):
        found = [(name, place.line) for section in group.sections.values() for name, place in section.items()]
    else:
        assert isinstance(group, Group)
        found = [(name, below.get_short_help_str(100)) for name, below in group.commands.items()]
    return [Candidate(name, about) for name, about in found if name.startswith(line.unfinished)]


def _options(line: Line) -> list[Candidate]:
    command = line.command
    if isinstance(command, Group) and command.default is not None:
        command = command.commands[command.default]
    # A command's own first; the global ones, which its help does not list, after them.
    options = sorted((param for param in command.params if isinstance(param, click.Option)), key=lambda one: one.hidden)
    names = [(name, option.help or "") for option in options for name in option.opts]
    names.append(("--help", "Show the help, and exit."))
    return [Candidate(name, about) for name, about in names if name.startswith(line.unfinished)]


def _find_option(command: click.Command, name: str, context: click.Context) -> click.Option | None:
    options = [param for param in command.get_params(context) if isinstance(param, click.Option)]
    return next((option for option in options if name in (*option.opts, *option.secondary_opts)), None)


def _default_of(
    command: click.Command, name: str, context: click.Context, path: list[str]
) -> tuple[click.Command, list[str]]:
    """The default subcommand of a group, when the option is not the group's own: `runs --state`."""
    if isinstance(command, Group) and command.default and _find_option(command, name, context) is None:
        return command.commands[command.default], [*path, command.default]
    return command, path


def _keep(session: Session, option: click.Option, value: str) -> None:
    """A server, token or profile that the line names is the one to ask."""
    if option.hidden or not option.expose_value:
        name = option.name or ""
        if name in ("server", "token", "profile"):
            setattr(session, name, value)


# ---- values


def _values(line: Line, param: click.Parameter, session: Session) -> Iterable[Candidate]:
    if isinstance(param.type, click.Choice):
        words = [str(choice) for choice in param.type.choices]
        return [Candidate(word) for word in words if word.casefold().startswith(line.unfinished.casefold())]
    if line.unfinished.startswith("@") and is_file(param):
        return [Candidate(f"@{entry.text}", kind=entry.kind) for entry in _files(line.unfinished[1:])]
    from taskforge.cli import known_names

    find = known_names.source_of(line.path, param)
    if find is not None:
        asked = known_names.Asked(session, line.path, line.words, line.unfinished)
        found = _patiently(session, find, asked)
        return [entry for entry in found if entry.text.startswith(line.unfinished)]
    if is_file(param) and "@FILE" not in (param.metavar or ""):
        return [Candidate("", kind="dir" if param.metavar == "DIR" else "file")]
    return ()


def _files(beginning: str) -> Iterable[Candidate]:
    """Files by name, for words that a shell does not see as such."""
    from pathlib import Path

    folder, _, name = beginning.rpartition("/")
    try:
        entries = sorted(Path(f"{folder}/" if "/" in beginning else ".").expanduser().iterdir())
    except (OSError, RuntimeError, ValueError):
        return
    for entry in entries:
        if entry.name.startswith(name) and (name or not entry.name.startswith(".")):
            text = f"{folder}/{entry.name}" if "/" in beginning else entry.name
            yield Candidate(f"{text}/", kind="open") if entry.is_dir() else Candidate(text)


def _patiently(session: Session, find: object, asked: object) -> list[Candidate]:
    """Ask, but for a second and a half only: a person waits."""
    import signal

    def give_up(*_: object) -> None:
        raise TimeoutError

    assert callable(find)
    session.patience_s = _ASKING_S / 2
    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, _ASKING_S)
    try:
        return list(find(asked))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---- for the shell


def _shown(candidate: Candidate, line: Line, shell: str, breaks: str, quoted: bool) -> str:
    text = candidate.text
    if shell == "bash":
        # Readline replaces only what follows the last of its word breaks.
        cut = max((line.unfinished.rfind(char) + 1 for char in ":=" if char in breaks), default=0)
        text = text[cut:]
        if line.before and "=" not in breaks:
            text = line.before + text
        text = text if quoted else _SPECIAL.sub(r"\\\1", text)
    elif candidate.kind not in ("file", "dir"):
        text = line.before + text
    return "\t".join((candidate.kind, escape(text), escape(candidate.about)))


def _opened(text: str) -> bool:
    """Does the line end inside quotes?"""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        list(lexer)
    except ValueError as error:
        return "quotation" in str(error)
    return False
