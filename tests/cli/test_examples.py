"""Every example of the help texts and of README runs, and does what it says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.prepared import SKIPPED, World, examples
from tests.support.server import ROOT, clean_environ
from tests.support.target import running_target

_LINES = list(dict.fromkeys(line for _, line in examples()))


@pytest.mark.parametrize("line", _LINES)
def test_an_example_of_the_help_runs(world: World, line: str) -> None:
    if line in SKIPPED:
        pytest.skip(SKIPPED[line])
    if "completion zsh" in line and shutil.which("zsh") is None:
        pytest.skip("this machine has no zsh")
    done = world.try_line(line)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert "error:" not in done.stderr


def test_what_is_skipped_is_little_and_is_there() -> None:
    assert set(SKIPPED) <= set(_LINES)
    assert len(SKIPPED) <= 3


_README = (ROOT / "README.md").read_text()
_BLOCKS = re.findall(r"^```sh\n(.*?)^```$", _README, re.MULTILINE | re.DOTALL)
_README_SKIPPED = {
    "pip install -q -c packaging/constraints.txt .": "it installs from a package index; packaging's own checks do so",
    ".venv/bin/pytest": "it is what runs this",
}


@pytest.mark.parametrize("number", range(len(_BLOCKS)))
def test_the_commands_of_readme_run_one_after_the_other(world: World, tmp_path: Path, number: int) -> None:
    """In a new home on a port of its own, with the workflow that stands there, and a page of ours for its page."""
    block = _BLOCKS[number]
    reason = next((reason for words, reason in _README_SKIPPED.items() if words in block), None)
    if reason is not None:
        pytest.skip(reason)
    environ = clean_environ(tmp_path / "home", TASKFORGE_SERVER__PORT="0")
    environ["PATH"] = f"{world.cli.program.parent}:{environ['PATH']}"
    script = tmp_path / "block.sh"
    script.write_text(f"set -e\ntrap 'taskforge down -q' EXIT\n{block}")
    with running_target() as target:
        for text in re.findall(r"^```yaml\n(.*?)^```$", _README, re.MULTILINE | re.DOTALL):
            name = re.search(r"^name: (\S+)$", text, re.MULTILINE)
            assert name is not None
            (tmp_path / f"{name[1]}.yaml").write_text(text.replace("https://example.com/", f"{target.url}/"))
        done = subprocess.run(
            ["bash", str(script)], cwd=tmp_path, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=100
        )
    said = done.stderr.decode()
    assert done.returncode == 0, said + done.stdout.decode()
    assert "Traceback" not in said
    assert "error:" not in said


def test_what_readme_links_to_is_there() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", _README):
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_the_recorded_session_has_what_it_should_show() -> None:
    shown = (ROOT / "docs" / "session.md").read_text()
    for words in ("init", "up", "validate", "plan", "apply", "run", "why", "down"):
        assert re.search(rf"^\$ .*taskforge {words}\b", shown, re.MULTILINE), words
    assert re.search(r"^\S+\.yaml:\d+:\d+: .*did you mean", shown, re.MULTILINE)
    assert "Traceback" not in shown
