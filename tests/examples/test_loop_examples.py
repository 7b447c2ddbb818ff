"""Examples with loops, state, children and limits, each run against a scripted target."""

from __future__ import annotations

import pytest

from tests.examples.running import Stage, ended_well, in_any_order, states
from tests.support.target import Answer


def test_three_strikes_alerts_at_the_third_and_once_when_it_is_over(stage: Stage) -> None:
    down, up = Answer(500), Answer()
    stage.target.answer("/page", down, down, down, down, up, up)
    found = []
    for _ in range(6):
        run = stage.run("three-strikes", url=f"{stage.target.url}/page", alert_url=f"{stage.target.url}/hook")
        assert ended_well(run)
        found.append((run["output"]["strikes"], run["output"]["told"]))
    assert found == [(1, False), (2, False), (3, True), (4, False), (0, True), (0, False)]
    page = f"{stage.target.url}/page"
    assert stage.bodies("/hook") == [{"text": f"{page} is down"}, {"text": f"{page} is back"}]


def test_paginate_copies_page_by_page_and_goes_on_where_it_was(stage: Stage) -> None:
    pages = [
        Answer(body={"items": [{"id": 1}, {"id": 2}], "more": True}),
        Answer(body={"items": [{"id": 3}], "more": False}),
        Answer(body={"items": [], "more": False}),
    ]
    stage.target.answer("/items", *pages)
    where = {"source": f"{stage.target.url}/items", "sink": f"{stage.target.url}/copy", "page_size": 2}
    first = stage.run("paginate", **where)
    assert ended_well(first) and first["output"] == {"last_id": 3}
    assert stage.seen() == [
        "GET /items?after=0&limit=2",
        "POST /copy",
        "GET /items?after=2&limit=2",
        "POST /copy",
    ]
    assert stage.bodies("/copy") == [[{"id": 1}, {"id": 2}], [{"id": 3}]]
    assert sorted(states(first)) == sorted(
        ["pages", *(f"pages[{n}].{id}" for n in (0, 1) for id in ("page", "copy", "keep"))]
    )
    second = stage.run("paginate", **where)
    assert ended_well(second) and second["output"] == {"last_id": 3}
    assert stage.seen()[4:] == ["GET /items?after=3&limit=2"]
    assert states(second)["pages[0].keep"] == "SKIPPED"


def test_nightly_report_has_null_for_a_shop_that_does_not_answer(stage: Stage) -> None:
    stage.target.answer("/shops/berlin", Answer(503), Answer(body={"sales": 5}))
    stage.target.answer("/shops/oslo", Answer(body={"sales": 9}))
    stage.target.answer("/shops/rome", Answer(404))
    run = stage.run("nightly-report", api=stage.target.url, shops=["berlin", "rome", "oslo"], day="monday")
    assert ended_well(run)
    report = {"day": "monday", "total": 14, "best": "oslo", "missing": ["rome"]}
    assert run["output"] == report
    assert stage.bodies("/reports") == [report]
    shops = ["berlin", "berlin", "oslo", "rome"]
    assert in_any_order(stage.seen()[:-1], [f"GET /shops/{shop}?day=monday" for shop in shops])
    assert states(run)["figures"] == "FAILED"
    keys = stage.target.keys("/shops/berlin")
    assert keys == [f"{run['id']}/figures[0].fetch"] * 2


def test_export_poll_looks_until_it_is_done(stage: Stage) -> None:
    stage.target.answer("/exports", Answer(202, {"id": "e1"}))
    url = f"{stage.target.url}/file"
    stage.target.answer(
        "/exports/e1",
        Answer(body={"state": "running"}),
        Answer(body={"state": "running"}),
        Answer(body={"state": "done", "url": url}),
    )
    stage.target.answer("/file", Answer(body={"rows": 3}))
    run = stage.run("export-poll", api=stage.target.url, every="20ms")
    assert ended_well(run) and run["output"] == {"rows": 3}
    assert stage.seen() == ["POST /exports", *["GET /exports/e1"] * 3, "GET /file"]


def test_export_poll_stops_at_a_failed_export(stage: Stage) -> None:
    stage.target.answer("/exports", Answer(202, {"id": "e1"}))
    stage.target.answer("/exports/e1", Answer(body={"state": "failed", "reason": "no space"}))
    run = stage.run("export-poll", api=stage.target.url, every="20ms")
    assert (run["state"], run["error"]["code"]) == ("FAILED", "EXPORT_FAILED")
    assert run["error"]["message"] == "the export failed: no space"
    assert stage.seen() == ["POST /exports", "GET /exports/e1"]


def test_enrich_keeps_to_the_rate_of_the_api(stage: Stage) -> None:
    stage.target.answer("/lookup", Answer(body={"size": 10}))
    companies = [{"name": f"c{n}"} for n in range(7)]
    run = stage.run("enrich", companies=companies, api=stage.target.url)
    assert ended_well(run)
    assert run["output"] == [{"name": f"c{n}", "size": 10} for n in range(7)]
    requests = stage.target.requests("/lookup")
    assert in_any_order([seen.query for seen in requests], [f"name=c{n}" for n in range(7)])
    times = sorted(seen.at for seen in requests)
    # Five at once, then one each fifth of a second; what a request takes on its way is no property of the limit.
    assert times[5] - times[0] > 0.15
    assert times[6] - times[0] > 0.35


