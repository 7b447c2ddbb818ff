"""What hands expect of every command: exit codes, one document, pipes, colours, no server, no traceback, quick."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest

from taskforge.cli.command import Command
from taskforge.cli.main import SECTIONS, root
from taskforge.cli.reference import cli_manual, entries
from tests.support.server import ROOT, ServerProcess, clean_environ, run_cli


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return clean_environ(tmp_path / "home")


@pytest.fixture
def nobody(environ: dict[str, str]) -> dict[str, str]:
    """An environment whose server is a port where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return environ | {"TASKFORGE_SERVER__PORT": str(probe.getsockname()[1])}


def test_the_version_is_printed_in_every_form(environ: dict[str, str]) -> None:
    from taskforge import __version__

    assert run_cli("version", environ=environ).stdout == f"taskforge {__version__}\n"
    assert run_cli("version", "-q", environ=environ).stdout == f"{__version__}\n"
    assert json.loads(run_cli("version", "-o", "json", environ=environ).stdout) == {"version": __version__}
    assert run_cli("-o", "yaml", "version", environ=environ).stdout == f'version: "{__version__}"\n'


@pytest.mark.parametrize("arguments", [["version"], ["--help"], ["run", "--help"]])
def test_a_command_starts_within_a_third_of_a_second_of_cpu(arguments: list[str], environ: dict[str, str]) -> None:
    def used() -> float:
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return spent.ru_utime + spent.ru_stime

    best = 9.0
    for _ in range(3):
        before = used()
        assert run_cli(*arguments, environ=environ).returncode == 0
        best = min(best, used() - before)
    assert best < 0.3


