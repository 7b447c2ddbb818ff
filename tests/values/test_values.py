"""Secrets and variables on a real server: the API, the command line, what steps see, and a start with a wrong key."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from taskforge.api.openapi import openapi_document
from taskforge.api.routes import ROUTES
from tests.support.server import ServerProcess, run_cli, running_server
from tests.support.target import Answer, Target, running_target

DOCUMENT = openapi_document(ROUTES)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("values"), server__body_limit=100_000) as started:
        yield started


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with running_target() as found:
        yield found


def fits(name: str, value: Any) -> bool:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    Draft202012Validator(schema).validate(value)
    return True


def run(server: ServerProcess, document: str, name: str) -> Any:
    status, answer = server.call("PUT", f"/v1/workflows/{name}", document.encode())
    assert status in (200, 201), answer
    return server.call("POST", f"/v1/workflows/{name}/runs?wait=30s", {})[1]


# ---- the API


def test_a_secret_is_stored_listed_without_its_value_and_deleted(server: ServerProcess) -> None:
    status, stored = server.call("PUT", "/v1/secrets/API_KEY", {"value": "tell-nobody-1"})
    assert (status, stored["name"], stored["masked"], fits("Secret", stored)) == (200, "API_KEY", True, True)
    status, page = server.call("GET", "/v1/secrets")
    assert status == 200 and fits("SecretPage", page)
    assert "tell-nobody-1" not in json.dumps(page) and stored in page["items"]
    status, short = server.call("PUT", "/v1/secrets/SHORT", {"value": "x"})
    assert (status, short["masked"]) == (200, False)
    assert server.call("DELETE", "/v1/secrets/SHORT") == (204, None)
    assert server.call("DELETE", "/v1/secrets/SHORT")[0] == 404


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/v1/secrets/9A", {"value": "abc"}, "name"),
        ("/v1/secrets/A-B", {"value": "abc"}, "name"),
        ("/v1/secrets/A", {"value": ""}, "value"),
        ("/v1/secrets/A", {"value": 5}, "value"),
        ("/v1/secrets/A", {"value": "x" * 65_537}, "value"),
        ("/v1/secrets/A", {}, "value"),
        ("/v1/vars/A%20B", {"value": 1}, "name"),
        ("/v1/vars/A", {"value": "x" * 65_536}, "value"),
    ],
)
def test_a_wrong_name_or_value_is_refused(server: ServerProcess, path: str, body: Any, where: str) -> None:
    status, problem = server.call("PUT", path, body)
    assert (status, problem["errors"][0]["path"]) == (422, where)


def test_a_variable_is_any_json_and_shown(server: ServerProcess) -> None:
    value = {"n": 12345678901234567890123, "list": [None, "é"]}
    status, stored = server.call("PUT", "/v1/vars/SETTINGS", {"value": value})
    assert (status, stored["value"], fits("Var", stored)) == (200, value, True)
    status, page = server.call("GET", "/v1/vars")
    assert status == 200 and stored in page["items"] and fits("VarPage", page)
    ended = run(
        server, "name: settings\nsteps: [{id: a, transform: '${{ $vars.SETTINGS.n }}'}]\noutput: ${{ $a }}", "settings"
    )
    assert ended["output"] == 12345678901234567890123
    server.call("PUT", "/v1/vars/SETTINGS", {"value": {"n": 7}})
    assert server.call("POST", "/v1/workflows/settings/runs?wait=30s", {})[1]["output"] == 7
    assert server.call("DELETE", "/v1/vars/SETTINGS") == (204, None)
    assert server.call("DELETE", "/v1/vars/SETTINGS")[0] == 404


# ---- what steps see


def test_an_unknown_secret_fails_its_step_and_sends_nothing(server: ServerProcess, target: Target) -> None:
    document = f"""
name: unknown
steps:
  - {{id: call, http: {{url: "{target.url}/unknown", headers: {{X-Key: "${{{{ $secrets.NO_SUCH }}}}"}}}}}}
