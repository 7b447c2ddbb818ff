"""`eval`, and the calls behind it: an expression alone, and against what a run saw."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import ServerProcess

FLOW = """\
name: seen
inputs: {type: object, properties: {id: {type: integer}}}
steps:
  - {id: first, transform: {a: '${{ $input.id }}', text: "x y"}}
  - id: each
    foreach: {items: [10, 20], steps: [{id: post, transform: '${{ $item + $index }}'}]}
  - {id: skipped, if: false, transform: 1}
  - {id: hold, wait: {signal: go, timeout: 1h}}
  - {id: later, transform: '${{ $run.resume_urls.hold }}'}
"""


@pytest.fixture(scope="module")
def run(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run that waits behind a loop; the server has a secret and a variable."""
    file = tmp_path_factory.mktemp("seen") / "seen.yaml"
    file.write_text(FLOW)
    assert server.run_cli("apply", str(file)).returncode == 0
    assert server.call("PUT", "/v1/secrets/SEEN", {"value": "hunter2-hunter2"})[0] == 200
    assert server.call("PUT", "/v1/vars/SEEN", {"value": {"k": [1]}})[0] == 200
    name = server.run_cli("run", "seen", "--input", "id=9007199254740993", "-q").stdout.strip()
    assert server.run_cli("runs", "show", name).returncode == 0
    return name


def evaluate(server: ServerProcess, expression: str, **more: Any) -> tuple[int, Any]:
    return server.call("POST", "/v1/expressions:evaluate", {"expression": expression, **more})


# ---- the expression alone


@pytest.mark.parametrize(
    ("expression", "more", "results"),
    [
        (".a + 1", {"input": {"a": 1}}, [2]),
        ("${{ .a }}", {"input": {"a": None}}, [None]),
        (" ${{ 1, 2 }}\n", {}, [1, 2]),
        ("1, 2, empty, [3]", {}, [1, 2, [3]]),
        ("empty", {}, []),
        (".", {"input": 9007199254740993}, [9007199254740993]),
        ("$x | keys", {"variables": {"x": {"b": 1, "a": 2}}}, [["a", "b"]]),
        ("$now | fromdate | . > 0", {}, [True]),
        ("a ${{ .n }} b ${{ $x }}", {"input": {"n": 1}, "variables": {"x": [True]}}, ["a 1 b [true]"]),
        ("$${{ ${{ 1 }}", {}, ["${{ 1"]),
        ("# note\n1", {}, [1]),
        ('"\\u0000\\ud83d\\ude00"', {}, ["\x00😀"]),
        ("reduce range(100) as $i (0; . + $i)", {}, [4950]),
    ],
)
def test_every_result_is_given(server: ServerProcess, expression: str, more: Any, results: Any) -> None:
    assert evaluate(server, expression, **more) == (200, {"results": results})


@pytest.mark.parametrize(
    ("expression", "line", "column", "words"),
    [
        ("{a: ", 1, 5, "unexpected"),
        ("1 |\n  $vra", 2, 3, '"$vra" is not defined'),
        ("${{ 1 + }}", 1, 8, "unexpected"),
        ("${{ 1", 1, 1, "no `}}`"),
        ("x ${{ $b }}", 1, 7, '"$b" is not defined'),
        ("env", 1, 1, "not available"),
        ("$ENV", 1, 1, "not available"),
        ("input", 1, 1, "not available"),
        ("lenght", 1, 1, "not defined"),
        ('1 + "a"', 1, 1, "cannot be added"),
        ("", 1, 1, ""),
    ],
)
def test_what_is_wrong_has_its_place(
    server: ServerProcess, expression: str, line: int, column: int, words: str
) -> None:
    status, problem = evaluate(server, expression, variables={"var": 1})
    assert status == 422, problem
    first = problem["errors"][0]
    assert (first["line"], first["column"]) == (line, column)
    assert words in first["message"]
    assert problem["code"] in ("INVALID_EXPRESSION", "EXPRESSION_FAILED")


def test_the_nearest_name_is_told(server: ServerProcess) -> None:
    _, problem = evaluate(server, "$fetc", variables={"fetch": 1})
    assert problem["errors"][0]["hint"] == 'did you mean "$fetch"?'


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"expression": 1},
        {"expression": "1", "variables": []},
        {"expression": "1", "x": 1},
        {"expression": "1", "variables": {"a b": 1}},
        {"expression": "1" * 40_000},
        {"expression": "$a|halt", "variables": {"a|halt": 1}},
    ],
)
def test_a_wrong_body_is_422(server: ServerProcess, body: Any) -> None:
    assert server.call("POST", "/v1/expressions:evaluate", body)[0] == 422


def test_endless_and_greedy_programs_are_stopped_and_disturb_nobody(server: ServerProcess) -> None:
    with ThreadPoolExecutor(3) as pool:
        endless = pool.submit(evaluate, server, "def f: f; f")
        greedy = pool.submit(evaluate, server, "[range(1e9)] | length")
        began = time.monotonic()
        # Runs have children of their own, and the loop is free.
        done = server.run_cli("run", "greet", "--wait", "-o", "json")
        assert server.call("GET", "/healthz")[0] == 200
        assert time.monotonic() - began < 20
        assert json.loads(done.stdout)["state"] == "SUCCEEDED"
        for future, reasons in (
            (endless, {"EXPRESSION_TIMEOUT"}),
            (greedy, {"EXPRESSION_TIMEOUT", "EXPRESSION_MEMORY"}),
        ):
            status, problem = future.result()
            assert (status, problem["code"]) == (422, "EXPRESSION_FAILED")
            assert problem["reason"] in reasons
    assert evaluate(server, "1")[0] == 200


