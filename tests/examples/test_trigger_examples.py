"""Examples that start by themselves: webhooks signed as their senders do, and the ends of runs."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any

import pytest

from tests.examples.running import Stage, ended_well

SECRETS = {
    "GITHUB_SECRET": "what only GitHub and we know",
    "SHOP_SECRET": "what only the shop and we know",
    "CMS_TOKEN": "a-token-for-the-editor",
}


@pytest.fixture
def hooked(stage: Stage) -> Stage:
    """The stage, with the secrets and variables that these examples name."""
    for name, value in SECRETS.items():
        assert stage.server.call("PUT", f"/v1/secrets/{name}", {"value": value})[0] == 200
    for name, path in (("CHANNEL_URL", "/channel"), ("SEARCH_URL", "/search")):
        assert stage.server.call("PUT", f"/v1/vars/{name}", {"value": stage.target.url + path})[0] == 200
    return stage


def send(stage: Stage, hook: str, body: Any, **headers: str) -> tuple[int, Any]:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return stage.server.call("POST", f"/hooks/{hook}", encode(body), {"Content-Type": "application/json", **given})


def encode(body: Any) -> bytes:
    return json.dumps(body).encode()


def mac(name: str, content: bytes) -> str:
    return hmac.new(SECRETS[name].encode(), content, hashlib.sha256).hexdigest()


def test_issue_hook_tells_of_each_opened_issue_once(hooked: Stage) -> None:
    def github(action: str, delivery: str) -> tuple[int, Any]:
        body = {"action": action, "issue": {"title": "It is broken", "html_url": "https://github.com/a/b/issues/7"}}
        signature = "sha256=" + mac("GITHUB_SECRET", encode(body))
        return send(hooked, "issue-hook/github", body, x_hub_signature_256=signature, x_github_delivery=delivery,
                    x_github_event="issues")  # fmt: skip

    status, first = github("opened", "d-1")
    assert status == 202 and ended_well(hooked.await_end(first["id"]))
    assert (github("opened", "d-1")[0], github("closed", "d-2")[1]["state"]) == (200, "FILTERED")
    assert hooked.bodies("/channel") == [{"text": "It is broken: https://github.com/a/b/issues/7"}]


def ask(stage: Stage, question: dict[str, Any]) -> tuple[int, Any]:
    at = str(int(time.time()))
    signature = "v1=" + mac("SHOP_SECRET", at.encode() + b"." + encode(question))
    return send(stage, "price-quote/ask", question, x_time=at, x_signature=signature)


def test_price_quote_answers_with_the_price_and_again_with_the_same(hooked: Stage) -> None:
    question = {"question_id": "q-1", "items": [{"count": 3, "unit_price": 5}, {"count": 1, "unit_price": 2.5}]}
    assert ask(hooked, question) == (200, {"price": 17.5, "currency": "EUR"})
    assert ask(hooked, question) == (200, {"price": 17.5, "currency": "EUR"})
    assert len([run for run in hooked.runs("price-quote") if run["trigger"]["body"]["question_id"] == "q-1"]) == 1


def test_on_call_pages_when_a_price_quote_fails(hooked: Stage) -> None:
    status, problem = ask(hooked, {"question_id": "q-2", "items": "none"})
    assert (status, problem["code"], problem["state"]) == (500, "RESPOND_FAILED", "FAILED")
    hooked.target.await_requests(1, "/channel")
    (page,) = hooked.bodies("/channel")
    assert page["text"].startswith(f"price-quote#{problem['number']} failed: ")
    (run,) = hooked.runs("on-call")
    assert (run["trigger"]["type"], run["trigger"]["run"]) == ("run", problem["id"])


def test_reindex_makes_one_index_of_a_burst(hooked: Stage) -> None:
    token = {"authorization": f"Bearer {SECRETS['CMS_TOKEN']}"}
    answers = [
        send(hooked, "reindex/saved", {"page": page, "revision": revision}, **token)
        for page, revision in (("home", 1), ("home", 2), ("about", 1), ("home", 3))
    ]
    assert [status for status, _ in answers] == [202] * 4
    ids = list(dict.fromkeys(answer["id"] for _, answer in answers))
    assert len(ids) == 2
    assert [hooked.await_end(id)["output"] for id in ids] == [{"indexed": 3}, {"indexed": 1}]
    assert sorted(hooked.seen()) == ["PUT /search/pages/about", "PUT /search/pages/home"]
