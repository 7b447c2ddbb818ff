"""What the checks of one document have found, each finding at its place in the text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from taskforge.core.problem import Pointer, Problem, format_path, quoted, suggest

Locate = Callable[..., Any]
"""`Document.locate(pointer, key=False, offset=0)`: a pair (line, column)."""


MAX_FINDINGS = 100
"""Findings that are kept; the number of the others is said. Bounds what a bad document costs."""


class Findings:
    """Collects problems; `locate` is None where there is no text (a stored version)."""

    def __init__(self, locate: Locate | None = None) -> None:
        self._locate = locate
        self._found: dict[tuple[str, str, int | None, int | None], Problem] = {}
        self._dropped = 0

    def error(
        self, pointer: Pointer, message: str, *, hint: str | None = None, key: bool = False, offset: int = 0
    ) -> None:
        """Note an error at a value, at its key (`key`), or `offset` characters into its text."""
        self._add("error", pointer, message, hint, key, offset)

    def warn(
        self, pointer: Pointer, message: str, *, hint: str | None = None, key: bool = False, offset: int = 0
    ) -> None:
        self._add("warning", pointer, message, hint, key, offset)

    def unknown_key(self, pointer: Pointer, known: Iterable[str], what: str = "key") -> None:
        """`unknown key "timout"; did you mean "timeout"?`, at the key."""
        if self.is_full:
            self._dropped += 1
            return
        names = list(known)
        word = str(pointer[-1])
        near = suggest(word, names)
        hint = None if near or not names else "known here: " + ", ".join(names)
        self.error(pointer, with_suggestion(f"unknown {what} {quoted(word)}", near), hint=hint, key=True)

    def place(self, pointer: Pointer) -> tuple[int, int]:
        """Line and column of a value; (1, 1) where there is no text."""
        return self._locate(pointer) if self._locate is not None else (1, 1)

    def line(self, pointer: Pointer) -> int | None:
        return None if self._locate is None else self._locate(pointer)[0]

    @property
    def is_full(self) -> bool:
        """Whether further findings would only be counted: costly checks need not be made any more."""
        return len(self._found) >= MAX_FINDINGS

    @property
    def errors(self) -> list[Problem]:
        found = [problem for problem in self._ordered() if problem.severity == "error"]
        if self._dropped:
            found.append(Problem("", f"{self._dropped} more problems are not shown"))
        return found

    @property
    def warnings(self) -> list[Problem]:
        return [problem for problem in self._ordered() if problem.severity == "warning"]

    def _add(
        self,
        severity: Literal["error", "warning"],
        pointer: Pointer,
        message: str,
        hint: str | None,
        key: bool,
        offset: int,
    ) -> None:
        if self.is_full:
            self._dropped += 1
            return
        line = column = None
        if self._locate is not None:
            line, column = self._locate(pointer, key=key, offset=offset)
        problem = Problem(format_path(pointer), message, line, column, hint, severity)
        self._found.setdefault((problem.path, problem.message, problem.line, problem.column), problem)

    def _ordered(self) -> list[Problem]:
        return sorted(self._found.values(), key=lambda problem: (problem.line or 0, problem.column or 0))


def with_suggestion(message: str, near: str | None) -> str:
    """Add `did you mean …?` to a message, where something is near."""
    return f"{message}; {near}" if near else message
