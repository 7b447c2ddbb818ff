"""Every example of the help texts and of README runs, and does what it says."""

from __future__ import annotations

import shutil

import pytest

from tests.cli.prepared import SKIPPED, World, examples

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
