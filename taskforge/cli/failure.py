"""How a command ends when it cannot do what was asked: one line, perhaps a hint, and an exit code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    """Exit codes; the interface promises them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    CONFLICT = 5
    INTERRUPTED = 130


class CommandError(Exception):
    """`lines` stand before the message as they are: faults in files, each with its place. `hint` says what to do.

    `refused`: a server answered, and would refuse the same again; `errors` are its problem's.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        code: Exit = Exit.FAILED,
        lines: Sequence[str] = (),
        refused: bool = False,
        errors: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
        self.lines = list(lines)
        self.refused = refused
        self.errors = list(errors)
