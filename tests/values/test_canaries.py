"""Secrets leave the server only to where a workflow sends them: no canary is found in the database, the log or the API.

Every value is a canary; the upstream gives each back in every spelling that it can think of.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from tests.support.server import ServerProcess, running_server
from tests.support.target import Answer, Target, running_target

CANARIES = {
    "PLAIN": "canary-plain-7f3e9a51c2",
    "SIGNS": "ca/na ry+&=?#%\"\\<signs>'zqwxksigns",
    "LINES": "-----BEGIN KEY-----\ncanarylineone4b1d88\ncanarylinetwo93ac07\n-----END KEY-----",
    "UMLAUT": "canäry-ünïcode-☂-zqwxkumlaut",
    "DIGITS": "918273645546372819",
    "SHORTISH": "q7Zk",
}

FLOW = """
name: leaky
steps:
  - id: sends
    http:
      method: POST
      url: "http://127.0.0.1:{port}/echo"
      query: {{key: "${{{{ $secrets.SIGNS }}}}", plain: "${{{{ $secrets.PLAIN }}}}"}}
      headers:
        Authorization: "Bearer ${{{{ $secrets.PLAIN }}}}"
        X-Basic: '${{{{ "Basic " + ("user:" + $secrets.PLAIN | @base64) }}}}'
        X-Short: "${{{{ $secrets.SHORTISH }}}}"
      json: {{all: "${{{{ $secrets }}}}", number: "${{{{ $secrets.DIGITS }}}}"}}
  - id: shape
    transform:
      direct: '${{{{ $secrets.PLAIN }}}}'
      built: '${{{{ "\\($secrets.SIGNS)!" }}}}'
      echoed: '${{{{ $sends.body }}}}'
      keyed: '${{{{ {{($secrets.PLAIN): 1}} }}}}'
  - id: keep
    set_state: {{key: seen, value: "${{{{ $secrets.UMLAUT }}}}"}}
  - id: child
    workflow: {{name: below, input: {{given: "${{{{ $secrets.LINES }}}}"}}}}
  - id: fails
    http:
      url: "http://127.0.0.1:{port}/fails/${{{{ $secrets.PLAIN | @uri }}}}"
      headers: {{X-Key: "${{{{ $secrets.SIGNS }}}}"}}
    retry: {{max_attempts: 1}}
    catch: [{{id: caught, transform: '${{{{ $error }}}}'}}]
  - id: refused
    http: {{url: "http://user:${{{{ $secrets.PLAIN | @uri }}}}@127.0.0.1:1/?k=${{{{ $secrets.SIGNS | @uri }}}}"}}
    retry: {{max_attempts: 2, initial: 10ms}}
    continue_on_error: true
  - id: wrong
    transform: '${{{{ $secrets.PLAIN | tonumber }}}}'
    continue_on_error: true
  - id: dead
    http:
      method: POST
      url: "http://127.0.0.1:{port}/fails/at-last"
      json: {{token: "${{{{ $secrets.PLAIN }}}}", lines: "${{{{ $secrets.LINES }}}}"}}
    retry: {{max_attempts: 1}}
