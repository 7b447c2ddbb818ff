"""`demo`, `up` and `down`: server processes that come, survive what they should, and go without a trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.server import ROOT, clean_environ, run_cli


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "tmp").mkdir()
    return clean_environ(tmp_path / "home", TMPDIR=str(tmp_path / "tmp"))


def servers_below(folder: Path) -> list[int]:
    """Processes that have a file below the folder open, or its name in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def gone(folder: Path) -> bool:
    """Wait until no process is left of what was started with this folder."""
    deadline = time.monotonic() + 10
    while servers_below(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.crash
def test_the_demo_passes_and_leaves_nothing(tmp_path: Path, environ: dict[str, str]) -> None:
    done = run_cli("demo", environ=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed 2 times, resumed 2 times" in done.stdout
    assert done.stdout.count("LOST") == 2
    assert "✘" not in done.stdout
    assert len(done.stdout.splitlines()) <= 32
    assert max(len(line) for line in done.stdout.splitlines()) <= 120
    assert not list((tmp_path / "tmp").iterdir())
    assert not (tmp_path / "home").exists()
    assert gone(tmp_path)


@pytest.mark.crash
def test_the_demo_gives_one_json_document(environ: dict[str, str]) -> None:
    done = run_cli("demo", "-o", "json", "-q", environ=environ)
    found = json.loads(done.stdout)
    assert (done.returncode, found["passed"], found["killed"], found["resumed"]) == (0, True, 2, 2)
    assert found["run"]["state"] == "SUCCEEDED"


@pytest.mark.crash
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, environ: dict[str, str], number: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "taskforge", "demo"],
        env=environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if b"is accepted" in line:
            break
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in said
    assert gone(tmp_path)
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_up_starts_a_server_with_no_streams_of_ours_and_down_ends_it(tmp_path: Path, environ: dict[str, str]) -> None:
    up = run_cli("up", "--port", "0", "-o", "json", environ=environ)
    assert up.returncode == 0, up.stderr
    facts = json.loads(up.stdout)
    try:
        for number in (0, 1, 2):
            assert os.readlink(f"/proc/{facts['pid']}/fd/{number}") in ("/dev/null", f"{tmp_path}/home/serve.log")
        status = json.loads(run_cli("status", "-o", "json", environ=environ).stdout)
        assert (status["ready"], status["server"]) == (True, facts["server"])
        again = json.loads(run_cli("up", "-o", "json", environ=environ).stdout)
        assert again["pid"] == facts["pid"]
    finally:
        down = run_cli("down", environ=environ)
    assert down.returncode == 0
    assert f"process {facts['pid']}" in down.stdout
    assert gone(tmp_path)
    assert run_cli("down", environ=environ).returncode == 0
    assert run_cli("status", environ=environ).returncode == 3


def test_up_on_a_port_in_use_says_so_and_leaves_nothing(tmp_path: Path, environ: dict[str, str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_cli("up", "--port", str(taken.getsockname()[1]), environ=environ)
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot listen on 127.0.0.1" in done.stderr
    if os.path.exists("/proc/net/tcp"):
        assert f"process {os.getpid()} " in done.stderr
    assert "serve.log" in done.stderr
    assert gone(tmp_path)


def test_a_stale_pid_file_stops_neither_up_nor_down(tmp_path: Path, environ: dict[str, str]) -> None:
    assert run_cli("init", environ=environ).returncode == 0
    (tmp_path / "home" / "serve.pid").write_text(json.dumps({"pid": os.getpid(), "url": "http://127.0.0.1:9"}))
    assert run_cli("down", environ=environ).returncode == 0
    up = run_cli("up", "--port", "0", environ=environ)
    assert up.returncode == 0, up.stderr
    assert run_cli("down", environ=environ).returncode == 0
    assert gone(tmp_path)