def test_version_and_help_load_nothing_heavy(environ: dict[str, str]) -> None:
    heavy = ("httpx2", "httptools", "uvicorn", "pydantic", "ruamel", "rich", "typer", "apsw", "orjson", "asyncio")
    for arguments in (["version"], ["--help"]):
        code = (
            "import sys; from taskforge.cli.main import run_command_line as run; "
            f"run({arguments!r}); print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code], env=environ, cwd=ROOT, capture_output=True, check=True)
        assert done.stderr.decode().strip() == "[]"


def test_no_server_is_exit_code_3_and_says_how_to_start_one(nobody: dict[str, str]) -> None:
    for arguments in (["status"], ["runs"], ["run", "x"], ["dead"], ["token", "list"], ["workflow", "show", "x"]):
        done = run_cli(*arguments, "-o", "json", environ=nobody)
        assert (done.returncode, done.stdout) == (3, "")
        assert "Connection refused" in done.stderr
        assert "taskforge up" in done.stderr
        assert len(done.stderr.splitlines()) == 2


def test_a_stranger_on_the_port_is_no_server_of_ours(environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        code = (
            "import socket,sys; s=socket.fromfd(int(sys.argv[1]), 2, 1); c,_=s.accept(); c.recv(9999); "
            "c.sendall(b'HTTP/1.1 404 no\\r\\ncontent-type: text/html\\r\\ncontent-length: 2\\r\\n\\r\\nhi'); c.close()"
        )
        stranger = subprocess.Popen([sys.executable, "-c", code, str(listener.fileno())], pass_fds=[listener.fileno()])
        done = run_cli("runs", "show", "x#1", "--server", url, "--token", "tf_whatever", environ=environ)
        assert stranger.wait(10) == 0
    assert done.returncode == 3
    assert "is no TaskForge server" in done.stderr


def test_a_wrong_token_is_exit_code_3(server: ServerProcess) -> None:
    by_option = server.run_cli("runs", "--token", "tf_wrong_token")
    by_variable = server.run_cli("runs", TASKFORGE_TOKEN="tf_wrong_token")
    for done in (by_option, by_variable):
        assert (done.returncode, done.stdout) == (3, "")
        assert "token" in done.stderr


def test_a_scope_that_is_missing_is_exit_code_3(server: ServerProcess) -> None:
    token = server.run_cli("token", "create", "reader", "--scope", "read", "-q").stdout.strip()
    assert server.run_cli("runs", TASKFORGE_TOKEN=token).returncode == 0
    assert server.run_cli("run", "greet", TASKFORGE_TOKEN=token).returncode == 3
    identifier = next(
        item["id"]
        for item in json.loads(server.run_cli("token", "list", "-o", "json").stdout)["items"]
        if item["name"] == "reader"
    )
    assert server.run_cli("token", "revoke", identifier).returncode == 0
    assert server.run_cli("runs", TASKFORGE_TOKEN=token).returncode == 3


def test_the_homes_token_goes_to_no_other_machine(server: ServerProcess) -> None:
    done = server.run_cli("runs", "--server", server.url.replace("127.0.0.1", "localhost"))
    assert done.returncode == 0, done.stderr
    from taskforge.cli.connection import find_connection

    environ = {"TASKFORGE_HOME": str(server.home), "TASKFORGE_SERVER": "https://example.com"}
    assert find_connection(None, None, environ).token == ""
    assert find_connection(None, None, environ | {"TASKFORGE_SERVER": server.url}).token == server.token


def test_global_options_stand_before_or_after_and_the_last_one_wins(server: ServerProcess) -> None:
    for arguments in (
        ["-o", "json", "runs", "list"],
        ["runs", "-o", "json", "list"],
        ["runs", "list", "-o", "json"],
        ["-o", "table", "runs", "-o", "yaml", "list", "-ojson"],
        ["runs", "--output=json"],
    ):
        assert "items" in json.loads(server.run_cli(*arguments).stdout)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rum"], 'did you mean "run"?'),
        (["runs", "lits"], 'did you mean "list"?'),
        (["run"], "Missing argument"),
        (["run", "x", "--inptu", "a=1"], "--input"),
        (["version", "-o", "xml"], "'table', 'json', 'yaml'"),
        (["run", "x", "--wait=soon"], "is no time"),
        (["runs", "list", "--state", "FAILD"], 'did you mean "FAILED"?'),
        (["runs", "list", "--since", "yesterday"], "is no time"),
        (["runs", "list", "--limit", "0"], "--limit"),
        (["--server", "ftp://x", "runs"], "is no address"),
        (["serve", "--port", "99999"], "--port"),
        (["validate"], "Missing argument"),
    ],
)
def test_wrong_usage_is_exit_code_2_in_two_lines(arguments: list[str], words: str, environ: dict[str, str]) -> None:
    done = run_cli(*arguments, environ=environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= 2


def test_a_wrong_configuration_is_named_with_its_line(tmp_path: Path, environ: dict[str, str]) -> None:
    assert run_cli("init", environ=environ).returncode == 0
    config = tmp_path / "home" / "config.toml"
    config.write_text(config.read_text().replace("port = 7788", "prot = 7788"))
    done = run_cli("runs", environ=environ)
    assert done.returncode == 1
    assert f"{config}:" in done.stderr
    assert "server.port" in done.stderr


def test_init_twice_changes_nothing_and_says_so(tmp_path: Path, environ: dict[str, str]) -> None:
    first = run_cli("init", environ=environ)
    before = (tmp_path / "home" / "config.toml").read_bytes()
    again = run_cli("init", environ=environ)
    assert (first.returncode, again.returncode) == (0, 0)
    assert "nothing has changed" in again.stdout
    assert (tmp_path / "home" / "config.toml").read_bytes() == before
    assert json.loads(run_cli("init", "-o", "json", environ=environ).stdout)["created"] == []


def test_a_reader_that_leaves_is_no_error(server: ServerProcess) -> None:
    for _ in range(3):
        server.run_cli("run", "greet", "--wait")
    line = f"{shlex.quote(sys.executable)} -m taskforge runs --all | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], env=server.environ, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_exit_code_stays_true_when_the_reader_left(server: ServerProcess) -> None:
    line = f"{shlex.quote(sys.executable)} -m taskforge run break --wait -o json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], env=server.environ, cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_an_error_in_one_line(environ: dict[str, str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "taskforge", "version"], env=environ, cwd=ROOT, stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 1
    assert done.stderr.decode() == "error: the output cannot be written: No space left on device\n"


def test_closed_streams_do_no_harm(environ: dict[str, str]) -> None:
    for line in ("version >&-", "version 2>&-", "rum 2>&-", "version <&-"):
        command = f"{shlex.quote(sys.executable)} -m taskforge {line}"
        done = subprocess.run(["bash", "-c", command], env=environ, cwd=ROOT, capture_output=True, check=False)
        assert done.returncode == (2 if line.startswith("rum") else 0)
        assert b"Traceback" not in done.stderr


def on_terminal(*arguments: str, environ: dict[str, str], typed: str = "") -> str:
    """What a terminal receives."""
    master, slave = os.openpty()
    os.write(master, typed.encode())
    process = subprocess.Popen(
        [sys.executable, "-m", "taskforge", *arguments], env=environ, cwd=ROOT, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    received = b""
    while True:
        try:
            chunk = os.read(master, 65_536)
        except OSError:  # the other side is closed
            break
        if not chunk:
            break
        received += chunk
    os.close(master)
    process.wait(30)
    return received.decode().replace("\r\n", "\n")


def test_colour_is_for_terminals_that_want_it(server: ServerProcess) -> None:
    assert server.run_cli("run", "greet", "-q").returncode == 0
    assert "\x1b[" not in server.run_cli("runs").stdout
    assert "\x1b[" in on_terminal("runs", environ=server.environ | {"TERM": "xterm"})
    assert "\x1b[" not in on_terminal("runs", environ=server.environ | {"TERM": "xterm", "NO_COLOR": "1"})
    assert "\x1b[" not in on_terminal("runs", environ=server.environ | {"TERM": "dumb"})
    assert "\x1b[" not in on_terminal("runs", "-o", "json", environ=server.environ | {"TERM": "xterm"})


@pytest.mark.parametrize("columns", [40, 60, 200])
def test_tables_and_trees_fit_the_terminal(server: ServerProcess, columns: int) -> None:
    name = server.run_cli("run", "refused", "--wait", "-q").stdout.strip()
    environ = server.environ | {"TERM": "xterm", "NO_COLOR": "1", "COLUMNS": str(columns)}
    for arguments in (["runs", "list"], ["runs", "show", name], ["workflow", "list"]):
        shown = on_terminal(*arguments, environ=environ)
        assert max(len(line) for line in shown.splitlines()) <= columns
    assert name in on_terminal("runs", "list", environ=environ)


def test_a_latin_terminal_gets_plain_signs_and_valid_json(server: ServerProcess) -> None:
    name = server.run_cli("run", "greet", "--input", "who=Zoë", "--wait", "-q").stdout.strip()
    table = server.run_cli("runs", "show", name, PYTHONIOENCODING="ascii")
    assert table.stdout.isascii()
    shown = server.run_cli("runs", "show", name, "-o", "json", PYTHONIOENCODING="ascii")
    assert shown.stdout.isascii()
    assert json.loads(shown.stdout)["input"]["who"] == "Zoë"


def test_every_line_of_the_list_of_commands_is_its_commands_own() -> None:
    context = click.Context(root)
    for section in SECTIONS.values():
        for name, place in section.items():
            command = root.get_command(context, name)
            assert command is not None
            assert (command.help or "").replace("\n", " ").startswith(place.line.removesuffix("."))


def test_every_command_has_help_with_an_example(environ: dict[str, str]) -> None:
    for entry in entries():
        if isinstance(entry.command, Command):
            assert entry.command.examples, entry.path
            assert all("taskforge " in example.line for example in entry.command.examples)
    shown = run_cli("runs", "list", "--help", environ=environ).stdout
    assert "Examples:" in shown
    assert "--state STATE" in shown


def test_the_manual_is_up_to_date() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == cli_manual(), "run: python -m taskforge.cli.reference"


def test_help_fits_eighty_columns(environ: dict[str, str]) -> None:
    for entry in entries():
        arguments = entry.path.split()[1:]
        with click.Context(entry.command, info_name=entry.path, terminal_width=80) as context:
            text = entry.command.get_help(context)
        wide = [
            line for line in text.splitlines() if len(line) > 80 and not re.match(r"  \S*taskforge |  [a-zA-Z]+ ", line)
        ]
        assert not wide, arguments
