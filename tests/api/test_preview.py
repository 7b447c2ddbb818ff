"""`POST /v1/schedules:preview`: the next times of a cron expression, or what is wrong with it and in which column."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.api.asgi import Reply, request
from tests.api.gate import ADMIN, make_gate


async def _preview(**body: Any) -> Reply:
    api, _, _ = make_gate()
    return await request(
        api,
        "POST",
        "/v1/schedules:preview",
        token=ADMIN,
        headers=[("content-type", "application/json")],
        body=orjson.dumps(body),
    )


async def test_next_times_come_in_utc_and_on_the_zones_clocks() -> None:
    reply = await _preview(cron="30 2 * * *", timezone="Europe/Berlin", **{"from": "2026-03-28T12:00:00Z"}, count=2)
    assert reply.status == 200
    assert reply.json() == {
        "items": [
            {
                "at": "2026-03-29T01:00:00.000Z",
                "local": "2026-03-29T03:00:00+02:00",
                "note": "the clock skips its time; this is the first minute after",
            },
            {"at": "2026-03-30T00:30:00.000Z", "local": "2026-03-30T02:30:00+02:00"},
        ],
        "remarks": [],
    }


async def test_without_from_times_follow_the_clock_and_without_count_there_are_ten() -> None:
    reply = await _preview(cron="@every 90s")
    _, _, clock = make_gate()
    items = reply.json()["items"]
    assert len(items) == 10
    assert items[0] == {"at": "2027-01-15T08:01:30.000Z", "local": "2027-01-15T08:01:30+00:00"}
    assert clock.wall() == 1_800_000_000_000


async def test_a_from_without_an_offset_is_on_the_zones_clocks_and_is_itself_left_out() -> None:
    reply = await _preview(cron="0 9 * * *", timezone="Asia/Tokyo", **{"from": "2026-05-01T09:00"}, count=1)
    assert reply.json()["items"] == [{"at": "2026-05-02T00:00:00.000Z", "local": "2026-05-02T09:00:00+09:00"}]


async def test_with_jitter_each_time_says_by_when_it_fires_and_never_reaches_the_next() -> None:
    reply = await _preview(cron="* * * * *", jitter="5m", **{"from": "2026-05-01T00:00:00Z"}, count=1)
    assert reply.json()["items"][0]["latest"] == "2026-05-01T00:02:00.000Z"
    reply = await _preview(cron="0 * * * *", jitter="5m", **{"from": "2026-05-01T00:00:00Z"}, count=1)
    assert reply.json()["items"][0]["latest"] == "2026-05-01T01:05:00.000Z"


@pytest.mark.parametrize(
    ("body", "path", "column", "words"),
    [
        ({"cron": "0 25 * * *"}, "cron", 3, "hour"),
        ({"cron": "0 0 9 * * *"}, "cron", 11, "6 fields"),
        ({"cron": "0 0 30 2 *"}, "cron", 5, "never fires"),
        ({"cron": "@reboot"}, "cron", 1, "@reboot"),
        ({"cron": "@every 5x"}, "cron", 8, "5x"),
        ({"cron": "* * * * *", "timezone": "Europe/Berln"}, "timezone", 1, "Europe/Berln"),
        ({"cron": "* * * * *", "jitter": "2d"}, "jitter", 1, "a day"),
        ({"cron": "* * * * *", "from": "yesterday"}, "from", None, "yesterday"),
        ({"cron": "* * * * *", "count": 0}, "count", None, "1 to 1000"),
        ({"cron": 5}, "cron", None, "text"),
        ({}, "cron", None, "cron"),
        ({"cron": "* * * * *", "times": 3}, "times", None, "times"),
    ],
)
async def test_what_is_wrong_is_a_422_with_its_place(
    body: dict[str, Any], path: str, column: int | None, words: str
) -> None:
    reply = await _preview(**body)
    assert (reply.status, reply.code) == (422, "INVALID_REQUEST")
    (error,) = reply.json()["errors"]
    assert (error["path"], error.get("column")) == (path, column)
    assert words in error["message"]


async def test_a_remark_warns_of_what_is_valid_but_hardly_meant() -> None:
    reply = await _preview(cron="*/90 * * * *", count=1)
    assert reply.json()["remarks"] == ['the minute "*/90" matches only 0; every 90 minutes is "@every 90m"']


async def test_the_rarest_date_ends_with_the_calendar_and_not_with_a_hang() -> None:
    reply = await _preview(cron="0 0 29 2 *", count=1000, **{"from": "9900-01-01T00:00:00Z"})
    assert [item["at"][:4] for item in reply.json()["items"]][-1] == "9996"
