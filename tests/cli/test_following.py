"""`run --follow` and `runs logs -f`: a live tree, lines in a pipe, servers that die and come back, Ctrl-C."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from taskforge.cli import stream
from taskforge.cli.client import Client
from taskforge.cli.connection import Connection
from taskforge.cli.stream import Away, Feed, GivenUp, read_events
from tests.support.following import await_state, await_step
from tests.support.server import ROOT, ServerProcess, running_server
from tests.support.terminal import Terminal

FLOWS = {
    "gate": """\
name: gate
steps:
  - {id: before, transform: 1}
  - {id: ask, wait: {signal: go, timeout: 1h}}
  - {id: after, transform: 2}
""",
    "many": """\
name: many
steps:
  - id: each
    foreach:
      items: '${{ [range(400)] }}'
      steps: [{id: one, transform: '${{ $index }}'}, {id: two, if: '${{ $index == 399 }}', wait: {signal: go}}]
""",
}


@pytest.fixture(scope="module")
def flows(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> ServerProcess:
    """The common server with workflows that wait until they are told."""
    folder = tmp_path_factory.mktemp("flows")
    for name, text in FLOWS.items():
        (folder / f"{name}.yaml").write_text(text)
    assert server.run_cli("apply", str(folder)).returncode == 0
    return server


def following(server: ServerProcess, *arguments: str) -> subprocess.Popen[str]:
    """The command with pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "taskforge", *arguments],
        env=server.environ, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def read_to(process: subprocess.Popen[str], text: str) -> str:
    """Standard output to the line that has the text."""
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        if text in line:
            return read
    raise AssertionError(f"{text!r} did not come: {read}")


