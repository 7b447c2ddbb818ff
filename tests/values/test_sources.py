"""Secrets of other providers on a real server: used, masked, listed, missed; none of them is needed at the start."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import ServerProcess, running_server
from tests.support.target import Answer, Target, running_target

PROGRAM = """
import sys, pathlib
name = sys.argv[1]
if name == "FROM_COMMAND": print("opaque-of-command")
elif name == "BROKEN": print("opaque-of-broken"); sys.exit(7)
"""


@dataclass
class Stage:
    server: ServerProcess
    target: Target
    files: Path


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    tmp_path = tmp_path_factory.mktemp("sources")
    files, program = tmp_path / "files", tmp_path / "program.py"
    files.mkdir()
    program.write_text(PROGRAM)
    (files / "FROM_FILE").write_text("opaque-of-file\n")
    (files / "BOTH").write_text("of the file")
    providers = ["store", "env:TASKFORGE_SECRET_", f"file:{files}", "file:absent", "command:/absent/program"]
    providers[-1] = "command:" + json.dumps([sys.executable, str(program), "{name}"])
    with running_target() as target, running_server(
        tmp_path, secrets__providers=json.dumps(providers), secrets__cache_seconds=1,
        secret_from__env="opaque-of-env", secret_both="of the environment",
    ) as server:  # fmt: skip
        yield Stage(server, target, files)


def publish(stage: Stage, name: str, expression: str) -> Any:
    document = f"""
name: {name}
steps:
  - {{id: call, http: {{method: POST, url: "{stage.target.url}/{name}", json: '${{{{ {expression} }}}}'}}}}
