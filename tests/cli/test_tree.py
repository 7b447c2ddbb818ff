"""The tree of `runs show`: nesting and order from the document, loops by their index, sense without a document."""

from __future__ import annotations

from typing import Any

import pytest

from taskforge.cli.render import Screen
from taskforge.cli.tree import draw_run, outline

NOW = 1_800_000_000_000
DOCUMENT: dict[str, Any] = {
    "steps": [
        {"id": "zulu", "http": {"json": [{"id": "alpha"}]}},
        {"id": "each", "foreach": {"items": "${{ [] }}", "steps": [{"id": "post"}, {"id": "choose", "switch": [
            {"when": "${{ true }}", "steps": [{"id": "deep"}]},
            {"else": [{"id": "other"}]},
        ]}]}},
        {"id": "both", "parallel": [{"id": "left"}, {"id": "right"}]},
        {"id": "alpha", "transform": 1},
    ],
    "finally": [{"id": "tidy"}],
}  # fmt: skip


def run_of(paths: list[str]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"path": path, "id": path.rpartition(".")[2], "kind": "transform", "state": "SUCCEEDED", "output": None,
         "error": None, "available_at": None, "started_at": None, "finished_at": None, "attempts": []}
        for path in sorted(paths)
    ]  # fmt: skip
    return {"id": "run_1", "number": 7, "workflow": "w", "version": 1, "state": "SUCCEEDED", "input": {},
            "output": None, "error": None, "trigger": {"type": "manual"}, "created_at": "2026-11-23T00:00:00.000Z",
            "started_at": None,
            "finished_at": None, "generation": 1, "steps_total": len(steps), "steps": steps,
            "steps_cursor": None}  # fmt: skip


def drawn(capsys: pytest.CaptureFixture[str], paths: list[str], document: Any) -> list[str]:
    draw_run(Screen({}), run_of(paths), document, NOW)
    lines = capsys.readouterr().out.splitlines()[2:]
    return [line.partition("transform")[0].rstrip() for line in lines]


def test_steps_stand_in_the_order_of_the_document_below_what_holds_them(capsys: pytest.CaptureFixture[str]) -> None:
    paths = ["alpha", "both", "left", "right", "zulu", "each", "each[0].post", "each[0].choose", "each[0].deep",
             "each[10].post", "each[2].post", "tidy"]  # fmt: skip
    assert drawn(capsys, paths, DOCUMENT) == [
        "  ├─ ✔ zulu",
        "  ├─ ✔ each",
        "  │  ├─ ✔ [0].post",
        "  │  ├─ ✔ [0].choose",
        "  │  │  └─ ✔ deep",
        "  │  ├─ ✔ [2].post",
        "  │  └─ ✔ [10].post",
        "  ├─ ✔ both",
        "  │  ├─ ✔ left",
        "  │  └─ ✔ right",
        "  ├─ ✔ alpha",
        "  └─ ✔ tidy",
    ]


def test_items_that_went_well_are_counted_and_the_others_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    paths = ["each", "alpha", *(f"each[{index}].post" for index in range(40)), "each[5].choose", "each[5].deep"]
    run = run_of(paths)
    states = {"each[3].post": "FAILED", "each[5].deep": "RUNNING", "each[9].post": "SKIPPED"}
    for step in run["steps"]:
        step["state"] = states.get(step["path"], "SUCCEEDED")
    draw_run(Screen({}), run, DOCUMENT, NOW)
    lines = [line.partition("transform")[0].rstrip() for line in capsys.readouterr().out.splitlines()[2:]]
    assert lines == [
        "  ├─ ✔ each",
        "  │  ├─ ✘ [3].post",
        "  │  ├─ ✔ [5].post",
        "  │  ├─ ✔ [5].choose",
        "  │  │  └─ ▶ deep",
        "  │  └─ … 1 SKIPPED, 37 SUCCEEDED (--all shows them)",
        "  └─ ✔ alpha",
    ]
    draw_run(Screen({}), run, DOCUMENT, NOW, fold=False)
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(paths)


def test_of_very_many_items_that_failed_a_few_are_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(["each", *(f"each[{index}].post" for index in range(100))])
    for step in run["steps"]:
        step["state"] = "FAILED"
    draw_run(Screen({}), run, DOCUMENT, NOW)
    lines = capsys.readouterr().out.splitlines()[2:]
    assert len(lines) == 12
    assert "90 FAILED" in lines[-1]


def test_handlers_stand_below_their_step_and_say_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    document = {
        "steps": [
            {"id": "pay", "http": {}, "catch": [{"id": "log"}], "undo": [{"id": "refund"}]},
            {"id": "wait", "wait": {"signal": "x", "on_timeout": [{"id": "remind"}]}},
        ],
        "on_failure": [{"id": "tell"}],
    }
    draw_run(Screen({}), run_of(["pay", "log", "refund", "wait", "remind", "tell"]), document, NOW)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()[2:]]
    assert lines == [
        "├─ ✔ pay transform SUCCEEDED",
        "│ ├─ ✔ log transform SUCCEEDED catch",
        "│ └─ ✔ refund transform SUCCEEDED undo",
        "├─ ✔ wait transform SUCCEEDED",
        "│ └─ ✔ remind transform SUCCEEDED on_timeout",
        "└─ ✔ tell transform SUCCEEDED on_failure",
    ]


def test_attempts_of_several_generations_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(["zulu"])
    error = {"code": "X", "message": "no"}
    run["steps"][0] |= {
        "generation": 2,
        "attempts": [
            {"id": f"att_{generation}{number}", "generation": generation, "number": number, "state": state,
             "started_at": None, "finished_at": None, "error": error if state == "FAILED" else None}
            for generation, number, state in ((1, 1, "FAILED"), (1, 2, "FAILED"), (2, 1, "SUCCEEDED"))
        ],
    }  # fmt: skip
    draw_run(Screen({}), run, DOCUMENT, NOW)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [line[0] for line in lines[1:]] == ["1.1", "1.2", "2.1"]
    assert "attempts" not in lines[0], "one attempt in this generation"


def test_without_a_document_every_step_is_there_once(capsys: pytest.CaptureFixture[str]) -> None:
    paths = ["b", "a", "r", "r[0].q", "r[1].q"]
    lines = drawn(capsys, paths, None)
    assert len(lines) == len(paths)
    assert sum("[1].q" in line for line in lines) == 1


def test_a_step_whose_parent_is_not_shown_stands_at_the_top(capsys: pytest.CaptureFixture[str]) -> None:
    assert drawn(capsys, ["left", "each[3].post"], DOCUMENT) == ["  ├─ ✔ left", "  └─ ✔ post"]


@pytest.mark.parametrize(
    "document", [None, [], {}, {"steps": 1}, {"steps": [1, {"id": 2}, {"id": "a", "switch": "x"}]}]
)
def test_an_odd_document_is_no_obstacle(document: Any) -> None:
    assert set(outline(document)) <= {"a"}
