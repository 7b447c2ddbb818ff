"""What becomes of data on its way through a run: every digit, no evaluation, no header of its own."""

from __future__ import annotations

import pytest

from taskforge.core.jsontext import loads
from tests.engine.engine import Engine
from tests.support.target import Answer

PASS = """
name: pass
steps:
  - {id: get, http: {url: URL/get}}
  - {id: inline, transform: {id: "${{ $get.body.id }}", list: "${{ [$get.body.id] }}"}}
  - {id: child, transform: "${{ def f: .; [$get.body.id | f] }}"}
  - id: post
    http:
      method: POST
      url: URL/post/${{ $get.body.id }}
      query: {id: "${{ $get.body.id }}"}
      headers: {X-Id: "${{ $get.body.id }}"}
      json: {whole: "${{ $get.body }}", inline: "${{ $inline }}", child: "${{ $child }}"}
output: "${{ $post.body }}"
"""
BIG = 12345678901234567890


async def test_an_integer_beyond_2_to_the_53_reaches_a_later_request_unchanged(engine: Engine) -> None:
    body = b'{"id": 12345678901234567890, "more": [-98765432109876543210, 123456789012345678901234567890]}'
    engine.target.answer("/get", Answer(body=body, headers=(("Content-Type", "application/json"),)))
    engine.target.answer(f"/post/{BIG}", Answer(body={"id": BIG}))
    row = await engine.end(await engine.begin(await engine.publish(PASS)))
    assert loads(row.record.output or "") == {"id": BIG}
    (seen,) = engine.target.requests(f"/post/{BIG}")
    assert seen.query == f"id={BIG}"
    assert seen.headers["x-id"] == str(BIG)
    assert loads(seen.body.decode()) == {
        "whole": {"id": BIG, "more": [-98765432109876543210, 123456789012345678901234567890]},
        "inline": {"id": BIG, "list": [BIG]},
        "child": [BIG],
    }


HOSTILE = ["${{ $run.id }}", "$${{ 1 }}", "${{", "}}", "{{ 1 }}", "${1+1}", "$(id)", '"; $run.id', "\\(1+1)", "a\nb"]


async def test_data_that_looks_like_an_expression_is_never_evaluated(engine: Engine) -> None:
    engine.target.answer("/get", Answer(body={"id": HOSTILE, "name": HOSTILE[0]}))
    workflow = await engine.publish(
        """
name: hostile
inputs: {type: object, properties: {text: {type: string, default: "${{ $input }}"}, list: {}}}
steps:
  - {id: get, http: {url: URL/get}}
  - {id: inline, transform: {"list": "${{ $get.body.id }}", text: "a ${{ $get.body.name }} b"}}
  - {id: child, transform: "${{ def f: .; [$get.body.id, $input] | f }}"}
  - {id: post, http: {method: POST, url: URL/post, json: ["${{ $inline }}", "${{ $child }}", "${{ $input }}"]}}
"""
    )
    given = {"text": "${{ $secrets.X }} ${{ def f: f; f }}", "list": HOSTILE}
    assert (await engine.end(await engine.begin(workflow, input=given))).record.state == "SUCCEEDED"
    (seen,) = engine.target.requests("/post")
    inline = {"list": HOSTILE, "text": f"a {HOSTILE[0]} b"}
    assert loads(seen.body.decode()) == [inline, [HOSTILE, given], given]
    # Names of members are data as well.
    again = await engine.end(await engine.begin(workflow, input={"list": {word: 1 for word in HOSTILE}}))
    assert again.record.state == "SUCCEEDED"
    assert loads(engine.target.requests("/post")[1].body.decode())[2] == {
        "text": "${{ $input }}",
        "list": {word: 1 for word in HOSTILE},
    }


@pytest.mark.parametrize("text", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\x00b"])
@pytest.mark.parametrize(
    ("config", "code"),
    [
        ('headers: {X-Name: "${{ $input.text }}"}, url: URL/call', "INVALID_HEADER"),
        ('headers: {X-Name: "before ${{ $input.text }} after"}, url: URL/call', "INVALID_HEADER"),
        ('url: "URL/call/${{ $input.text }}"', "INVALID_URL"),
        ('url: "${{ $input.text }}"', "INVALID_URL"),
    ],
)
async def test_line_breaks_in_headers_and_urls_are_refused_and_nothing_is_sent(
    engine: Engine, config: str, code: str, text: str
) -> None:
    workflow = await engine.publish(f"name: call\nsteps:\n  - {{id: call, http: {{{config}}}}}\n")
    row = await engine.end(await engine.begin(workflow, input={"text": text}))
    assert (row.record.state, loads(row.record.error or "")["code"]) == ("FAILED", code)
    assert engine.target.requests() == []


async def test_line_breaks_in_queries_and_bodies_are_only_data(engine: Engine) -> None:
    workflow = await engine.publish(
        'name: call\nsteps:\n  - {id: call, http: {method: POST, url: URL/call, query: {q: "${{ $input.text }}"}, '
        'body: "${{ $input.text }}"}}\n'
    )
    text = "a\r\nHost: evil\r\n\r\nGET / HTTP/1.1"
    assert (await engine.end(await engine.begin(workflow, input={"text": text}))).record.state == "SUCCEEDED"
    (seen,) = engine.target.requests("/call")
    assert (seen.body.decode(), "evil" in seen.headers.get("host", "")) == (text, False)
