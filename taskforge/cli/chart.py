"""A run over time: for each step when it was tried, paused and waited. Laid out here, drawn elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from taskforge.cli.timeline import failure
from taskforge.cli.tree import nested, outline
from taskforge.core.clock import from_rfc3339
from taskforge.core.durations import format_duration
from taskforge.core.record import dataclass

What = Literal["block", "pause", "wait", "succeeded", "running", "wrong"]

RANK: tuple[What, ...] = ("block", "pause", "wait", "succeeded", "running", "wrong")
"""From what gives way to what stays, where several share a place."""

WORDS: dict[What, str] = {
    "succeeded": "succeeded",
    "running": "running",
    "wrong": "failed",
    "pause": "until the next attempt",
    "wait": "waits",
    "block": "holds steps",
}
_WRONG = frozenset({"FAILED", "TIMED_OUT", "LOST", "CANCELLED"})
_LIVE = frozenset({"RUNNING", "WAITING", "QUEUED"})


class Segment(NamedTuple):
    """A part of a step's time, milliseconds UTC; `start` ≤ `end`."""

    start: int
    end: int
    what: What
    words: str


@dataclass(frozen=True, slots=True)
class Row:
    """A step and its time; a row without a state tells how many items of a loop are not listed."""

    label: str
    depth: int
    kind: str
    state: str
    segments: tuple[Segment, ...]
    error: str = ""

    @property
    def took(self) -> str:
        """How long it went from its beginning to its end; "" when it has not begun."""
        if not self.segments:
            return ""
        return format_duration(self.segments[-1].end - self.segments[0].start)


@dataclass(frozen=True, slots=True)
class Chart:
    """All rows, and the time that they stand in: from `start` to `end`, milliseconds UTC, `start` < `end`."""

    start: int
    end: int
    rows: tuple[Row, ...]


def chart_of(run: dict[str, Any], document: Any, now: int, *, fold: bool = True) -> Chart:
    """Lay out a run as the API gives it. What goes on reaches to `now`."""
    rows = tuple(_rows(run, document, now, fold))
    times = [time for row in rows for segment in row.segments for time in segment[:2]]
    start = from_rfc3339(run["created_at"])
    end = from_rfc3339(run["finished_at"]) if run.get("finished_at") else now
    start, end = min([start, *times]), max([end, start, *times])
    return Chart(start, max(end, start + 1), rows)


def _rows(run: dict[str, Any], document: Any, now: int, fold: bool) -> Iterator[Row]:
    for entry in nested(run.get("steps") or [], outline(document), fold=fold):
        step = entry.step
        if step is None:
            yield Row(entry.label, entry.depth, "", "", ())
            continue
        parts = tuple(sorted(_segments(step, now, entry.has_inner)))
        yield Row(entry.label, entry.depth, step.get("kind") or "", step["state"], parts, failure(step.get("error")))


def _segments(step: dict[str, Any], now: int, has_inner: bool) -> Iterator[Segment]:
    until = _end(step, now)
    before: int | None = None
    for attempt in step.get("attempts") or []:
        start = from_rfc3339(attempt["started_at"])
        end = max(_end(attempt, now), start)
        if before is not None and start > before:
            yield Segment(before, start, "pause", f"pause of {format_duration(start - before)}")
        words = [f"attempt {attempt['number']}", attempt["state"], format_duration(end - start)]
        told = failure(attempt.get("error"))
        yield Segment(start, end, _what(attempt["state"]), ", ".join([*words, told] if told else words))
        before = end
    if before is not None:
        goes_on = step["state"] in _LIVE or step.get("kind") == "workflow"
        if goes_on and until > before:
            what: What = "pause" if step["state"] == "QUEUED" else "wait"
            yield Segment(before, until, what, f"{step['state']}, {format_duration(until - before)}")
        return
    if not step.get("started_at"):
        return
    start = from_rfc3339(step["started_at"])
    end = max(until, start)
    kind: What = "block" if has_inner else "wait" if step.get("kind") == "wait" else _what(step["state"])
    if kind == "block" and step["state"] == "SKIPPED":
        kind = "succeeded"
    yield Segment(start, end, kind, f"{step['state']}, {format_duration(end - start)}")


def _end(item: dict[str, Any], now: int) -> int:
    return from_rfc3339(item["finished_at"]) if item.get("finished_at") else now


def _what(state: str) -> What:
    return "wrong" if state in _WRONG else "running" if state in _LIVE else "succeeded"


def bar(chart: Chart, segments: Sequence[Segment], columns: int) -> list[What | None]:
    """A row's time in so many columns. Every segment has a column of its own at least, but for what gives way."""
    cells: list[What | None] = [None] * columns
    total = chart.end - chart.start
    for segment in sorted(segments, key=lambda one: RANK.index(one.what)):
        first = min((segment.start - chart.start) * columns // total, columns - 1)
        last = min(max(-(-(segment.end - chart.start) * columns // total) - 1, first), columns - 1)
        for at in range(max(first, 0), last + 1):
            cells[at] = segment.what
    return cells


def ticks(chart: Chart, most: int) -> list[int]:
    """Round times after the start, milliseconds, at most so many, 0 among them."""
    total = chart.end - chart.start
    step = next(size for size in _sizes() if total // size < max(most, 1))
    return list(range(0, total + 1, step))


def _sizes() -> Iterator[int]:
    yield from (1, 2, 5, 10, 20, 50, 100, 200, 500)
    seconds = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 28_800, 43_200)
    yield from (size * 1000 for size in seconds)
    day = 86_400_000
    while True:
        yield day
        day *= 2
