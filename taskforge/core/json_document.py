"""JSON as RFC 8259 has it, with the place of every key and value. `read_json` is pure."""

from __future__ import annotations

import re
from json import JSONDecodeError, JSONDecoder
from typing import Any

from taskforge.core.problem import InvalidDocument, Pointer, quoted
from taskforge.core.source import SURROGATE, DocumentLimits, Findings, Node, SourceText

_BLANKS = re.compile(r"[ \t\n]*+")
_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*+))(\.[0-9]++)?([eE][-+]?[0-9]++)?", re.ASCII)
_WORD = re.compile(r"[^\s,:\[\]{}\"]{1,40}+")
_WORDS = {"true": True, "false": False, "null": None}
_STRING_ERRORS = {
    "Unterminated string starting at": "the text that starts here has no closing quote",
    "Invalid control character at": "a line break, a tab or another control character must be escaped in a text",
    "Invalid \\escape": 'a backslash is written \\\\; the escapes are \\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX',
    "Invalid \\uXXXX escape": "\\u needs four hexadecimal digits",
}


def read_json(source: SourceText, limits: DocumentLimits) -> Node:
    """The tree of a JSON text. Raises InvalidDocument with every problem found; syntax stops at the first."""
    reader = _Reader(source, limits)
    at = reader.blanks(0)
    if at == len(source.text):
        raise reader.findings.stop((), 0, "the document is empty", 'it needs at least {"name": …, "steps": […]}')
    node, at = reader.value(at)
    at = reader.blanks(at)
    if at < len(source.text):
        raise reader.findings.stop((), at, "only one JSON value may stand in the document; this is after its end")
    reader.findings.raise_if_any()
    return node


