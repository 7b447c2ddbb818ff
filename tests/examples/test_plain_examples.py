"""Examples of single requests, data and decisions, each run against a scripted target."""

from __future__ import annotations

import re

from tests.examples.running import EXAMPLES, NAMES, Stage, ended_well, in_any_order, path_of, states
from tests.support.server import ROOT
from tests.support.target import Answer


def test_there_are_at_least_twenty_examples_and_a_test_runs_each() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "examples").glob("test_*.py"))
    assert len(NAMES) >= 20
    assert [name for name in NAMES if f'"{name}"' not in tests and f'"{name}/' not in tests] == []


def test_the_list_of_examples_has_each_with_its_description() -> None:
    page = (EXAMPLES / "README.md").read_text()
    listed = re.findall(r"^\| \[(.+)\]\((.+)\.yaml\) \|", page, re.MULTILINE)
    assert sorted(listed) == [(name, name) for name in NAMES]


def test_every_example_teaches_in_comments() -> None:
    bare = [name for name in NAMES if path_of(name).read_text().count("# ") < 4]
    assert bare == []


def test_uptime_tells_the_channel_about_a_page_that_is_down(stage: Stage) -> None:
    stage.target.answer("/page", Answer(503))
    run = stage.run("uptime", url=f"{stage.target.url}/page", alert_url=f"{stage.target.url}/hook")
    assert ended_well(run)
    assert run["output"] == {"up": False, "slow": False, "error": "STATUS_UNEXPECTED"}
    assert stage.seen() == ["GET /page"] * 3 + ["POST /hook"]
    assert len(set(stage.target.keys("/page"))) == 1
    text = f"{stage.target.url}/page is down: STATUS_UNEXPECTED (run {run['number']})"
    assert stage.bodies("/hook") == [{"text": text}]


def test_issue_digest_posts_the_bugs(stage: Stage) -> None:
    issues = [
        {"number": 7, "title": "broken", "labels": [{"name": "bug"}]},
        {"number": 8, "title": "idea", "labels": []},
    ]
    stage.target.answer("/repos/acme/api/issues", Answer(body=issues))
    run = stage.run("issue-digest", api=stage.target.url, channel_url=f"{stage.target.url}/hook")
    assert ended_well(run)
    assert run["output"] == {"bugs": [{"number": 7, "title": "broken"}], "posted": 200}
    assert stage.seen() == ["GET /repos/acme/api/issues?state=open&per_page=100", "POST /hook"]
    assert stage.bodies("/hook") == [{"text": "#7 broken"}]


def test_order_check_prints_a_label(stage: Stage) -> None:
    order = {"id": 9007199254740993, "state": "new", "items": [{"weight_g": 200, "count": 3}]}
    stage.target.answer("/orders/9007199254740993", Answer(body=order))
    stage.target.answer("/labels", Answer(201, {"url": "l1"}))
    run = stage.run("order-check", order_id=9007199254740993, shop=stage.target.url)
    assert ended_well(run)
    assert run["output"] == {"label": {"url": "l1"}}
    assert stage.bodies("/labels") == [{"order": 9007199254740993, "weight_g": 600}]


def test_order_check_ends_early_for_unknown_and_for_shipped_orders(stage: Stage) -> None:
    stage.target.answer("/orders/1", Answer(404))
    stage.target.answer("/orders/2", Answer(body={"state": "shipped"}))
    unknown = stage.run("order-check", order_id=1, shop=stage.target.url)
    assert (unknown["state"], unknown["error"]["code"]) == ("FAILED", "ORDER_UNKNOWN")
    assert unknown["error"]["message"] == "there is no order 1"
    shipped = stage.run("order-check", order_id=2, shop=stage.target.url)
    assert ended_well(shipped) and shipped["output"] == {"already": True}
    assert stage.seen() == ["GET /orders/1", "GET /orders/2"]


def test_reshape_sums_up_without_a_request(stage: Stage) -> None:
    run = stage.run("reshape")
    assert ended_well(run)
    assert run["output"] == {"best": "ada", "count": 2, "text": "ada leads with 20; ${{ }} is plain text"}
    assert stage.seen() == []


def test_retry_politely_waits_as_long_as_it_is_told(stage: Stage) -> None:
    busy = Answer(429, headers=(("Retry-After", "1"),))
    stage.target.answer("/tickets", busy, Answer(201, {"id": "t1"}))
    run = stage.run("retry-politely", title="help", api=stage.target.url)
    assert ended_well(run)
    assert run["output"] == {"created": True, "ticket": "t1"}
    first, second = stage.target.requests("/tickets")
    assert second.at - first.at >= 1
    assert first.key == second.key == f"{run['id']}/create"
    assert first.json == second.json == {"title": "help"}


def test_token_login_uses_the_token_of_the_form(stage: Stage) -> None:
    stage.target.answer("/token", Answer(body={"access_token": "abc"}))
    stage.target.answer("/users/a%2Fb/items", Answer(body={"items": [{"title": "x"}]}))
    run = stage.run("token-login", user="a/b", search="c d", api=stage.target.url)
    assert ended_well(run)
    assert run["output"] == ["x"]
    login, search = stage.target.requests()
    assert login.body == b"grant_type=password&username=a%2Fb"
    assert search.query == "q=c+d&tag=open&tag=recent"
    assert search.headers["authorization"] == "Bearer abc"


def test_fan_out_joins_what_it_needs(stage: Stage) -> None:
    stage.target.answer("/customers/ada", Answer(body={"name": "Ada"}))
    stage.target.answer("/orders", Answer(body=[{"amount": 3}, {"amount": 4}]))
    stage.target.answer("/score", Answer(500))
    run = stage.run("fan-out", customer="ada", api=stage.target.url)
    assert ended_well(run)
    report = {"name": "Ada", "orders": 2, "total": 7, "score": "unknown"}
    assert run["output"] == report
    assert in_any_order(stage.seen()[:3], ["GET /customers/ada", "GET /orders?customer=ada", "GET /score?customer=ada"])
    assert stage.seen()[3:] == ["POST /reports"]
    assert stage.bodies("/reports") == [report]


def test_wait_for_lock_comes_back_only_while_the_page_is_locked(stage: Stage) -> None:
    locked, present = Answer(409, {"code": "locked"}), Answer(409, {"code": "present"})
    stage.target.answer("/pages/a/published", locked, locked, Answer(body={"version": 3}))
    stage.target.answer("/pages/b/published", locked, present)
    first = stage.run("wait-for-lock", page="a", cms=stage.target.url)
    assert ended_well(first) and first["output"] == {"version": 3}
    assert len(stage.target.requests("/pages/a/published")) == 3
    second = stage.run("wait-for-lock", page="b", cms=stage.target.url)
    assert ended_well(second) and second["output"] == "already published"
    assert len(stage.target.requests("/pages/b/published")) == 2
    assert states(second) == {"publish": "FAILED", "give_up": "SKIPPED"}


def test_wait_for_lock_gives_up_at_once_on_any_other_error(stage: Stage) -> None:
    stage.target.answer("/pages/c/published", Answer(500))
    run = stage.run("wait-for-lock", page="c", cms=stage.target.url)
    assert (run["state"], run["error"]["code"]) == ("FAILED", "NOT_PUBLISHED")
    assert stage.seen() == ["PUT /pages/c/published"]
