"""The files that people read and install from agree with each other and with the program."""

from __future__ import annotations

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


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


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
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {_normal(re.split(r"[<>=!~; \[]", each, maxsplit=1)[0]) for each in wanted}
    assert names <= set(pins)


@pytest.mark.parametrize("end", ["taskforge demo", "pytest"])
def test_the_readme_has_one_single_line_that_ends_in_each_command(end: str) -> None:
    lines = [line for line in README.splitlines() if line.startswith("python3 -m venv") and line.endswith(f"/{end}")]
    assert len(lines) == 1
    assert "-c packaging/constraints.txt" in lines[0]


def test_the_workflow_in_the_readme_is_valid(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(# issue-digest\.yaml\n.*?)```", README, re.DOTALL)
    file = tmp_path / "issue-digest.yaml"
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