output: ${{{{ $call.body }}}}
"""
    status, answer = stage.server.call("PUT", f"/v1/workflows/{name}", document.encode())
    assert status in (200, 201), answer
    return answer


def run(stage: Stage, name: str) -> Any:
    return stage.server.call("POST", f"/v1/workflows/{name}/runs?wait=30s", {})[1]


def echo(stage: Stage, name: str, text: str) -> None:
    stage.target.answer(f"/{name}", Answer(body={"got": text}))


@pytest.mark.parametrize(
    ("name", "value"),
    [("FROM__ENV", "opaque-of-env"), ("FROM_FILE", "opaque-of-file"), ("FROM_COMMAND", "opaque-of-command")],
)
@pytest.mark.parametrize("form", ["$secrets.{}", "def f: .; $secrets.{} | f"], ids=["in process", "in the child"])
def test_a_value_is_sent_and_masked_in_what_comes_back(stage: Stage, name: str, value: str, form: str) -> None:
    workflow = f"{name}-{len(form)}".lower().replace("_", "-")
    publish(stage, workflow, form.format(name))
    echo(stage, workflow, f"you sent {value}!")
    ended = run(stage, workflow)
    assert ended["state"] == "SUCCEEDED", ended["error"]
    assert json.loads(stage.target.requests(f"/{workflow}")[-1].body) == value
    assert ended["output"] == {"got": f"you sent [secret {name}]!"}
    database = b"".join(path.read_bytes() for path in stage.server.home.glob("taskforge.db*"))
    assert value.encode() not in database
    assert value not in stage.server.output()


def test_the_order_decides_and_the_store_goes_first(stage: Stage) -> None:
    publish(stage, "both", "$secrets.BOTH")
    run(stage, "both")
    stage.server.call("PUT", "/v1/secrets/BOTH", {"value": "of the store"})
    run(stage, "both")
    listed = {item["name"]: item["source"] for item in stage.server.call("GET", "/v1/secrets")[1]["items"]}
    stage.server.call("DELETE", "/v1/secrets/BOTH")
    run(stage, "both")
    sent = [json.loads(seen.body) for seen in stage.target.requests("/both")]
    assert sent == ["of the environment", "of the store", "of the environment"]
    assert listed["BOTH"] == "store"


def test_the_list_says_where_each_comes_from_and_tells_no_value(stage: Stage) -> None:
    status, page = stage.server.call("GET", "/v1/secrets")
    assert status == 200 and "opaque" not in json.dumps(page)
    found = {item["name"]: item for item in page["items"]}
    assert found["FROM__ENV"]["source"] == "env:TASKFORGE_SECRET_"
    assert found["FROM_FILE"] == {"name": "FROM_FILE", "masked": True, "source": f"file:{stage.files}",
                                  "created_at": None, "updated_at": None}  # fmt: skip
    assert "FROM_COMMAND" not in found
    shown = stage.server.run_cli("secret", "list")
    assert shown.returncode == 0, shown.stderr
    assert "env:TASKFORGE_SECRET_" in shown.stdout


def test_a_changed_file_is_seen_without_a_restart_and_the_old_value_stays_masked(stage: Stage) -> None:
    (stage.files / "TURNS").write_text("opaque-first")
    publish(stage, "turns", "$secrets.TURNS")
    run(stage, "turns")
    (stage.files / "TURNS").write_text("opaque-second")
    sent: list[str] = []
    while "opaque-second" not in sent:
        assert len(sent) < 1000
        echo(stage, "turns", "opaque-first opaque-second")
        ended = run(stage, "turns")
        sent = [json.loads(seen.body) for seen in stage.target.requests("/turns")]
    assert ended["output"] == {"got": "[secret TURNS] [secret TURNS]"}


def test_an_unknown_name_and_a_broken_provider_fail_the_step_by_name_and_send_nothing(stage: Stage) -> None:
    assert "warnings" not in publish(stage, "unknown", "$secrets.NO_SUCH"), "the command may have it"
    ended = run(stage, "unknown")
    assert ended["error"]["code"] == "EXPRESSION_ERROR" and "NO_SUCH" in ended["error"]["message"]
    publish(stage, "broken", "$secrets.BROKEN")
    ended = run(stage, "broken")
    assert ended["error"]["code"] == "SECRET_UNAVAILABLE"
    assert "BROKEN" in ended["error"]["message"] and "exit code 7" in ended["error"]["message"]
    assert "opaque-of-broken" not in json.dumps(ended) + stage.server.output()
    assert stage.target.requests("/unknown") == stage.target.requests("/broken") == []


def test_a_webhook_is_verified_with_a_secret_of_another_provider(stage: Stage) -> None:
    for name, secret in (("signed", "FROM_FILE"), ("unsure", "BROKEN")):
        document = f"""
name: {name}
triggers: {{hook: {{webhook: {{verify: {{scheme: token, secret: {secret}, header: X-Token}}}}}}}}
steps: [{{id: a, transform: 1}}]
"""
        assert stage.server.call("PUT", f"/v1/workflows/{name}", document.encode())[0] == 201
    sent = {"X-Token": "opaque-of-file"}
    assert stage.server.call("POST", "/hooks/signed/hook", {}, sent)[0] == 202
    assert stage.server.call("POST", "/hooks/signed/hook", {}, {"X-Token": "wrong"})[0] == 401
    status, answer = stage.server.call("POST", "/hooks/unsure/hook", {}, sent)
    assert (status, answer["code"]) == (503, "UNAVAILABLE")
    assert "BROKEN" not in json.dumps(answer)


def test_without_the_store_nothing_is_put_into_it_and_missing_names_are_warned_of(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "KNOWN").write_text("opaque")
    with running_server(tmp_path, secrets__providers=json.dumps([f"file:{files}"])) as server:
        status, answer = server.call("PUT", "/v1/secrets/A", {"value": "opaque"})
        assert (status, answer["code"]) == (422, "INVALID_REQUEST")
        document = b"name: a\nsteps: [{id: b, http: {url: 'http://x/${{ $secrets.KNOWN }}/${{ $secrets.KNOWM }}'}}]\n"
        (warning,) = server.call("POST", "/v1/workflows:validate", document)[1]["warnings"]
        assert "KNOWM" in warning["message"] and "KNOWN" in warning["hint"]
