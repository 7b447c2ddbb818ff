"""The examples in the docs and the schema for editors say the same as validation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from taskforge.core.workflow_schema import workflow_schema
from tests.definitions.reading import KINDS, lines_of, read
from tests.definitions.test_definition import FULL

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.yaml"))
SCHEMA = workflow_schema(KINDS)
FIRST_LINE = "# yaml-language-server: $schema=../../contracts/workflow.schema.json"


def _id(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", EXAMPLES, ids=_id)
def test_an_example_is_valid_without_a_warning_and_has_the_schema_line(path: Path) -> None:
    # Until triggers are fired, a document that has one is told so.
    assert [line for line in lines_of(path.read_bytes()) if "does not fire cron triggers yet" not in line] == []
    assert path.read_text().splitlines()[0] == FIRST_LINE
    found = read(path.read_bytes())
    assert found.plan.name == path.stem
    assert found.plan.description


@pytest.mark.parametrize("path", EXAMPLES, ids=_id)
def test_an_example_fits_the_schema_for_editors(path: Path) -> None:
    assert [error.message for error in Draft7Validator(SCHEMA).iter_errors(read(path.read_bytes()).document)] == []


def test_the_full_document_fits_the_schema_for_editors() -> None:
    assert [error.message for error in Draft7Validator(SCHEMA).iter_errors(read(FULL).document)] == []


def test_the_schema_is_a_valid_one_and_describes_every_key() -> None:
    Draft7Validator.check_schema(SCHEMA)
    undescribed = [
        f"{name}.{key}"
        for name, inner in {"document": SCHEMA, "step": SCHEMA["definitions"]["step"]}.items()
        for key, value in inner["properties"].items()
        if "description" not in value
    ]
    assert undescribed == []
    references = set(re.findall(r'"#/definitions/(\w+)"', json.dumps(SCHEMA)))
    assert references <= set(SCHEMA["definitions"])


@pytest.mark.parametrize(
    "change",
    [
        {"nme": "x"},
        {"name": "Not A Name"},
        {"steps": [{"id": "a"}]},
        {"steps": [{"id": "a", "http": {"url": "https://x"}, "transform": 1}]},
        {"steps": [{"id": "a", "http": {}}]},
        {"steps": [{"id": "a", "http": {"url": "https://x", "metod": "GET"}}]},
        {"steps": [{"id": "a", "switch": [{"when": "x", "steps": []}]}]},
        {"steps": [{"id": "input", "transform": 1}]},
        {"steps": [{"id": "a", "transform": 1, "timeout": "soon"}]},
        {"triggers": {"x": {"webhook": {}}}},
    ],
    ids=str,
)
def test_the_schema_for_editors_finds_what_validation_finds(change: dict[str, Any]) -> None:
    document = {"name": "w", "steps": [{"id": "a", "transform": 1}]} | change
    assert list(Draft7Validator(SCHEMA).iter_errors(document))
    assert lines_of(json.dumps(document), "json")