class _Reader:
    def __init__(self, source: SourceText, limits: DocumentLimits) -> None:
        self.text = source.text
        self.limits = limits
        self.findings = Findings(source)
        self.path: list[str | int] = []
        self.count = 0
        self.scan: Any = JSONDecoder(strict=True).raw_decode

    @property
    def pointer(self) -> Pointer:
        return tuple(self.path)

    def blanks(self, at: int) -> int:
        match = _BLANKS.match(self.text, at)
        return match.end() if match else at

    def peek(self, at: int) -> str:
        return self.text[at : at + 1]

    def stop(self, at: int, message: str, hint: str | None = None) -> InvalidDocument:
        return self.findings.stop(self.pointer, at, message, hint)

    def spend(self, at: int) -> None:
        self.count += 1
        if self.count > self.limits.max_values:
            raise self.stop(at, f"the document has more than {self.limits.max_values:,} keys and values")

    def value(self, at: int) -> tuple[Node, int]:
        self.spend(at)
        first = self.peek(at)
        if first == "{" or first == "[":
            if len(self.path) >= self.limits.max_depth:
                raise self.stop(at, f"the document is nested more than {self.limits.max_depth} deep")
            return self.object(at) if first == "{" else self.array(at)
        if first == '"':
            value, end = self.string(at)
            return Node("scalar", at, end, value, '"', weight=len(value)), end
        return self.bare(at)

    def object(self, at: int) -> tuple[Node, int]:
        node = Node("map", at, at)
        start, at = at, self.blanks(at + 1)
        while self.peek(at) != "}":
            key_at = at
            if self.peek(at) != '"':
                raise self.no_key(start, at, bool(node.entries))
            self.spend(at)
            key, at = self.string(at)
            at = self.blanks(at)
            if self.peek(at) != ":":
                raise self.stop(at, f'expected ":" after the key {quoted(key)}, found {self.found(at)}')
            self.path.append(key)
            child, at = self.value(self.blanks(at + 1))
            if key in node.entries:
                line, _ = self.findings.source.position(node.key_starts[key])
                self.findings.add(self.pointer, key_at, f"the key {quoted(key)} stands twice; first on line {line}")
            else:
                node.entries[key] = child
                node.key_starts[key] = key_at
            self.path.pop()
            node.adopt(child)
            at = self.separator(start, at, "}")
        node.end = at + 1
        return node, node.end

    def array(self, at: int) -> tuple[Node, int]:
        node = Node("list", at, at)
        start, at = at, self.blanks(at + 1)
        while self.peek(at) != "]":
            self.path.append(len(node.items))
            child, at = self.value(at)
            self.path.pop()
            node.items.append(child)
            node.adopt(child)
            at = self.separator(start, at, "]")
        node.end = at + 1
        return node, node.end

    def separator(self, start: int, at: int, closing: str) -> int:
        """To the next entry, or to the closing bracket."""
        at = self.blanks(at)
        if self.peek(at) == closing:
            return at
        if self.peek(at) != ",":
            raise self.unclosed(start, at, f'expected "," or "{closing}"')
        after = self.blanks(at + 1)
        if self.peek(after) == closing:
            raise self.stop(at, f'JSON has no "," before "{closing}"', "remove the comma")
        return after

    def no_key(self, start: int, at: int, after_comma: bool) -> InvalidDocument:
        wanted = "expected a key in double quotes" + ("" if after_comma else ' or "}"')
        return self.unclosed(start, at, wanted, "keys stand in double quotes" if _WORD.match(self.text, at) else None)

    def unclosed(self, start: int, at: int, wanted: str, hint: str | None = None) -> InvalidDocument:
        if at >= len(self.text):
            return self.stop(start, f'the "{self.text[start]}" that starts here is not closed')
        return self.stop(at, f"{wanted}, found {self.found(at)}", self.comment_hint(at) or hint)

    def string(self, at: int) -> tuple[str, int]:
        try:
            value, end = self.scan(self.text, at)
        except JSONDecodeError as error:
            kind = error.msg.removesuffix(":").strip()
            kind = next((known for known in _STRING_ERRORS if kind.startswith(known)), kind)
            raise self.stop(error.pos, _STRING_ERRORS.get(kind, kind)) from None
        if SURROGATE.search(value):
            self.findings.add(
                self.pointer, at, "the text has half of a surrogate pair (\\uD800 to \\uDFFF), which is no character"
            )
        return value, end

    def bare(self, at: int) -> tuple[Node, int]:
        match = _NUMBER.match(self.text, at)
        word = _WORD.match(self.text, at)
        if match and word and match.end() >= word.end():
            return self.number(match), match.end()
        name = word[0] if word else ""
        if name in _WORDS:
            return Node("scalar", at, at + len(name), _WORDS[name]), at + len(name)
        if name in ("NaN", "Infinity", "-Infinity"):
            self.findings.add(self.pointer, at, f"{name} is not JSON", "use null or a text")
            return Node("scalar", at, at + len(name)), at + len(name)
        if at >= len(self.text):
            raise self.stop(at, "expected a value, found the end of the document")
        hint = self.comment_hint(at)
        if name.startswith("'"):
            hint = "JSON has double quotes only"
        elif re.match(r"-?[0-9.+]", name):
            hint = "a number has no leading zero, no plus and a digit on both sides of its point"
        elif name.casefold() in ("true", "false", "null", "none"):
            hint = "true, false and null are written small"
        elif name and not hint:
            hint = "a text stands in double quotes"
        raise self.stop(at, f"expected a value, found {self.found(at)}", hint)

    def number(self, match: re.Match[str]) -> Node:
        whole, fraction, exponent = match.groups()
        node = Node("scalar", match.start(), match.end())
        if fraction or exponent:
            node.value = float(match[0])
            if node.value in (float("inf"), float("-inf")):
                self.findings.add(self.pointer, match.start(), f"the number {quoted(match[0])} is out of range")
        elif len(whole) - whole.startswith("-") > self.limits.max_digits:
            self.findings.add(
                self.pointer, match.start(), f"the number has more than {self.limits.max_digits:,} digits", "quote it"
            )
        else:
            node.value = int(whole)
        node.weight = len(whole)
        return node

    def comment_hint(self, at: int) -> str | None:
        return "JSON has no comments" if self.text.startswith(("//", "/*", "#"), at) else None

    def found(self, at: int) -> str:
        if at >= len(self.text):
            return "the end of the document"
        word = _WORD.match(self.text, at)
        if word is None and self.text[at] == '"':
            return "a text"
        return quoted(word[0] if word else self.text[at])
