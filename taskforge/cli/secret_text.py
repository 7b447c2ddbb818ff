"""Reads the value of a secret: from a file, standard input or a prompt without echo, and never from an argument."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.run_input import read_stdin


def read_secret(name: str, file: str | None, *, stdin: bool = True, twice: bool = False, option: str = "--file") -> str:
    """The value of secret `name`; one newline at its end is taken off. `file` `-` is standard input, which is also read
    where it is no terminal, unless `stdin` is False: then it belongs to something else. `option` took the file."""
    if file is not None and file != "-":
        try:
            raw = Path(file).read_bytes()
        except OSError as error:
            raise CommandError(f"{file}: {str(error.strerror).lower()}", code=Exit.USAGE) from None
    elif file == "-" or (stdin and (sys.stdin is None or not sys.stdin.isatty())):
        raw = read_stdin()
    else:
        raw = _ask(name, twice).encode("utf-8", "surrogateescape")
    return decode_secret(name, raw, option)


def decode_secret(name: str, raw: bytes, option: str = "--file") -> str:
    """The text of a secret that came as bytes; one newline at its end is taken off."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise CommandError(f"the value of {name} is not UTF-8 text", code=Exit.USAGE) from None
    text = text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
    if not text:
        hint = f"give it with {option} FILE, or on standard input"
        raise CommandError(f"the value of {name} is empty", hint=hint, code=Exit.USAGE)
    return text


def _ask(name: str, twice: bool) -> str:
    if sys.stderr is None or not sys.stderr.isatty():
        hint = "give it with a file, or on standard input"
        raise CommandError(f"there is no terminal to ask for the value of {name}", hint=hint, code=Exit.USAGE)
    answer: str = click.prompt(
        name, hide_input=True, confirmation_prompt=twice, err=True, default="", show_default=False
    )
    return answer
