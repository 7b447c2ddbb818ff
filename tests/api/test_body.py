from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge.api import body as body_module
from taskforge.core.errors import NotFound
from taskforge.engine.starting import StartRequest
from tests.api.asgi import Reply, request
from tests.api.gate import ADMIN, TokenBook, make_gate

START = "/v1/workflows/uptime/runs"
JSON_TYPE = ("content-type", "application/json")


class Recorder(TokenBook):
    """Notes what the calls would have done."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        async def note(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            raise NotFound("noted")

        return note


async def post(raw: Any, *, path: str = START, method: str = "POST", headers: Any = (JSON_TYPE,), **more: Any) -> Reply:
    app, _, _ = make_gate(Recorder(), **more)
    body = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    return await request(app, method, path, token=ADMIN, headers=headers, body=body)


@pytest.mark.parametrize(
    "raw",
    [
        b"{", b"nul", b"[1,]", b"{'a': 1}", b'{"input": NaN}', b'{"input": Infinity}', b'{"input": -Infinity}',
        b'{"input": 1e400}', b'{"input": 01}', b'{"input": "\x00"}', b'{"input": "a\nb"}', b"\xff\xfe{}", b"\xc3\x28",
        b'{"input": "\xed\xa0\x80 \xff"}', b"\xef\xbb\xbf{}", b"{}{}", b"{} x", b"[" * 100_000,
        b'{"input": ' + b"[" * 5000 + b"]" * 5000 + b"}", b'{"input":' + b'{"a":' * 3000 + b"1" + b"}" * 3001,
        b'{"input": 1, "input": 2}', b'{"input": {"a": 1, "a": 2}}', b'{"input": ' + b"9" * 5000 + b"}", b"\x00", b" ",
    ],
)  # fmt: skip
async def test_what_is_no_json_is_malformed(raw: bytes) -> None:
    reply = await post(raw)
    assert (reply.status, reply.code) == (400, "MALFORMED_REQUEST"), raw[:40]
    assert reply.json()["errors"][0]["path"] == ""


async def test_malformed_json_names_its_place() -> None:
    reply = await post(b'{\n  "input": {"a": 1,\n  "a": 2}}')
    assert reply.json()["errors"] == [{"path": "", "line": 3, "column": 3, "message": 'duplicate key "a"'}]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([], None), ("text", None), (1, None), (None, None), (True, None),
        ({"version": 0}, "version"), ({"version": "1"}, "version"), ({"version": 1.5}, "version"),
        ({"version": True}, "version"), ({"version": 10**30}, "version"), ({"version": None}, "version"),
        ({"priority": 1001}, "priority"), ({"priority": []}, "priority"), ({"delay": "soon"}, "delay"),
        ({"delay": -1}, "delay"), ({"delay": None}, "delay"), ({"delay": [1]}, "delay"), ({"delay": 10**30}, "delay"),
        ({"inputs": {}}, "inputs"), ({"": 1}, '[""]'), ({"a\nb": 1}, '["a\\nb"]'),
    ],
)  # fmt: skip
async def test_what_does_not_fit_is_invalid_and_named(value: Any, path: str | None) -> None:
    reply = await post(value)
    assert (reply.status, reply.code) == (422, "INVALID_REQUEST")
    if path is not None:
        assert [entry["path"] for entry in reply.json()["errors"]] == [path]


async def test_every_problem_of_a_body_comes_at_once_with_the_nearest_name() -> None:
    reply = await post({"inptu": {}, "version": "x", "delay": "y"})
    errors = reply.json()["errors"]
    assert [entry["path"] for entry in errors] == ["inptu", "version", "delay"]
    assert errors[0]["hint"] == 'did you mean "input"?'


@pytest.mark.parametrize(
    ("headers", "raw"),
    [
        ([], b"{}"),
        ([("content-type", "text/plain")], b"{}"),
        ([("content-type", "application/x-www-form-urlencoded")], b"input=1"),
        ([("content-type", "multipart/form-data")], b"{}"),
        ([("content-type", "application/yaml")], b"{}"),
        ([("content-type", "application/json; charset=utf-16")], b"{}"),
        ([("content-type", "application/json"), ("content-type", "text/plain")], b"{}"),
        ([("content-type", "application/jsonx")], b"{}"),
        ([("content-type", "\xff")], b"{}"),
        ([JSON_TYPE, ("content-encoding", "gzip")], b"{}"),
    ],
)
async def test_other_content_types_are_refused(headers: Any, raw: bytes) -> None:
    reply = await post(raw, headers=headers)
    assert (reply.status, reply.code) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("name", ["application/json", "Application/JSON ; charset=UTF-8", "application/x+json"])
async def test_json_may_be_named_in_its_usual_ways(name: str) -> None:
    assert (await post({}, headers=[("content-type", name)])).status == 404


async def test_no_body_is_an_empty_one_where_nothing_is_required() -> None:
    assert (await post(b"", headers=[])).status == 404
    assert (await post(b"", headers=[], path="/v1/tokens")).status == 422
    assert (await post(b"", headers=[], path="/v1/workflows/a", method="PATCH")).status == 422


async def test_the_parts_of_a_start_arrive_checked() -> None:
    book = Recorder()
    app, _, _ = make_gate(book)
    raw = b'{"input": {"id": 12345678901234567890123}, "version": 3, "delay": "1m", "priority": -5}'
    await request(
        app, "POST", START, token=ADMIN, headers=[JSON_TYPE, ("idempotency-key", "k 1")], body=[raw[:9], b"", raw[9:]]
    )
    name, args, kwargs = book.calls[0]
    assert (name, kwargs) == ("start_run", {})
    (asked,) = args
    assert asked._replace(request_hash=None) == StartRequest(
        "uptime",
        {"id": 12345678901234567890123},
        version=3,
        delay_ms=60_000,
        priority=-5,
        idempotency_key="k 1",
        trigger={"type": "manual"},
    )
    assert len(asked.request_hash) == 64


async def _hash_of(raw: bytes) -> str:
    book = Recorder()
    app, _, _ = make_gate(book)
    await request(app, "POST", START, token=ADMIN, headers=[JSON_TYPE, ("idempotency-key", "k")], body=raw)
    digest: str = book.calls[0][1][0].request_hash
    return digest


async def test_the_same_request_has_the_same_hash_however_it_is_written() -> None:
    same = [b'{"input":{"a":1,"b":2}}', b' { "input" : {"b":2, "a":1} }', b'{"input":{"\\u0061":1,"b":2}}']
    assert len({await _hash_of(raw) for raw in same}) == 1
    assert len({await _hash_of(raw) for raw in (b"", b"{}", b'{"input":{}}', b'{"input":null}')}) == 1
    other = [b"{}", b'{"input":{"a":1}}', b'{"input":{"a":"1"}}', b'{"version":1}', b'{"priority":1}', b'{"delay":1}']
    assert len({await _hash_of(raw) for raw in other}) == len(other)
    big = [b'{"input":12345678901234567890}', b'{"input":12345678901234567891}']
    assert len({await _hash_of(raw) for raw in big}) == 2


@pytest.mark.parametrize("key", [b"", b" ", b"x" * 256, b"a\x7fb", b"\xc3\xa4", b"a\tb"])
async def test_an_idempotency_key_is_printable_and_short(key: bytes) -> None:
    reply = await post({}, headers=[JSON_TYPE, ("idempotency-key", key)])
    assert reply.status == 422
    assert reply.json()["errors"][0]["path"] == "Idempotency-Key"


# ---- limits while reading


async def test_a_length_beyond_the_limit_is_refused_before_a_byte_is_read() -> None:
    app, _, _ = make_gate(body_limit=1024)
    for length in (b"1025", b"1" + b"0" * 30):
        reply = await request(app, "POST", START, token=ADMIN, headers=[JSON_TYPE, ("content-length", length)])
        assert (reply.status, reply.code) == (413, "TOO_LARGE")
        assert reply.json()["limit"] == 1024


@pytest.mark.parametrize("headers", [[], [("content-length", "10")], [("transfer-encoding", "chunked")]])
async def test_a_body_that_grows_beyond_the_limit_is_cut_off_whatever_it_claimed(headers: Any) -> None:
    app, _, _ = make_gate(body_limit=1024)
    pieces = [b"[" + b" " * 500, *[b" " * 500] * 1000]
    reply = await request(app, "POST", START, token=ADMIN, headers=[JSON_TYPE, *headers], body=pieces)
    assert reply.status == 413
    if not any(name == "transfer-encoding" for name, _ in headers):
        assert reply.asked_for <= 4


async def test_a_body_of_exactly_the_limit_is_read() -> None:
    raw = json.dumps({"input": "x" * 1000}).encode().ljust(1024)
    assert (await post(raw, body_limit=1024)).status == 404
    assert (await post(raw + b" ", body_limit=1024)).status == 413


async def test_a_large_refused_body_is_taken_in_so_that_the_answer_arrives() -> None:
    app, _, _ = make_gate()
    pieces = [b"x" * 1000] * 200
    headers = [JSON_TYPE, ("content-length", "200000")]
    reply = await request(app, "POST", START, token="wrong", headers=headers, body=pieces)
    assert (reply.status, reply.header("connection"), reply.asked_for) == (401, "close", 200)
    small = await request(
        app, "POST", START, token="wrong", headers=[JSON_TYPE, ("content-length", "9")], body=b"x" * 9
    )
    assert (small.status, small.header("connection"), small.asked_for) == (401, None, 0)


async def test_a_body_that_does_not_arrive_ends_with_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "BODY_SECONDS", 0.01)
    app, _, _ = make_gate()

    reply = Reply()

    async def stalled() -> dict[str, Any]:
        import asyncio

        if reply.asked_for:
            await asyncio.Event().wait()
        reply.asked_for += 1
        return {"type": "http.request", "body": b"{", "more_body": True}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            reply.status = message["status"]

    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": START, "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"authorization", f"Bearer {ADMIN}".encode()), (b"content-length", b"9")],
    }  # fmt: skip
    await app(scope, stalled, send)
    assert reply.status == 408


async def test_a_caller_that_hangs_up_gets_nothing_and_breaks_nothing() -> None:
    book = Recorder()
    app, _, _ = make_gate(book)
    reply = await request(app, "POST", START, token=ADMIN, headers=[JSON_TYPE], body=[b"{", b"}"], hang_up=True)
    assert (reply.status, book.calls) == (0, [])


# ---- documents


@pytest.mark.parametrize(
    ("name", "media"),
    [("application/yaml", "yaml"), ("text/yaml; charset=utf-8", "yaml"), ("application/x-yaml", "yaml"),
     ("application/json", "json")],
)  # fmt: skip
async def test_a_document_reaches_the_service_byte_for_byte(name: str, media: str) -> None:
    book = Recorder()
    app, _, _ = make_gate(book)
    raw = b"\xef\xbb\xbf\xff\x00 name: [\r\n"
    await request(app, "PUT", "/v1/workflows/a", token=ADMIN, headers=[("content-type", name)], body=raw)
    await request(app, "POST", "/v1/workflows", token=ADMIN, headers=[("content-type", name)], body=raw)
    await request(app, "POST", "/v1/workflows:validate", token=ADMIN, headers=[("content-type", name)], body=raw)
    assert book.calls == [
        ("publish_workflow", (raw, media, "a"), {}),
        ("publish_workflow", (raw, media, None), {}),
        ("validate_workflow", (raw, media), {"offline": False}),
    ]


async def test_a_document_needs_a_content_type_that_names_its_language() -> None:
    for headers in ([], [("content-type", "text/plain")]):
        assert (await post(b"name: a", path="/v1/workflows/a", method="PUT", headers=headers)).status == 415


# ---- anything at all


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(raw=st.binary(max_size=60) | _JSON.map(lambda value: json.dumps(value).encode()))
async def test_no_body_is_an_error_of_ours(raw: bytes) -> None:
    for path in (START, "/v1/workflows/a/runs:batch", "/v1/tokens", "/v1/runs/a%231/cancel"):
        assert (await post(raw, path=path)).status < 500