on_failure: [{{id: told, transform: '${{{{ {{error: $error, s: $secrets.SIGNS}} }}}}'}}]
"""
BELOW = "name: below\nsteps: [{id: back, transform: '${{ $input.given }}'}]\noutput: '${{ $back }}'\n"


def spellings(value: str) -> set[str]:
    """Every way in which the upstream may give a value back."""
    raw = value.encode()
    found = {value, quote(value), quote(value, safe=""), quote_plus(value)}
    found |= {re.sub("%..", lambda escape: escape[0].lower(), quote(value, safe=""))}
    found |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(json.dumps(value))}
    found |= {html.escape(value), raw.hex(), raw.hex().upper()}
    found |= {base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()}
    if len(raw) >= 10:
        found |= {base64.b64encode(b"x" * n + raw + b"yz").decode() for n in range(3)}
    return found


def echo() -> dict[str, Any]:
    return {
        "spellings": sorted(text for value in CANARIES.values() for text in spellings(value)),
        "authorization": f"Bearer {CANARIES['PLAIN']}",
        "basic": "Basic " + base64.b64encode(f"user:{CANARIES['PLAIN']}".encode()).decode(),
        "number": int(CANARIES["DIGITS"]),
        CANARIES["PLAIN"]: {"deep": [[CANARIES["SIGNS"]]]},
    }


def traces() -> list[tuple[str, bytes]]:
    """What must be found nowhere: parts that only the value itself can have left, in its main spellings."""
    found = []
    for name, value in CANARIES.items():
        for text in spellings(value):
            found.append((name, text.encode()))
        for word in re.findall(r"canary[a-z0-9-]+|zqwxk[a-z]+", value):
            found.append((name, word.encode()))
    return found


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with running_target() as found:
        yield found


@pytest.fixture(scope="module")
def leaked(tmp_path_factory: pytest.TempPathFactory, target: Target) -> Iterator[tuple[ServerProcess, str]]:
    """A server on which the workflow has run: it and the run's id."""
    folder = tmp_path_factory.mktemp("canaries")
    with running_server(folder, log__level="debug") as server:
        for name, value in CANARIES.items():
            status, shown = server.call("PUT", f"/v1/secrets/{name}", {"value": value})
            assert (status, shown["name"], shown["masked"]) == (200, name, True)
        target.answer("/echo", Answer(body=echo()))
        text = "\n".join(text for value in CANARIES.values() for text in spellings(value))
        refused = Answer(
            500, text.encode(), (("Content-Type", "text/plain; charset=utf-8"), ("X-Back", CANARIES["SIGNS"]))
        )
        for path in ("/fails/at-last", f"/fails/{CANARIES['PLAIN']}"):
            target.answer(path, refused)
        for document in (BELOW.encode(), FLOW.format(port=target.port).encode()):
            status, answer = server.call("POST", "/v1/workflows", document)
            assert status == 201, answer
        _, run = server.call("POST", "/v1/workflows/leaky/runs?wait=30s", {})
        assert run["state"] == "FAILED", run
        yield server, run["id"]


def test_the_upstream_gets_the_values(leaked: tuple[ServerProcess, str], target: Target) -> None:
    [sent] = [seen for seen in target.seen if seen.path == "/echo"]
    assert sent.headers["authorization"] == f"Bearer {CANARIES['PLAIN']}"
    assert sent.json["all"] == CANARIES


def test_no_canary_is_in_the_database_the_log_or_the_api(leaked: tuple[ServerProcess, str]) -> None:
    server, run = leaked
    places: dict[str, bytes] = {}
    for path in (
        f"/v1/runs/{run}", "/v1/runs", f"/v1/runs/{run}/logs", f"/v1/runs/{run}/why", "/v1/dead-letters",
        "/v1/secrets", "/v1/workflows/leaky/state", "/v1/workflows/leaky", "/openapi.json",
    ):  # fmt: skip
        status, answer = server.call("GET", path)
        assert status == 200
        places[path] = json.dumps(answer, ensure_ascii=False).encode() + json.dumps(answer).encode()
    _, letters = server.call("GET", "/v1/dead-letters")
    for letter in letters["items"]:
        _, shown = server.call("GET", f"/v1/dead-letters/{letter['id']}")
        assert "[secret PLAIN]" in json.dumps(shown["input"]) or letter["path"] == "refused"
        places[letter["id"]] = json.dumps(shown, ensure_ascii=False).encode()
    _, children = server.call("GET", "/v1/runs?workflow=below")
    _, child = server.call("GET", f"/v1/runs/{children['items'][0]['id']}")
    assert child["output"] == "[secret LINES]"
    places["child"] = json.dumps(child, ensure_ascii=False).encode()
    assert server.terminate() == 0
    places["log"] = server.output().encode()
    for file in sorted(Path(server.home).rglob("*")):
        if file.is_file() and file.name not in ("config.toml", "secret.key"):
            places[file.name] = file.read_bytes()
    assert "taskforge.db" in places
    hits = [(where, name, trace) for where, content in places.items() for name, trace in traces() if trace in content]
    assert hits == []
