"""Runs from the command line, as real processes against a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import ServerProcess


def documents(text: str) -> list[Any]:
    """Every JSON document in a text; anything between them is an error."""
    decoder, found, text = json.JSONDecoder(), [], text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:].strip()
    return found


def test_a_run_that_is_waited_for_is_printed_as_the_api_has_it(server: ServerProcess) -> None:
    done = server.run_cli("run", "greet", "--wait", "-o", "json")
    assert (done.returncode, done.stderr) == (0, "")
    (run,) = documents(done.stdout)
    assert run["state"] == "SUCCEEDED"
    assert run["output"] == {"who": "world", "times": 1, "said": ["hello world"]}
    status, same = server.call("GET", f"/v1/runs/{run['id']}")
    assert (status, same) == (200, run)


def test_a_run_that_failed_gives_exit_code_1_and_one_document(server: ServerProcess) -> None:
    done = server.run_cli("run", "break", "--wait", "10s", "-o", "json")
    assert done.returncode == 1
    (run,) = documents(done.stdout)
    assert run["state"] == "FAILED"


def test_wait_stands_before_the_workflow_without_taking_it_for_a_time(server: ServerProcess) -> None:
    assert server.run_cli("run", "--wait", "greet").returncode == 0
    assert server.run_cli("run", "--wait", "20s", "greet").returncode == 0
    assert server.run_cli("run", "--wait=20s", "greet", "-q").returncode == 0


def test_a_time_that_is_over_is_exit_code_1_and_says_the_state(server: ServerProcess) -> None:
    done = server.run_cli("run", "greet", "--delay", "1h", "--wait", "50ms", "-o", "json")
    assert done.returncode == 1
    (run,) = documents(done.stdout)
    assert run["state"] == "QUEUED"
    assert "has not ended: it is QUEUED" in done.stderr
    assert server.run_cli("runs", "cancel", f"greet#{run['number']}").returncode == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["who=moon"], {"who": "moon", "times": 1, "said": ["hello moon"]}),
        (["who=3 4", "times=2"], {"who": "3 4", "times": 2, "said": ["hello 3 4"] * 2}),
        (['{"who": "a=b"}'], {"who": "a=b", "times": 1, "said": ["hello a=b"]}),
        (['{"who": "x", "times": 2}', "who=y"], {"who": "y", "times": 2, "said": ["hello y"] * 2}),
        (["who=a=b"], {"who": "a=b", "times": 1, "said": ["hello a=b"]}),
        (['who="7"'], {"who": "7", "times": 1, "said": ["hello 7"]}),
    ],
)
def test_input_is_json_or_keys_and_values(server: ServerProcess, given: list[str], said: Any) -> None:
    options = [part for text in given for part in ("--input", text)]
    done = server.run_cli("run", "greet", *options, "--wait", "-o", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["output"] == said


def test_input_comes_from_a_file_or_from_standard_input(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text('{"who": "file"}')
    from_file = server.run_cli("run", "greet", "--input", f"@{tmp_path}/input.json", "--wait", "-o", "json")
    from_pipe = server.run_cli("run", "greet", "--input", "@-", "--wait", "-o", "json", stdin='{"who": "pipe"}')
    assert json.loads(from_file.stdout)["output"]["who"] == "file"
    assert json.loads(from_pipe.stdout)["output"]["who"] == "pipe"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"who": }', "is no JSON"),
        ("who", "is no JSON"),
        ('{"a": 1, "a": 2}', "duplicate key"),
        ("@/nowhere/input.json", "/nowhere/input.json: no such file"),
    ],
)
def test_input_that_cannot_be_read_is_exit_code_2(server: ServerProcess, text: str, words: str) -> None:
    done = server.run_cli("run", "greet", "--input", text)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_input_that_does_not_fit_names_the_key(server: ServerProcess) -> None:
    done = server.run_cli("run", "greet", "--input", "times=many")
    assert (done.returncode, done.stdout) == (2, "")
    assert "times" in done.stderr


def test_the_same_key_starts_one_run(server: ServerProcess) -> None:
    first = server.run_cli("run", "greet", "--idempotency-key", "once", "-q")
    again = server.run_cli("run", "greet", "--idempotency-key", "once", "-q")
    other = server.run_cli("run", "greet", "--idempotency-key", "once", "--input", "who=other")
    assert first.stdout == again.stdout
    assert other.returncode == 2


def test_follow_tells_each_step_once_and_ends_with_the_run(server: ServerProcess) -> None:
    done = server.run_cli("run", "refused", "--follow")
    assert done.returncode == 1
    told = [line for line in done.stdout.splitlines() if "call" in line and "attempt" in line and "s " in line[:12]]
    assert len(told) == len(set(told)) == 4  # two attempts, each with its beginning and its end
    assert "FAILED" in done.stdout


def test_follow_with_json_prints_one_document_and_tells_on_standard_error(server: ServerProcess) -> None:
    done = server.run_cli("run", "greet", "--follow", "-o", "json")
    assert [run["state"] for run in documents(done.stdout)] == ["SUCCEEDED"]
    assert "words" in done.stderr


def test_show_draws_the_steps_in_the_order_of_the_document(server: ServerProcess) -> None:
    name = server.run_cli("run", "greet", "--input", "times=2", "--wait", "-q").stdout.strip()
    done = server.run_cli("runs", "show", name)
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{name}  ✔ SUCCEEDED")
    tree = [line for line in lines if "✔" in line][1:]
    assert [line.split()[2] for line in tree] == ["words", "route", "many"]
    assert tree[2].index("└") > tree[1].index("└")


def test_show_has_attempts_and_errors(server: ServerProcess) -> None:
    name = server.run_cli("run", "refused", "--wait", "-q").stdout.strip()
    shown = server.run_cli("runs", "show", name).stdout
    assert "2 attempts" in shown
    assert shown.count("CONNECT_REFUSED") >= 2


def test_quiet_lists_feed_the_next_command(server: ServerProcess) -> None:
    assert server.run_cli("run", "greet", "--wait").returncode == 0
    names = server.run_cli("runs", "list", "--workflow", "greet", "-q").stdout.split()
    assert names
    assert all(name.startswith("greet#") for name in names)
    assert server.run_cli("runs", "show", names[0], "-q").stdout.split() == [names[0]]


def test_a_group_without_a_subcommand_lists(server: ServerProcess) -> None:
    assert server.run_cli("run", "greet", "--wait").returncode == 0
    assert server.run_cli("runs").stdout.startswith("RUN ")
    assert server.run_cli("runs", "--state", "FAILED", "-q").returncode == 0
    assert server.run_cli("-q", "runs", "-o", "json").stdout.startswith("{")
    assert server.run_cli("workflow").stdout.startswith("NAME ")


def test_pages_end_with_a_remark_and_all_goes_through_them(server: ServerProcess) -> None:
    for _ in range(5):
        server.run_cli("run", "greet", "-q")
    page = server.run_cli("runs", "--limit", "2", "-o", "json")
    found = json.loads(page.stdout)
    assert len(found["items"]) == 2
    rest = server.run_cli("runs", "--limit", "2", "--cursor", found["next_cursor"], "-q").stdout.split()
    assert len(rest) == 2
    assert f"--cursor {found['next_cursor']}" in server.run_cli("runs", "--limit", "2").stderr
    assert len(server.run_cli("runs", "--all", "-q").stdout.split()) > 4


def test_a_dead_letter_is_shown_retried_and_discarded(server: ServerProcess) -> None:
    server.run_cli("run", "refused", "--wait")
    letter = server.run_cli("dead", "-q").stdout.split()[0]
    shown = server.run_cli("dead", "show", letter)
    assert "http://127.0.0.1:9/" in shown.stdout
    assert shown.stdout.count("CONNECT_REFUSED") >= 2
    assert server.run_cli("dead", "discard", letter).returncode == 0
    closed = server.run_cli("dead", "retry", letter)
    assert (closed.returncode, closed.stdout) == (5, "")
    server.run_cli("run", "refused", "--wait")
    (fresh,) = [each for each in server.run_cli("dead", "-q").stdout.split() if each != letter][:1]
    retried = server.run_cli("dead", "retry", fresh, "-o", "json")
    assert json.loads(retried.stdout)["workflow"] == "refused"


def test_escapes_in_data_do_not_reach_the_terminal(server: ServerProcess) -> None:
    name = server.run_cli("run", "break", "--wait", "-q").stdout.strip()
    for form in ("table", "json", "yaml"):
        shown = server.run_cli("runs", "show", name, "-o", form).stdout
        assert "\x1b" not in shown
        assert "\\u001b[31mway" in shown


def test_what_is_not_there_is_4_and_what_cannot_be_is_5(server: ServerProcess) -> None:
    name = server.run_cli("run", "greet", "--wait", "-q").stdout.strip()
    missing = server.run_cli("runs", "show", "greet#999999")
    assert (missing.returncode, missing.stdout) == (4, "")
    assert "greet#999999" in missing.stderr
    assert server.run_cli("run", "nothing-of-this-name").returncode == 4
    assert server.run_cli("runs", "show", "").returncode == 4
    assert server.run_cli("runs", "show", "..").returncode == 4
    ended = server.run_cli("runs", "cancel", name)
    assert ended.returncode == 5
    assert name in ended.stderr
    assert "SUCCEEDED" in ended.stderr
    assert server.run_cli("runs", "retry", name).returncode == 5
