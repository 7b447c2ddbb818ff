"""How the program starts itself again: from a checkout, from an archive, frozen; wherever the user happens to be."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from taskforge import __version__
from taskforge.cli.process import own_command
from tests.support.server import ROOT, clean_environ


def test_a_checkout_is_found_from_any_directory_and_nothing_there_gets_in_between(tmp_path: Path) -> None:
    for name in ("click", "json", "taskforge"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    command, added = own_command()
    done = subprocess.run(
        [*command, "version"], cwd=tmp_path, env=clean_environ(tmp_path) | added, capture_output=True, check=True
    )
    assert done.stdout.decode() == f"taskforge {__version__}\n"


def test_an_archive_starts_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "taskforge"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("__main__.py", "")
    monkeypatch.setattr(sys, "argv", [str(archive), "up"])
    assert own_command() == ([sys.executable, str(archive)], {})


def test_a_frozen_program_is_its_own_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    command, added = own_command()
    assert command == [sys.executable]
    assert added == {"PYINSTALLER_RESET_ENVIRONMENT": "1"}


def test_what_cannot_be_written_is_one_line_with_its_path(tmp_path: Path) -> None:
    environ = clean_environ(tmp_path / "home", TMPDIR=str(tmp_path / "missing"))
    (tmp_path / "home").write_text("a file where the home should be")
    done = subprocess.run(
        [sys.executable, "-m", "taskforge", "init"], cwd=ROOT, env=environ, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = done.stderr.decode().splitlines()
    assert str(tmp_path / "home") in line
