"""The texts of YAML 1.2: plain, quoted and block scalars, from source characters to the value. Pure functions.

Sources end in NUL characters, their only line break is "\\n". Everything is linear in the length of the text.
"""

from __future__ import annotations

import re

SINGLE = re.compile(r"'((?:[^'\0]++|'')*+)'")
DOUBLE = re.compile(r'"((?:[^"\\\0]++|\\[^\0])*+)"', re.DOTALL)

_BLOCK_WORDS = re.compile(
    r"(?:[^: \t\n\0]++|:(?![ \t\n\0]))++(?:[ \t]++(?!#)(?:[^: \t\n\0]++|:(?![ \t\n\0]))++)*+",
)
_FLOW_WORDS = re.compile(
    r"(?:[^:,\[\]{} \t\n\0]++|:(?![ \t\n\0,\[\]{}]))++"
    r"(?:[ \t]++(?!#)(?:[^:,\[\]{} \t\n\0]++|:(?![ \t\n\0,\[\]{}]))++)*+",
)
_GAP = re.compile(r"[ \t]*+((?:\n[ \t]*+)++)")
_INDENT = re.compile(r" *+")
_MARK = re.compile(r"(?:---|\.\.\.)(?=[ \t\n\0])")
_HEADER = re.compile(r"[|>](?:([+-])([1-9])?|([1-9])([+-])?)?(?=[ \t\n\0])[ \t]*+(?:(?<=[ \t])#[^\n\0]*+)?(?=[\n\0])")
_FOLDED_PART = re.compile(r"[^\\ \t\n]++|[ \t]++|\n|\\(?:x..|u.{4}|U.{8}|\n[ \t]*+|.)|\\", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:x(.{0,2})|u(.{0,4})|U(.{0,8})|(.))", re.DOTALL)
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_HEX = re.compile(r"[0-9a-fA-F]+", re.ASCII)
_SIMPLE = {
    "0": "\0", "a": "\a", "b": "\b", "t": "\t", "\t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r", "e": "\x1b",
    " ": " ", '"': '"', "/": "/", "\\": "\\", "N": "\x85", "_": "\xa0", "L": "\u2028", "P": "\u2029",
}  # fmt: skip


def plain_text(text: str, start: int, indent: int, flow: bool) -> tuple[str, int]:
    """Value and end of the plain scalar at `start`; in block context its further lines stand deeper than `indent`."""
    words = _FLOW_WORDS if flow else _BLOCK_WORDS
    match = words.match(text, start)
    if match is None:  # "?", "-" or ":" that the scanner has found to start a text
        return text[start], start + 1
    chunks, end = [match[0]], match.end()
    while gap := _GAP.match(text, end):
        line = text.rfind("\n", end, gap.end()) + 1
        spaces = _INDENT.match(text, line)
        column = spaces.end() - line if spaces else 0
        if (not flow and column <= indent) or text[gap.end()] == "#" or (line == gap.end() and _MARK.match(text, line)):
            break
        match = words.match(text, gap.end())
        if match is None:
            break
        breaks = gap[1].count("\n")
        chunks.append(" " if breaks == 1 else "\n" * (breaks - 1))
        chunks.append(match[0])
        end = match.end()
    return "".join(chunks), end


def fold_single(content: str) -> str:
    """The value between single quotes."""
    if "\n" in content:
        lines = content.split("\n")
        inner = [line.strip(" \t") for line in lines[1:-1]]
        content = _fold([lines[0].rstrip(" \t"), *inner, lines[-1].lstrip(" \t")])
    return content.replace("''", "'")


def double_text(content: str) -> str:
    """The value between double quotes. Raises ValueError(offset, message) for a wrong escape.

    Halves of a surrogate pair are joined; a lone half stays, for the caller to refuse.
    """
    if "\n" in content:
        return _join_pairs(_fold_double(content))
    if "\\" not in content:
        return content
    return _join_pairs(_ESCAPE.sub(_unescape, content))