"""
    status, answer = server.call("PUT", "/v1/workflows/unknown", document.encode())
    assert status == 201
    [warning] = answer["warnings"]
    assert "NO_SUCH" in warning["message"] and warning["line"] == 4
    _, ended = server.call("POST", "/v1/workflows/unknown/runs?wait=30s", {})
    assert ended["state"] == "FAILED" and "NO_SUCH" in ended["error"]["message"]
    assert target.requests("/unknown") == []


def test_a_replaced_secret_is_used_at_once_and_the_old_value_stays_masked(
    server: ServerProcess, target: Target
) -> None:
    document = f"""
name: rotated
steps:
  - {{id: call, http: {{method: POST, url: "{target.url}/rotated", json: "${{{{ $secrets.TURNS }}}}"}}}}
output: ${{{{ $call.body }}}}
"""
    target.answer("/rotated", Answer(body={"echo": "first-value and second-value"}))
    for value in ("first-value", "second-value"):
        server.call("PUT", "/v1/secrets/TURNS", {"value": value})
        ended = run(server, document, "rotated")
    assert [seen.json for seen in target.requests("/rotated")] == ["first-value", "second-value"]
    assert ended["output"] == {"echo": "[secret TURNS] and [secret TURNS]"}


def test_validation_warns_of_what_is_not_there_with_its_place(server: ServerProcess) -> None:
    server.call("PUT", "/v1/secrets/KNOWN_ONE", {"value": "abcdef"})
    document = b"""name: warned
triggers:
  hook: {webhook: {verify: {scheme: github, secret: HOOK_SECRET}}}
steps:
  - {id: a, transform: "${{ $vars.REGION }}"}
  - {id: b, http: {url: "http://x/?${{ $secrets.KNOWN_ONES }}${{ $secrets.KNOWN_ONE }}"}}
