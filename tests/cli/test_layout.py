"""What is laid out for a terminal never leaves it: the live tree, bars over time, tables, whatever the names are."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from taskforge.cli.chart import Chart, Row, Segment, What, bar, chart_of, ticks
from taskforge.cli.region import rows_of
from taskforge.cli.render import Cell, Paint, lay_out, width
from taskforge.cli.run_timeline import lines_of, scale
from taskforge.cli.stream import Event
from taskforge.cli.tree import outline
from taskforge.cli.watched import Watched
from taskforge.core.clock import to_rfc3339

NOW = 1_800_000_000_000
SIGNS: dict[What, str] = {"succeeded": "#", "wrong": "x", "running": ">", "pause": ".", "wait": "~", "block": "-"}
MARKS = {
    name: "*" for name in ("QUEUED", "RUNNING", "WAITING", "SUCCEEDED", "FAILED", "SKIPPED", "CANCELLED", "PENDING")
}
DOCUMENT: dict[str, Any] = {
    "steps": [
        {"id": "a", "transform": 1},
        {"id": "each", "foreach": {"items": [], "steps": [{"id": "one", "http": {}}, {"id": "two", "transform": 1}]}},
        {"id": "loop", "repeat": {"steps": [{"id": "poll", "transform": 1}]}},
        {"id": "z", "wait": {"for": "1s", "on_timeout": [{"id": "late", "transform": 1}]}},
    ],
    "finally": [{"id": "tidy", "transform": 1}],
}
NASTY = st.text(st.characters(codec=None), max_size=30)
PATHS = st.one_of(
    st.sampled_from(["a", "each", "loop", "z", "late", "tidy", "each[0].one", "each[1].two", "loop[3].poll"]),
    st.integers(0, 40).map(lambda at: f"each[{at}].one"),
    st.integers(0, 40).map(lambda at: f"each[{at}].two"),
    NASTY,
)
DATA = st.fixed_dictionaries(
    {"at": st.integers(NOW - 10**7, NOW).map(to_rfc3339), "step": PATHS},
    optional={
        "state": st.sampled_from([*MARKS, "TIMED_OUT", "STRANGE"]),
        "from": st.sampled_from(list(MARKS)),
        "attempt": st.integers(1, 10**6),
        "items": st.integers(0, 10**5),
        "until": st.one_of(NASTY, st.integers(NOW, NOW + 10**9).map(to_rfc3339)),
        "error": NASTY,
        "message": NASTY,
        "code": NASTY,
    },
)
EVENTS = st.lists(st.builds(Event, st.just("1.0"), st.sampled_from(["run", "step", "attempt", "signal", "?"]), DATA))
COLUMNS = st.integers(1, 220)


def wide(line: list[Cell]) -> int:
    return sum(width(cell.text if isinstance(cell, Paint) else cell) for cell in line)


def text_of(line: list[Cell]) -> str:
    return "".join(cell.text if isinstance(cell, Paint) else cell for cell in line)


@settings(max_examples=80, deadline=None)
@given(EVENTS, COLUMNS, st.integers(0, 60), NASTY)
def test_a_live_tree_fits_its_terminal(events: list[Event], columns: int, rows: int, note: str) -> None:
    watched = Watched("flow#1", outline(DOCUMENT))
    for event in events:
        watched.take(event)
    lines = watched.lines(columns, rows, NOW, MARKS, note)
    assert len(lines) <= rows
    assert all(wide(line) <= columns for line in lines)
    assert not any(char < " " for line in lines for char in text_of(line))
    assert rows_of(lines, columns) == len(lines)


@settings(max_examples=50, deadline=None)
@given(EVENTS)
def test_an_event_twice_changes_nothing(events: list[Event]) -> None:
    once, twice = Watched("flow#1", outline(DOCUMENT)), Watched("flow#1", outline(DOCUMENT))
    for event in events:
        once.take(event)
        twice.take(event)
        twice.take(event)
    assert once.lines(300, 300, NOW, MARKS) == twice.lines(300, 300, NOW, MARKS)


def test_a_loop_of_thousands_is_one_line() -> None:
    watched = Watched("flow#1", outline(DOCUMENT))
    at = to_rfc3339(NOW)

    def tell(step: str, state: str, **more: Any) -> None:
        watched.take(Event("1", "step", {"at": at, "step": step, "state": state, **more}))

    tell("each", "RUNNING")
    watched.take(Event("1", "step", {"at": at, "step": "each", "state": None, "items": 1000}))
    for item in range(315):
        tell(f"each[{item}].one", "QUEUED")
    for item in range(312):
        tell(f"each[{item}].one", "FAILED" if item == 7 else "SUCCEEDED", **{"from": "RUNNING"})
        if item != 7:
            tell(f"each[{item}].two", "SUCCEEDED", **{"from": "QUEUED"})
    (line,) = [text_of(line) for line in watched.lines(120, 40, NOW, MARKS) if "each" in text_of(line)]
    assert "312/1000  1 failed" in line
    assert "3 under way" in line
    assert len(watched.lines(120, 40, NOW, MARKS)) == 5


def test_what_goes_on_stays_where_there_is_no_room_for_all() -> None:
    document = {"steps": [{"id": f"s{at}", "transform": 1} for at in range(50)]}
    watched = Watched("flow#1", outline(document))
    for at in range(30):
        state = "RUNNING" if at == 3 else "FAILED" if at == 4 else "SUCCEEDED"
        watched.take(Event("1", "step", {"at": to_rfc3339(NOW), "step": f"s{at}", "state": state}))
    shown = [text_of(line) for line in watched.lines(80, 6, NOW, MARKS)]
    assert len(shown) == 6
    assert "flow#1" in shown[0]
    assert any("s3 " in line and "RUNNING" in line for line in shown)
    assert any("s4 " in line and "FAILED" in line for line in shown)
    assert shown[-1] == "  … 46 more steps"


SEGMENTS = st.lists(
    st.tuples(st.integers(0, 10**9), st.integers(0, 10**9), st.sampled_from(list(SIGNS)), NASTY).map(
        lambda part: Segment(NOW + min(part[:2]), NOW + max(part[:2]), part[2], part[3])
    ),
    max_size=6,
)
ROWS = st.lists(
    st.builds(
        Row,
        label=NASTY,
        depth=st.integers(0, 10),
        kind=NASTY,
        state=st.sampled_from(["", *MARKS]),
        segments=SEGMENTS.map(tuple),
    ),
    max_size=8,
)


@settings(max_examples=80, deadline=None)
@given(ROWS, COLUMNS)
def test_bars_fit_the_terminal(rows: list[Row], columns: int) -> None:
    chart = Chart(NOW, NOW + 10**9, tuple(rows))
    lines = lines_of(chart, columns, SIGNS)
    assert all(wide(line) <= columns for line in lines)
    assert not any(char < " " for line in lines for char in text_of(line))


@given(SEGMENTS, st.integers(1, 300))
def test_a_bar_has_a_place_for_what_tells_most(segments: list[Segment], columns: int) -> None:
    cells = bar(Chart(NOW, NOW + 10**9, ()), segments, columns)
    assert len(cells) == columns
    told = {segment.what for segment in segments}
    if "wrong" in told:
        assert "wrong" in cells
    assert {cell for cell in cells if cell} <= told


@given(st.integers(1, 10**13), st.integers(1, 300))
def test_the_scale_is_round_and_fits(total: int, columns: int) -> None:
    chart = Chart(NOW, NOW + total, ())
    found = ticks(chart, 9)
    assert 1 <= len(found) <= 10
    assert found[0] == 0
    assert found[-1] <= total
    assert len(scale(chart, columns)) <= columns


@given(st.lists(st.lists(NASTY, min_size=4, max_size=4), max_size=5), st.integers(45, 200))
def test_a_table_gives_way_evenly(rows: list[list[str]], columns: int) -> None:
    assert all(wide(line) <= columns for line in lay_out(("A", "B", "C", "D"), rows, columns, set()))


def test_attempts_pauses_and_waits_are_told_apart() -> None:
    def time(seconds: float) -> str:
        return to_rfc3339(NOW + int(seconds * 1000))

    attempts = [
        {"id": "a1", "number": 1, "state": "FAILED", "started_at": time(0), "finished_at": time(1),
         "error": {"code": "HTTP_503", "message": "busy"}},
        {"id": "a2", "number": 2, "state": "SUCCEEDED", "started_at": time(4), "finished_at": time(5), "error": None},
    ]  # fmt: skip
    base: dict[str, Any] = {"error": None, "available_at": None, "attempts": []}
    steps = [
        base | {"path": "a", "id": "a", "kind": "http", "state": "SUCCEEDED", "started_at": time(0),
                "finished_at": time(5), "attempts": attempts},
        base | {"path": "z", "id": "z", "kind": "wait", "state": "WAITING", "started_at": time(5), "finished_at": None},
        base | {"path": "each", "id": "each", "kind": "foreach", "state": "PENDING", "started_at": None,
                "finished_at": None},
    ]  # fmt: skip
    run = {"created_at": time(0), "finished_at": None, "steps": steps}
    chart = chart_of(run, DOCUMENT, NOW + 10_000)
    assert (chart.start, chart.end) == (NOW, NOW + 10_000)
    first, pending, last = chart.rows
    assert [segment.what for segment in first.segments] == ["wrong", "pause", "succeeded"]
    assert "HTTP_503: busy" in first.segments[0].words
    assert first.segments[1].words == "pause of 3s"
    assert pending.segments == ()
    assert [(segment.what, segment.end) for segment in last.segments] == [("wait", NOW + 10_000)]