def block_text(text: str, start: int, indent: int) -> tuple[str, int, int]:
    """Value, end, and where the next line starts, of the `|` or `>` scalar at `start` inside a block at `indent`.

    Raises ValueError(offset, message) for a wrong header or a first line that is too far left.
    """
    header = _HEADER.match(text, start)
    if header is None:
        sign = text[start]
        raise ValueError(start, f'after "{sign}" only "+", "-", a digit 1 to 9 and a comment may stand on the line')
    chomp = header[1] or header[4] or ""
    least = max(indent, 0) + 1
    digit = header[2] or header[3]
    at = header.end()
    if text[at] != "\n":  # the document ends with the header
        return "", at, at
    lines: list[str] = []
    width = least - 1 + int(digit) if digit else 0
    blank_width, at, end = 0, at + 1, at
    while True:
        stop = text.find("\n", at)
        line = text[at : stop if stop >= 0 else text.index("\0", at)]
        content = line.lstrip(" ")
        column = len(line) - len(content)
        if not content:
            if stop < 0 and column <= (width or column):
                break
            blank_width = max(blank_width, column)
        else:
            if not width:
                width = max(least, column)
                if column >= least and blank_width > column:
                    raise ValueError(at, "a blank line before this first line of the text is indented further than it")
            if column < width:
                break
        lines.append(line[width:] if width else "")
        end, at = at + len(line), at + len(line) + (stop >= 0)
        if stop < 0:
            break
    return _chomped(lines, chomp, text[end] == "\n", text[start] == ">"), end, at


def _chomped(lines: list[str], chomp: str, broken: bool, folded: bool) -> str:
    kept = len(lines)
    while kept and not lines[kept - 1]:
        kept -= 1
    trailing = len(lines) - kept
    body = _fold_block(lines[:kept]) if folded else "\n".join(lines[:kept])
    if chomp == "-" or not (kept or chomp):
        return body
    closing = "\n" if kept and (broken or trailing) else ""
    return body + closing + ("\n" * trailing if chomp == "+" else "")


def _fold_block(lines: list[str]) -> str:
    chunks: list[str] = []
    empty, before = 0, ""
    for line in lines:
        if not line:
            empty += 1
            continue
        if not before:
            chunks.append("\n" * empty)
        elif before[0] in " \t" or line[0] in " \t":
            chunks.append("\n" * (empty + 1))
        else:
            chunks.append("\n" * empty or " ")
        chunks.append(line)
        empty, before = 0, line
    return "".join(chunks)


def _fold(lines: list[str]) -> str:
    """Join the stripped lines of a quoted scalar: one break is a space, n + 1 breaks are n line ends."""
    chunks, empty = [lines[0]], 0
    for line in lines[1:-1]:
        if line:
            chunks.append("\n" * empty or " ")
            chunks.append(line)
            empty = 0
        else:
            empty += 1
    return "".join([*chunks, "\n" * empty or " ", lines[-1]])


def _fold_double(content: str) -> str:
    chunks: list[str] = []
    blanks, breaks = "", 0
    escaped_break = False
    for part in _FOLDED_PART.finditer(content):
        piece = part[0]
        if piece == "\n":
            breaks += 1
            blanks = ""
            continue
        if piece[0] in " \t":
            blanks += piece if not (breaks or escaped_break) else ""
            continue
        if breaks:
            chunks.append("\n" * (breaks if escaped_break else breaks - 1) or " ")
        chunks.append(blanks)
        blanks, breaks, escaped_break = "", 0, piece[:2] == "\\\n"
        if not escaped_break:
            chunks.append(_unescaped(piece, part.start()))
    if breaks:
        chunks.append("\n" * (breaks if escaped_break else breaks - 1) or " ")
    chunks.append(blanks)
    return "".join(chunks)


def _unescaped(piece: str, at: int) -> str:
    return _ESCAPE.sub(lambda match: _unescape(match, at), piece) if piece[0] == "\\" else piece


def _unescape(match: re.Match[str], at: int = 0) -> str:
    letter = match[4]
    if letter is not None:
        if letter in _SIMPLE:
            return _SIMPLE[letter]
        raise ValueError(at + match.start(), f'"\\{letter}" is no escape of YAML' if letter != "\n" else "stray \\")
    kind = match[0][1]
    digits = match[1] or match[2] or match[3] or ""
    if len(digits) != {"x": 2, "u": 4, "U": 8}[kind] or not _HEX.fullmatch(digits):
        raise ValueError(at + match.start(), f'"\\{kind}" needs {({"x": 2, "u": 4, "U": 8})[kind]} hexadecimal digits')
    code = int(digits, 16)
    if code > 0x10FFFF:
        raise ValueError(at + match.start(), f'"\\{kind}{digits}" is beyond the last character, 10FFFF')
    return chr(code)


def _join_pairs(text: str) -> str:
    return _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
