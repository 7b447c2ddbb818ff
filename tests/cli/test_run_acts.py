"""Acts on many runs at once: names from arguments or from another command, and what happens when some are refused."""

from __future__ import annotations

import json

import pytest

from tests.support.server import ServerProcess


@pytest.fixture
def waiting(server: ServerProcess) -> list[str]:
    """Two runs that have not begun."""
    return [server.run_cli("run", "greet", "--delay", "1h", "-q").stdout.strip() for _ in range(2)]


def test_names_come_from_another_command(server: ServerProcess, waiting: list[str]) -> None:
    done = server.run_cli("runs", "cancel", "-", "-q", stdin="\n".join([*waiting, waiting[0], ""]))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == waiting
    replayed = server.run_cli("runs", "replay", "-", "-q", "--input", "who=again", stdin="\n".join(waiting))
    names = replayed.stdout.split()
    assert len(set(names) - set(waiting)) == 2
    shown = json.loads(server.run_cli("runs", "show", names[1], "-o", "json").stdout)
    assert shown["input"]["who"] == "again"


def test_a_refusal_does_not_keep_the_others_and_the_worst_is_the_exit_code(
    server: ServerProcess, waiting: list[str]
) -> None:
    first, second = waiting
    assert server.run_cli("runs", "cancel", first).returncode == 0
    done = server.run_cli("runs", "cancel", first, "greet#999999", second, "-o", "json")
    assert done.returncode == 5
    assert [run["number"] for run in json.loads(done.stdout)["items"]] == [int(second.partition("#")[2])]
    assert f"{first}: " in done.stderr
    assert "greet#999999: " in done.stderr
    assert "2 of 3 were refused" in done.stderr
    missing = server.run_cli("runs", "retry", "greet#999999", "greet#999998")
    assert (missing.returncode, missing.stdout) == (4, "")


def test_one_run_is_one_document_and_one_error(server: ServerProcess, waiting: list[str]) -> None:
    done = server.run_cli("runs", "cancel", waiting[0], "-o", "json")
    assert json.loads(done.stdout)["workflow"] == "greet"
    again = server.run_cli("runs", "cancel", waiting[0], "-o", "json")
    assert (again.returncode, again.stdout) == (5, "")
    assert again.stderr.count("error:") == 1
    server.run_cli("runs", "cancel", waiting[1])


def test_a_signal_goes_to_several_runs(server: ServerProcess, waiting: list[str]) -> None:
    done = server.run_cli("runs", "signal", *waiting, "hello", "--data", "by=anna", "-q")
    assert done.stdout.split() == waiting
    both = server.run_cli("runs", "signal", "-", "hello", "--data", "@-", stdin="{}")
    assert both.returncode == 2
    server.run_cli("runs", "cancel", *waiting)


def test_a_server_that_is_not_there_ends_it(server: ServerProcess, nobody: str) -> None:
    done = server.run_cli("runs", "cancel", "a#1", "a#2", "--server", nobody, "--token", "tf_x")
    assert done.returncode == 3
    assert done.stderr.count("error:") == 1
