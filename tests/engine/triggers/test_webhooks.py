"""Hooks: who may, what is kept, what starts a run, and what is answered."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest

from taskforge.core.errors import StoreFull, Unavailable
from taskforge.engine.webhooks import InboxLimits
from tests.api.asgi import request
from tests.engine.triggers.engine import Engine, github_signature, open_engine
from tests.engine.triggers.hooks import deliveries, document
from tests.support.clock import ManualClock
from tests.support.faulty_store import FaultyStore


async def test_a_delivery_is_kept_as_it_came_and_starts_a_run(engine: Engine) -> None:
    await engine.apply(document())
    reply = await engine.post("/hooks/w/hook?a=1&b=2&b=3", {"n": 12345678901234567890}, x_event="ping")
    assert reply.status == 202
    answer = reply.json()
    assert set(answer) == {"id", "number", "delivery"} and answer["number"] == 1
    assert reply.header("location") == f"/v1/runs/{answer['id']}"
    (run,) = await engine.runs()
    assert (run["id"], run["state"], run["output"]) == (answer["id"], "SUCCEEDED", {"n": 12345678901234567890})
    trigger = run["trigger"]
    assert (trigger["type"], trigger["name"], trigger["method"]) == ("webhook", "hook", "POST")
    assert trigger["query"] == {"a": "1", "b": ["2", "3"]} and trigger["headers"]["x-event"] == "ping"
    _, shown = await engine.call("GET", f"/v1/deliveries/{answer['delivery']}")
    assert (shown["state"], shown["run"]) == ("ACCEPTED", {"id": run["id"], "number": 1})
    assert base64.b64decode(shown["body_b64"]) == b'{"n":12345678901234567890}' == shown["body"].encode()


async def test_unknown_disabled_and_other_triggers_are_404_alike(engine: Engine) -> None:
    await engine.apply("name: w\ntriggers: {m: {manual: {}}, c: {cron: '0 0 1 1 *'}}\nsteps: [{id: a, transform: 1}]\n")
    await engine.apply(document(name="off"))
    await engine.call("PATCH", "/v1/workflows/off", {"enabled": False})
    replies = [await engine.post(f"/hooks/{path}") for path in ("w/m", "w/c", "w/x", "x/y", "off/hook")]
    assert {(reply.status, reply.body) for reply in replies} == {(404, replies[0].body)}
    await engine.call("PATCH", "/v1/workflows/off", {"enabled": True})
    assert (await engine.post("/hooks/off/hook")).status == 202
    await engine.call("DELETE", "/v1/workflows/off")
    assert (await engine.post("/hooks/off/hook")).status == 404


async def test_hooks_need_no_token_and_take_any_host(engine: Engine) -> None:
    await engine.apply(document())
    reply = await request(engine.api, "POST", "/hooks/w/hook", host="hooks.example.com", body=b"")
    assert reply.status == 202


async def test_a_hook_of_an_older_version_is_gone_with_the_new_one(engine: Engine) -> None:
    await engine.apply(document())
    await engine.apply("name: w\nsteps: [{id: a, transform: 1}]\n")
    assert (await engine.post("/hooks/w/hook")).status == 404


async def test_every_method_is_taken_unless_the_trigger_says_which(engine: Engine) -> None:
    await engine.apply(document())
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        assert (await engine.post("/hooks/w/hook", method=method)).status == 202
    assert (await engine.post("/hooks/w/hook", method="HEAD")).status == 405
    await engine.apply(document("verify: none, methods: [PUT, POST]"))
    reply = await engine.post("/hooks/w/hook", method="GET")
    assert (reply.status, reply.header("allow")) == (405, "POST, PUT")
    assert [run["trigger"]["method"] for run in await engine.runs()] == ["GET", "POST", "PUT", "PATCH", "DELETE"]


async def test_a_body_above_the_limit_is_refused_while_it_arrives(tmp_path: Path, clock: ManualClock) -> None:
    async with open_engine(tmp_path / "taskforge.db", clock, webhook_bytes=2_000) as engine:
        await engine.apply(document())
        assert (await engine.post("/hooks/w/hook", b"x" * 2_000)).status == 202
        reply = await request(engine.api, "POST", "/hooks/w/hook", body=[b"x" * 1_500] * 100)
        assert (reply.status, reply.code) == (413, "TOO_LARGE")
        assert len(await deliveries(engine)) == 1


# ---- who may


async def test_only_a_good_signature_over_the_raw_bytes_is_taken(engine: Engine) -> None:
    await engine.apply(document("verify: {scheme: github, secret: [NEW, OLD]}"))
    assert (await engine.post("/hooks/w/hook", b"{}", x_hub_signature_256="sha256=00")).status == 401
    await engine.values.put_secret("NEW", "new secret value")
    await engine.values.put_secret("OLD", "old secret value")
    body = b'{ "a" : 1 }'
    for secret in ("new secret value", "old secret value"):
        signed = {"x_hub_signature_256": github_signature(secret, body), "content_type": "application/json"}
        assert (await engine.post("/hooks/w/hook", body, **signed)).status == 202
        reply = await engine.post("/hooks/w/hook", body + b" ", **signed)
        assert (reply.status, reply.code) == (401, "SIGNATURE_REFUSED")
    reply = await engine.post("/hooks/w/hook", body)
    assert (reply.status, reply.code) == (401, "SIGNATURE_REFUSED")
    assert len(await deliveries(engine)) == len(await engine.runs()) == 2


async def test_what_is_secret_is_never_stored(engine: Engine) -> None:
    await engine.apply(document("verify: {scheme: token, secret: TOKEN, parameter: key}", step="${{ $trigger }}"))
    await engine.values.put_secret("TOKEN", "a-very-secret-token")
    reply = await engine.post(
        "/hooks/w/hook?key=a-very-secret-token&x=1",
        {"echo": "a-very-secret-token"},
        authorization="Bearer other-secret",
        cookie="session=other-secret",
        x_copy="a-very-secret-token",
    )
    assert reply.status == 202
    (run,) = await engine.runs()
    _, shown = await engine.call("GET", f"/v1/deliveries/{reply.json()['delivery']}")
    text = f"{run} {shown} {await deliveries(engine)}"
    assert "a-very-secret-token" not in text and "other-secret" not in text
    assert b"a-very-secret-token" not in base64.b64decode(shown["body_b64"])
    headers = dict(shown["headers"])
    assert headers["authorization"] == headers["cookie"] == "[redacted]"
    assert shown["query"] == [["key", "[redacted]"], ["x", "1"]]


async def test_slacks_challenge_is_answered_and_starts_nothing(engine: Engine) -> None:
    import hashlib
    import hmac

    await engine.apply(document("verify: {scheme: slack, secret: SLACK}"))
    await engine.values.put_secret("SLACK", "slack secret value")
    body = b'{"type":"url_verification","challenge":"3eZbrw1aB"}'
    seconds = str(engine.clock.wall() // 1000)
    mac = hmac.new(b"slack secret value", f"v0:{seconds}:".encode() + body, hashlib.sha256).hexdigest()
    reply = await engine.post(
        "/hooks/w/hook",
        body,
        content_type="application/json",
        x_slack_request_timestamp=seconds,
        x_slack_signature=f"v0={mac}",
    )
    assert (reply.status, reply.body) == (200, b"3eZbrw1aB")
    assert await deliveries(engine) == [] == await engine.runs()
    engine.clock.advance(10 * 60_000)
    late = await engine.post("/hooks/w/hook", body, x_slack_request_timestamp=seconds, x_slack_signature=f"v0={mac}")
    assert late.status == 401


# ---- duplicates


async def test_the_schemes_own_delivery_id_makes_duplicates_known(engine: Engine) -> None:
    await engine.apply(document("verify: {scheme: github, secret: GH}"))
    await engine.values.put_secret("GH", "github secret value")
    signed = {"x_hub_signature_256": github_signature("github secret value", b"{}"), "x_github_delivery": "72d3162e"}
    first = await engine.post("/hooks/w/hook", b"{}", **signed)
    again = await engine.post("/hooks/w/hook", b"{}", **signed)
    assert (first.status, again.status) == (202, 200)
    assert first.json()["id"] == again.json()["id"] and first.json()["delivery"] != again.json()["delivery"]
    assert [row["state"] for row in await deliveries(engine)] == ["DUPLICATE", "ACCEPTED"]


async def test_fifty_equal_deliveries_at_once_make_one_run(engine: Engine) -> None:
    await engine.apply(document("verify: none, dedupe: '${{ $trigger.body.id }}'"))
    replies = await asyncio.gather(*(engine.post("/hooks/w/hook", {"id": 7}) for _ in range(50)))
    assert sorted(reply.status for reply in replies) == [200] * 49 + [202]
    assert len({reply.json()["id"] for reply in replies}) == 1 == len(await engine.runs())


async def test_a_delivery_id_is_known_after_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "taskforge.db"
    async with open_engine(path, clock) as engine:
        await engine.apply(document("verify: none, dedupe: '${{ $trigger.headers[\"x-id\"] }}'"))
        first = await engine.post("/hooks/w/hook", x_id="1")
    clock.advance(7 * 86_400_000)
    async with open_engine(path, clock) as engine:
        again = await engine.post("/hooks/w/hook", x_id="1")
        assert (again.status, again.json()["id"]) == (200, first.json()["id"])
        assert (await engine.post("/hooks/w/hook")).status == 202


# ---- filters, inputs and what fails


async def test_a_filtered_delivery_is_kept_and_starts_nothing(engine: Engine) -> None:
    await engine.apply(document("verify: none, if: '${{ $trigger.body.action == \"opened\" }}'"))
    reply = await engine.post("/hooks/w/hook", {"action": "closed"})
    assert (reply.status, reply.json()["state"], set(reply.json())) == (200, "FILTERED", {"delivery", "state"})
    assert (await engine.post("/hooks/w/hook", {"action": "opened"})).status == 202
    assert [row["state"] for row in await deliveries(engine)] == ["ACCEPTED", "FILTERED"]
    assert len(await deliveries(engine, "?state=FILTERED&workflow=w&trigger=hook")) == 1


@pytest.mark.parametrize(
    ("webhook", "more", "body", "code"),
    [
        ("verify: none, if: '${{ $trigger.body.n }}'", "", {"n": 3}, "EXPRESSION_ERROR"),
        ("verify: none, if: '${{ def f: .; $trigger.body.n + [] | f }}'", "", {"n": 3}, "EXPRESSION_ERROR"),
        ("verify: none, dedupe: '${{ $trigger.body.n | error }}'", "", {"n": "x"}, "EXPRESSION_ERROR"),
        ("verify: none", ", input: {n: '${{ $trigger.body.n + 1 }}'}", {"n": []}, "EXPRESSION_ERROR"),
        ("verify: none", ", input: {n: '${{ $secrets.NONE }}'}", {}, "EXPRESSION_ERROR"),
        ("verify: none", "", b'{"a":', "BODY_INVALID"),
        ("verify: none, dedupe: '${{ $trigger.body.n * 600 }}'", "", {"n": "x"}, "BODY_INVALID"),
    ],
)
async def test_what_cannot_be_used_is_kept_as_failed_and_answered_422(
    engine: Engine, webhook: str, more: str, body: Any, code: str
) -> None:
    await engine.apply(document(webhook, more=more))
    reply = await engine.post("/hooks/w/hook", body, content_type="application/json")
    assert (reply.status, reply.code) == (422, "DELIVERY_FAILED")
    (row,) = await deliveries(engine)
    assert (row["id"], row["state"], row["run"]) == (reply.json()["delivery"], "FAILED", None)
    assert row["error"]["code"] == code and row["error"]["message"]
    assert await engine.runs() == []


@pytest.mark.parametrize(
    ("webhook", "more", "setting"),
    [
        ("verify: none, if: '${{ $trigger.body.a }}'", "", "if"),
        ("verify: none, dedupe: '${{ $trigger.body.a }}'", "", "dedupe"),
        ("verify: none, debounce: {key: '${{ $trigger.body.a }}', for: 1s}", "", "debounce.key"),
        ("verify: none", ", input: {n: '${{ $trigger.body.a }}'}", "input"),
    ],
)
async def test_a_failed_delivery_names_the_setting_whose_expression_failed(
    engine: Engine, webhook: str, more: str, setting: str
) -> None:
    await engine.apply(document(webhook, more=more))
    reply = await engine.post("/hooks/w/hook", b"no mapping", content_type="text/plain")
    assert reply.status == 422
    (row,) = await deliveries(engine)
    assert row["error"]["message"].startswith(f"in the trigger's `{setting}`: ")


async def test_an_input_that_does_not_fit_is_kept_as_failed_with_its_place(engine: Engine) -> None:
    schema = "inputs: {type: object, required: [n], properties: {n: {type: integer}}}\n"
    await engine.apply(document(more=", input: {n: '${{ $trigger.body.n }}'}") + schema)
    reply = await engine.post("/hooks/w/hook", {"n": "x"})
    assert (reply.status, reply.json()["reason"]) == (422, "INVALID_INPUT") and "n" in reply.json()["detail"]
    assert (await engine.post("/hooks/w/hook", {"n": 3})).status == 202
    (run,) = await engine.runs()
    assert run["input"] == {"n": 3}


async def test_a_secret_in_the_input_is_masked_where_it_is_stored(engine: Engine) -> None:
    await engine.values.put_secret("KEY", "a-very-secret-value")
    await engine.apply(document(more=", input: {k: '${{ $secrets.KEY }}'}"))
    assert (await engine.post("/hooks/w/hook")).status == 202
    (run,) = await engine.runs()
    assert "a-very-secret-value" not in str(run)


async def test_data_is_never_taken_for_an_expression(engine: Engine) -> None:
    await engine.apply(document(more=", input: {v: '${{ $trigger.body.v }}'}", step="${{ $input.v }}"))
    assert (await engine.post("/hooks/w/hook", {"v": "${{ $secrets }} {{ x }}"})).status == 202
    (run,) = await engine.runs()
    assert run["output"] == "${{ $secrets }} {{ x }}"


# ---- bodies


MULTIPART = (
    b'--XX\r\nContent-Disposition: form-data; name="title"\r\n\r\nh\xc3\xa9\r\n'
    b'--XX\r\nContent-Disposition: form-data; name="doc"; filename="a \\"b\\".bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n\x00\xff\r\n\r\n--X\r\n"
    b'--XX\r\nContent-Disposition: form-data; name="meta"\r\nContent-Type: application/json\r\n\r\n{"n":1}\r\n'
    b"--XX--\r\n"
)


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("application/json; charset=utf-8", b'{"a": 1e400, "b": 9007199254740993}', None),
        ("application/json", b' {"a":[1,2.50]} ', {"a": [1, 2.5]}),
        ("application/vnd.api+json", b"[]", []),
        ("application/x-www-form-urlencoded", b"a=1&b=%C3%A9+x&a=2&c=", {"a": ["1", "2"], "b": "é x", "c": ""}),
        ("text/plain", "häßlich".encode(), "häßlich"),
        ("text/plain; charset=iso-8859-1", "häßlich".encode("latin-1"), "häßlich"),
        ("text/plain", b"\xff\xfe", {"base64": "//4="}),
        ("application/xml", b"<a/>", "<a/>"),
        ("application/octet-stream", b"abc", {"base64": "YWJj"}),
        ("", b"plain", "plain"),
        ("", b"\xff", {"base64": "/w=="}),
        ("application/json", b"", None),
        (
            "multipart/form-data; boundary=XX",
            MULTIPART,
            {
                "title": "hé",
                "doc": {
                    "filename": 'a "b".bin',
                    "content_type": "application/octet-stream",
                    "base64": base64.b64encode(b"\x00\xff\r\n\r\n--X").decode(),
                },
                "meta": {"n": 1},
            },
        ),
    ],
)
async def test_a_body_is_read_by_its_content_type(
    engine: Engine, content_type: str, body: bytes, expected: Any
) -> None:
    await engine.apply(document())
    headers = {"content_type": content_type} if content_type else {}
    reply = await engine.post("/hooks/w/hook", body, **headers)
    if b"1e400" in body:
        assert reply.status == 422
        return
    assert reply.status == 202, reply.body
    (run,) = await engine.runs()
    assert run["output"] == expected


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", MULTIPART),
        ("multipart/form-data; boundary=XX", MULTIPART[:-6]),
        ("multipart/form-data; boundary=XX", b"--XX\r\nno end of headers\r\n--XX--"),
        ("multipart/form-data; boundary=XX", b"--XX\r\nContent-Type: text/plain\r\n\r\nno name\r\n--XX--"),
        ("application/x-www-form-urlencoded", b"a=%ff"),
        ("application/x-www-form-urlencoded", b"&".join(b"a=1" for _ in range(1_001))),
        ("application/json", b'{"a":1} x'),
    ],
)
async def test_a_body_that_is_not_what_it_says_is_kept_as_failed(
    engine: Engine, content_type: str, body: bytes
) -> None:
    await engine.apply(document())
    reply = await engine.post("/hooks/w/hook", body, content_type=content_type)
    assert reply.status == 422
    _, shown = await engine.call("GET", f"/v1/deliveries/{reply.json()['delivery']}")
    assert base64.b64decode(shown["body_b64"]) == body


async def test_the_raw_body_is_there_for_who_asks_for_it_and_stored_for_nobody_else(engine: Engine) -> None:
    await engine.apply(document(step="${{ $trigger.raw_body }}"))
    await engine.post("/hooks/w/hook", b' {"a": 1}', content_type="application/json")
    await engine.apply(document())
    await engine.post("/hooks/w/hook", b' {"a": 1}', content_type="application/json")
    first, second = await engine.runs()
    assert first["output"] == ' {"a": 1}'
    assert "raw_body" in first["trigger"] and "raw_body" not in second["trigger"]


# ---- limits


async def test_a_rate_limit_answers_429_with_a_time_to_come_back(engine: Engine) -> None:
    await engine.apply(document("verify: none, rate_limit: {max: 3, per: 30s}"))
    statuses = [(await engine.post("/hooks/w/hook")).status for _ in range(4)]
    assert statuses == [202, 202, 202, 429]
    reply = await engine.post("/hooks/w/hook")
    assert reply.header("retry-after") == "30"
    engine.clock.advance(29_000)
    assert (await engine.post("/hooks/w/hook")).header("retry-after") == "1"
    engine.clock.advance(1_000)
    assert [(await engine.post("/hooks/w/hook")).status for _ in range(4)] == [202, 202, 202, 429]
    assert len(await deliveries(engine)) == 6


async def test_who_is_not_verified_uses_up_no_senders_places(engine: Engine) -> None:
    await engine.values.put_secret("GH", "a secret value")
    await engine.apply(document("verify: {scheme: github, secret: GH}, rate_limit: {max: 1, per: 30s}"))
    refused = [(await engine.post("/hooks/w/hook", b"x", x_hub_signature_256="sha256=00")).status for _ in range(5)]
    assert refused == [401] * 5
    signature = github_signature("a secret value", b"x")
    assert (await engine.post("/hooks/w/hook", b"x", x_hub_signature_256=signature)).status == 202


async def test_too_many_queued_runs_answer_503_and_store_nothing(tmp_path: Path, clock: ManualClock) -> None:
    async with open_engine(tmp_path / "taskforge.db", clock, queued_runs=3) as engine:
        await engine.apply(document())
        await engine.apply("name: later\nsteps: [{id: a, transform: 1}]\n")
        for _ in range(3):
            await engine.call("POST", "/v1/workflows/later/runs", {"delay": "1h"})
        reply = await engine.post("/hooks/w/hook")
        assert (reply.status, reply.code) == (503, "HOOK_BUSY") and int(reply.header("retry-after") or 0) > 0
        assert await deliveries(engine) == []
        clock.advance(3_600_000)
        while (await engine.call("GET", "/v1/stats"))[1]["runs"]["QUEUED"]:
            await asyncio.sleep(0.01)
        assert (await engine.post("/hooks/w/hook")).status == 202


async def test_a_disk_that_is_nearly_full_answers_503_and_stores_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    from collections import namedtuple

    Usage = namedtuple("Usage", "total used free")
    await engine.apply(document())
    inbox = engine.inbox
    engine.triggers.webhooks._limits = InboxLimits(
        inbox.queued_runs, 64 * 1024 * 1024, inbox.keep_ms, inbox.keep_bytes, inbox.directory
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12 - 1_000_000, 1_000_000))
    reply = await engine.post("/hooks/w/hook")
    assert (reply.status, reply.code) == (503, "HOOK_BUSY")
    assert await deliveries(engine) == []
    monkeypatch.undo()
    engine.clock.advance(1_000)
    assert (await engine.post("/hooks/w/hook")).status == 202


@pytest.mark.parametrize("error", [StoreFull("the disk is full"), Unavailable("the store is busy")])
async def test_a_store_that_takes_nothing_is_503_and_gives_back_what_it_took(engine: Engine, error: Exception) -> None:
    await engine.apply(document())
    faulty = FaultyStore(engine.store)
    engine.triggers.webhooks._store = faulty.as_store()
    faulty.refuse("accept_delivery", error)
    reply = await engine.post("/hooks/w/hook")
    assert reply.status == 503 and int(reply.header("retry-after") or 0) > 0
    assert engine.executor.in_flight == 0 and len(engine.drivers) == 0
    assert await deliveries(engine) == []
    assert (await engine.post("/hooks/w/hook")).status == 202


async def test_deliveries_in_a_circle_are_refused_after_ten(engine: Engine) -> None:
    await engine.apply(document())
    assert (await engine.post("/hooks/w/hook", taskforge_depth="10")).status == 202
    reply = await engine.post("/hooks/w/hook", taskforge_depth="11")
    assert (reply.status, reply.code) == (409, "LOOP_REFUSED")
    (run,) = await engine.runs()
    assert run["trigger"]["depth"] == 10


# ---- bursts


async def test_a_burst_makes_one_run_with_the_last_delivery(engine: Engine) -> None:
    await engine.apply(
        document(
            "verify: none, debounce: {key: '${{ $trigger.body.k }}', for: 5s}", more=", input: '${{ $trigger.body }}'"
        )
    )
    first = await engine.post("/hooks/w/hook", {"k": "a", "n": 1})
    other = await engine.post("/hooks/w/hook", {"k": "b", "n": 1})
    engine.clock.advance(4_000)
    second = await engine.post("/hooks/w/hook", {"k": "a", "n": 2})
    assert (first.status, second.status) == (202, 202) and first.json()["id"] == second.json()["id"]
    engine.clock.advance(2_000)
    await _until(engine, 1)
    assert [(run["id"], run["input"]["k"]) for run in await engine.runs() if run["state"] == "SUCCEEDED"] == [
        (other.json()["id"], "b")
    ]
    engine.clock.advance(3_000)
    await _until(engine, 2)
    assert [run["input"] for run in await engine.runs()] == [{"k": "a", "n": 2}, {"k": "b", "n": 1}]
    third = await engine.post("/hooks/w/hook", {"k": "a", "n": 3})
    assert third.json()["id"] != first.json()["id"]


async def test_a_burst_waits_through_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "taskforge.db"
    async with open_engine(path, clock) as engine:
        await engine.apply(document("verify: none, debounce: {for: 5s}", more=", input: {n: '${{ $trigger.body.n }}'}"))
        first = await engine.post("/hooks/w/hook", {"n": 1})
    async with open_engine(path, clock) as engine:
        second = await engine.post("/hooks/w/hook", {"n": 2})
        assert second.json()["id"] == first.json()["id"]
        clock.advance(6_000)
        await _until(engine, 1)
        assert [run["input"] for run in await engine.runs()] == [{"n": 2}]


async def _until(engine: Engine, succeeded: int) -> None:
    async with asyncio.timeout(10):
        while (await engine.store.stats(engine.clock.now())).runs["SUCCEEDED"] < succeeded:
            await asyncio.sleep(0.01)
