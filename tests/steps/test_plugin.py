"""A package of its own adds step kinds: found by their entry points, checked and run like the built-in ones."""

from __future__ import annotations

import os
import shutil
import tomllib
from pathlib import Path

import pytest

from tests.support.server import ROOT, ServerProcess, clean_environ, run_cli

EXAMPLE = ROOT / "tests" / "plugin_example"

DOCUMENT = """
name: extra
inputs: {type: object, required: [file], properties: {file: {type: string}}}
steps:
  - id: name
    slug: {text: "Hello, ${{ \\"World\\" }} & Co.", longest: 11}
  - id: open
    office_hours: {opens: 0, closes: 24}
  - id: note
    append_line: {file: "${{ $input.file }}", line: "${{ $name }}"}
output: {name: "${{ $name }}", waited: "${{ $open.waited }}", lines: "${{ $note.lines }}"}
"""
WRONG = """
name: extra
steps:
  - {id: a, slug: {txt: hi}}
  - {id: b, append_line: {file: /tmp/x, line: "two\\nlines"}}
  - {id: c, office_hours: {opens: 25}}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as an installer would leave it in a directory of packages: the modules and their metadata."""
    target = tmp_path_factory.mktemp("site")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    shutil.copytree(EXAMPLE / "taskforge_extra", target / "taskforge_extra", ignore=shutil.ignore_patterns("*.pyc"))
    metadata = target / f"taskforge_extra-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = ["[taskforge.steps]"]
    lines += [f"{name} = {value}" for name, value in project["entry-points"]["taskforge.steps"].items()]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return target


def with_site(environ: dict[str, str], site: Path) -> dict[str, str]:
    return environ | {"PYTHONPATH": f"{environ['PYTHONPATH']}{os.pathsep}{site}"}


def test_an_installed_package_adds_kinds_that_run_like_the_built_in_ones(tmp_path: Path, site: Path) -> None:
    server = ServerProcess(tmp_path / "home", {})
    server.environ = with_site(server.environ, site)
    server.start()
    try:
        assert server.call("POST", "/v1/workflows", DOCUMENT.encode())[0] == 201
        file = tmp_path / "notes.txt"
        status, run = server.call("POST", "/v1/workflows/extra/runs?wait=30s", {"input": {"file": str(file)}})
        assert (status, run["state"]) == (200, "SUCCEEDED")
        assert run["output"] == {"name": "hello-world", "waited": False, "lines": 1}
        assert file.read_text() == f"hello-world  # {run['id']}/note\n"
        _, checked = server.call("POST", "/v1/workflows:validate", WRONG.encode())
        assert len(checked["errors"]) == 4
    finally:
        server.kill()


def test_a_mistake_in_the_settings_of_an_added_kind_has_its_place(tmp_path: Path, site: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(WRONG)
    environ = with_site(clean_environ(tmp_path / "home"), site)
    done = run_cli("validate", str(file), environ=environ)
    assert done.returncode == 2
    assert done.stderr.splitlines()[:-1] == [
        f'{file}:4:19: "text" is missing',
        f'{file}:4:20: unknown key "txt"; did you mean "text"?',
        f"{file}:5:47: must be a single line",
        f"{file}:6:35: must be at most 24",
    ]


def test_without_the_package_its_kinds_are_unknown_by_name(tmp_path: Path) -> None:
    file = tmp_path / "extra.yaml"
    file.write_text(DOCUMENT)
    done = run_cli("validate", str(file), environ=clean_environ(tmp_path / "home"))
    assert done.returncode == 2
    assert 'found "slug"' in done.stderr


def test_the_tutorial_speaks_of_the_package_that_is_tested() -> None:
    page = (ROOT / "docs" / "steps-plugin.md").read_text()
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    for name, value in project["entry-points"]["taskforge.steps"].items():
        assert value.partition(":")[2] in page, name
    assert 'project.entry-points."taskforge.steps"' in page
