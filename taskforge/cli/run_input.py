"""Data from the command line (a run's input, a signal's data): JSON, a file, or keys and values."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taskforge.cli.failure import CommandError, Exit
from taskforge.core.jsontext import JsonError, loads, replace_lone_surrogates

_PAIR = re.compile(r"([^=\s\"{}\[\]]+)=(.*)", re.DOTALL)


def read_input(texts: Sequence[str], option: str = "--input") -> Any:
    """The value that several `--input` options make together; None without any. Raises CommandError with the place."""
    if not texts:
        return None
    parts = [_part(text, option) for text in texts]
    if len(parts) == 1:
        return parts[0]
    merged: dict[str, Any] = {}
    for text, part in zip(texts, parts, strict=True):
        if not isinstance(part, dict):
            raise CommandError(
                f"{option} {_short(text)} is no object; only objects can be put together", code=Exit.USAGE
            )
        merged |= part
    return merged


def is_pair(text: str) -> bool:
    """Whether a part is KEY=VALUE."""
    return not text.startswith("@") and _PAIR.fullmatch(text) is not None


def read_value(text: str, name: str) -> Any:
    """One value: @FILE, JSON, or else the text itself. `name` is the argument's, for a refusal."""
    if text.startswith("@"):
        return _file(text[1:], name)
    try:
        return loads(text, unique_keys=True)
    except JsonError:
        return replace_lone_surrogates(text)


def read_stdin() -> bytes:
    """Everything on standard input."""
    if sys.stdin is None:
        raise CommandError("standard input is closed", code=Exit.USAGE)
    return sys.stdin.buffer.read()


def _part(text: str, option: str) -> Any:
    if text.startswith("@"):
        return _file(text[1:], "input" if option == "--input" else "data")
    pair = _PAIR.fullmatch(text)
    if pair is not None:
        try:
            return {pair[1]: loads(pair[2])}
        except JsonError:
            return {pair[1]: replace_lone_surrogates(pair[2])}
    try:
        return loads(text, unique_keys=True)
    except JsonError as error:
        raise CommandError(
            f"{option} {_short(text)} is no JSON: {error}",
            hint="give JSON, @FILE, or KEY=VALUE",
            code=Exit.USAGE,
        ) from None


def _file(name: str, what: str) -> Any:
    try:
        content = read_stdin() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise CommandError(f"{name}: {str(error.strerror).lower()}", code=Exit.USAGE) from None
    try:
        return loads(content, unique_keys=True)
    except JsonError as error:
        place = f"{'<stdin>' if name == '-' else name}:{error.line or 1}:{error.column or 1}"
        raise CommandError(f"the {what} is no JSON", lines=[f"{place}: {error.message}"], code=Exit.USAGE) from None


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")
