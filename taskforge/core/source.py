"""The text of a document and the tree that a reader makes of it. Both readers (YAML, JSON) build these nodes.

Offsets count characters in `SourceText.text`, where every line break is one "\\n" and a leading BOM is gone.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import field
from typing import Any, Literal

from taskforge.core.problem import InvalidDocument, Pointer, Problem, format_path
from taskforge.core.record import dataclass

MAX_PROBLEMS = 100
SURROGATE = re.compile("[\ud800-\udfff]")

Style = Literal["plain", "'", '"', "|", ">", "alias"]


@dataclass(frozen=True, slots=True)
class DocumentLimits:
    """What a document may cost. Aliases count as if their target were written out."""

    max_bytes: int = 256 * 1024
    max_depth: int = 64
    max_values: int = 50_000
    """Keys and values together."""
    max_aliases: int = 1_000
    max_digits: int = 4_300
    """Digits of an integer: what Python converts without a guard."""

    @property
    def max_expanded(self) -> int:
        """Characters of all texts and keys, aliases written out."""
        return 4 * self.max_bytes


@dataclass(slots=True, eq=False)
class Node:
    """One value and where it stands. `count`, `weight` and `height` include everything below it."""

    kind: Literal["scalar", "map", "list"]
    start: int
    end: int
    value: Any = None
    style: Style = "plain"
    entries: dict[str, Node] = field(default_factory=dict)
    key_starts: dict[str, int] = field(default_factory=dict)
    items: list[Node] = field(default_factory=list)
    count: int = 1
    weight: int = 0
    height: int = 1

    def adopt(self, child: Node) -> None:
        """Add the costs of a finished child to this node."""
        self.count += child.count
        self.weight += child.weight
        self.height = max(self.height, child.height + 1)

    def aliased(self, start: int, end: int) -> Node:
        """The same value standing at an alias."""
        return Node(
            self.kind, start, end, self.value, "alias", self.entries, self.key_starts, self.items,
            self.count, self.weight, self.height,
        )  # fmt: skip

    def build(self) -> Any:
        """A fresh JSON value; aliases become copies, so that changing one place changes no other."""
        if self.kind == "map":
            return {key: child.build() for key, child in self.entries.items()}
        if self.kind == "list":
            return [child.build() for child in self.items]
        return self.value


class SourceText:
    """A text with its line breaks made equal, and the way from an offset to a place."""

    def __init__(self, text: str) -> None:
        text = text.removeprefix("\ufeff")
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        self.text = text
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset, both from 1, in characters."""
        offset = max(0, min(offset, len(self.text)))
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def line_at(self, offset: int) -> str:
        """The whole line that holds an offset, without its break."""
        line, _ = self.position(offset)
        start = self._starts[line - 1]
        end = self.text.find("\n", start)
        return self.text[start : end if end >= 0 else len(self.text)]


class Findings:
    """Collects problems while a reader goes on. After 100 it stops the reading: who has that many fixes some first."""

    def __init__(self, source: SourceText) -> None:
        self.source = source
        self._found: list[tuple[int, Problem]] = []

    def add(self, pointer: Pointer, offset: int, message: str, hint: str | None = None) -> None:
        line, column = self.source.position(offset)
        self._found.append((offset, Problem(format_path(pointer), message, line, column, hint)))
        if len(self._found) >= MAX_PROBLEMS:
            raise self.refusal()

    def stop(self, pointer: Pointer, offset: int, message: str, hint: str | None = None) -> InvalidDocument:
        """A last problem, after which reading cannot go on, as the exception to raise."""
        self.add(pointer, offset, message, hint)
        return self.refusal()

    def has_line(self, offset: int) -> bool:
        """Whether a problem is known on the line of an offset."""
        line, _ = self.source.position(offset)
        return any(problem.line == line for _, problem in self._found)

    def raise_if_any(self) -> None:
        if self._found:
            raise self.refusal()

    def refusal(self) -> InvalidDocument:
        problems = [problem for _, problem in sorted(self._found, key=lambda found: found[0])]
        if len(problems) >= MAX_PROBLEMS:
            problems.append(Problem("", f"reading stopped after {MAX_PROBLEMS} problems; there may be more"))
        return InvalidDocument(problems)