def test_region_check_drains_the_sick_region_only(stage: Stage) -> None:
    stage.target.answer("/us/db", Answer(500))
    run = stage.run("region-check", api=stage.target.url)
    assert ended_well(run) and run["output"] == {"sick": ["us"]}
    checks = [f"GET /{region}/{part}" for region in ("eu", "us", "ap") for part in ("web", "db")]
    assert in_any_order(stage.seen(), [*checks, "GET /us/db", "POST /balancer/drain"])
    assert stage.bodies("/balancer/drain") == [{"region": "us"}]
    assert states(run)["regions[1].db"] == "FAILED"
    assert states(run)["regions[1].drain"] == "SUCCEEDED"


def test_fulfil_order_ships_every_parcel_by_a_child_run(stage: Stage) -> None:
    stage.target.answer("/labels", Answer(body={"id": "l", "tracking": "t"}))
    run = stage.run("fulfil-order", order=5, parcels=[{"to": "ada"}, {"to": "bob"}], api=stage.target.url)
    assert ended_well(run) and run["output"] == {"tracking": ["t", "t"]}
    assert in_any_order(stage.bodies("/labels"), [{"to": "ada"}, {"to": "bob"}])
    assert stage.bodies("/orders/5/close") == [{"tracking": ["t", "t"]}]
    _, children = stage.server.call("GET", "/v1/runs?workflow=ship-parcel")
    mine = [child for child in children["items"] if child["trigger"].get("run") == run["id"]]
    assert in_any_order([child["trigger"]["step"] for child in mine], ["parcels[0].ship", "parcels[1].ship"])


def test_fulfil_order_fails_with_a_child_that_fails(stage: Stage) -> None:
    stage.target.answer("/labels", Answer(400))
    run = stage.run("fulfil-order", order=6, parcels=[{"to": "ada"}], api=stage.target.url)
    assert (run["state"], run["error"]["code"]) == ("FAILED", "CHILD_FAILED")
    assert stage.seen() == ["POST /labels"]


def test_ship_parcel_can_be_started_by_hand(stage: Stage) -> None:
    stage.target.answer("/labels", Answer(body={"id": "l7", "tracking": "t7"}))
    run = stage.run("ship-parcel", parcel={"to": "ada"}, api=stage.target.url)
    assert ended_well(run) and run["output"] == {"tracking": "t7"}
    assert stage.bodies("/pickups") == [{"label": "l7"}]


@pytest.mark.parametrize("service", ["shop", "search"])
def test_deploy_goes_on_one_at_a_time_for_each_service(stage: Stage, service: str) -> None:
    stage.target.answer("/deployments", Answer(body={"id": "d"}, hold=True), Answer(body={"id": "e"}))
    first = stage.start("deploy", service=service, version="1", api=stage.target.url)
    stage.target.await_requests(1, "/deployments")
    second = stage.start("deploy", service=service, version="2", api=stage.target.url)
    other = stage.run("deploy", service=f"{service}-other", version="3", api=stage.target.url)
    assert ended_well(other)
    assert stage.show(second["id"])["state"] == "QUEUED"
    stage.target.release("/deployments")
    assert stage.await_end(first["id"])["output"] == {"deployment": "d"}
    assert ended_well(stage.await_end(second["id"]))
    assert [body["version"] for body in stage.bodies("/deployments")] == ["1", "3", "2"]


def test_once_a_day_sends_once_for_each_day(stage: Stage) -> None:
    found = [stage.run("once-a-day", day=day, api=stage.target.url) for day in ("mon", "mon", "tue")]
    assert all(map(ended_well, found))
    assert [run["output"] for run in found] == [{"sent": True}, {"sent": False}, {"sent": True}]
    assert stage.bodies("/digest") == [{"day": "mon"}, {"day": "tue"}]


def test_preview_build_stops_for_a_newer_push(stage: Stage) -> None:
    stage.target.answer("/lint", Answer(hold=True), Answer())
    stage.target.answer("/build", Answer(body={"url": "p2"}))
    first = stage.start("preview-build", branch="main", commit="c1", api=stage.target.url)
    stage.target.await_requests(1, "/lint")
    second = stage.run("preview-build", branch="main", commit="c2", api=stage.target.url)
    assert ended_well(second) and second["output"] == {"preview": "p2"}
    older = stage.await_end(first["id"])
    assert (older["state"], older["error"]["code"]) == ("CANCELLED", "CONCURRENCY_REPLACED")
    assert in_any_order(
        stage.bodies("/status"),
        [{"commit": "c1", "state": "CONCURRENCY_REPLACED"}, {"commit": "c2", "state": "OK"}],
    )
    (message,) = stage.target.await_requests(1, "/chat")
    assert message.json == {"text": "preview of main"}


def test_preview_build_stops_at_the_first_check_that_fails(stage: Stage) -> None:
    stage.target.answer("/lint", Answer(hold=True))
    stage.target.answer("/test", Answer(500, delay_s=0.1))
    run = stage.run("preview-build", branch="other", commit="c3", api=stage.target.url)
    assert (run["state"], run["error"]["step"]) == ("FAILED", "test")
    assert states(run)["lint"] == "CANCELLED"
    assert stage.bodies("/status") == [{"commit": "c3", "state": "STATUS_UNEXPECTED"}]


def test_tell_channel_posts_and_refuses_an_empty_text(stage: Stage) -> None:
    run = stage.run("tell-channel", text="hi", url=f"{stage.target.url}/chat")
    assert ended_well(run) and run["output"] == {"status": 200}
    refused = {"input": {"text": "", "url": stage.target.url}}
    assert stage.server.call("POST", "/v1/workflows/tell-channel/runs", refused)[0] == 422
    assert stage.bodies("/chat") == [{"text": "hi"}]
