"""A run's input from the command line: JSON, a file, or keys and values."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taskforge.cli.failure import CommandError, Exit
from taskforge.core.jsontext import JsonError, loads, replace_lone_surrogates

_PAIR = re.compile(r"([^=\s\"{}\[\]]+)=(.*)", re.DOTALL)


def read_input(texts: Sequence[str]) -> Any:
    """The input that `--input` options make together; None without any. Raises CommandError with the place."""
    if not texts:
        return None
    parts = [_part(text) for text in texts]
    if len(parts) == 1:
        return parts[0]
    merged: dict[str, Any] = {}
    for text, part in zip(texts, parts, strict=True):
        if not isinstance(part, dict):
            raise CommandError(
                f"--input {_short(text)} is no object; only objects can be put together", code=Exit.USAGE
            )
        merged |= part
    return merged


def read_stdin() -> bytes:
    """Everything on standard input."""
    if sys.stdin is None:
        raise CommandError("standard input is closed", code=Exit.USAGE)
    return sys.stdin.buffer.read()


def _part(text: str) -> Any:
    if text.startswith("@"):
        return _file(text[1:])
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
            f"--input {_short(text)} is no JSON: {error}",
            hint="give JSON, @FILE, or KEY=VALUE",
            code=Exit.USAGE,
        ) from None


def _file(name: str) -> Any:
    try:
        content = read_stdin() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise CommandError(f"{name}: {str(error.strerror).lower()}", code=Exit.USAGE) from None
    try:
        return loads(content, unique_keys=True)
    except JsonError as error:
        place = f"{'<stdin>' if name == '-' else name}:{error.line or 1}:{error.column or 1}"
        raise CommandError("the input is no JSON", lines=[f"{place}: {error.message}"], code=Exit.USAGE) from None


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")