def test_a_token_that_may_read_may_try_expressions(server: ServerProcess, run: str) -> None:
    token = server.run_cli("token", "create", "tries", "--scope", "read", "-q").stdout.strip()
    done = server.run_cli("eval", run, "$first.text", "-r", TASKFORGE_TOKEN=token)
    assert (done.returncode, done.stdout) == (0, "x y\n")


def test_a_token_for_one_workflow_sees_its_runs_and_nothing_of_the_server(server: ServerProcess, run: str) -> None:
    token = server.run_cli("token", "create", "one", "--scope", "read:seen", "-q").stdout.strip()
    assert server.run_cli("eval", run, "$first.text", "-r", TASKFORGE_TOKEN=token).stdout == "x y\n"
    for expression in ("$vars.SEEN", "$secrets", "${{ [$vars] }}"):
        done = server.run_cli("eval", run, expression, TASKFORGE_TOKEN=token)
        assert (done.returncode, done.stdout) == (2, "")
        assert "is the server's" in done.stderr
    other = server.run_cli("token", "create", "other", "--scope", "read:other", "-q").stdout.strip()
    assert server.run_cli("eval", run, "1", TASKFORGE_TOKEN=other).returncode == 3


# ---- against a run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["$input.id"], "9007199254740993\n"),
        (["$first.text", "--raw"], "x y\n"),
        (["${{ $each }}", "-o", "json"], '{"results": [[10, 21]]}'),
        (["$steps.skipped | .state, .output"], '"SKIPPED"\nnull\n'),
        (["$hold, $later"], "null\nnull\n"),
        (["$item, $index, $post", "--step", "each[1].post"], "20\n1\n21\n"),
        ([".", "--step", "each[1].post"], "21\n"),
        ([".b", "--input", '{"b": 3}'], "3\n"),
        ([".b", "--input", "@-"], '"stdin"\n'),
        (["$vars.SEEN.k"], "[\n  1\n]\n"),
        (["$trigger.type"], '"manual"\n'),
        (["$secrets.SEEN"], '"[secret SEEN]"\n'),
        (["$run.workflow, $run.number"], '"seen"\n1\n'),
        (["empty"], ""),
    ],
)
def test_an_expression_sees_what_the_run_saw(server: ServerProcess, run: str, arguments: list[str], said: str) -> None:
    done = server.run_cli("eval", run, *arguments, stdin='{"b": "stdin"}')
    assert done.returncode == 0, done.stderr
    if "json" in arguments:
        assert json.loads(done.stdout) == json.loads(said)
    else:
        assert done.stdout == said


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["$frist"], 2, 'did you mean "$first"?'),
        (["$post"], 2, 'such as "each[0].post"'),
        (["$item"], 2, "only for a step inside a foreach"),
        (["$secrets.NONE"], 2, "there is no secret"),
        (["1", "--step", "nope"], 4, "runs show seen#1"),
        (["1", "--step", "later"], 2, "has not begun"),
        (["1 +"], 2, "^ unexpected"),
        (['error("\\u001b[31m")'], 2, "\\u001b[31m"),
    ],
)
def test_what_cannot_be_seen_is_said(
    server: ServerProcess, run: str, arguments: list[str], code: int, words: str
) -> None:
    done = server.run_cli("eval", run, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "\x1b" not in done.stderr


def test_no_secret_and_no_one_time_link_comes_out(server: ServerProcess, run: str) -> None:
    secret = "hunter2-hunter2"
    expressions = ["$secrets.SEEN", "$secrets", "$secrets.SEEN | @base64", "$secrets.SEEN | explode",
                   "$secrets.SEEN[0:3]", "$secrets.SEEN | ascii_upcase", "error($secrets.SEEN)", "$run.resume_url",
                   "$run.resume_urls", '"hunter2-" + "hunter2"']  # fmt: skip
    for expression in expressions:
        status, answer = server.call("POST", f"/v1/runs/{run.replace('#', '%23')}/evaluate", {"expression": expression})
        text = json.dumps(answer)
        assert status in (200, 422)
        for form in (secret, secret.upper(), secret[:3] + '"', "aHVudGVyMi", "104, 117, 110, 116", "/hooks/-/resume"):
            assert form not in text, expression


def test_a_run_that_is_not_there_is_4(server: ServerProcess) -> None:
    assert server.run_cli("eval", "seen#999", "1").returncode == 4


def test_eval_writes_nothing(server: ServerProcess, run: str, tmp_path: Path) -> None:
    before = server.run_cli("runs", "show", run, "-o", "json").stdout
    server.run_cli("eval", run, "$state")
    server.run_cli("eval", run, "[range(10)]", "--step", "first")
    assert server.run_cli("runs", "show", run, "-o", "json").stdout == before
