"""What holds for every command, whatever it does: found by walking the tree, so that a new command is held to it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

from taskforge.cli.command import Command, Group
from taskforge.cli.reference import entries
from tests.cli.prepared import World, sample
from tests.support.forked_cli import ForkedCli
from tests.support.server import clean_environ

_LEAVES = {entry.path: entry.command for entry in entries() if not isinstance(entry.command, Group)}
# They start processes, or go on until they are told to stop; their own tests look at them.
_LIFE = {"taskforge demo", "taskforge serve", "taskforge up", "taskforge down"}
_PLAIN = sorted(set(_LEAVES) - _LIFE)
# They need no server. Every other command ends with 3 when there is none.
_OFFLINE = {
    "taskforge init", "taskforge validate", "taskforge schedule next", "taskforge schedule simulate",
    "taskforge completion", "taskforge version", "taskforge doctor", "taskforge logs",
} | {path for path in _LEAVES if path.split()[1] in ("db", "service", "profile")}  # fmt: skip
_ONLINE = sorted(set(_PLAIN) - _OFFLINE)
# Where every command does the same in the same place, some stand for all.
_SOME = ["taskforge runs list", "taskforge run", "taskforge workflow show", "taskforge apply", "taskforge status"]
_READING = ("list", "show", "versions", "logs", "next", "simulate", "why", "version", "completion", "validate", "check")
_READERS = sorted(path for path in _PLAIN if path.split()[-1] in _READING)
# Texts are what they print with `-q`, too.
_TEXTS = {"taskforge completion", "taskforge runs logs", "taskforge logs", "taskforge graph", "taskforge eval"}
_FAULT = re.compile(r"Traceback|fault of taskforge itself|Exception ignored")


def test_every_command_has_a_sample_to_try() -> None:
    assert [path for path in _PLAIN if sample(path) is None] == []


@pytest.mark.parametrize("path", _PLAIN)
def test_json_is_exactly_one_document(world: World, path: str) -> None:
    done = world.call(path, "-o", "json")
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)


@pytest.mark.parametrize("path", _READERS)
def test_yaml_says_what_json_says(world: World, path: str) -> None:
    arguments = world.arguments(path)
    as_json = json.loads(world.call(path, "-o", "json", arguments=arguments).stdout)
    as_yaml = world.call(path, "-o", "yaml", arguments=arguments)
    assert drop_paths(YAML(typ="safe", pure=True).load(as_yaml.stdout)) == drop_paths(as_json)


def drop_paths(document: Any) -> Any:
    """Each call has a directory of its own."""
    return {key: value for key, value in document.items() if key != "path"} if isinstance(document, dict) else document


@pytest.mark.parametrize("path", _PLAIN)
def test_quiet_prints_references_and_no_remarks(world: World, path: str) -> None:
    done = world.call(path, "-q")
    assert (done.returncode, done.stderr) == (0, "")
    if path not in _TEXTS:
        assert [line for line in done.stdout.splitlines() if len(line.split()) != 1] == []


@pytest.mark.parametrize("path", sorted(path for path in _LEAVES if path.endswith(" list")))
def test_quiet_has_a_line_for_each_item(world: World, path: str) -> None:
    items = json.loads(world.call(path, "-o", "json").stdout)
    found = items["items"] if "items" in items else items["state"]
    assert len(world.call(path, "-q").stdout.splitlines()) == len(found)


def no_fault(code: int, said: str) -> None:
    assert 0 <= code <= 5, said
    assert not _FAULT.search(said)


@pytest.mark.parametrize("path", _PLAIN)
def test_a_hostile_environment_is_no_reason_for_a_traceback(world: World, path: str) -> None:
    """No HOME, a directory that was deleted, no standard input, an ASCII terminal of 20 columns that can do nothing."""
    environ = {"HOME": None, "PYTHONIOENCODING": "ascii", "LANG": "C", "TERM": "dumb", "COLUMNS": "20"}
    master, slave = os.openpty()
    try:
        done = world.call(path, environ=environ, stdin=None, gone=True, stdout=slave)
        os.set_blocking(master, False)
        shown = b"".join(read_all(master)).decode("ascii")
    finally:
        os.close(master)
        os.close(slave)
    no_fault(done.returncode, done.stderr)
    assert "\x1b" not in shown


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("path", _PLAIN)
def test_an_output_that_is_full_ends_in_one_line(world: World, path: str) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        done = world.call(path, stdout=full)
    finally:
        os.close(full)
    no_fault(done.returncode, done.stderr)
    assert (done.returncode == 1) == ("cannot be written" in done.stderr)


@pytest.mark.parametrize("path", _SOME)
def test_streams_that_are_closed_do_no_harm(world: World, path: str) -> None:
    for done in (world.call(path, stdout=-1), world.call(path, stderr=-1), world.call(path, stdout=-1, stderr=-1)):
        assert done.returncode == 0
        assert not _FAULT.search(done.stdout + done.stderr)


def read_all(number: int) -> Iterator[bytes]:
    try:
        while chunk := os.read(number, 65_536):
            yield chunk
    except BlockingIOError:
        return


@pytest.mark.parametrize("path", sorted(_LEAVES))
def test_an_option_that_is_not_there_is_wrong_usage_and_the_nearest_is_named(forked: ForkedCli, path: str) -> None:
    words = path.split()[1:]
    environ = {"TASKFORGE_HOME": "/nowhere"}
    done = forked(*words, "--outptu", "json", environ=environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--output" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    done = forked(*words, "-o", "xml", environ=environ)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("path", sorted(entry.path for entry in entries() if isinstance(entry.command, Group)))
def test_a_command_that_is_not_there_is_wrong_usage_and_the_nearest_is_named(forked: ForkedCli, path: str) -> None:
    group = next(entry.command for entry in entries() if entry.path == path)
    assert isinstance(group, Group)
    name = next(iter(group.commands))
    done = forked(*path.split()[1:], f"{name}x", environ={"TASKFORGE_HOME": "/nowhere"})
    assert (done.returncode, done.stdout) == (2, "")
    assert f'did you mean "{name}"?' in done.stderr


@pytest.mark.parametrize("path", _ONLINE)
def test_without_a_server_a_command_says_how_to_start_one(world: World, path: str) -> None:
    given = {"TASKFORGE_SERVER": "http://127.0.0.1:9", "TASKFORGE_TOKEN": "tf_x"}
    done = world.call(path, arguments=world.sampled(path), environ=given)
    assert (done.returncode, done.stdout) == (3, "")
    assert "taskforge up" in done.stderr
    assert not _FAULT.search(done.stderr)


@pytest.mark.parametrize("path", _SOME)
def test_a_wrong_token_is_exit_code_3(world: World, path: str) -> None:
    done = world.call(path, environ={"TASKFORGE_TOKEN": "tf_wrong"})
    assert (done.returncode, done.stdout) == (3, "")
    assert "token" in done.stderr


@pytest.mark.parametrize("path", _ONLINE)
def test_what_is_not_there_is_exit_code_4(world: World, path: str) -> None:
    arguments = world.arguments(path)
    named = [re.sub(r"^(uptime|deploy|issue-digest|nightly-report)\b", "nowhere", word) for word in arguments]
    named = [re.sub(r"^(dead|dlv|tok)_\w+", r"\1_nowhere", word) for word in named]
    if path == "taskforge apply" or named == arguments or "--workflow" in named:
        return  # it names nothing that must be there
    done = world.cli(*named, environ=world.server.environ)
    assert (done.returncode, done.stdout) == (4, ""), done.stderr
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("path", sorted(_LEAVES))
def test_help_tells_what_it_does_its_options_and_an_example(forked: ForkedCli, path: str) -> None:
    done = forked(*path.split()[1:], "--help", environ={"TASKFORGE_HOME": "/nowhere", "COLUMNS": "80"})
    assert (done.returncode, done.stderr) == (0, "")
    for words in (f"Usage: {path}", "Examples:", "Global options:"):
        assert words in done.stdout
    command = _LEAVES[path]
    assert isinstance(command, Command)
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden:
            assert param.help, (path, param.name)
            assert param.help.rstrip().endswith((".", "stdin.", "…")), (path, param.name)


def test_the_same_option_means_the_same_everywhere() -> None:
    """One word, one metavar. What differs on purpose is listed."""
    on_purpose = {
        "--version", "--from", "--limit", "--state", "--all", "--input", "--trigger", "--name", "--expires", "--file",
    }  # fmt: skip
    seen: dict[str, dict[tuple[str | None, bool], str]] = {}
    for path, command in _LEAVES.items():
        for param in command.params:
            if isinstance(param, click.Option) and not param.hidden:
                for name in param.opts:
                    seen.setdefault(name, {})[(param.metavar, param.is_flag)] = path
    assert {name: uses for name, uses in seen.items() if len(uses) > 1 and name not in on_purpose} == {}


@pytest.mark.parametrize("path", sorted(path for path in _LEAVES if path.endswith(" list")))
def test_a_list_can_be_paged(path: str) -> None:
    """What can grow without an end has `--limit`, `--cursor` and `--all`."""
    few = {
        "taskforge secret list",
        "taskforge var list",
        "taskforge token list",
        "taskforge state list",
        "taskforge profile list",
    }
    options = {name for param in _LEAVES[path].params for name in param.opts}
    assert path in few or {"--limit", "--cursor", "--all"} <= options


def test_a_home_is_made_by_nothing_but_init_up_and_serve(forked: ForkedCli, tmp_path: Path) -> None:
    for path in _PLAIN:
        if path != "taskforge init":
            forked(*path.split()[1:], environ=clean_environ(tmp_path / "home"))
    assert not (tmp_path / "home").exists()


def test_global_options_count_before_and_after_the_command(world: World) -> None:
    for path in ("taskforge runs list", "taskforge workflow show"):
        words = world.arguments(path)
        before = world.cli("-o", "json", *words, environ=world.server.environ)
        assert before.stdout == world.cli(*words, "--output=json", environ=world.server.environ).stdout
        json.loads(before.stdout)
