from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from taskforge.api.journal_shapes import BEGINNING, Place, entries_after, log_line, parse_place
from taskforge.api.schemas import run_shape, stats_shape, steps_shape, with_pending
from taskforge.core.model import Plan
from taskforge.core.snapshot import AttemptRecord, RunRecord, StepRecord
from taskforge.store.protocol import AttemptRow, JournalRow, RunRow, Stats

NOW = 1_800_000_000_123


def plan(*ids: str) -> Plan:
    steps = [SimpleNamespace(id=id, kind=SimpleNamespace(name="http")) for id in ids]
    return cast(Plan, SimpleNamespace(steps=steps))


def step(path: str, state: str = "SUCCEEDED", output: str | None = None) -> StepRecord:
    return StepRecord(path, path, "http", state, 1, 1, 0, 0, output, None, None, None, NOW, NOW, NOW + 1)


def test_a_run_keeps_every_digit_of_what_people_gave() -> None:
    record = RunRecord("SUCCEEDED", 1, None, None, 0, '{"id":12345678901234567890}', None, NOW, NOW + 5)
    trigger, parent = '{"type":"manual"}', '{"key":4,"run":"run_4","path":"each[2].child","depth":1}'
    row = RunRow(7, "run_1", 3, "uptime", 2, trigger, "manual", '{"n":1e2}', NOW, 0, None, 4, "run_0", parent, record)
    text = orjson.dumps(run_shape(row)).decode()
    assert '"input":{"n":1e2}' in text
    assert '"output":{"id":12345678901234567890}' in text
    assert orjson.loads(text) | {"input": 0, "output": 0} == {
        "id": "run_1",
        "number": 3,
        "workflow": "uptime",
        "version": 2,
        "state": "SUCCEEDED",
        "trigger": {"type": "manual"},
        "input": 0,
        "output": 0,
        "error": None,
        "created_at": "2027-01-15T08:00:00.123Z",
        "started_at": "2027-01-15T08:00:00.123Z",
        "finished_at": "2027-01-15T08:00:00.128Z",
        "generation": 1,
        "replay_of": "run_0",
        "parent": {"run": "run_4", "step": "each[2].child"},
    }


def test_a_step_has_its_attempts_and_one_without_side_effects_has_none() -> None:
    lost = AttemptRow(AttemptRecord("att_1", "a", 1, 1, NOW, "node", NOW), "LOST", NOW, '{"code":"X","message":"y"}')
    again = AttemptRow(AttemptRecord("att_2", "a", 1, 2, NOW, "node", NOW), "RUNNING", None, None)
    shapes = orjson.loads(orjson.dumps(steps_shape([step("a"), step("b", output="null")], [lost, again])))
    assert [entry["number"] for entry in shapes[0]["attempts"]] == [1, 2]
    assert shapes[0]["attempts"][0] == {
        "id": "att_1",
        "generation": 1,
        "number": 1,
        "state": "LOST",
        "started_at": "2027-01-15T08:00:00.123Z",
        "finished_at": "2027-01-15T08:00:00.123Z",
        "error": {"code": "X", "message": "y"},
    }
    assert shapes[1]["attempts"] == []
    assert list(shapes[1]) == [
        "path", "id", "kind", "state", "generation", "signal", "child", "output", "error", "available_at",
        "started_at", "finished_at", "attempts",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "state", "data", "output", "found"),
    [
        ("wait", "WAITING", '{"signal":"ok"}', None, ("ok", None)),
        ("wait", "WAITING", None, None, (None, None)),
        ("wait", "SUCCEEDED", '{"signal":"ok"}', None, (None, None)),
        ("workflow", "WAITING", '{"signal":"!child:a~1","wait":{"run":"run_2"}}', None, (None, "run_2")),
        ("workflow", "SUCCEEDED", '{"signal":"!child:a~1","wait":{"run":"run_2"}}', '{"run":"x"}', (None, "run_2")),
        ("workflow", "SUCCEEDED", None, '{"run":"run_2"}', (None, "run_2")),
        ("workflow", "QUEUED", '{"admitted_at":1}', None, (None, None)),
        ("foreach", "RUNNING", '{"items":[1,2]}', None, (None, None)),
    ],
)
def test_a_step_names_its_signal_or_its_child(
    kind: str, state: str, data: str | None, output: str | None, found: tuple[Any, Any]
) -> None:
    (shape,) = steps_shape([step("a", state, output)._replace(kind=kind, data=data)], [])
    assert (shape["signal"], shape["child"]) == found


def pending(
    rows: list[str], ids: tuple[str, ...], state: str = "RUNNING", after: Any = None, up_to: Any = None
) -> list[tuple[str, str]]:
    found = with_pending(steps_shape([step(path) for path in rows], []), state, plan(*ids), after, up_to)
    return [(entry["path"], entry["state"]) for entry in found]


