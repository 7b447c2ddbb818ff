"""The tokens of a jq program, one at a time, with bounded nesting. `syntax` makes a tree of them.

Tokens are read on demand: inside a string, the parser reads the text itself and comes back here for `\\(…)`.
"""

from __future__ import annotations

import json
import re

from taskforge.core.problem import quoted
from taskforge.expressions.errors import SyntaxProblem

MAX_NESTING = 128
"""Deepest nesting of queries and terms; every bracket is one of each."""

_TOKEN = re.compile(
    r"""(?P<space>(?:[ \r\n\t]+|\#(?:\\(?:\\|\r?\n)|[^\n])*)+)?(?:
      (?P<field>\.[A-Za-z_][A-Za-z_0-9]*)
    | (?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
    | (?P<word>(?:[A-Za-z_][A-Za-z_0-9]*::)*[A-Za-z_][A-Za-z_0-9]*)
    | (?P<variable>\$(?:[A-Za-z_][A-Za-z_0-9]*::)*[A-Za-z_][A-Za-z_0-9]*)
    | (?P<format>@[A-Za-z0-9_]+)
    | (?P<quote>")
    | (?P<op>\?//|//=|//|\|=|\+=|-=|\*=|/=|%=|<=|>=|==|!=|\.\.|[.?=;,:|+\-*/%$<>\[\](){}])
    | (?P<end>\Z)
    )""",
    re.VERBOSE,
)
_HINTS = {
    "'": 'jq strings take double quotes: "…"',
    "&": "jq says `and`",
    "!": "jq says `not`, as in `.done | not`",
    "?//": "put a space before the `//`: `.a? // 1`",
    "||": "jq says `or`",
    ".": 'a field with an unusual name is written .["name"]',
    "=": "to compare, write `==`",
}


class Stop(Exception):
    """The first thing that ends the reading of a program."""

    def __init__(self, problem: SyntaxProblem) -> None:
        self.problem = problem


class Tokens:
    """A program's text. `kind`, `text`, `start` and `stop` are the token that is looked at."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.depth = 0
        self.kind = self.text = ""
        self.start = self.stop = 0

    def advance(self) -> None:
        """Read the next token."""
        match = _TOKEN.match(self.source, self.stop)
        if match is None:
            space = re.compile(r"[ \r\n\t]*").match(self.source, self.stop)
            self.start = space.end() if space else self.stop
            character = self.source[self.start]
            self.kind = "bad"
            self.text = self.source[self.start : self.start + 2] if character in "&" else character
            raise Stop(self.unexpected())
        kind = match.lastgroup
        assert kind is not None
        self.kind = kind
        self.start, self.stop = match.span(kind)
        self.text = match[kind]

    def is_op(self, text: str) -> bool:
        """Whether it is this operator."""
        return self.text == text and self.kind == "op"

    def is_word(self, text: str) -> bool:
        """Whether it is this word."""
        return self.text == text and self.kind == "word"

    def take(self, text: str) -> bool:
        """Go past this operator or word, if it is the one."""
        if self.text == text and self.kind in ("op", "word"):
            self.advance()
            return True
        return False

    def expect(self, text: str, why: str = "") -> None:
        """Go past this operator or word; anything else is a problem."""
        if not self.take(text):
            raise Stop(self.unexpected(f"`{text}`" + why))

    def unexpected(self, expected: str = "") -> SyntaxProblem:
        """The problem that the token makes here."""
        found = "the end of the expression" if self.kind == "end" else quoted(self.text)
        if self.kind == "quote":
            found = "a string"
        message = f"expected {expected} but found {found}" if expected else f"unexpected {found}"
        hint = _HINTS.get(self.text[:1] if self.kind == "bad" else self.text)
        if self.kind == "op" and self.text == "|" and self.source.startswith("||", self.start - 1):
            hint = _HINTS["||"]
        return SyntaxProblem(self.start, message, hint)

    def nest(self) -> None:
        """Go one level deeper."""
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise Stop(SyntaxProblem(self.start, f"the expression is nested more than {MAX_NESTING // 2} deep"))

    def leave(self) -> None:
        """Come back from what `nest` went into."""
        self.depth -= 1

    def next_start(self) -> int:
        """Where the token after the one that is looked at starts."""
        match = _TOKEN.match(self.source, self.stop)
        return len(self.source) if match is None else match.start(match.lastgroup or 0)


def read_text(raw: str, start: int) -> str:
    """The text of a string's constant part, its escapes read. `start` is its place in the program."""
    if "\\" not in raw:
        return raw
    try:
        # Only escapes go through the JSON reader: a jq string may hold line breaks and tabs as they are.
        text = re.sub(r"(?:\\u[0-9a-fA-F]{0,4}|\\[^u])+", lambda m: str(json.loads(f'"{m[0]}"')), raw)
        if text.isascii() or not re.search("[\ud800-\udfff]", text):
            return text
    except ValueError:
        pass
    at = re.search(r"\\(?:u(?![0-9a-fA-F]{4})|[^\"\\/bfnrtu]|u[dD][89a-fA-F])", raw)
    offset = start + (at.start() if at else 0)
    hint = 'known are \\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX and \\(…)'
    raise Stop(SyntaxProblem(offset, "the string has an escape that jq does not know", hint))
