"""A run over time as a picture or a page: one file each, without scripts, fonts or anything from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape as escape_markup
from typing import Any

from taskforge.cli.chart import WORDS, Chart, Row, What, ticks
from taskforge.cli.shown import encode, escape
from taskforge.cli.timeline import failure
from taskforge.cli.tree import reference
from taskforge.core.durations import format_duration

_WIDE, _LABEL, _RIGHT, _ROW, _TOP = 1000, 260, 80, 22, 52
_COLOURS: dict[What, str] = {
    "succeeded": "#2da44e", "wrong": "#cf222e", "running": "#0969da", "pause": "#d4a72c", "wait": "#8250df",
    "block": "#8c959f",
}  # fmt: skip
_STYLE = (
    "text{font:12px ui-sans-serif,system-ui,sans-serif;fill:#1f2328}.dim{fill:#656d76}.grid{stroke:#d0d7de}"
    ".bold{font-weight:600}"
    + "".join(f".{what}{{fill:{colour}}}" for what, colour in _COLOURS.items())
    + ".pause{fill-opacity:.45}.wait{fill-opacity:.45}.block{fill-opacity:.35}"
)
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LONGEST = 400


def svg_text(chart: Chart, run: dict[str, Any]) -> str:
    """The picture as an SVG document."""
    tall = _TOP + _ROW * len(chart.rows) + 40
    title = f"{reference(run)} {run['state']}, {format_duration(chart.end - chart.start)}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {tall}" width="{_WIDE}" height="{tall}" '
        f'role="img" aria-label="{_markup(title)}">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{_WIDE}" height="{tall}" fill="#ffffff"/>',
        f'<text x="12" y="22" class="bold">{_markup(title)}</text>',
        f'<text x="12" y="40" class="dim">{_markup(str(run.get("created_at")))}</text>',
        *_grid(chart, tall),
    ]
    for at, row in enumerate(chart.rows):
        parts += _row(chart, row, _TOP + _ROW * at)
    return "\n".join([*parts, *_legend(chart, tall), "</svg>"])


def html_text(chart: Chart, run: dict[str, Any]) -> str:
    """A page with the picture, the run's facts and every error."""
    title = _markup(f"{reference(run)} {run['state']}")
    facts = {
        "Run": run.get("id"),
        "Version": run.get("version"),
        "Created": run.get("created_at"),
        "Started": run.get("started_at"),
        "Finished": run.get("finished_at"),
        "Error": failure(run.get("error")),
        "Input": None if run.get("input") is None else encode(run["input"], indent=None),
        "Output": None if run.get("output") is None else encode(run["output"], indent=None),
    }
    rows = "".join(
        f"<tr><th>{name}</th><td>{_markup(_short(str(value)))}</td></tr>\n" for name, value in facts.items() if value
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body{{font:14px ui-sans-serif,system-ui,sans-serif;color:#1f2328;margin:2em auto;max-width:1000px;padding:0 1em}}
svg{{max-width:100%;height:auto;border:1px solid #d0d7de}}
table{{border-collapse:collapse;margin:1em 0}}
th,td{{text-align:left;vertical-align:top;padding:.25em .75em;border-bottom:1px solid #d0d7de;overflow-wrap:anywhere}}
</style>
</head>
<body>
<h1>{title}</h1>
{svg_text(chart, run)}
<table>
{rows}</table>
{_attempts(chart)}</body>
</html>
"""


def _attempts(chart: Chart) -> str:
    """Every part of every step in words, for those who do not see the picture."""
    lines = []
    for row in chart.rows:
        told = [segment.words for segment in row.segments if segment.what != "block"]
        words = "<br>".join(_markup(_short(one)) for one in told)
        if row.error and not any(row.error in one for one in told):
            words += f"<br>{_markup(_short(row.error))}"
        label = "&nbsp;" * 4 * row.depth + _markup(row.label)
        lines.append(f"<tr><td>{label}</td><td>{_markup(row.kind)}</td><td>{row.state}</td><td>{words}</td></tr>\n")
    head = "<tr><th>Step</th><th>Kind</th><th>State</th><th>What happened</th></tr>\n"
    return f"<table>\n{head}{''.join(lines)}</table>\n" if lines else ""


def _grid(chart: Chart, tall: int) -> Iterator[str]:
    for tick in ticks(chart, 9):
        x = _x(chart, chart.start + tick)
        yield f'<line x1="{x}" y1="{_TOP - 4}" x2="{x}" y2="{tall - 34}" class="grid"/>'
        yield f'<text x="{x}" y="{_TOP - 8}" class="dim" text-anchor="middle">{format_duration(tick)}</text>'


def _row(chart: Chart, row: Row, y: int) -> Iterator[str]:
    name = _shortened(row.label, 34 - 2 * min(row.depth, 10))
    hint = f"<title>{_markup(_short(f'{row.label} {row.kind} {row.state} {row.error}'.strip()))}</title>"
    yield f'<text x="{12 + 14 * row.depth}" y="{y + 15}"{"" if row.state else _DIM}>{_markup(name)}{hint}</text>'
    for segment in row.segments:
        x, end = _x(chart, segment.start), _x(chart, segment.end)
        inset = 9 if segment.what == "block" else 7 if segment.what == "pause" else 4
        yield (
            f'<rect x="{x}" y="{y + inset}" width="{max(round(end - x, 1), 2)}" height="{_ROW - 2 * inset}" '
            f'class="{segment.what}"><title>{_markup(_short(segment.words))}</title></rect>'
        )
    if row.state:
        told = row.took or row.state.lower()
        yield f'<text x="{_WIDE - 8}" y="{y + 15}" class="dim" text-anchor="end">{_markup(told)}</text>'


_DIM = ' class="dim"'


def _legend(chart: Chart, tall: int) -> Iterator[str]:
    used = {segment.what for row in chart.rows for segment in row.segments}
    x = 12
    for what, words in WORDS.items():
        if what in used:
            yield f'<rect x="{x}" y="{tall - 22}" width="12" height="12" class="{what}"/>'
            yield f'<text x="{x + 17}" y="{tall - 12}" class="dim">{words}</text>'
            x += 40 + 7 * len(words)


def _x(chart: Chart, at: int) -> float:
    room = _WIDE - _LABEL - _RIGHT
    return round(_LABEL + (at - chart.start) * room / (chart.end - chart.start), 1)


def _markup(text: str) -> str:
    """Text for XML and HTML: what would steer them, or is not allowed in them, stands escaped."""
    return escape_markup(_NO_XML.sub("\ufffd", escape(text)))


def _short(text: str) -> str:
    return _shortened(text, _LONGEST)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