"""
    status, found = server.call("POST", "/v1/workflows:validate", document)
    assert (status, found["valid"]) == (200, True)
    missing = [warning for warning in found["warnings"] if "on the server yet" in warning["message"]]
    assert [(warning["line"], warning["message"], warning["hint"]) for warning in missing] == [
        (5, 'there is no variable "REGION" on the server yet', "set it: taskforge var set REGION"),
        (6, 'there is no secret "KNOWN_ONES" on the server yet', 'did you mean "KNOWN_ONE"?'),
        (3, 'there is no secret "HOOK_SECRET" on the server yet', "set it: taskforge secret set HOOK_SECRET"),
    ]
    assert document.decode().splitlines()[4][missing[0]["column"] - 1 :].startswith("$vars.REGION")


# ---- at rest


def test_a_wrong_key_stops_the_start_and_changes_nothing(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        server.call("PUT", "/v1/secrets/API_KEY", {"value": "tell-nobody-1"})
        assert server.terminate() == 0
        key = server.home / "secret.key"
        right, before = key.read_text(), (server.home / "taskforge.db").read_bytes()
        key.write_text(base64.b64encode(b"x" * 32).decode())
        for _ in range(2):
            done = subprocess.run(server.command, env=server.environ, capture_output=True, text=True, timeout=60)
            assert done.returncode == 1
            assert "secret.key is not the key" in done.stderr and "API_KEY" in done.stderr
        assert b"tell-nobody-1" not in before
        key.write_text(right)
        server.start()
        assert [item["name"] for item in server.call("GET", "/v1/secrets")[1]["items"]] == ["API_KEY"]


# ---- the check of signatures


def check(server: ServerProcess, **members: Any) -> tuple[int, Any]:
    body = {"verify": {"scheme": "github"}, "secrets": ["It's a Secret to Everybody"], "headers": {}, "body_b64": ""}
    return server.call("POST", "/v1/webhooks:verify", body | members)


GOOD = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
HELLO = base64.b64encode(b"Hello, World!").decode()


def test_a_signature_is_checked_with_headers_in_either_form(server: ServerProcess) -> None:
    for headers in ({"X-Hub-Signature-256": GOOD}, [["x-hub-signature-256", GOOD], ["x-github-delivery", "d"]]):
        status, verdict = check(server, headers=headers, body_b64=HELLO)
        assert (status, verdict["valid"], verdict["code"], fits("Verdict", verdict)) == (200, True, "VALID", True)
    assert verdict["delivery_id"] == "d"
    status, verdict = check(
        server, headers={"X-Hub-Signature-256": GOOD}, body_b64=base64.b64encode(b"Hello!").decode()
    )
    assert (status, verdict["valid"], verdict["code"]) == (200, False, "SIGNATURE_MISMATCH")
    status, verdict = check(server, secrets=["new", "It's a Secret to Everybody\n"], headers=headers, body_b64=HELLO)
    assert (verdict["valid"], "white space" in verdict["reason"]) == (False, True)


def test_the_time_may_be_given_in_two_forms(server: ServerProcess) -> None:
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    members = {
        "verify": {"scheme": "standard"},
        "secrets": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        "headers": headers,
        "body_b64": base64.b64encode(b'{"test": 2432232314}').decode(),
    }
    for now in (1614265330, 1614265330.5, "2021-02-25T15:02:10.000Z"):
        assert check(server, **members, now=now)[1]["valid"] is True
    assert check(server, **members)[1]["code"] == "TIMESTAMP_TOO_OLD"
    headers["webhook-signature"] = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/STB1m"
    assert check(server, **members, now=1614265330)[1]["code"] == "SIGNATURE_UNSUPPORTED"


def test_a_body_of_four_mebibytes_is_taken_and_a_larger_one_is_not(server: ServerProcess) -> None:
    full = base64.b64encode(b"x" * 4 * 1024 * 1024).decode()
    assert check(server, body_b64=full)[1]["code"] == "HEADER_MISSING"
    status, problem = check(server, body_b64=base64.b64encode(b"x" * (4 * 1024 * 1024 + 1)).decode())
    assert (status, problem["code"]) == (413, "TOO_LARGE")


@pytest.mark.parametrize(
    ("members", "where"),
    [
        ({"verify": {"scheme": "gihub"}}, "verify"),
        ({"verify": 5}, "verify"),
        ({"secrets": "x"}, "secrets"),
        ({"secrets": [5]}, "secrets"),
        ({"headers": 5}, "headers"),
        ({"headers": {"a": 5}}, "headers"),
        ({"headers": [["a"]]}, "headers"),
        ({"body_b64": "?"}, "body_b64"),
        ({"body_b64": None}, "body_b64"),
        ({"query": []}, "query"),
        ({"now": "soon"}, "now"),
        ({"now": -1}, "now"),
        ({"now": True}, "now"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_wrong_question_is_refused_with_its_member(server: ServerProcess, members: Any, where: str) -> None:
    status, problem = check(server, **members)
    assert status == 422 and [error["path"] for error in problem["errors"]] == [where]


def test_odd_headers_and_no_secrets_are_answered(server: ServerProcess) -> None:
    assert check(server, secrets=[])[1]["code"] == "NO_SECRET"
    assert check(server, secrets=[""])[1]["code"] == "EMPTY_SECRET"
    for value in ("é\u2028☂", "sha256=é", "\x00", "%s" * 1000):
        status, verdict = check(server, headers={"X-Hub-Signature-256": value})
        assert (status, verdict["valid"]) == (200, False)


# ---- the command line


def test_secrets_are_set_from_stdin_or_a_file_and_lose_one_newline(
    server: ServerProcess, target: Target, tmp_path: Path
) -> None:
    file = tmp_path / "value"
    file.write_bytes(b"from a file\n\n")
    for arguments, stdin, expected in (
        ((), "from stdin\n", "from stdin"),
        (("--file", "-"), "from dash\r\n", "from dash"),
        (("--file", str(file)), "", "from a file\n"),
    ):
        done = server.run_cli("secret", "set", "CLI_SET", *arguments, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert expected.strip() not in done.stdout
        sends = f'{{method: POST, url: "{target.url}/cli", json: "${{{{ $secrets.CLI_SET }}}}"}}'
        run(server, f"name: sent\nsteps: [{{id: a, http: {sends}}}]", "sent")
        assert target.requests("/cli")[-1].json == expected
    assert "CLI_SET" in server.run_cli("secret", "list", "-q").stdout.split()
    assert server.run_cli("secret", "set", "CLI_SET", "a-value").returncode == 2
    assert server.run_cli("secret", "set", "CLI_SET", stdin="\n").returncode == 2
    assert json.loads(server.run_cli("secret", "delete", "CLI_SET", "-o", "json").stdout) == {"deleted": ["CLI_SET"]}
    assert server.run_cli("secret", "delete", "CLI_SET").returncode == 4


def test_variables_are_set_listed_and_deleted(server: ServerProcess) -> None:
    assert server.run_cli("var", "set", "CLI_VAR", '{"a": [1]}').returncode == 0
    assert '{"a": [1]}' in server.run_cli("var", "list").stdout.replace('{"a":[1]}', '{"a": [1]}')
    assert json.loads(server.run_cli("var", "set", "CLI_VAR", "text", "-o", "json").stdout)["value"] == "text"
    assert server.run_cli("var", "delete", "CLI_VAR").returncode == 0
    assert server.run_cli("var", "delete", "CLI_VAR").returncode == 4


def test_commands_about_values_need_a_server(tmp_path: Path, server: ServerProcess) -> None:
    environ = server.environ | {"TASKFORGE_SERVER": "http://127.0.0.1:1"}
    assert run_cli("secret", "list", environ=environ).returncode == 3
    assert run_cli("trigger", "a/b", environ=environ).returncode == 3


# ---- a new key


def test_the_key_is_changed_while_secrets_are_used_and_links_are_out(tmp_path: Path, target: Target) -> None:
    document = f"""
