"""Where each key of a TOML text stands, for errors that point at it: `tomllib` does not say."""

from __future__ import annotations

import re
import tomllib

from taskforge.core.record import dataclass

_BLANK = re.compile(r"[ \t]*")
_SKIP = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""{1,3}(?!")' r"|'''.*?'''{1,3}(?!')" r'|"(?:\\.|[^"\\])*"' r"|'[^']*'",
    re.DOTALL,
)
_PLAIN = re.compile(r"[^,\]}\r\n#]*")


@dataclass(frozen=True, slots=True)
class Place:
    """Line and column, from 1, of a key and of its value."""

    key: tuple[int, int]
    value: tuple[int, int]


def find_places(text: str) -> dict[tuple[str, ...], Place]:
    """The place of every key and table of a valid TOML text, by its path."""
    scan = _Scan(text)
    scan.statements()
    return scan.places


class _Scan:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.places: dict[tuple[str, ...], Place] = {}

    def statements(self) -> None:
        table: tuple[str, ...] = ()
        self._match(_SKIP)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._match(_SKIP)

    def _header(self) -> tuple[str, ...]:
        brackets = 2 if self.text.startswith("[[", self.at) else 1
        self.at += brackets
        self._match(_BLANK)
        start = self.at
        path = self._key()
        for end in range(1, len(path) + 1):
            self.places.setdefault(path[:end], self._place(start, start))
        self.at += brackets
        return path

    def _pair(self, table: tuple[str, ...]) -> None:
        start = self.at
        path = table + self._key()
        self.at += 1  # the equals sign
        self._match(_BLANK)
        place = self._place(start, self.at)
        for end in range(len(table) + 1, len(path) + 1):
            self.places.setdefault(path[:end], place)
        self._value(path)

    def _key(self) -> tuple[str, ...]:
        parts: list[str] = []
        while True:
            self._match(_BLANK)
            quoted = self.text[self.at] in "\"'"
            part = self._match(_STRING if quoted else _BARE)
            parts.append(tomllib.loads(f"key = {part}")["key"] if quoted else part)
            self._match(_BLANK)
            if not self.text.startswith(".", self.at):
                return tuple(parts)
            self.at += 1

    def _value(self, path: tuple[str, ...]) -> None:
        first = self.text[self.at : self.at + 1]
        if first in ("[", "{"):
            self._group(path, "]" if first == "[" else "}")
        else:
            self._match(_STRING if first in ('"', "'") else _PLAIN)

    def _group(self, path: tuple[str, ...], end: str) -> None:
        self.at += 1
        self._match(_SKIP)
        while self.text[self.at] != end:
            if end == "}":
                self._pair(path)
            else:
                self._value(path)
            self._match(_SKIP)
            if self.text[self.at] == ",":
                self.at += 1
                self._match(_SKIP)
        self.at += 1

    def _match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise ValueError(f"no valid TOML at offset {self.at}")
        self.at = found.end()
        return found.group()

    def _place(self, key: int, value: int) -> Place:
        return Place(position(self.text, key), position(self.text, value))


def position(text: str, offset: int) -> tuple[int, int]:
    """Line and column, from 1, of an offset."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
