"""The only place that prints. Whatever is data is escaped here, so that no text from a server can steer a terminal."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TextIO

from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.shown import ascii_only, encode, encode_yaml, escape

_STYLES = {
    "bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "magenta": "35", "cyan": "36",
    "bad": "1;31", "title": "1;36",
}  # fmt: skip
_STATE_STYLES = {
    "SUCCEEDED": "green", "FAILED": "bad", "TIMED_OUT": "bad", "LOST": "magenta", "CANCELLED": "yellow",
    "RUNNING": "cyan", "WAITING": "blue", "QUEUED": "blue", "SKIPPED": "dim", "PENDING": "dim", "OPEN": "bad",
    "RETRIED": "green", "DISCARDED": "dim",
}  # fmt: skip
_MARKS = {
    "SUCCEEDED": "✔", "FAILED": "✘", "TIMED_OUT": "✘", "LOST": "⚡", "CANCELLED": "⊘", "RUNNING": "▶", "WAITING": "…",
    "QUEUED": "○", "SKIPPED": "–", "PENDING": "·",
}  # fmt: skip
_PLAIN_MARKS = {
    "SUCCEEDED": "+", "FAILED": "x", "TIMED_OUT": "x", "LOST": "!", "CANCELLED": "/", "RUNNING": ">", "WAITING": "~",
    "QUEUED": "o", "SKIPPED": "-", "PENDING": ".",
}  # fmt: skip
_PLAIN_LINES = str.maketrans({"├": "|", "└": "`", "─": "-", "│": "|", "…": "~", "·": "-", "–": "-", "→": ">", "✔": "+"})
_GAP = 2
_NARROWEST = 8


class Paint(NamedTuple):
    """Text in a style; plain text where colour is not wanted."""

    text: str
    style: str


Cell = str | Paint


def state(name: str) -> Paint:
    """A state in its colour."""
    return Paint(name, _STATE_STYLES.get(name, "bold"))


def width(text: str) -> int:
    """How many columns a terminal needs for the text."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def cut(text: str, columns: int) -> str:
    """The text, or as much of its beginning as fits, ending in `…`."""
    if width(text) <= columns:
        return text
    kept = ""
    for char in text:
        if width(kept) + width(char) > columns - 1:
            break
        kept += char
    return kept + "…"


def fold(text: str, first: int, rest: int) -> list[str]:
    """Break text at spaces, or within words that are too long; `first` columns for the first line, `rest` after it."""
    lines, room = [""], max(first, 1)
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if width(joined) <= room:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        room = max(rest, 1) if len(lines) > 1 else room
        while width(word) > room:
            taken = cut(word, room + 1)[:-1] or word[0]
            lines[-1], word = taken, word[len(taken) :]
            lines.append("")
            room = max(rest, 1)
        lines[-1] = word
    return lines


def fit_cells(cells: Sequence[Cell], columns: int) -> list[Cell]:
    """The cells, escaped, and cut where the line is full."""
    left, kept = columns, list[Cell]()
    for cell in cells:
        # What cannot be on the line is not looked at: a message may be long.
        text = escape(_text(cell)[: columns * 4])
        shown = cut(text, left) if left > 0 else ""
        left -= width(shown)
        kept.append(Paint(shown, cell.style) if isinstance(cell, Paint) else shown)
    return kept


def lay_out(
    heads: Sequence[str], rows: Sequence[Sequence[Cell]], columns: int | None, keep: set[int]
) -> list[list[Cell]]:
    """A table's lines. Where there is not room for all columns, the widest but those in `keep` give way."""
    texts = [[escape(_text(cell)) for cell in row] for row in (heads, *rows)]
    sizes = [max(width(row[at]) for row in texts) for at in range(len(heads))]
    if columns is not None:
        _shrink(sizes, columns, keep)
    return [_row(row, sizes) for row in ([Paint(head, "bold") for head in heads], *rows)]


