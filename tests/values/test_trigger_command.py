"""`taskforge trigger` signs as each sender would, and the server believes it; a wrong secret is told as one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import ServerProcess, running_server

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
VERIFIES = {
    "github": "{scheme: github, secret: HOOK}",
    "stripe": "{scheme: stripe, secret: [NEWER, HOOK]}",
    "slack": "{scheme: slack, secret: HOOK}",
    "standard": "{scheme: standard, secret: HOOK}",
    "hmac": "{scheme: hmac, secret: HOOK, header: X-Sig, algorithm: sha512, encoding: base64, timestamp: X-At}",
    "token": "{scheme: token, secret: HOOK, header: X-Token}",
    "query": "{scheme: token, secret: HOOK, parameter: key}",
    "basic": "{scheme: basic, secret: HOOK, user: ci}",
    "open": "none",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("hooks")) as started:
        started.call("PUT", "/v1/secrets/HOOK", {"value": SECRET})
        started.call("PUT", "/v1/secrets/NEWER", {"value": "whsec_bmV3IG5ldyBuZXc="})
        hooks = "\n".join(f"  {name}: {{webhook: {{verify: {verify}}}}}" for name, verify in VERIFIES.items())
        steps = "steps: [{id: a, transform: '${{ $trigger }}'}]\noutput: ${{ $a }}\n"
        document = f"name: hooked\ntriggers:\n{hooks}\n{steps}"
        status, answer = started.call("POST", "/v1/workflows", document.encode())
        assert status == 201, answer
        yield started


@pytest.mark.parametrize("name", VERIFIES)
def test_a_delivery_is_signed_as_its_sender_would(server: ServerProcess, name: str) -> None:
    secret = "" if name == "open" else f"{SECRET}\n"
    body = json.dumps({"id": f"evt-{name}", "scheme": name})
    sent = server.run_cli("trigger", f"hooked/{name}", "--body", body, "-o", "json", stdin=secret)
    assert sent.returncode == 0, sent.stderr
    _, run = server.call("GET", f"/v1/runs/{json.loads(sent.stdout)['id']}?wait=10s")
    assert run["state"] == "SUCCEEDED" and run["output"]["body"] == json.loads(body)
    assert SECRET not in json.dumps(run)


@pytest.mark.parametrize("name", VERIFIES)
def test_without_a_secret_at_hand_the_server_signs_and_never_shows_it(server: ServerProcess, name: str) -> None:
    body = json.dumps({"id": f"own-{name}", "event_id": f"own-{name}"})
    sent = server.run_cli("trigger", f"hooked/{name}", "--body", body, "-o", "json", stdin="")
    assert sent.returncode == 0, sent.stderr
    assert SECRET not in sent.stdout + sent.stderr
    _, run = server.call("GET", f"/v1/runs/{json.loads(sent.stdout)['id']}?wait=10s")
    assert run["state"] == "SUCCEEDED" and run["output"]["body"] == json.loads(body)
    _, page = server.call("GET", f"/v1/deliveries?trigger={name}&limit=1")
    assert page["items"][0]["run"]["id"] == run["id"] and "bmV3IG5ldyBuZXc" not in json.dumps(page)


def test_what_the_server_cannot_sign_is_a_conflict_in_plain_words(server: ServerProcess) -> None:
    hook = "h: {webhook: {verify: {scheme: github, secret: NOBODY}}}"
    document = f"name: bare\ntriggers: {{{hook}}}\nsteps: [{{id: a, transform: 1}}]"
    server.call("POST", "/v1/workflows", document.encode())
    sent = server.run_cli("trigger", "bare/h", stdin="")
    assert sent.returncode == 5 and "no secret NOBODY" in sent.stderr
    sent = server.run_cli("trigger", "hooked/github", "--header", "X-Hub-Signature-256=x", stdin="")
    assert sent.returncode == 5 and "leave that header out" in sent.stderr


def test_a_wrong_secret_is_told_as_one(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("not it\n")
    sent = server.run_cli("trigger", "hooked/github", "--secret-file", str(file))
    assert sent.returncode == 3 and "does not accept the signature" in sent.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("hooked",), 2),
        (("hooked/nothing",), 4),
        (("nothing/github",), 4),
        (("hooked/open", "--header", "novalue"), 2),
        (("hooked/open", "--body", "@/no/such/file"), 2),
        (("hooked/standard", "--secret-file", "/no/such/file"), 2),
    ],
)
def test_wrong_usage_has_its_exit_code(server: ServerProcess, arguments: tuple[str, ...], code: int) -> None:
    assert server.run_cli("trigger", *arguments, stdin="").returncode == code


def test_a_file_is_sent_byte_for_byte_with_its_headers(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(b'{"a":  1}\r\n')
    sent = server.run_cli(
        "trigger", "hooked/open", "--body", f"@{file}", "--header", "X-Event=é", "--query", "q=1 2", "-q"
    )
    assert sent.returncode == 0, sent.stderr
    _, run = server.call("GET", f"/v1/runs/{sent.stdout.strip()}?wait=10s")
    seen = run["output"]
    assert (seen["raw_body"], seen["headers"]["x-event"], seen["query"]) == ('{"a":  1}\r\n', "é", {"q": "1 2"})