name: asks
steps:
  - {{id: tell, http: {{method: POST, url: "{target.url}/told", json: "${{{{ $run.resume_url }}}}"}}}}
  - {{id: ask, wait: {{signal: approved}}}}
  - {{id: use, http: {{method: POST, url: "{target.url}/used", json: "${{{{ $secrets.TOLD }}}}"}}}}
"""
    with running_server(tmp_path) as server:
        server.call("PUT", "/v1/secrets/TOLD", {"value": "opaque-and-kept"})
        server.call("PUT", "/v1/workflows/asks", document.encode())
        key = (server.home / "secret.key").read_text()
        links: list[str] = []
        for end in ([], ["--end-links"]):
            run = server.call("POST", "/v1/workflows/asks/runs", {})[1]["id"]
            target.await_requests(len(links) + 1, "/told")
            links.append(json.loads(target.requests("/told")[-1].body))
            done = server.run_cli("secret", "rotate-key", *end, "-o", "json")
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["resealed"] == 1
            changed = (server.home / "secret.key").read_text()
            assert changed != key and key.strip() not in changed
            key = changed.splitlines()[0]
            server.kill()
            server.start()
            status = server.call("POST", links[-1].removeprefix(server.url), b"")[0]
            assert status == (404 if end else 202)
        server.call("POST", f"/v1/runs/{run}/signals/approved", {})
        assert server.call("GET", f"/v1/runs/{run}?wait=30s")[1]["state"] == "SUCCEEDED"
        assert [json.loads(seen.body) for seen in target.requests("/used")] == ["opaque-and-kept"] * 2
        told = server.run_cli("secret", "rotate-key")
        assert "backups made before need the old one" in told.stderr
        status, answer = server.call("POST", "/v1/secrets:rotate-key", {"keep_links": "no"})
        assert (status, answer["errors"][0]["path"]) == (422, "keep_links")


def test_a_key_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        server.call("PUT", "/v1/secrets/KEPT", {"value": "opaque-and-kept"})
        before = (server.home / "secret.key").read_bytes()
        blocked = server.home / ".next-secret.key"
        blocked.mkdir()
        status, answer = server.call("POST", "/v1/secrets:rotate-key")
        assert (status, answer["code"]) == (503, "UNAVAILABLE")
        assert (server.home / "secret.key").read_bytes() == before
        blocked.rmdir()
        assert server.call("POST", "/v1/secrets:rotate-key")[0] == 200
