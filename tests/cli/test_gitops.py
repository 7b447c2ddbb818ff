"""`plan`, `apply` and `export` as a person or a pipeline calls them: real files, a real server."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import BREAK, GREET
from tests.cli.test_surface import on_terminal
from tests.support.server import ServerProcess, clean_environ, run_cli, running_server

WAITS = """\
# who waits
name: waits
steps:
  - id: hold   # until somebody says so
    wait: {signal: go}
"""
WAITS_MORE = """\
name: waits
timeout: 2d
triggers: {nightly: {cron: "0 9 1 1 *", timezone: Europe/Berlin}}
steps:
  - {id: call, http: {url: "https://api.example.com/x", headers: {A: "${{ $secrets.API_KEY }}"}}}
  - {id: hold, wait: {signal: go, timeout: 1h}}
"""
PARENT = "name: parent\nsteps:\n  - {id: a, workflow: {name: greeet}}\n"


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with running_server(tmp_path_factory.mktemp("gitops")) as started:
        yield started


@pytest.fixture
def server(own_server: ServerProcess, tmp_path: Path) -> ServerProcess:
    """A server without workflows."""
    (tmp_path / "none").mkdir()
    done = own_server.run_cli("apply", str(tmp_path / "none"), "--prune", "--allow-empty")
    assert done.returncode == 0, done.stderr
    return own_server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "flows"
    (made / "team").mkdir(parents=True)
    (made / "greet.yaml").write_text(GREET)
    (made / "team" / "waits.yml").write_text(WAITS)
    return made


def workflows(server: ServerProcess) -> dict[str, int]:
    return {item["name"]: item["version"] for item in server.call("GET", "/v1/workflows")[1]["items"]}


def test_plan_apply_and_plan_again(server: ServerProcess, folder: Path) -> None:
    first = server.run_cli("plan", str(folder))
    assert (first.returncode, first.stderr) == (0, "")
    assert "Plan: 2 new, 0 changed, 0 deleted, 0 unchanged." in first.stdout
    assert server.run_cli("plan", str(folder), "-q").stdout.split() == ["greet", "waits"]
    assert workflows(server) == {}
    assert server.run_cli("apply", str(folder)).returncode == 0
    again = server.run_cli("plan", str(folder))
    assert (again.returncode, again.stdout) == (0, "No changes: the server has 2 workflows as given.\n")
    assert server.run_cli("plan", str(folder), "-q").stdout == ""


def test_the_exit_code_in_detail_is_0_for_nothing_2_for_changes_and_1_for_errors(
    server: ServerProcess, folder: Path, tmp_path: Path
) -> None:
    def code(*arguments: str) -> int:
        return server.run_cli("plan", *arguments, "--detailed-exitcode").returncode

    assert code(str(folder)) == 2
    server.run_cli("apply", str(folder))
    assert code(str(folder)) == 0
    (folder / "wrong.yaml").write_text("name: wrong\n")
    assert code(str(folder)) == 1
    assert code(str(tmp_path / "nowhere")) == 1
    assert code(str(folder), "--server", "http://127.0.0.1:9") == 1
    assert server.run_cli("plan", str(folder)).returncode == 2


def test_a_plan_tells_people_what_follows(server: ServerProcess, folder: Path) -> None:
    server.run_cli("apply", str(folder))
    run = server.run_cli("run", "waits", "-q").stdout.strip()
    (folder / "team" / "waits.yml").write_text(WAITS_MORE)
    shown = server.run_cli("plan", str(folder)).stdout
    for words in (
        '+ timeout: "2d"',
        "+ step call (http) first of all",
        '+ step hold: wait.timeout: "1h"',
        "+ trigger nightly: 0 9 1 1 * (Europe/Berlin)",
        "-01-01 09:00 Europe/Berlin",
        f"runs that stay on version {workflows(server)['waits']}: 1 WAITING ({run})",
        "secret API_KEY  for waits",
        "api.example.com  by waits",
        "Plan: 0 new, 1 changed, 0 deleted, 1 unchanged.",
    ):
        assert words in shown
    told = json.loads(server.run_cli("plan", str(folder), "-o", "json").stdout)
    assert told["missing"]["secrets"] == [{"name": "API_KEY", "workflows": ["waits"]}]
    server.run_cli("runs", "cancel", run)


@pytest.mark.parametrize("columns", [60, 200])
def test_a_plan_fits_the_terminal(server: ServerProcess, folder: Path, columns: int) -> None:
    server.run_cli("apply", str(folder))
    (folder / "team" / "waits.yml").write_text(WAITS_MORE)
    (folder / "greet.yaml").write_text(GREET.replace("hello", "good day " * 30))
    environ = server.environ | {"TERM": "xterm", "NO_COLOR": "1", "COLUMNS": str(columns)}
    shown = on_terminal("plan", str(folder), environ=environ)
    assert max(len(line) for line in shown.splitlines()) <= columns
    assert "API_KEY" in shown
    assert "\x1b" not in shown


def test_all_or_nothing_with_every_error_in_its_place(server: ServerProcess, folder: Path) -> None:
    (folder / "one.yaml").write_text("name: one\nsteps:\n  - {id: a, transfrom: 1}\n")
    (folder / "two.json").write_text('{"name": "two"}')
    for command in ("plan", "apply"):
        done = server.run_cli(command, str(folder))
        assert (done.returncode, done.stdout) == (2, "")
        *lines, summary = done.stderr.splitlines()
        assert {line.partition(": ")[0] for line in lines} == {f"{folder}/one.yaml:3:13", f"{folder}/two.json:1:1"}
        assert summary == "error: 2 errors in 2 of 4 files; nothing was stored"
    assert workflows(server) == {}


def test_what_cannot_be_sent_is_told_with_the_errors_of_the_others(server: ServerProcess, folder: Path) -> None:
    (folder / "bytes.yaml").write_bytes(b"name: \xff\n")
    (folder / "link.yaml").symlink_to(folder / "nowhere")
    (folder / "wrong.yaml").write_text("name: wrong\n")
    done = server.run_cli("apply", str(folder), "--prune")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{folder}/bytes.yaml:1:7: byte 0xFF" in done.stderr
    assert f"{folder}/link.yaml: no such file" in done.stderr
    assert f"{folder}/wrong.yaml:1:1: " in done.stderr
    assert "3 errors in 3 of 5 files; nothing was stored" in done.stderr


def test_two_files_of_one_workflow_are_both_named(server: ServerProcess, folder: Path) -> None:
    (folder / "twin.yaml").write_text("# again\n" + GREET)
    for command in ("apply", "validate"):
        done = server.run_cli(command, str(folder))
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{folder}/twin.yaml:2:7: workflow" in done.stderr
        assert f"is also in {folder}/greet.yaml" in done.stderr


def test_hidden_and_ignored_files_and_links_to_directories_are_passed_over(folder: Path, tmp_path: Path) -> None:
    environ = clean_environ(tmp_path / "home")
    (folder / ".hidden.yaml").write_text("x")
    (folder / ".git").mkdir()
    (folder / ".git" / "config.yaml").write_text("x")
    (folder / "loop").symlink_to(folder)
    (folder / "notes.txt").write_text("x")
    (folder / "values.yaml").write_text("a: 1")
    (folder / "cases").mkdir()
    (folder / "cases" / "one.yaml").write_text("a: 1")
    (folder / "linked.yaml").symlink_to(tmp_path / "break.yaml")
    (tmp_path / "break.yaml").write_text(BREAK)
    wrong = run_cli("validate", str(folder), environ=environ)
    assert wrong.returncode == 2
    assert f"{folder}/values.yaml:1:1: " in wrong.stderr, "a file that is no workflow is an error, not forgotten"
    (folder / ".taskforgeignore").write_text("# of others\nvalues.yaml\n\ncases/\n")
    done = run_cli("validate", str(folder), "-o", "json", environ=environ)
    files = [item["file"] for item in json.loads(done.stdout)["items"]]
    assert files == [f"{folder}/{name}" for name in ("greet.yaml", "linked.yaml", "team/waits.yml")]


def test_an_unknown_child_is_a_warning_offline_too(folder: Path, tmp_path: Path) -> None:
    (folder / "parent.yaml").write_text(PARENT)
    done = run_cli("validate", str(folder), environ=clean_environ(tmp_path / "home"))
    assert done.returncode == 0
    assert done.stderr == (
        f'{folder}/parent.yaml:3:30: warning: workflow "greeet" is not among the given files (did you mean "greet"?)\n'
    )
    (folder / "parent.yaml").write_text(PARENT.replace("greeet", "greet"))
    assert run_cli("validate", str(folder), environ=clean_environ(tmp_path / "home")).stderr == ""


def test_prune_deletes_what_is_in_no_file_and_only_then(server: ServerProcess, folder: Path, tmp_path: Path) -> None:
    for name in ("by-hand", "ops-one"):
        server.call("PUT", f"/v1/workflows/{name}", f"name: {name}\nsteps: [{{id: a, transform: 1}}]\n".encode())
    server.run_cli("apply", str(folder))
    assert "by-hand" in workflows(server)
    shown = server.run_cli("plan", str(folder), "--prune").stdout
    assert "- by-hand  deleted" in shown
    dry = server.run_cli("apply", str(folder), "--prune", "--dry-run")
    assert (dry.returncode, dry.stdout) == (0, shown)
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments in ([str(empty), "--prune"], [str(folder / "greet.yaml"), "--prune"], [str(folder), "--keep", "x"]):
        assert server.run_cli("apply", *arguments).returncode == 2
    assert len(workflows(server)) == 4
    done = server.run_cli("apply", str(folder), "--prune", "--keep", "ops-*", "-o", "json")
    assert json.loads(done.stdout)["deleted"] == ["by-hand"]
    assert workflows(server).keys() == {"greet", "waits", "ops-one"}
    gone = server.run_cli("apply", str(empty), "--prune", "--allow-empty")
    assert (gone.returncode, workflows(server)) == (0, {})
    assert gone.stdout.count("deleted") == 3


def test_a_terminal_is_asked_before_workflows_are_deleted(server: ServerProcess, folder: Path) -> None:
    server.call("PUT", "/v1/workflows/by-hand", b"name: by-hand\nsteps: [{id: a, transform: 1}]\n")
    environ = server.environ | {"NO_COLOR": "1"}
    refused = on_terminal("apply", str(folder), "--prune", environ=environ, typed="n\n")
    assert "This deletes 1 workflow:" in refused
    assert "error: nothing was changed" in refused
    assert workflows(server).keys() == {"by-hand"}
    agreed = on_terminal("apply", str(folder), "--prune", environ=environ, typed="y\n")
    assert workflows(server).keys() == {"greet", "waits"}, agreed
    assert "Go on?" not in on_terminal("apply", str(folder), "--prune", environ=environ)


def test_a_stored_plan_is_applied_or_refused(server: ServerProcess, folder: Path, tmp_path: Path) -> None:
    stored = tmp_path / "plan.json"
    stored.write_text(server.run_cli("plan", str(folder), "-o", "json").stdout)
    greet = folder / "greet.yaml"
    greet.write_text(GREET.replace("hello", "hi"))
    changed = server.run_cli("apply", str(folder), "--planned", str(stored))
    assert (changed.returncode, workflows(server)) == (5, {})
    assert f"{greet}: is not as it was planned" in changed.stderr
    greet.write_text(GREET)
    server.call("PUT", "/v1/workflows/greet", GREET.replace("hello", "hi").encode())
    moved = server.run_cli("apply", str(folder), "--planned", str(stored))
    assert moved.returncode == 5
    assert "greet is at version" in moved.stderr
    server.call("PUT", "/v1/workflows/old", GREET.replace("name: greet", "name: old").encode())
    stored.write_text(server.run_cli("plan", str(folder), "--prune", "-o", "json").stdout)
    half = server.run_cli("apply", str(folder), "--planned", str(stored))
    assert (half.returncode, "the plan deletes old" in half.stderr) == (2, True)
    assert server.run_cli("apply", str(folder), "--prune", "--planned", str(stored)).returncode == 0
    assert workflows(server).keys() == {"greet", "waits"}
    for content in ("x", '{"expected": {}, "workflows": [1]}'):
        stored.write_text(content)
        assert server.run_cli("apply", str(folder), "--planned", str(stored)).returncode == 2


def test_standard_input_is_a_document(server: ServerProcess) -> None:
    assert server.run_cli("plan", "-", "--detailed-exitcode", stdin=GREET).returncode == 2
    done = server.run_cli("apply", "-", "-o", "json", stdin=GREET)
    assert json.loads(done.stdout)["action"] == "new"
    text = json.dumps({"name": "j", "steps": [{"id": "a", "transform": 1}]})
    assert server.run_cli("apply", "-", stdin=text).returncode == 0
    wrong = server.run_cli("apply", "-", stdin="name: x\nsteps: 1\n")
    assert wrong.stderr.splitlines()[0].startswith("<stdin>:2:")


def test_the_same_file_given_twice_counts_once(server: ServerProcess, folder: Path) -> None:
    done = server.run_cli("apply", str(folder), str(folder / "greet.yaml"), str(folder / "greet.yaml"))
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)


# ---- export


def test_what_is_exported_is_byte_for_byte_what_was_given(server: ServerProcess, tmp_path: Path) -> None:
    given = {
        "waits.yaml": WAITS.encode(),
        "crlf.yaml": b"\xef\xbb\xbf# a\r\nname: crlf\r\nsteps: [{id: a, transform: 1}]\r\n",
        "end.yaml": "name: end\ndescription: 'größer \U0001f600'\nsteps: [{id: a, transform: 1}]".encode(),
        "j.json": b'{"name": "j",\n "steps": [ {"id": "a", "transform": 10000000000000000000001} ]}\n\n',
    }
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    for name, content in given.items():
        (source / name).write_bytes(content)
    assert server.run_cli("apply", str(source)).returncode == 0
    done = server.run_cli("export", str(out), "-o", "json")
    assert [item["written"] for item in json.loads(done.stdout)["items"]] == [True] * 4
    assert {file.name: file.read_bytes() for file in out.iterdir()} == given
    again = server.run_cli("apply", str(out), "--prune", "-o", "json")
    assert {item["action"] for item in json.loads(again.stdout)["items"]} == {"unchanged"}
    assert {
        item["written"] for item in json.loads(server.run_cli("export", str(out), "-o", "json").stdout)["items"]
    } == {False}


def test_export_overwrites_no_file_that_differs_unless_it_is_told_to(
    server: ServerProcess, folder: Path, tmp_path: Path
) -> None:
    server.run_cli("apply", str(folder))
    waits, greet, other = folder / "team" / "waits.yml", folder / "greet.yaml", folder / "other.yaml"
    other.write_text("no workflow: at all\n")
    waits.write_text(WAITS.replace("# who waits\n", "# mine\n"))
    greet.write_text(GREET.replace("hello", "mine"))
    before = {file: file.read_text() for file in (waits, greet, other)}
    refused = server.run_cli("export", str(folder))
    assert (refused.returncode, refused.stdout) == (5, "")
    assert f"{greet}: differs from version" in refused.stderr
    assert {file: file.read_text() for file in before} == before
    greet.chmod(0o640)
    forced = server.run_cli("export", str(folder), "--force")
    assert forced.returncode == 0
    assert (greet.read_text(), waits.read_text(), other.read_text()) == (GREET, WAITS, before[other])
    assert greet.stat().st_mode & 0o777 == 0o640
    assert sorted(file.name for file in folder.rglob("*") if file.is_file()) == [
        "greet.yaml",
        "other.yaml",
        "waits.yml",
    ]


def test_export_leaves_a_file_that_differs_in_comments_only(server: ServerProcess, folder: Path) -> None:
    server.run_cli("apply", str(folder))
    waits = folder / "team" / "waits.yml"
    waits.write_text(WAITS.replace("# who waits\n", "# mine\n"))
    done = server.run_cli("export", str(folder), "waits")
    assert (done.returncode, "left as it is" in done.stdout) == (0, True)
    assert waits.read_text().startswith("# mine\n")


def test_export_of_what_is_not_there_is_exit_code_4(server: ServerProcess, tmp_path: Path) -> None:
    assert server.run_cli("export", str(tmp_path / "out"), "nowhere").returncode == 4
    assert not (tmp_path / "out").exists()
    server.run_cli("apply", "-", stdin=GREET)
    (tmp_path / "file").write_text("x")
    done = server.run_cli("export", str(tmp_path / "file"))
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_export_into_a_directory_that_is_closed_names_the_file(server: ServerProcess, tmp_path: Path) -> None:
    server.run_cli("apply", "-", stdin=GREET)
    closed = tmp_path / "closed"
    closed.mkdir(0o500)
    done = server.run_cli("export", str(closed))
    assert (done.returncode, f"{closed}/greet.yaml: permission denied" in done.stderr) == (1, True)


def test_hundreds_of_files_are_planned_and_applied_at_once(server: ServerProcess, tmp_path: Path) -> None:
    for number in range(250):
        (tmp_path / f"w{number}.yaml").write_text(GREET.replace("name: greet", f"name: w-{number}"))
    assert server.run_cli("apply", str(tmp_path), "-q").stdout.count("\n") == 250
    assert server.run_cli("plan", str(tmp_path), "--prune").stdout.startswith("No changes: the server has 250 ")