def _row(row: Sequence[Cell], sizes: Sequence[int]) -> list[Cell]:
    cells: list[Cell] = []
    for at, cell in enumerate(row):
        shown = cut(escape(_text(cell)), sizes[at])
        cells.append(Paint(shown, cell.style) if isinstance(cell, Paint) else shown)
        if at + 1 < len(row):
            cells.append(" " * (sizes[at] - width(shown) + _GAP))
    return cells


class Screen:
    """Standard output and standard error, as this process has them."""

    def __init__(self, environ: os._Environ[str] | dict[str, str] | None = None) -> None:
        self.environ = os.environ if environ is None else environ
        self.form = "table"
        self.quiet = False
        self.reader_left = False
        self._prepare()

    def _prepare(self) -> None:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:  # the caller closed it: `>&-`
                setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
            elif hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")

    # ---- what this terminal can show

    def colours(self, stream: TextIO) -> bool:
        if self.environ.get("NO_COLOR") or self.environ.get("TERM") == "dumb":
            return False
        return stream.isatty()

    @property
    def columns(self) -> int | None:
        """The terminal's width, or None where lines may be of any length."""
        return self._columns(sys.stdout)

    def _columns(self, stream: TextIO) -> int | None:
        if not stream.isatty():
            return None
        with contextlib.suppress(ValueError):
            if int(self.environ.get("COLUMNS", "")) > 0:
                return int(self.environ["COLUMNS"])
        with contextlib.suppress(OSError, ValueError):
            return os.get_terminal_size(stream.fileno()).columns or 80
        return 80

    @property
    def size(self) -> tuple[int, int]:
        """The terminal's columns and rows."""
        with contextlib.suppress(OSError, ValueError):
            rows = os.get_terminal_size(sys.stdout.fileno()).lines
            return self.columns or 80, rows or 24
        return self.columns or 80, 24

    @property
    def is_live(self) -> bool:
        """Can lines be drawn again in place, and does anybody look at them?"""
        if self.form != "table" or self.quiet or self.environ.get("TERM", "") in ("", "dumb"):
            return False
        return sys.stdout.isatty()

    @property
    def marks(self) -> Mapping[str, str]:
        """One character for each state."""
        return _MARKS if _unicode(sys.stdout) else _PLAIN_MARKS

    @property
    def unicode(self) -> bool:
        """Can standard output show more than ASCII?"""
        return _unicode(sys.stdout)

    def mark(self, name: str) -> str:
        """One character for a state."""
        return self.marks.get(name, "?")

    # ---- output

    def line(self, *cells: Cell) -> None:
        """One line of the answer, cut at the terminal's width."""
        self._write(sys.stdout, self._joined(sys.stdout, cells, self.columns) + "\n")

    def raw(self, text: str) -> None:
        """One line for a program, not for eyes: never cut, and escaped by the caller."""
        self._write(sys.stdout, text + "\n")

    def paragraph(self, *cells: Cell, hang: int) -> None:
        """A line whose last cell goes on below, `hang` columns in, where the terminal is too narrow for it."""
        *heads, last = cells
        whole = escape(_text(last))
        first, more = whole.lstrip(" "), list[str]()
        gap = " " * (len(whole) - len(first))
        if self.columns is not None:
            taken = sum(width(escape(_text(cell))) for cell in (*heads, gap))
            first, *more = fold(first, self.columns - taken, self.columns - hang)
        style = last.style if isinstance(last, Paint) else ""
        self.line(*heads, gap, Paint(first, style))
        for text in more:
            self.line(" " * hang, Paint(text, style))

    def document(self, value: Any) -> None:
        """The whole answer as one JSON or YAML document."""
        text = encode_yaml(value) if self.form == "yaml" else encode(value) + "\n"
        self._write(sys.stdout, text if _unicode(sys.stdout) else ascii_only(text))

    def text(self, text: str) -> None:
        """Text of several lines as it is, but for control characters other than line breaks and tabs."""
        shown = "\n".join("\t".join(escape(part) for part in line.split("\t")) for line in text.splitlines())
        self._write(sys.stdout, shown + "\n" if shown else "")

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[Cell]], *, keep: Sequence[int] = (0,)) -> None:
        """Rows under headings; where the terminal is narrow, the widest columns but those in `keep` give way."""
        for line in lay_out(heads, rows, self.columns, set(keep)):
            self._write(sys.stdout, self._joined(sys.stdout, line, self.columns).rstrip() + "\n")

    def redraw(self, lines: Sequence[Sequence[Cell]], above: int) -> None:
        """Draw lines over the `above` rows that were drawn last, in one write; what was there below them goes."""
        shown = "".join(f"{self._joined(sys.stdout, cells, self.columns)}\x1b[K\n" for cells in lines)
        up = f"\x1b[{above}A" if above else ""
        self._write(sys.stdout, f"\r{up}{shown}\x1b[J")

    def note(self, *cells: Cell) -> None:
        """A remark beside the answer, on standard error; not with `-q`."""
        if not self.quiet:
            self._write(sys.stderr, self._joined(sys.stderr, cells, None) + "\n")

    def error(self, fault: CommandError) -> None:
        """Say on standard error what was wrong, where, and what to do next."""
        for place in fault.lines:
            self._write(sys.stderr, self._joined(sys.stderr, [place], None) + "\n")
        first, *more = fault.message.splitlines() or [""]
        for at, text in enumerate((first, *more)):
            head: list[Cell] = [Paint("error:", "bad"), " "] if at == 0 else ["       "]
            self._write(sys.stderr, self._joined(sys.stderr, [*head, text], None) + "\n")
        if fault.hint:
            self._write(sys.stderr, self._joined(sys.stderr, [Paint("hint:", "cyan"), "  ", fault.hint], None) + "\n")

    def flush(self) -> None:
        """Everything is out, or CommandError says why it is not."""
        self._write(sys.stdout, "")

    def has_reader(self) -> bool:
        """Does anybody still read standard output? Found out without writing, for who has long nothing to say."""
        if not self.reader_left and hasattr(select, "poll"):
            with contextlib.suppress(OSError, ValueError):
                asked = select.poll()
                asked.register(sys.stdout.fileno(), 0)
                if any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0)):
                    self.reader_left = True
                    _discard(sys.stdout)
        return not self.reader_left

    # ---- how

    def _joined(self, stream: TextIO, cells: Sequence[Cell], columns: int | None) -> str:
        coloured, left, parts = self.colours(stream), columns, []
        for cell in cells:
            shown = escape(_text(cell))
            if left is not None:
                shown = cut(shown, left) if left > 0 else ""
                left -= width(shown)
            if coloured and isinstance(cell, Paint) and cell.style and shown:
                shown = f"\x1b[{_STYLES[cell.style]}m{shown}\x1b[0m"
            parts.append(shown)
        text = "".join(parts)
        return text if _unicode(stream) else text.translate(_PLAIN_LINES)

    def _write(self, stream: TextIO, text: str) -> None:
        """Write and flush. A reader that has left is no fault: the command goes on, for its exit code's sake."""
        if self.reader_left and stream is sys.stdout:
            return
        try:
            stream.write(text)
            stream.flush()
        except BrokenPipeError:
            self.reader_left = self.reader_left or stream is sys.stdout
            _discard(stream)
        except OSError as error:
            _discard(stream)
            if stream is sys.stdout:
                raise CommandError(f"the output cannot be written: {error.strerror}", code=Exit.FAILED) from None


def _discard(stream: TextIO) -> None:
    """What is still in the buffer goes nowhere, so that the interpreter's end does not stumble over it."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


def _unicode(stream: TextIO) -> bool:
    return (stream.encoding or "").lower().replace("-", "").startswith("utf")


def _text(cell: Cell) -> str:
    return cell.text if isinstance(cell, Paint) else cell


def _shrink(sizes: list[int], columns: int, keep: set[int]) -> None:
    while sum(sizes) + _GAP * (len(sizes) - 1) > columns:
        give = max((at for at in range(len(sizes)) if at not in keep), key=lambda at: sizes[at], default=None)
        if give is None or sizes[give] <= _NARROWEST:
            return
        sizes[give] -= 1
