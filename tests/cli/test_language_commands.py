"""Signals, replays, holds, state, why and nested steps from the command line, as real processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.following import await_end, await_step
from tests.support.server import ServerProcess, running_server

APPROVE = """\
name: approve
inputs: {type: object, properties: {who: {type: string, default: anna}, n: {type: integer, default: 1}}}
steps:
  - id: ok
    wait: {signal: approved, timeout: 1h, schema: {type: object, properties: {ok: {type: boolean}}}}
output: "${{ {input: $input, ok: $ok} }}"
"""
ORDER = """\
name: order
steps:
  - {id: never, if: "${{ false }}", transform: 1}
  - {id: child, workflow: {name: approve}}
"""
LOOP = """\
name: loop
steps:
  - id: items
    foreach:
      items: "${{ [range(30)] }}"
      max_parallel: 4
      steps:
        - {id: check, if: "${{ $item == 7 }}", fail: {message: "seven"}}
        - {id: hold, if: "${{ $item == 8 }}", wait: {for: 1h}}
  - {id: after, transform: 1}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("language")
    (folder / "files").mkdir()
    for name, text in (("approve", APPROVE), ("order", ORDER), ("loop", LOOP)):
        (folder / "files" / f"{name}.yaml").write_text(text)
    with running_server(folder) as found:
        applied = found.run_cli("apply", str(folder / "files"))
        assert applied.returncode == 0, applied.stderr
        yield found


def cli(server: ServerProcess, *arguments: str, code: int = 0, stdin: str = "") -> str:
    done = server.run_cli(*arguments, stdin=stdin)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def start(server: ServerProcess, workflow: str, *more: str) -> str:
    return cli(server, "run", workflow, "-q", *more).strip()