def rest_of(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What else it prints until it ends, also what was read ahead; and what it says on standard error."""
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        found = process.stdout.read(), process.stderr.read()
    process.wait(30)
    return found


# ---- on a terminal


@pytest.mark.parametrize(("columns", "rows"), [(60, 20), (200, 50), (30, 6)])
def test_the_tree_is_drawn_in_place_and_the_finished_run_stays(flows: ServerProcess, columns: int, rows: int) -> None:
    with Terminal("run", "gate", "--follow", environ=flows.environ, columns=columns, rows=rows) as terminal:
        terminal.read_until("WAITING")
        shown = terminal.screen()
        name = re.search(r"gate#\d+", shown)
        assert name is not None
        assert flows.run_cli("runs", "signal", name[0], "go").returncode == 0
        assert terminal.finish() == 0
        assert max(map(len, terminal.screen().splitlines()[1:])) <= columns
        # One tree is left: what was drawn before has been drawn over.
        assert terminal.screen().count("─ ✔ after") == 1
        assert "PENDING" not in terminal.screen()
        assert "✔ SUCCEEDED" in terminal.screen()


def test_a_long_loop_is_one_line_with_its_progress(flows: ServerProcess) -> None:
    with Terminal("run", "many", "--follow", environ=flows.environ, columns=80, rows=12) as terminal:
        terminal.read_until("399/400")
        assert len(terminal.screen().splitlines()) < 12
        name = re.search(r"many#\d+", terminal.screen())
        assert name is not None
        flows.run_cli("runs", "signal", name[0], "go")
        assert terminal.finish() == 0
        # 400 items and 1,200 transitions are no 400 drawings.
        assert terminal.received.count("\x1b[J") < 60


def test_ctrl_c_leaves_the_run_and_says_how_to_come_back(flows: ServerProcess) -> None:
    with Terminal("run", "gate", "--follow", environ=flows.environ, columns=100) as terminal:
        terminal.read_until("WAITING")
        terminal.interrupt()
        assert terminal.finish() == 130
        shown = terminal.screen()
        name = re.search(r"gate#\d+", shown)
        assert name is not None
        assert f"taskforge runs logs -f {name[0]}" in shown
        assert f"taskforge runs cancel {name[0]}" in shown
        assert "Traceback" not in shown
    assert json.loads(flows.run_cli("runs", "show", name[0], "-o", "json").stdout)["state"] == "WAITING"
    assert flows.run_cli("runs", "cancel", name[0]).returncode == 0


def test_a_dumb_terminal_gets_lines(flows: ServerProcess) -> None:
    environ = flows.environ | {"TERM": "dumb"}
    with Terminal("run", "greet", "--follow", environ=environ) as terminal:
        assert terminal.finish() == 0
        assert "\x1b" not in terminal.received
        assert re.search(r"\+0\.\d+s  words +SUCCEEDED", terminal.screen())


def test_the_list_of_runs_is_watched_until_ctrl_c(flows: ServerProcess) -> None:
    arguments = ("runs", "list", "--watch", "--workflow", "gate")
    with Terminal(*arguments, environ=flows.environ, columns=60, rows=10) as terminal:
        terminal.read_until("Ctrl-C")
        name = flows.run_cli("run", "gate", "-q").stdout.strip()
        terminal.read_until(name)
        flows.run_cli("runs", "cancel", name)
        terminal.read_until(f"{name}  CANCELLED")
        terminal.interrupt()
        assert terminal.finish() == 130


# ---- in a pipe


def test_lines_tell_each_transition_once_and_are_not_redrawn(flows: ServerProcess) -> None:
    process = following(flows, "run", "gate", "--follow")
    told = read_to(process, "ask              WAITING")
    name = re.search(r"gate#\d+", process.stderr.readline() if process.stderr else "")
    assert name is not None
    flows.run_cli("runs", "signal", name[0], "go")
    rest, _ = rest_of(process)
    assert process.returncode == 0
    lines = [line for line in (told + rest).splitlines() if re.match(r" *\+\d", line)]
    assert len(lines) == len(set(lines))
    assert any("signal go" in line for line in lines)
    assert [line.split()[1:3] for line in lines][-1] == ["run", "SUCCEEDED"]


def test_quiet_prints_the_reference_only(flows: ServerProcess) -> None:
    done = flows.run_cli("run", "greet", "--follow", "-q")
    assert re.fullmatch(r"greet#\d+\n", done.stdout)
    assert done.stderr == ""


def test_a_time_limit_ends_the_watching_and_not_the_run(flows: ServerProcess) -> None:
    done = flows.run_cli("run", "gate", "--follow", "--wait", "300ms", "-o", "json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["state"] in ("RUNNING", "WAITING")
    assert "has not ended" in done.stderr


def test_a_reader_that_leaves_ends_the_following(flows: ServerProcess) -> None:
    for command in ("run gate --follow", "runs logs -f gate#1"):
        line = f"{shlex.quote(sys.executable)} -m taskforge {command} | head -1"
        done = subprocess.run(["bash", "-c", line], env=flows.environ, cwd=ROOT, capture_output=True, timeout=30)
        assert b"Traceback" not in done.stderr
        assert b"Broken pipe" not in done.stderr


# ---- logs


def test_logs_can_be_followed_to_the_end_of_the_run(flows: ServerProcess) -> None:
    name = flows.run_cli("run", "gate", "-q").stdout.strip()
    process = following(flows, "runs", "logs", "-f", name)
    before = read_to(process, "step ask: WAITING")
    flows.run_cli("runs", "signal", name, "go")
    rest, said = rest_of(process)
    assert (process.returncode, said) == (0, "")
    assert before + rest == flows.run_cli("runs", "logs", name).stdout
    one = flows.run_cli("runs", "logs", "-f", name, "-o", "json")
    assert json.loads(one.stdout) == json.loads(flows.run_cli("runs", "logs", name, "-o", "json").stdout)


def test_the_last_lines_of_a_log(flows: ServerProcess) -> None:
    name = flows.run_cli("run", "greet", "--wait", "-q").stdout.strip()
    everything = flows.run_cli("runs", "logs", name).stdout.splitlines()
    assert flows.run_cli("runs", "logs", name, "--tail", "2").stdout.splitlines() == everything[-2:]
    assert flows.run_cli("runs", "logs", name, "--tail", "0", "-f").stdout == ""


def test_ctrl_c_on_a_followed_log_says_how_to_come_back(flows: ServerProcess) -> None:
    name = flows.run_cli("run", "gate", "-q").stdout.strip()
    process = following(flows, "runs", "logs", "-f", name)
    read_to(process, "step ask: WAITING")
    process.send_signal(signal.SIGINT)
    _, said = rest_of(process)
    assert process.returncode == 130
    assert f"taskforge runs logs -f {name}" in said


# ---- a server that goes away


@pytest.mark.crash
@pytest.mark.parametrize("command", [["run", "gate", "--follow"], ["runs", "logs", "-f", "gate#1"]])
def test_events_go_on_after_the_last_one_when_the_server_comes_back(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "gate.yaml").write_text(FLOWS["gate"])
    with running_server(tmp_path) as server:
        assert server.run_cli("apply", str(tmp_path / "gate.yaml")).returncode == 0
        if command[0] == "runs":
            server.run_cli("run", "gate", "-q")
        process = following(server, *command)
        told = read_to(process, "WAITING")
        server.kill()
        assert process.stderr is not None
        said = process.stderr.readline()
        said = process.stderr.readline() if "has started" in said else said
        assert "cannot be reached; gate#1 goes on" in said
        server.restart()
        assert server.run_cli("runs", "signal", "gate#1", "go").returncode == 0
        rest, more = rest_of(process)
    assert (process.returncode, more) == (0, "")
    lines = (told + rest).splitlines()
    assert len(lines) == len(set(lines))
    assert sum("after" in line and "SUCCEEDED" in line for line in lines) >= 1


@pytest.mark.crash
def test_a_live_tree_says_that_the_server_is_away_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text(FLOWS["gate"])
    with running_server(tmp_path) as server:
        assert server.run_cli("apply", str(tmp_path / "gate.yaml")).returncode == 0
        with Terminal("run", "gate", "--follow", environ=server.environ, columns=100) as terminal:
            terminal.read_until("WAITING")
            await_state(server, "gate#1", "WAITING")
            server.kill()
            terminal.read_until("cannot be reached")
            server.restart()
            assert server.run_cli("runs", "signal", "gate#1", "go").returncode == 0
            assert terminal.finish() == 0
            assert "cannot be reached" not in terminal.screen()


def test_a_server_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch, nobody: str) -> None:
    monkeypatch.setattr(stream, "PATIENCE_S", 0.3)
    client = Client(Connection(nobody, "", False, Path("unused")))
    feed = Feed(client, "run_1")
    assert isinstance(feed.next(10), Away)
    last = feed.next(10)
    assert isinstance(last, GivenUp)
    assert "did not come back within 0.3 s" in last.fault.message
    client.close()


def test_a_run_that_is_not_there_is_not_waited_for(flows: ServerProcess) -> None:
    client = Client(Connection(flows.url, flows.token, False, flows.home))
    last = Feed(client, "run_none").next(10)
    assert isinstance(last, GivenUp)
    assert last.fault.refused
    client.close()


def test_steps_are_awaited(flows: ServerProcess) -> None:
    name = flows.run_cli("run", "gate", "-q").stdout.strip()
    await_step(flows, name, "ask", "WAITING")
    followed = following(flows, "runs", "show", name, "--follow")
    read_to(followed, "ask              WAITING")
    flows.run_cli("runs", "cancel", name)
    assert followed.wait(30) == 1
    rest_of(followed)


def test_what_is_no_event_is_passed_over() -> None:
    lines = ["retry: 2000", "", ": still here", "", "id: 1.0", "event: run", 'data: {"a":', "data: 1}", "",
             "data: no json", "", "data: [1]", "", "event: end", "data: {}", ""]  # fmt: skip
    assert [tuple(event) for event in read_events(lines)] == [("1.0", "run", {"a": 1}), ("1.0", "end", {})]
