from __future__ import annotations

import contextlib
import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge.api import query
from taskforge.api.query import RUNS as RUNS_CURSOR
from taskforge.api.query import WORKFLOWS, CursorKind, encode_cursor, read_query
from taskforge.core.durations import parse_duration
from taskforge.core.errors import InvalidRequest
from tests.api.asgi import request
from tests.api.gate import ADMIN, make_gate

RUNS = (
    query.WORKFLOW,
    query.RUN_STATE,
    query.TRIGGER,
    query.SINCE,
    query.UNTIL,
    query.LIMIT,
    query.WAIT,
    query.cursor_param(RUNS_CURSOR),
)


def wrong(text: str) -> dict[str, str | None]:
    """Which parameters are refused, with their hints."""
    with pytest.raises(InvalidRequest) as caught:
        read_query(text.encode(), RUNS)
    return {problem.path: problem.hint for problem in caught.value.problems}


def test_what_is_given_comes_as_values() -> None:
    cursor = encode_cursor(RUNS_CURSOR, 42)
    text = f"workflow=a&state=FAILED,QUEUED&state=FAILED&limit=500&wait=1.5s&cursor={cursor}&since=1970-01-01T00:00:01Z"
    assert read_query(text.encode(), RUNS) == {
        "workflow": "a",
        "state": ("FAILED", "QUEUED"),
        "limit": 500,
        "wait": 1500,
        "cursor": 42,
        "since": 1000,
    }


def test_nothing_given_is_nothing() -> None:
    assert read_query(b"", RUNS) == {}


def test_a_plus_in_an_offset_may_be_written_plainly() -> None:
    for text in ("1970-01-01T02:00:00+02:00", "1970-01-01T02:00:00%2B02:00", "1970-01-01T00:00:00Z"):
        assert read_query(f"since={text}".encode(), RUNS) == {"since": 0}


@pytest.mark.parametrize(
    "text",
    ["limit=0", "limit=501", "limit=-1", "limit=1.0", "limit=", "limit=ten", "limit=%D9%A1", "limit=1e1", "limit=+1",
     "limit=5&limit=5", "limit=999999999999999999999999", "state=DONE", "state=", "state=FAILED,", "since=yesterday",
     "since=2026-02-30T00:00:00Z", "until=1", "until=99999-01-01T00:00:00Z", "wait=soon", "wait=11m", "wait=-1",
     "wait=", "cursor=", "cursor=x", "cursor=!!!", "cursor=%00", "workflow=", "workflow=" + "a" * 300],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_name(text: str) -> None:
    assert list(wrong(text)) == [text.partition("=")[0]]


def test_all_wrong_parameters_are_named_at_once() -> None:
    assert list(wrong("limit=0&state=x&wat=1")) == ["wat", "limit", "state"]


def test_an_unknown_parameter_is_refused_with_the_nearest_name() -> None:
    assert wrong("workflw=a") == {"workflw": 'did you mean "workflow"?'}
    assert (wrong("zzz=1")["zzz"] or "").startswith("accepted: workflow, state")
    with pytest.raises(InvalidRequest) as caught:
        read_query(b"a=1", ())
    assert caught.value.problems[0].hint == "this call takes no query parameters"


def test_a_state_is_refused_with_the_nearest_state() -> None:
    with pytest.raises(InvalidRequest, match='did you mean "FAILED"'):
        read_query(b"state=FAILD", RUNS)


def test_a_cursor_of_another_list_is_refused() -> None:
    for cursor in (encode_cursor(WORKFLOWS, "a"), "r", "r-1", "rg", "r" + "1" * 16, "42"):
        assert list(wrong(f"cursor={cursor}")) == ["cursor"]


def test_a_query_that_is_no_text_is_refused() -> None:
    for raw in (b"workflow=%ff", b"\xff=1", b"&".join(b"a=1" for _ in range(200))):
        with pytest.raises(InvalidRequest):
            read_query(raw, RUNS)


KINDS = [query.WORKFLOWS, query.VERSIONS, query.RUNS, query.STEPS, query.LOGS, query.DEAD_LETTERS]


@given(
    kind=st.sampled_from(KINDS), text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=100), data=st.data()
)
def test_a_cursor_comes_back_as_it_was(kind: CursorKind, text: str, data: st.DataObject) -> None:
    value = data.draw(st.integers(0, 2**60 - 1)) if kind.numeric else text
    param = query.cursor_param(kind)
    cursor = encode_cursor(kind, value)
    assert cursor == quote(cursor, safe="")
    assert read_query(f"cursor={cursor}".encode(), (param,)) == {"cursor": value}


@given(raw=st.binary(max_size=50) | st.text(max_size=50).map(lambda text: quote(text, safe="&=").encode()))
def test_no_query_is_an_error_of_ours(raw: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        read_query(raw, RUNS)


async def test_a_wrong_query_is_a_problem_that_repeats_no_values() -> None:
    app, _, _ = make_gate()
    reply = await request(app, "GET", "/v1/runs?token=tf_secret&limit=x", token=ADMIN)
    assert (reply.status, reply.code) == (422, "INVALID_REQUEST")
    assert [entry["path"] for entry in reply.json()["errors"]] == ["token", "limit"]
    assert b"tf_secret" not in reply.body


@given(text=st.from_regex(query.DURATION_PATTERN, fullmatch=True) | st.text("0123456789.dhms ", max_size=8))
def test_the_schema_of_a_duration_admits_what_is_read(text: str) -> None:
    try:
        parse_duration(text)
    except ValueError as error:
        assert "too long" in str(error) or re.fullmatch(query.DURATION_PATTERN, text) is None or len(text) > 64
    else:
        assert re.fullmatch(query.DURATION_PATTERN, text.strip(" "))


def test_every_list_has_cursors_of_its_own() -> None:
    assert len({kind.letter for kind in KINDS}) == len(KINDS)
