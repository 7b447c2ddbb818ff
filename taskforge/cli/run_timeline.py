"""`runs timeline`: a run as bars over time, in the terminal or as a file that needs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskforge.cli.command import Example, Session, command, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Cell, Paint, Screen, cut, fit_cells, state, width
from taskforge.cli.shown import escape

if TYPE_CHECKING:
    from taskforge.cli.chart import Chart, Row, What

_WIDE = 100
"""Columns where there is no terminal."""
_TOOK = 8
_NARROWEST = 10
_SIGNS: dict[What, str] = {
    "succeeded": "█", "wrong": "▒", "running": "▓", "pause": "·", "wait": "░", "block": "─",
}  # fmt: skip
_PLAIN: dict[What, str] = {"succeeded": "#", "wrong": "x", "running": ">", "pause": ".", "wait": "~", "block": "-"}
_STYLES: dict[What, str] = {
    "succeeded": "green", "wrong": "bad", "running": "cyan", "pause": "yellow", "wait": "blue", "block": "dim",
}  # fmt: skip


@command(
    "timeline",
    examples=[
        Example("taskforge runs timeline uptime#42"),
        Example("taskforge runs timeline uptime#42 --svg uptime-42.svg"),
        Example("taskforge runs timeline uptime#42 --html uptime-42.html --all"),
    ],
)
@click.argument("run", metavar="RUN")
@click.option("--svg", "svg", metavar="FILE", help="Write a picture instead; - is standard output.")
@click.option("--html", "html", metavar="FILE", help="Write a page with the picture and the errors; needs no network.")
@click.option("--all", "everything", is_flag=True, help="Every item of a foreach, not only what failed or goes on.")
@pass_session
def timeline(session: Session, run: str, svg: str | None, html: str | None, everything: bool) -> None:
    """Show when each step ran: attempts, the pauses between them, and waits, as bars over time."""
    from taskforge.cli.chart import chart_of
    from taskforge.cli.run_view import fetch_run, name_of, read_document
    from taskforge.core.clock import SystemClock

    screen = session.screen
    if svg == "-" and html == "-":
        raise CommandError("only one of --svg and --html can go to standard output", code=Exit.USAGE)
    found = fetch_run(session, run, "all" if everything or session.machine else None)
    if session.machine and not svg and not html:
        screen.document(found)
        return
    if screen.quiet and not svg and not html:
        screen.line(name_of(found))
        return
    chart = chart_of(found, read_document(session, found), SystemClock().wall(), fold=not everything)
    if svg:
        from taskforge.cli.chart_file import svg_text

        _write(screen, svg, svg_text(chart, found) + "\n")
    if html:
        from taskforge.cli.chart_file import html_text

        _write(screen, html, html_text(chart, found))
    if not svg and not html:
        for line in [_head(screen, found, chart), *lines_of(chart, screen.columns or _WIDE, _signs(screen))]:
            screen.line(*line)


def _write(screen: Screen, file: str, text: str) -> None:
    if file == "-":
        screen.text(text)
        return
    Path(file).write_text(text, encoding="utf-8")
    screen.note(f"written to {file}")


def _head(screen: Screen, run: dict[str, Any], chart: Chart) -> list[Cell]:
    from taskforge.cli.tree import reference
    from taskforge.core.durations import format_duration

    told = f"  {format_duration(chart.end - chart.start)} from {run['created_at']}"
    mark = screen.mark(run["state"])
    return [Paint(reference(run), "bold"), "  ", mark, " ", state(run["state"]), Paint(told, "dim")]


def _signs(screen: Screen) -> dict[What, str]:
    return _SIGNS if screen.mark("SUCCEEDED") == "✔" else _PLAIN


def lines_of(chart: Chart, columns: int, signs: dict[What, str]) -> list[list[Cell]]:
    """The chart as lines of at most `columns` columns, however narrow: rows, the scale, and what the signs mean."""
    from taskforge.cli.chart import WORDS

    heads = [escape("  " * (row.depth + 1) + row.label) for row in chart.rows]
    named = (width(head) for head, row in zip(heads, chart.rows, strict=True) if row.state)
    least = min(max(named, default=0), max(columns * 2 // 5, 1))
    has_took = columns - least - _TOOK - 2 >= _NARROWEST
    room = max(columns - least - 2 - (_TOOK if has_took else 0), 1)
    lines: list[list[Cell]] = []
    for head, row in zip(heads, chart.rows, strict=True):
        if row.state:
            taken: list[Cell] = [Paint(f"  {row.took}", "dim")] if has_took and row.took else []
            shown = cut(head, least)
            lines.append([shown, " " * (least + 2 - width(shown)), *_drawn(chart, row, room, signs), *taken])
        else:
            lines.append([Paint(head, "dim")])
    used = {segment.what for row in chart.rows for segment in row.segments}
    lines.append([Paint(" " * (least + 2) + scale(chart, room), "dim")])
    meant: list[Cell] = []
    for what, sign in signs.items():
        if what in used:
            meant += ["  ", Paint(sign, _STYLES[what]), Paint(f" {WORDS[what]}", "dim")]
    return [fit_cells(line, columns) for line in ([*lines, meant] if used else lines)]


def _drawn(chart: Chart, row: Row, room: int, signs: dict[What, str]) -> list[Cell]:
    from itertools import groupby

    from taskforge.cli.chart import bar

    if not row.state:
        return []
    if not row.segments:
        return [state(row.state)] if room >= width(row.state) else []
    cells: list[Cell] = []
    for what, group in groupby(bar(chart, row.segments, room)):
        count = len(list(group))
        cells.append(" " * count if what is None else Paint(signs[what] * count, _STYLES[what]))
    return cells


def scale(chart: Chart, columns: int) -> str:
    """Round times under the bars, each beginning at its column; at most `columns` characters."""
    from taskforge.cli.chart import ticks
    from taskforge.core.durations import format_duration

    total, text = chart.end - chart.start, ""
    for tick in ticks(chart, max(columns // 10, 1)):
        at = min(tick * columns // total, columns)
        label = f"|{format_duration(tick)}"
        if at >= len(text) + bool(text) and at + len(label) <= columns:
            text = text.ljust(at) + label
    return text
