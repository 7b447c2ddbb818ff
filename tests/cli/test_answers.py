"""What commands show of deliveries, dead letters and schedules: no guessing, also where the terminal is narrow."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.following import await_end
from tests.support.server import ServerProcess, running_server
from tests.support.terminal import Terminal

QUOTE = """
name: quote
triggers:
  a-long-name: {cron: "@yearly", timezone: America/Argentina/Buenos_Aires}
  ask:
    webhook: {verify: none, respond: {body: {price: 3, currency: EUR}}}
steps: [{id: a, transform: 1}]
"""
PAY = """
name: pay
inputs: {type: object, properties: {port: {type: integer}}}
steps:
  - {id: once, effect: once, http: {method: POST, url: "http://127.0.0.1:${{ $input.port }}/", body: x}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder: Path = tmp_path_factory.mktemp("answers")
    (folder / "files").mkdir()
    for name, text in (("quote", QUOTE), ("pay", PAY)):
        (folder / "files" / f"{name}.yaml").write_text(text)
    with running_server(folder) as found:
        assert found.run_cli("apply", str(folder / "files")).returncode == 0
        yield found


@pytest.fixture
def rude_port() -> Iterator[int]:
    """A receiver that reads the request and hangs up without an answer."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            met, _ = listening.accept()
            with met:
                met.recv(65536)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(30)


def screen_of(server: ServerProcess, *arguments: str, columns: int) -> list[str]:
    with Terminal(*arguments, environ=server.environ, columns=columns) as terminal:
        assert terminal.finish() == 0
        return terminal.screen().splitlines()


def test_the_answer_of_a_hook_is_shown_line_by_line(server: ServerProcess) -> None:
    done = server.run_cli("trigger", "quote/ask", "--body", "{}")
    assert done.stdout == '{\n  "price": 3,\n  "currency": "EUR"\n}\n'


def test_a_version_that_is_not_there_hints_at_the_versions(server: ServerProcess) -> None:
    run = server.run_cli("run", "quote", "-q").stdout.strip()
    await_end(server, run)
    done = server.run_cli("runs", "replay", run, "--version", "9")
    assert done.returncode == 4
    assert "taskforge workflow versions quote" in done.stderr


def test_an_unknown_outcome_is_to_be_found_out_before_it_is_sent_again(server: ServerProcess, rude_port: int) -> None:
    run = server.run_cli("run", "pay", "--input", f"port={rude_port}", "--wait", "-q").stdout.strip()
    letter = server.run_cli("dead", "list", "-q").stdout.split()[0]
    told = server.run_cli("dead", "show", letter).stderr
    assert f"find out whether it took effect; if not: taskforge dead retry {letter}" in told
    assert f"if so, so that it is not sent twice: taskforge dead discard {letter}" in told
    assert "is tried again" not in server.run_cli("why", run).stdout


def test_a_narrow_terminal_shows_when_a_schedule_fires_and_what_a_delivery_started(server: ServerProcess) -> None:
    server.run_cli("trigger", "quote/ask", "--body", "{}")
    head, row, *_ = screen_of(server, "schedule", columns=60)
    assert head.split() == ["SCHEDULE", "TIMES", "STATE", "NEXT", "MISSED"]
    assert " 01-01 03:00 " in row and row.startswith("quote/a-long-name ")
    head, row, *_ = screen_of(server, "deliveries", columns=60)
    assert head.split()[:3] == ["ID", "STATE", "RUN"]
    assert "  quote#" in row and "…" not in row.partition("quote#")[0]
