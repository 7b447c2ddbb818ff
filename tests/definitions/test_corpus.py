"""Every rule of the language has a failing document, with the exact messages beside it."""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path
from types import FrameType, ModuleType

import pytest

from taskforge.core import (
    definition,
    definition_config,
    definition_needs,
    definition_notify,
    definition_policies,
    definition_read,
    definition_steps,
    definition_triggers,
    scope,
)
from taskforge.core.definition import load_plan
from taskforge.core.errors import InvalidDefinition
from taskforge.core.findings import Findings
from taskforge.expressions.template import parse_template
from tests.definitions.reading import KINDS, lines_of, problems_of, read

HERE = Path(__file__).parent
INVALID = sorted((HERE / "invalid").glob("*.yaml"))
WARNED = sorted((HERE / "warned").glob("*.yaml"))


def _ids(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", INVALID, ids=_ids)
def test_an_invalid_document_gives_exactly_the_expected_messages(path: Path) -> None:
    with pytest.raises(InvalidDefinition):
        read(path.read_bytes())
    assert lines_of(path.read_bytes()) == path.with_suffix(".expected").read_text().splitlines()


@pytest.mark.parametrize("path", WARNED, ids=_ids)
def test_a_document_with_warnings_is_valid_and_gives_exactly_these(path: Path) -> None:
    assert read(path.read_bytes()).plan.steps
    assert lines_of(path.read_bytes()) == path.with_suffix(".expected").read_text().splitlines()


@pytest.mark.parametrize("path", INVALID, ids=_ids)
def test_every_error_of_a_document_has_a_place_inside_it(path: Path) -> None:
    lines = path.read_text().splitlines()
    for problem in problems_of(path.read_bytes()):
        if problem.message.endswith("more problems are not shown"):
            continue
        assert problem.line is not None and problem.column is not None
        assert 1 <= problem.line <= len(lines) + 1
        width = len(lines[problem.line - 1]) if problem.line <= len(lines) else 0
        assert 1 <= problem.column <= width + 1
        assert problem.message and "\n" not in problem.message


@pytest.mark.parametrize("path", INVALID, ids=_ids)
def test_the_same_errors_are_found_in_the_document_written_as_json(path: Path) -> None:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        value = YAML(typ="safe", pure=True).load(path.read_text())
    except YAMLError:
        pytest.skip("not a YAML document")
    if not isinstance(value, dict):
        pytest.skip("not a mapping")
    found = {(problem.path, problem.message) for problem in problems_of(json.dumps(value), "json")}
    expected = {(problem.path, problem.message) for problem in problems_of(path.read_bytes())}
    assert _without_lines(found) == _without_lines(expected)


def _without_lines(found: set[tuple[str, str]]) -> set[tuple[str, str]]:
    return {(path, message.partition("; first on line")[0].partition("; again on line")[0]) for path, message in found}


MODULES = (
    definition,
    definition_config,
    definition_needs,
    definition_notify,
    definition_policies,
    definition_read,
    definition_steps,
    definition_triggers,
    scope,
)
METHODS = {"error", "warn", "unknown_key"}


def _reporting_lines(module: ModuleType) -> set[tuple[int, int]]:
    """First and last line of every statement of a module that notes a finding."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr in METHODS and "findings" in ast.unparse(node.func.value):
            found.add((node.lineno, node.end_lineno or node.lineno))
    return found


def test_every_rule_has_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: set[tuple[str, int]] = set()

    def spy(name: str) -> None:
        original = getattr(Findings, name)

        def noted(self: Findings, *args: object, **kwargs: object) -> object:
            frame: FrameType | None = inspect.currentframe()
            caller = None if frame is None else frame.f_back
            if caller is not None:
                reported.add((caller.f_code.co_filename, caller.f_lineno))
            return original(self, *args, **kwargs)

        monkeypatch.setattr(Findings, name, noted)

    for name in METHODS:
        spy(name)
    for path in (*INVALID, *WARNED):
        problems_of(path.read_bytes())
    steps = [f"  - {{id: s{n}, transform: '${{{{ $q{n} }}}}'}}" for n in range(150)]
    problems_of("\n".join(["name: w", "steps:", *steps]))
    with pytest.raises(InvalidDefinition):
        load_plan([], KINDS, parse_template)
    missing = [
        f"{module.__name__}:{first}"
        for module in MODULES
        for first, last in sorted(_reporting_lines(module))
        if not any(file == module.__file__ and first <= line <= last for file, line in reported)
    ]
    assert missing == []
