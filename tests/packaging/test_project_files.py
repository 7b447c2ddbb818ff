"""The files that people read and install from agree with each other and with the program."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import taskforge

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


THROUGH_OTHERS = {"h11", "httptools", "pydantic-core"}  # uvicorn picks its parser; pydantic brings its core


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _wanted(*extras: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    return {_normal(re.split(r"[<>=!~; \[]", each, maxsplit=1)[0]) for each in lines}


def _imported(folder: str) -> set[str]:
    """The distributions whose modules the Python files of a folder import."""
    modules: set[str] = set()
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.split(".")[0])
    owners = importlib.metadata.packages_distributions()
    return {_normal(owners[module][0]) for module in modules if module in owners} - {"taskforge"}


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = (ROOT / "packaging" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {_normal(line.split("==")[0]): line for line in lines}


def test_every_pin_is_an_exact_version_without_an_address(pins: dict[str, str]) -> None:
    for line in pins.values():
        assert re.fullmatch(
            r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+(; [a-z_]+ (==|!=) '\w+'( and [a-z_]+ (==|!=) '\w+')*)?", line
        )


def test_every_dependency_is_pinned(pins: dict[str, str]) -> None:
    assert _wanted("dev") <= set(pins)


def test_the_program_imports_what_it_depends_on_and_depends_on_what_it_imports() -> None:
    assert _imported("taskforge") | THROUGH_OTHERS == _wanted() | THROUGH_OTHERS


def test_the_tests_import_nothing_that_is_not_pinned(pins: dict[str, str]) -> None:
    assert _imported("tests") <= set(pins)


@pytest.mark.parametrize("end", ["taskforge demo", "pytest"])
def test_the_readme_has_one_single_line_that_ends_in_each_command(end: str) -> None:
    lines = [line for line in README.splitlines() if line.startswith("python3 -m venv") and line.endswith(f"/{end}")]
    assert len(lines) == 1
    assert "-c packaging/constraints.txt" in lines[0]


def test_the_workflow_in_the_readme_is_valid(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(name: nas-watch\n.*?)```", README, re.DOTALL)
    file = tmp_path / "nas-watch.yaml"
    file.write_text(example, encoding="utf-8")
    found = subprocess.run(
        [sys.executable, "-m", "taskforge", "validate", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={"TASKFORGE_HOME": str(tmp_path / "home"), "PATH": ""},
    )
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_the_pages_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_version_stands_in_one_place() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", taskforge.__version__)
    assert taskforge.__version__ not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
