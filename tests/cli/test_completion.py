"""Completion in real shells: the tree of commands, choices, files, the server's names, and silence without it."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from taskforge.cli import known_names
from taskforge.cli.completing import is_file, split_line
from taskforge.cli.completion import SCRIPTS
from taskforge.cli.reference import entries
from tests.support.forked_cli import ForkedCli
from tests.support.server import ROOT, ServerProcess, clean_environ

_SHELLS = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"]}
_WORD = "@@done"
_PROMPT = b"%%> "
Complete = Callable[[str], str]


@pytest.fixture
def script(tmp_path: Path, forked: ForkedCli) -> Callable[[str], Path]:
    def write(shell: str) -> Path:
        found = tmp_path / f"completion.{shell}"
        found.write_text(forked("completion", shell, environ=clean_environ(tmp_path / "none")).stdout)
        return found

    return write


@pytest.fixture(params=sorted(_SHELLS))
def typed(
    request: pytest.FixtureRequest,
    server: ServerProcess,
    forked: ForkedCli,
    script: Callable[[str], Path],
    tmp_path: Path,
) -> Complete:
    """Type a line and Tab into an interactive shell; what the shell then has as the words of the line, or lists."""
    shell: str = request.param
    if shutil.which(shell) is None:
        pytest.skip(f"this machine has no {shell}")
    path = script(shell)
    (tmp_path / "my flow.yaml").write_text("")
    (tmp_path / "input.json").write_text("{}")

    def complete(line: str) -> str:
        environ = server.environ | {
            "TERM": "dumb",
            "PATH": f"{forked.program.parent}:{os.environ['PATH']}",
            "INPUTRC": os.devnull,
            "HISTFILE": os.devnull,
            "COLUMNS": "200",
        }
        # Quotes within, so that the echo of this line is not taken for the prompt or the answer.
        setup = "PS1='%''%> '; bind 'set show-all-if-ambiguous on'; "
        if shell == "zsh":
            setup = "PS1='%%''%%> '; autoload -Uz compinit; compinit -D -u; LISTMAX=999; "
        # Tab completes; then the line becomes arguments that are printed: the shell itself says its words.
        typed = f"{setup}source '{path}'\n{line}\t\x01printf '{_WORD[0]}''{_WORD[1:]}<%s>\\n' \x05\nexit\n"
        return in_terminal([shell, *_SHELLS[shell]], typed, environ, tmp_path)

    return complete


def in_terminal(command: list[str], typed: str, environ: dict[str, str], cwd: Path) -> str:
    """What an interactive program writes when this is typed into its terminal, to its end."""
    master, slave = os.openpty()
    process = subprocess.Popen(
        command, env=environ, cwd=cwd, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    os.close(slave)
    first, *lines = typed.encode().splitlines(keepends=True)
    received, fresh = b"", b""
    os.write(master, first)
    while True:
        # A line at a time, each after a prompt: what is typed ahead is not read as keys.
        if lines and _PROMPT in fresh:
            os.write(master, lines.pop(0))
            fresh = b""
        try:
            chunk = os.read(master, 65_536)
        except OSError:
            break
        received, fresh = received + chunk, fresh + chunk
        if not chunk:
            break
    os.close(master)
    process.wait(30)
    return received.decode(errors="replace").replace("\r", "")


def words(shown: str) -> list[str]:
    return re.findall(rf"^{_WORD}<(.*)>$", shown, re.MULTILINE)


def test_a_shell_completes_commands_options_choices_and_files(typed: Complete) -> None:
    assert words(typed("taskforge deliv")) == ["taskforge", "deliveries"]
    assert words(typed("taskforge -o json runs ca")) == ["taskforge", "-o", "json", "runs", "cancel"]
    assert words(typed("taskforge runs --unt")) == ["taskforge", "runs", "--until"]
    assert words(typed("taskforge runs list --output=js")) == ["taskforge", "runs", "list", "--output=json"]
    assert words(typed("taskforge validate my")) == ["taskforge", "validate", "my flow.yaml"]
    assert words(typed("taskforge run greet --input @inp")) == ["taskforge", "run", "greet", "--input", "@input.json"]
    listed = typed("taskforge dead ")
    assert all(name in listed for name in ("list", "show", "retry", "discard"))


def test_a_shell_completes_what_the_server_has(typed: Complete, server: ServerProcess) -> None:
    assert words(typed("taskforge run gre")) == ["taskforge", "run", "greet"]
    name = server.run_cli("run", "greet", "--wait", "-q").stdout.strip()
    assert words(typed(f"taskforge runs show {name[:-1]}"))[:3] == ["taskforge", "runs", "show"]
    assert name in typed("taskforge runs show greet#")
    assert words(typed(f"taskforge why {name} wo")) == ["taskforge", "why", name, "words"]


def test_fish_completes(server: ServerProcess, forked: ForkedCli, script: Callable[[str], Path]) -> None:
    if shutil.which("fish") is None:
        pytest.skip("this machine has no fish")
    environ = server.environ | {"PATH": f"{forked.program.parent}:{os.environ['PATH']}"}

    def complete(line: str) -> list[str]:
        code = f"source {script('fish')}; complete -C '{line}'"
        done = subprocess.run(
            ["fish", "--no-config", "-c", code], env=environ, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    assert complete("taskforge runs ca") == ["cancel\tCancel runs that have not ended."]
    assert complete("taskforge runs list --output=js") == ["--output=json"]
    assert [line.partition("\t")[0] for line in complete("taskforge run gre")] == ["greet"]


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_the_script_is_one_that_the_shell_can_read(shell: str, script: Callable[[str], Path]) -> None:
    path = script(shell)
    assert "For every session" in path.read_text()
    if shutil.which(shell) is None:
        pytest.skip(f"this machine has no {shell}")
    done = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_argument_is_known_or_is_free_text() -> None:
    """A new argument shows up here: teach `known_names` what it is, or add it to what nobody can know."""
    free = {
        "eval EXPRESSION", "secret set NAME", "var set NAME", "var set JSON|@FILE|TEXT", "state set KEY",
        "state set JSON|@FILE|TEXT", "token create NAME", "runs signal NAME", "profile add NAME", "profile add URL",
    }  # fmt: skip
    unknown = []
    for entry in entries():
        path = tuple(entry.path.split()[1:])
        for param in entry.command.params:
            if isinstance(param, click.Argument) and not isinstance(param.type, click.Choice) and not is_file(param):
                label = f"{' '.join(path)} {(param.metavar or param.name or '').upper()}"
                if known_names.source_of(path, param) is None and label not in free:
                    unknown.append(label)
    assert unknown == []


def answered(forked: ForkedCli, environ: dict[str, str], *arguments: str) -> list[str]:
    done = forked("__complete", *arguments, environ=environ)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split("\t")[1] for line in done.stdout.splitlines()]


def test_without_a_server_there_are_no_names_and_no_words(forked: ForkedCli, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        environ = clean_environ(tmp_path / "none", TASKFORGE_SERVER__PORT=str(closed.getsockname()[1]))
        for line in (
            ["run", ""],
            ["runs", "show", "x#"],
            ["secret", "delete", ""],
            ["why", "x#1", ""],
            ["trigger", ""],
        ):
            assert answered(forked, environ, "zsh", *line) == []
    assert not (tmp_path / "none").exists()


def test_a_server_that_never_answers_is_not_waited_for(forked: ForkedCli, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        assert answered(forked, clean_environ(tmp_path, TASKFORGE_SERVER=url), "fish", "run", "") == []
        assert time.monotonic() - began < 5


def test_lines_that_make_no_sense_have_no_candidates(forked: ForkedCli, tmp_path: Path) -> None:
    environ = clean_environ(tmp_path)
    for line in (
        ["nope", ""],
        ["runs", "nope", ""],
        ["version", "x", ""],
        ["run", "--nope=x"],
        ["run", "x", "--input", "@~no-such-user/a"],
        ["--", "--", ""],
        [""] * 9,
    ):
        assert answered(forked, environ, "zsh", *line) == [], line
    for text in ("taskforge runs 'li", 'taskforge "runs" li', "taskforge runs \\li"):
        assert answered(forked, environ, "bash", ":=", text) == ["list"]
    assert forked("__complete", environ=environ).returncode == 0
    assert forked("__complete", "bash", environ=environ).returncode == 0


def test_the_line_names_the_server_that_is_asked(forked: ForkedCli, server: ServerProcess, tmp_path: Path) -> None:
    environ = clean_environ(tmp_path / "elsewhere")
    line = ["--server", server.url, "--token", server.token, "workflow", "show", "gre"]
    assert answered(forked, environ, "zsh", *line) == ["greet"]
    assert answered(
        forked, environ, "zsh", "workflow", "show", f"--server={server.url}", "--token", server.token, "gre"
    ) == ["greet"]


def test_names_that_a_shell_would_act_upon_are_escaped(forked: ForkedCli, tmp_path: Path) -> None:
    environ = clean_environ(tmp_path)
    (tmp_path / "a $(x) [1].json").write_text("{}")
    text = f"taskforge run x --input @{tmp_path}/a"
    assert answered(forked, environ, "bash", ":=", text) == [f"@{tmp_path}/a\\ \\$\\(x\\)\\ \\[1\\].json"]


@pytest.mark.parametrize(
    ("line", "words"),
    [("t", []), ("t ", [""]), ("t a", ["a"]), ("t a ", ["a", ""]), ("t 'a b", ["a b"]), ('t "a b" ', ["a b", ""]),
     ("t a\\ b", ["a b"]), ("t a=b:c#d", ["a=b:c#d"]), ("", []), ("t '", [""])],
)  # fmt: skip
def test_a_line_is_split_as_the_shell_would(line: str, words: list[str]) -> None:
    assert split_line(line) == words


def test_static_completion_takes_little_cpu(tmp_path: Path) -> None:
    def used() -> float:
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return spent.ru_utime + spent.ru_stime

    best = 9.0
    for _ in range(3):
        before = used()
        command = [sys.executable, "-m", "taskforge", "__complete", "zsh", "runs", "list", "--"]
        subprocess.run(command, env=clean_environ(tmp_path), cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        best = min(best, used() - before)
    assert best < 0.15


def test_the_script_as_a_document(forked: ForkedCli, tmp_path: Path) -> None:
    done = forked("completion", "zsh", "-o", "json", environ=clean_environ(tmp_path))
    assert json.loads(done.stdout) == {"shell": "zsh", "script": SCRIPTS["zsh"]}
