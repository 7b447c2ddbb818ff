"""Waiting for a run while things happen: Ctrl-C, a server that dies and comes back."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import GREET
from tests.support.server import ROOT, ServerProcess, running_server


def watching(server: ServerProcess, *arguments: str) -> subprocess.Popen[str]:
    """The command as a process, once it has said that the run has started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "taskforge", *arguments],
        env=server.environ, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    assert "has started" in process.stderr.readline()
    return process


@pytest.mark.parametrize("option", ["--wait", "--follow"])
def test_ctrl_c_leaves_the_run_and_says_how_to_come_back(server: ServerProcess, option: str) -> None:
    process = watching(server, "run", "greet", "--delay", "1h", option)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "goes on" in said
    name = said.strip().splitlines()[-1].rpartition(" ")[2]
    assert "Traceback" not in said
    assert server.run_cli("runs", "cancel", name, "-q").stdout.strip() == name


@pytest.mark.crash
@pytest.mark.parametrize("option", ["--wait", "--follow"])
def test_a_server_that_comes_back_is_waited_for(tmp_path: Path, option: str) -> None:
    (tmp_path / "greet.yaml").write_text(GREET)
    with running_server(tmp_path) as server:
        assert server.run_cli("apply", str(tmp_path / "greet.yaml")).returncode == 0
        process = watching(server, "run", "greet", "--delay", "2s", option)
        server.kill()
        assert process.stderr is not None
        assert "cannot be reached" in process.stderr.readline()
        server.restart()
        shown, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
    assert "SUCCEEDED" in shown
