"""From a character of a decoded text back to the source: where in the file `$fetchh` of an expression stands."""

from __future__ import annotations

import re

from taskforge.core.source import Node

_BLANK = " \t\n"
_ESCAPE = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|\n[ \t]*|.)", re.DOTALL)
_SURROGATE_PAIR = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_HEADER = re.compile(r"[|>][^\n]*\n?")
# Escapes that stand for a blank, as their letters; all others stand for something visible.
_BLANK_ESCAPES = {"n": "\n", "t": "\t", " ": " ", "\t": "\t"}
_BLANK_CODES = {0x09: "\t", 0x0A: "\n", 0x20: " "}


def source_offset(text: str, node: Node, offset: int) -> int:
    """The offset in `text` of character `offset` of the node's decoded text.

    Exact for visible characters in every style. A blank that folding made is mapped into the gap it came from.
    """
    if node.kind != "scalar" or not isinstance(node.value, str) or node.style == "alias":
        return node.start
    value, offset = node.value, max(0, min(offset, len(node.value)))
    at = node.start if node.style == "plain" else node.start + 1
    end = node.end if node.style in ("plain", "|", ">") else node.end - 1
    if node.style in ("|", ">"):
        at = _after_header(text, node.start)
    index = 0
    while True:
        # Raw blanks of the source (folded, indentation) and raw blanks of the value need not match one to one:
        # both sides skip to the next visible character, which do match one to one.
        gap = at
        while at < end and (text[at] in _BLANK or (node.style == '"' and text.startswith("\\\n", at))):
            at += 1 if text[at] in _BLANK else 2
        escape = _blank_escape(text, at) if node.style == '"' and at < end else None
        gap_index = index
        while index < len(value) and value[index] in _BLANK and not (escape and value[index] == escape):
            index += 1
        if offset < index or at >= end or index >= len(value):
            return min(gap + offset - gap_index, max(gap, at - 1) if offset < index else at)
        if offset == index:
            return at
        at += _unit(text, at, node.style)
        index += 1


def _after_header(text: str, start: int) -> int:
    header = _HEADER.match(text, start)
    return header.end() if header else start


def _unit(text: str, at: int, style: str) -> int:
    """How many source characters make the decoded character at `at`."""
    if style == "'" and text.startswith("''", at):
        return 2
    if style == '"' and text[at] == "\\":
        pair = _SURROGATE_PAIR.match(text, at) or _ESCAPE.match(text, at)
        return pair.end() - at if pair else 1
    return 1


def _blank_escape(text: str, at: int) -> str | None:
    """The blank that the escape at `at` stands for, if it is one."""
    escape = _ESCAPE.match(text, at)
    if escape is None:
        return None
    body = escape[0][1:]
    if body[0] in "xuU" and len(body) > 1:
        return _BLANK_CODES.get(int(body[1:], 16))
    return _BLANK_ESCAPES.get(body)