def test_a_signal_is_sent_with_data_in_every_form(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('{"ok": true, "from": "file"}')
    given = [
        (["--data", "ok=true", "--data", "by=anna"], {"ok": True, "by": "anna"}, ""),
        (["--data", '{"ok": false}'], {"ok": False}, ""),
        (["--data", f"@{tmp_path}/data.json"], {"ok": True, "from": "file"}, ""),
        (["--data", "@-"], {"ok": True}, '{"ok": true}'),
    ]
    for options, data, stdin in given:
        run = start(server, "approve")
        told = cli(server, "runs", "signal", run, "approved", *options, stdin=stdin)
        assert run in told
        assert await_end(server, run)["output"]["ok"] == data


def test_a_signal_that_cannot_be_taken_has_the_right_exit_code(server: ServerProcess) -> None:
    run = start(server, "approve")
    assert "ok" in cli(server, "runs", "signal", run, "approved", "--data", "ok=maybe", code=2)
    assert "is no JSON" in cli(server, "runs", "signal", run, "approved", "--data", "maybe", code=2)
    assert "--data" in cli(server, "runs", "signal", run, "approved", "--data", "maybe", code=2)
    cli(server, "runs", "signal", run, "!child", code=2)
    cli(server, "runs", "signal", "approve#9999", "approved", code=4)
    cli(server, "runs", "signal", run, "approved", "--data", "ok=true")
    await_end(server, run)
    assert "SUCCEEDED" in cli(server, "runs", "signal", run, "approved", "--data", "ok=true", code=5)


def test_a_replay_takes_the_input_or_changes_keys_of_it(server: ServerProcess) -> None:
    run = start(server, "approve", "--input", "who=otto")
    again = cli(server, "runs", "replay", run, "-q").strip()
    other = cli(server, "runs", "replay", run, "--input", "n=5", "--version", "1", "-q").strip()
    whole = json.loads(cli(server, "runs", "replay", run, "--input", '{"n": 6}', "-o", "json"))
    for name, wanted in ((again, {"who": "otto", "n": 1}), (other, {"who": "otto", "n": 5})):
        cli(server, "runs", "signal", name, "approved", "--data", "{}")
        assert await_end(server, name)["output"]["input"] == wanted
        assert f"replays {run}" in " ".join(cli(server, "runs", "show", name).split())
    assert server.call("GET", f"/v1/runs/{whole['id']}")[1]["input"] == {"who": "anna", "n": 6}
    cli(server, "runs", "replay", "approve#9999", code=4)
    cli(server, "runs", "replay", run, "--version", "99", code=4)


def test_a_retry_names_the_step_to_begin_with(server: ServerProcess) -> None:
    run = start(server, "approve")
    cli(server, "runs", "signal", run, "approved", "--data", "ok=true")
    await_end(server, run)
    cli(server, "runs", "retry", run, code=5)
    assert "no step" in cli(server, "runs", "retry", run, "--from-step", "nothing", code=2)
    cli(server, "runs", "retry", run, "--from-step", "ok")
    cli(server, "runs", "signal", run, "approved", "--data", "ok=false")
    ended = await_end(server, run)
    assert (ended["generation"], ended["output"]["ok"]) == (2, {"ok": False})


def test_show_tells_what_a_step_waits_for_and_names_parent_and_child(server: ServerProcess) -> None:
    run = start(server, "order")
    await_step(server, run, "child", "WAITING")
    child = server.call("GET", f"/v1/runs/{run.replace('#', '%23')}")[1]["steps"]
    (child_id,) = [step["child"] for step in child if step["child"]]
    child_run = server.call("GET", f"/v1/runs/{child_id}")[1]
    name = f"approve#{child_run['number']}"
    shown = cli(server, "runs", "show", run)
    assert f"child {name} WAITING" in shown
    below = cli(server, "runs", "show", name)
    assert f"{run}, step child" in below
    assert "for signal approved" in below
    assert "until 20" in below
    cli(server, "runs", "signal", name, "approved", "--data", "ok=true")
    assert await_end(server, run)["state"] == "SUCCEEDED"
    assert f"child {name} SUCCEEDED" in cli(server, "runs", "show", run)


def test_show_folds_a_loop_and_keeps_what_failed_or_goes_on(server: ServerProcess) -> None:
    run = start(server, "loop")
    await_step(server, run, "items[8].hold", "WAITING")
    await_step(server, run, "items[29].hold", "SKIPPED")
    shown = cli(server, "runs", "show", run)
    assert "[7].check" in shown
    assert "[8].hold" in shown
    assert "[9].check" not in shown
    assert "28 SKIPPED" in shown
    everything = cli(server, "runs", "show", run, "--all")
    assert everything.count(".check ") == 30
    cli(server, "runs", "cancel", run)


def test_workflows_are_held_and_released(server: ServerProcess) -> None:
    assert "held back" in cli(server, "workflow", "hold", "order")
    assert "held" in cli(server, "workflow", "list")
    assert "held" in cli(server, "status")
    assert "1 workflow" in cli(server, "status")
    run = start(server, "order")
    assert "HELD" in cli(server, "why", run)
    assert json.loads(cli(server, "workflow", "release", "order", "-o", "json"))["held"] is False
    await_step(server, run, "child", "WAITING")
    cli(server, "runs", "cancel", run)
    answer = json.loads(cli(server, "workflow", "hold", "--all", "-o", "json"))
    assert answer == {"held": True, "workflows": []}
    assert "everything" in cli(server, "status")
    cli(server, "workflow", "release", "--all")
    assert "held" not in cli(server, "status")
    cli(server, "workflow", "hold", code=2)
    cli(server, "workflow", "hold", "order", "--all", code=2)
    cli(server, "workflow", "hold", "nothing", code=4)


def test_state_is_listed_set_and_deleted(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "value.json").write_text('{"a": 12345678901234567890}')
    cli(server, "state", "set", "order", "cursor", "42")
    cli(server, "state", "set", "order", "words", "two words")
    cli(server, "state", "set", "order", "file", f"@{tmp_path}/value.json")
    stored = json.loads(cli(server, "state", "list", "order", "-o", "json"))
    assert stored["state"] == {"cursor": 42, "words": "two words", "file": {"a": 12345678901234567890}}
    assert cli(server, "state", "list", "order", "-q").split() == ["cursor", "file", "words"]
    assert "12345678901234567890" in cli(server, "state", "list", "order")
    cli(server, "state", "set", "order", "cursor", "43", "--expect", "42")
    assert "expected" in cli(server, "state", "set", "order", "cursor", "44", "--expect", "42", code=5)
    cli(server, "state", "delete", "order", "cursor", "words", "file")
    assert json.loads(cli(server, "state", "list", "order", "-o", "json"))["state"] == {}
    cli(server, "state", "delete", "order", "cursor", code=4)
    cli(server, "state", "list", "nothing", code=4)
    cli(server, "state", "set", "order", "a/b", "1", code=4)


def test_why_explains_a_run_and_a_step(server: ServerProcess) -> None:
    run = start(server, "order")
    await_step(server, run, "child", "WAITING")
    whole = cli(server, "why", run)
    assert "IF_FALSE" in whole
    assert "never: the step was skipped: its `if` was false" in whole
    lines = [line for line in whole.splitlines() if "WAITING_CHILD" in line]
    assert len(lines) == 1
    assert lines[0].split()[0] == "now"
    assert "until" not in lines[0]  # a child may take any time: nothing ends then
    assert "until" not in next(line for line in cli(server, "runs", "show", run).splitlines() if " child " in line)
    logged = cli(server, "runs", "logs", run)
    assert "step child: WAITING, for its child run" in logged
    assert cli(server, "why", run, "never", "-q") == "IF_FALSE\n"
    answer: dict[str, Any] = json.loads(cli(server, "why", run, "-o", "json"))
    assert [item["code"] for item in answer["items"]] == ["IF_FALSE", "WAITING_CHILD"]
    assert 'did you mean "never"?' in cli(server, "why", run, "nver", code=4)
    cli(server, "why", "order#9999", code=4)
    cli(server, "runs", "cancel", run)


def test_why_has_nothing_to_say_of_a_run_that_went_well(server: ServerProcess) -> None:
    run = start(server, "approve")
    cli(server, "runs", "signal", run, "approved", "--data", "{}")
    await_end(server, run)
    told = server.run_cli("why", run, "-q")
    assert (told.returncode, told.stdout.split()) == (0, ["WAITING_SIGNAL", "SIGNAL"])
