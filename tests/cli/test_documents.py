"""`validate` and `apply`: places of errors, all or nothing, and what changed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import BREAK, GREET
from tests.support.server import clean_environ, run_cli, running_server

WRONG = """\
name: wrong
steps:
  - id: fetch
    http: {method: GET, url: "http://127.0.0.1/"}
  - id: shape
    transform: '${{ $fetchh.body }}'
    retri: {}
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return clean_environ(tmp_path / "home")


def test_every_error_is_a_line_with_its_place(tmp_path: Path, environ: dict[str, str]) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(WRONG)
    done = run_cli("validate", str(file), environ=environ)
    assert (done.returncode, done.stdout) == (2, "")
    *places, summary = done.stderr.splitlines()
    assert all(re.match(rf"{re.escape(str(file))}:\d+:\d+: ", line) for line in places)
    assert places[0].startswith(f"{file}:6:")
    assert 'did you mean "fetch"?' in places[0]
    assert summary == f"error: 2 errors in {file}"


def test_validation_needs_no_server_and_makes_no_home(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "greet.yaml").write_text(GREET)
    done = run_cli("validate", str(tmp_path / "greet.yaml"), environ=environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "home").exists()


def test_json_has_what_the_api_would_answer(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "wrong.yaml").write_text(WRONG)
    done = run_cli("validate", str(tmp_path / "wrong.yaml"), "-o", "json", environ=environ)
    found = json.loads(done.stdout)
    assert (done.returncode, found["valid"], len(found["errors"])) == (2, False, 2)
    assert found["errors"][0]["line"] == 6


def test_standard_input_and_json_documents_are_read(environ: dict[str, str]) -> None:
    text = json.dumps({"name": "j", "steps": [{"id": "a", "transform": 1}]})
    assert run_cli("validate", "-", stdin=text, environ=environ).returncode == 0
    assert run_cli("validate", "-", stdin=GREET, environ=environ).returncode == 0
    wrong = run_cli("validate", "-", stdin=WRONG, environ=environ)
    assert wrong.stderr.startswith("<stdin>:6:")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"\x00", b"name: x\nname: y\nsteps: []\n", b"[]", b"a: " * 10])
def test_rubbish_is_exit_code_2_without_a_traceback(tmp_path: Path, environ: dict[str, str], content: bytes) -> None:
    file = tmp_path / "rubbish.yaml"
    file.write_bytes(content)
    done = run_cli("validate", str(file), environ=environ)
    assert done.returncode == 2
    assert done.stderr.startswith(str(file))
    assert "Traceback" not in done.stderr


def test_a_file_that_is_missing_is_named_beside_the_other_errors(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "wrong.yaml").write_text(WRONG)
    done = run_cli("validate", str(tmp_path / "none.yaml"), str(tmp_path / "wrong.yaml"), environ=environ)
    assert done.returncode == 2
    assert f"{tmp_path}/none.yaml: no such file" in done.stderr
    assert f"{tmp_path}/wrong.yaml:6:" in done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "flows"
    made.mkdir()
    (made / "greet.yaml").write_text(GREET)
    (made / "break.yml").write_text(BREAK)
    (made / "notes.txt").write_text("no workflow")
    return made


def test_apply_says_what_is_new_changed_and_unchanged(tmp_path: Path, folder: Path) -> None:
    with running_server(tmp_path) as server:
        first = server.run_cli("apply", str(folder))
        assert first.returncode == 0, first.stderr
        assert [line.split()[1:] for line in first.stdout.splitlines()] == [
            ["break", "version", "1", "new"],
            ["greet", "version", "1", "new"],
        ]
        (folder / "break.yml").write_text(BREAK.replace("transform: 1", "transform: 2"))
        again = server.run_cli("apply", str(folder), "-o", "json")
        answers = [(each["name"], each["version"], each["changed"]) for each in json.loads(again.stdout)["items"]]
        assert answers == [("break", 2, True), ("greet", 1, False)]
        one = server.run_cli("apply", str(folder / "greet.yaml"), "-o", "json")
        assert json.loads(one.stdout)["name"] == "greet"

        (folder / "wrong.yaml").write_text(WRONG)
        (folder / "greet.yaml").write_text(GREET.replace("hello", "good day"))
        refused = server.run_cli("apply", str(folder))
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "nothing was stored" in refused.stderr
        assert server.call("GET", "/v1/workflows/greet")[1]["version"] == 1

        (folder / "wrong.yaml").unlink()
        (folder / "break.yml").unlink()
        pruned = server.run_cli("apply", str(folder), "--prune")
        assert pruned.returncode == 0
        assert server.run_cli("workflow", "-q").stdout.split() == ["greet"]
        source = server.run_cli("workflow", "show", "greet", "--source").stdout
        assert source == (folder / "greet.yaml").read_text()


def test_prune_takes_a_directory_that_has_workflows(folder: Path, environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run_cli("apply", str(folder / "greet.yaml"), "--prune", environ=environ).returncode == 2
    assert run_cli("apply", str(tmp_path / "empty"), "--prune", environ=environ).returncode == 2


def test_what_only_jq_refuses_is_told_at_its_place(tmp_path: Path, environ: dict[str, str]) -> None:
    steps = "steps: [{id: a, transform: '${{ [range(3)] }}'}, {id: b, transform: '${{ range(2) | %s }}'}]"
    (tmp_path / "good.yaml").write_text("name: good\n" + steps % "{(.): 1} | length")
    (tmp_path / "wrong.yaml").write_text("name: wrong\n" + steps % "{(1): 2}")
    done = run_cli("validate", str(tmp_path / "good.yaml"), environ=environ)
    assert (done.returncode, done.stderr) == (0, "")
    done = run_cli("validate", str(tmp_path), environ=environ)
    assert (done.returncode, done.stdout) == (2, "")
    place, summary = done.stderr.splitlines()
    assert re.fullmatch(r".*wrong\.yaml:2:\d+: Cannot use number \(1\) as object key", place)
    assert summary == "error: 1 error in 1 of 2 files"
