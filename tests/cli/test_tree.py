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