def test_steps_whose_turn_has_not_come_are_pending_while_the_run_goes_on() -> None:
    assert pending(["b"], ("b", "c", "a")) == [("a", "PENDING"), ("b", "SUCCEEDED"), ("c", "PENDING")]
    assert pending(["b", "each[0].x"], ("b", "each")) == [
        ("b", "SUCCEEDED"), ("each", "PENDING"), ("each[0].x", "SUCCEEDED"),
    ]  # fmt: skip
    for state in ("SUCCEEDED", "FAILED", "CANCELLED"):
        assert pending(["b"], ("b", "c"), state) == [("b", "SUCCEEDED")]


def test_a_pending_step_is_on_one_page_only() -> None:
    ids = ("a", "c", "e", "g")
    first = pending(["b", "d"], ids, after=None, up_to="d")
    second = pending(["f"], ids, after="d", up_to=None)
    assert [path for path, _ in first] == ["a", "b", "c", "d"]
    assert [path for path, _ in second] == ["e", "f", "g"]


def test_statistics_name_every_state() -> None:
    shape = stats_shape(Stats(runs={"FAILED": 2}, oldest_ready_ms=1500), {"*", "a", "b"})
    assert shape["runs"] == {"QUEUED": 0, "RUNNING": 0, "WAITING": 0, "SUCCEEDED": 0, "FAILED": 2, "CANCELLED": 0}
    assert shape["oldest_ready_s"] == 1.5
    assert (shape["held"], shape["held_workflows"]) == (True, 2)
    assert set(shape) == {
        "runs", "steps", "ready_steps", "oldest_ready_s", "dead_letters", "schedules_overdue", "held", "held_workflows",
        "db_bytes", "wal_bytes", "retention",
    }  # fmt: skip


# ---- the journal

ROWS = [
    JournalRow(3, "run_1", NOW, '[{"run":"QUEUED"},{"run":"RUNNING","from":"QUEUED"}]'),
    JournalRow(
        9,
        "run_1",
        NOW,
        '[{"step":"a","attempt":1,"ended":"FAILED","error":"CONNECT_REFUSED","message":"refused"},'
        '{"step":"a","from":"RUNNING","to":"QUEUED"}]',
    ),
]


def test_a_signal_is_an_event_of_its_own_and_ours_have_no_name() -> None:
    sent = '[{"signal":"go"},{"signal":"!child:a[1].b~2"},{"signal":"!resume:ok~1"},'
    waits = '{"step":"a","from":"RUNNING","to":"WAITING","signal":"!child:a~1","until":1},'
    row = JournalRow(4, "run_1", NOW, sent + waits + '{"step":"a","from":"RUNNING","to":"WAITING","signal":"go"}]')
    entries = list(entries_after([row], BEGINNING))
    assert [entry.kind for entry in entries] == ["signal", "signal", "signal", "step", "step"]
    rest = [{key: value for key, value in entry.data.items() if key not in ("run_id", "at")} for entry in entries]
    assert rest == [
        {"signal": "go"},
        {"step": "a[1].b", "message": "child run has ended"},
        {"step": "ok", "message": "one-time link was used"},
        {"step": "a", "state": "WAITING", "from": "RUNNING", "message": "for its child run"},
        {"step": "a", "state": "WAITING", "from": "RUNNING", "signal": "go"},
    ]
    assert [log_line(entry)["message"] for entry in entries] == [
        "signal go",
        "step a[1].b: child run has ended",
        "step ok: one-time link was used",
        "step a: WAITING, for its child run",
        "step a: WAITING",
    ]


def test_entries_go_on_after_any_place() -> None:
    everything = list(entries_after(ROWS, BEGINNING))
    assert [str(entry.place) for entry in everything] == ["3.0", "3.1", "9.0", "9.1"]
    assert [entry.kind for entry in everything] == ["run", "run", "attempt", "step"]
    assert everything[2].data == {
        "run_id": "run_1",
        "at": "2027-01-15T08:00:00.123Z",
        "step": "a",
        "state": "FAILED",
        "attempt": 1,
        "error": "CONNECT_REFUSED",
        "message": "refused",
    }
    for index, entry in enumerate(everything):
        assert list(entries_after(ROWS, parse_place(str(entry.place)))) == everything[index + 1 :]
    assert [str(entry.place) for entry in entries_after(ROWS, parse_place("3"))] == ["9.0", "9.1"]


def test_a_log_line_says_what_happened_to_what() -> None:
    lines = [log_line(entry) for entry in entries_after(ROWS, BEGINNING)]
    assert [(line["level"], line["message"]) for line in lines] == [
        ("info", "run: QUEUED"),
        ("info", "run: RUNNING"),
        ("error", "step a, attempt 1: FAILED, refused"),
        ("info", "step a: QUEUED"),
    ]


@pytest.mark.parametrize("text", ["", ".", "1.", ".1", "a", "1.a", "-1", "1.2.3", "1" * 30, "\u0661"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="event"):
        parse_place(text)


def test_places_are_in_the_order_of_commits() -> None:
    assert BEGINNING < Place(1, 0) < Place(1, 1) < parse_place("1") < Place(2, 0)


@pytest.mark.parametrize("place", [Place(0, 0), Place(1, 0), Place(2**35, 2**24 - 1)])
def test_a_place_is_a_number_too(place: Place) -> None:
    assert Place.from_number(place.to_number()) == place
