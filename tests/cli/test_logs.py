"""`logs`: the server's log, its last lines, and those that come."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge.cli import log_lines
from taskforge.cli.log_lines import LogLine, following_lines, last_lines, read_line
from tests.support.server import ROOT, ServerProcess, clean_environ, run_cli


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    found = clean_environ(tmp_path / "home")
    assert run_cli("init", environ=found).returncode == 0
    return found


def entry(n: int, level: str = "info") -> str:
    return json.dumps({"time": "2026-11-23T02:37:01.123Z", "level": level, "logger": "app", "event": f"e{n}", "n": n})


def test_every_form_of_a_line_is_read() -> None:
    assert read_line(entry(7, "warning")) == LogLine("2026-11-23T02:37:01.123Z", "warning", "app", "e7", {"n": 7})
    console = read_line("2026-11-23T02:37:01.123Z error   writer commit_failed code=5")
    assert (console.level, console.logger, console.event) == ("error", "writer", "commit_failed code=5")
    assert read_line("taskforge: warning: the door is open").level == "warning"
    assert read_line("taskforge: cannot listen").level == "error"
    assert read_line("taskforge 0.1.0 is ready at http://127.0.0.1:1").level == "info"
    for foreign in ("Traceback (most recent call last):", "{", '{"a": 1}', "[" * 5000, '{"event": 1}'):
        assert (read_line(foreign).level, read_line(foreign).event) == ("error", foreign)


@given(
    texts=st.lists(st.text(st.characters(exclude_characters="\n\r", codec="utf-8"), min_size=1, max_size=30)),
    count=st.integers(0, 40),
    block=st.integers(1, 50),
    tail=st.sampled_from(["", "half a line"]),
)
def test_the_last_lines_are_those_at_the_end_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], count: int, block: int, tail: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.log"
    path.write_bytes("".join(f"{text}\n" for text in texts).encode() + tail.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_lines, "_BLOCK", block)
        found, place = last_lines(path, count, "debug")
    assert [line.event if line.time is None else None for line in found] == [
        read_line(text).event for text in texts[len(texts) - count if count < len(texts) else 0 :][:count]
    ]
    assert path.read_bytes()[place:] == tail.encode()


def test_following_goes_on_in_the_file_that_took_the_place(tmp_path: Path) -> None:
    path = tmp_path / "serve.log"
    path.write_text(f"{entry(0)}\n{entry(1)[:20]}")
    found, place = last_lines(path, 10, "debug")
    assert [line.fields["n"] for line in found] == [0]
    coming = following_lines(path, place, "info")
    with path.open("a") as file:
        file.write(f"{entry(1)[20:]}\n{entry(2, 'debug')}\n")
        file.flush()
        assert next(coming).fields["n"] == 1
        path.rename(tmp_path / "serve.log.1")
        file.write(f"{entry(3)}\n")  # the server's last words in the old one
    path.write_text(f"{entry(4)}\n")
    assert [next(coming).fields["n"] for _ in range(2)] == [3, 4]
    path.write_text("")
    threading.Timer(0.05, path.write_text, (f"{entry(5)}\n",)).start()
    assert next(coming).fields["n"] == 5


def test_lines_are_shown_for_people_and_as_one_document(tmp_path: Path, environ: dict[str, str]) -> None:
    log = tmp_path / "home" / "serve.log"
    log.write_text("".join(f"{entry(n, 'info' if n % 2 else 'error')}\n" for n in range(6)) + "plain \x1b[31mwords\n")
    log.with_name("serve.log.1").write_text(f"{entry(98, 'error')}\n{entry(99, 'error')}\n")
    shown = run_cli("logs", "-n", "2", environ=environ).stdout
    assert shown == "2026-11-23T02:37:01.123Z  info    app: e5 n=5\nplain \\u001b[31mwords\n"
    severe = json.loads(run_cli("logs", "--level", "error", "-n", "5", "-o", "json", environ=environ).stdout)
    assert [item.get("n") for item in severe["items"]] == [99, 0, 2, 4, None]
    assert severe["path"] == str(log)
    assert run_cli("logs", "-n", "0", environ=environ).stdout == ""


def test_a_home_without_a_log_says_where_the_words_are(tmp_path: Path, environ: dict[str, str]) -> None:
    done = run_cli("logs", environ=environ)
    assert (done.returncode, done.stdout) == (4, "")
    assert "taskforge up" in done.stderr
    assert "journalctl --user -u taskforge" in done.stderr


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_a_server_in_the_foreground_is_told_apart(server: ServerProcess) -> None:
    done = server.run_cli("logs")
    assert done.returncode == 4
    assert f"process {server.pid} writes to {server.log}" in done.stderr


def test_follow_prints_an_object_a_line_and_ends_with_its_reader(tmp_path: Path, environ: dict[str, str]) -> None:
    log = tmp_path / "home" / "serve.log"
    log.write_text(f"{entry(1)}\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "taskforge", "logs", "-f", "-o", "json"], env=environ, cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["n"] == 1
    with log.open("a") as file:
        file.write(f"{entry(2)}\n")
        file.flush()
        assert json.loads(process.stdout.readline())["n"] == 2
        process.stdout.close()
        file.write(f"{entry(3)}\n")
        file.flush()
        assert process.wait(10) == 0
