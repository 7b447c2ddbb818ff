"""What is wrong with a document, where, and what to do next. Every check of a document speaks in these."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from taskforge.core.record import dataclass

Pointer = tuple[str | int, ...]

_PLAIN_KEY = re.compile(r"[A-Za-z_$][\w$-]*")
_LINE_BREAKERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SHOWN = 80  # characters of foreign text that a message repeats


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding in a document. `path` is like `steps[2].http.url`, "" for the whole document.

    `line` and `column` count from 1, in characters; both are None where there is no text to point into.
    """

    path: str
    message: str
    line: int | None = None
    column: int | None = None
    hint: str | None = None
    severity: Literal["error", "warning"] = "error"
    code: str | None = None
    file: str | None = None
    """What the document is called, where there are several."""

    def to_json(self) -> dict[str, Any]:
        """The wire shape `{file?, path, line?, column?, message, hint?}` of the API's `errors` and `warnings`."""
        shape: dict[str, Any] = {} if self.file is None else {"file": self.file}
        shape["path"] = self.path
        if self.line is not None:
            shape["line"] = self.line
        if self.column is not None:
            shape["column"] = self.column
        shape["message"] = self.message
        if self.hint is not None:
            shape["hint"] = self.hint
        return shape


class InvalidDocument(Exception):
    """A document that cannot be taken. `problems` has at least one error, in the order of the text."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(format_problem(problem) for problem in self.problems))


def format_problem(problem: Problem, file: str = "") -> str:
    """`FILE:LINE:COL: message (hint)` on one line; parts that are not known are left out."""
    place = ":".join(str(part) for part in (file, problem.line, problem.column) if part not in ("", None))
    text = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
    return _LINE_BREAKERS.sub(_escaped, f"{place}: {text}" if place else text)


def format_path(pointer: Iterable[str | int]) -> str:
    """`("steps", 2, "http")` as `steps[2].http`; a key that is no plain word as `headers["x-a b"]`."""
    path = ""
    for part in pointer:
        if isinstance(part, int):
            path += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            path += f".{part}" if path else part
        else:
            path += f"[{quoted(part)}]"
    return path


def quoted(text: str) -> str:
    """Foreign text for a message: in double quotes, on one line, cut after 80 characters."""
    shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return _LINE_BREAKERS.sub(_escaped, json.dumps(shown, ensure_ascii=False))


def suggest(word: str, known: Iterable[str]) -> str | None:
    """`did you mean "fetch"?` for the nearest known word, or None when none is near."""
    names = [name for name in known if name != word]
    folded = {name.casefold(): name for name in reversed(names)}
    near = difflib.get_close_matches(word[:_SHOWN].casefold(), list(folded), n=1, cutoff=0.6)
    return f"did you mean {quoted(folded[near[0]])}?" if near else None


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
