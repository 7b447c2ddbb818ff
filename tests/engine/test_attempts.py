"""Attempts: what is tried again, when, how long it may take, and what is left when they are used up."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from taskforge.core.errors import NothingToRetry, RunNotEnded
from taskforge.core.jsontext import loads
from taskforge.engine.starting import StartRequest
from tests.engine.engine import Engine, attempts, running_engine, states
from tests.support.clock import ManualClock
from tests.support.target import Answer, Target

SECOND = 1_000


def failing(retry: str = "", more: str = "") -> str:
    http = "http: {method: POST, url: URL/call, json: 7}"
    return f"name: call\nsteps: [{{id: call, {http}, retry: {{{retry}}}{more}}}]\n"


async def pauses(engine: Engine, runs: list[str], number: int = 1) -> list[int]:
    """Milliseconds from the end of each run's attempt `number` to the time of the next one."""
    await engine.until("/call", number * len(runs))
    found = []
    for run in runs:
        await engine.becomes(run, "QUEUED", "call")
        rows = await engine.rows(run)
        ended = rows.attempts[number - 1].finished_at
        assert ended is not None
        found.append((rows.steps[0].available_at or 0) - ended)
    return found


# ---- pauses


async def test_pauses_have_full_jitter_and_double(tmp_path: Path, target: Target) -> None:
    clock = ManualClock()
    target.answer("/call", Answer(503))
    async with running_engine(tmp_path, target, clock, poll_s=0.02) as engine:
        await engine.publish(failing("max_attempts: 4, initial: 60s, factor: 2, max: 90s"))
        runs = [one.id for one in await engine.service.start_runs(StartRequest("call"), [{}] * 300)]
        for number, ceiling in ((1, 60 * SECOND), (2, 90 * SECOND)):
            found = sorted(await pauses(engine, runs, number))
            assert 0 <= found[0] < ceiling * 0.05
            assert ceiling * 0.95 < found[-1] <= ceiling
            # Spread evenly: no tenth of the time has a fifth of the retries, none is empty.
            tenths = Counter(min(9, pause * 10 // ceiling) for pause in found)
            assert set(tenths) == set(range(10))
            assert max(tenths.values()) < len(runs) / 5
            clock.advance(ceiling)


async def test_retries_wait_for_their_time(tmp_path: Path, target: Target) -> None:
    clock = ManualClock()
    target.answer("/call", Answer(503), Answer())
    async with running_engine(tmp_path, target, clock, poll_s=0.02) as engine:
        run = await engine.begin(await engine.publish(failing("initial: 10s, jitter: none")))
        assert await pauses(engine, [run]) == [10 * SECOND]
        clock.advance(10 * SECOND - 1)
        await turns(engine)
        assert len(target.keys()) == 1
        clock.advance(1)
        assert (await engine.end(run)).record.state == "SUCCEEDED"
        assert target.keys() == [f"{run}/call"] * 2


async def turns(engine: Engine, count: int = 3) -> None:
    """Let the due loop look a few times: it polls, since its clock stands still."""
    await calls(engine, "next_due", count)


@pytest.mark.parametrize(
    ("header", "least"), [("3", 3 * SECOND), ("0", 0), ("rubbish", 0), ("99999999999", 3_600 * SECOND)]
)
async def test_retry_after_is_kept_up_to_its_cap(engine: Engine, header: str, least: int) -> None:
    engine.target.answer("/call", Answer(429, headers=(("Retry-After", header),)))
    run = await engine.begin(await engine.publish(failing("initial: 1s")))
    (pause,) = await pauses(engine, [run])
    assert least <= pause <= least + SECOND
    await engine.service.cancel_run(run)


# ---- what is tried again


@pytest.mark.parametrize(
    ("answer", "retry", "tried"),
    [
        (Answer(503), "", 3),
        (Answer(429), "", 3),
        (Answer(408), "", 3),
        (Answer(then="reset"), "", 3),
        (Answer(404), "", 1),
        (Answer(503), "'on': [429]", 1),
        (Answer(429), "'on': [429]", 3),
        (Answer(404), "'on': [404]", 3),
        (Answer(then="close"), "'on': [timeout]", 1),
        (Answer(503), "max_attempts: 1", 1),
    ],
)
async def test_only_the_chosen_errors_are_tried_again_and_then_there_is_a_dead_letter(
    engine: Engine, answer: Answer, retry: str, tried: int
) -> None:
    engine.target.answer("/call", answer)
    options = ", ".join(part for part in (retry, "initial: 1ms") if part)
    run = await engine.begin(await engine.publish(failing(options)))
    row = await engine.end(run)
    assert row.record.state == "FAILED"
    assert engine.target.keys() == [f"{run}/call"] * tried
    found = attempts(await engine.rows(run))
    assert [(number, state) for _, number, state, _ in found] == [(n + 1, "FAILED") for n in range(tried)]
    (letter,) = await engine.service.list_dead_letters("OPEN", None, 10)
    assert (letter.run_id, letter.path, loads(letter.input or "")["json"]) == (run, "call", 7)
    error = loads(letter.error)
    assert (error["step"], error["attempt"]) == ("call", tried)
    assert error == loads(row.record.error or "")


# ---- time limits


async def test_an_attempt_that_takes_too_long_is_timed_out_and_tried_again(engine: Engine) -> None:
    engine.target.answer("/call", Answer(hold=True), Answer())
    run = await engine.begin(
        await engine.publish(
            "name: call\nsteps:\n  - {id: call, http: {url: URL/call, timeout: 100ms}, retry: {initial: 1ms}}\n"
        )
    )
    assert (await engine.end(run)).record.state == "SUCCEEDED"
    assert attempts(await engine.rows(run)) == [
        ("call", 1, "TIMED_OUT", "ATTEMPT_TIMEOUT"),
        ("call", 2, "SUCCEEDED", None),
    ]


@pytest.mark.parametrize("engine", [{"timeout_ms": 100}], indirect=True)
async def test_an_attempt_without_a_timeout_has_the_configured_one(engine: Engine) -> None:
    engine.target.answer("/call", Answer(hold=True))
    run = await engine.begin(await engine.publish(failing("max_attempts: 1")))
    assert loads((await engine.end(run)).record.error or "")["code"] == "ATTEMPT_TIMEOUT"


@pytest.mark.parametrize("engine", [{"timeout_ms": 40_000}], indirect=True)
async def test_the_configured_timeout_may_be_longer_than_the_default(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    send = engine.http.request

    async def request(request: Any) -> Any:
        asked.append(request.timeout_ms)
        return await send(request)

    monkeypatch.setattr(engine.http, "request", request)
    await engine.end(await engine.begin(await engine.publish(failing())))
    assert asked == [40_000]


async def test_a_step_timeout_bounds_the_attempt_that_runs(engine: Engine) -> None:
    engine.target.answer("/call", Answer(hold=True))
    run = await engine.begin(await engine.publish(failing(more=", timeout: 150ms")))
    row = await engine.end(run)
    assert loads(row.record.error or "")["code"] == "STEP_TIMEOUT"
    assert attempts(await engine.rows(run)) == [("call", 1, "TIMED_OUT", "STEP_TIMEOUT")]
    assert 150 <= (row.record.finished_at or 0) - row.created_at < 5_000
    assert len(await engine.service.list_dead_letters("OPEN", None, 10)) == 1


@pytest.mark.parametrize("more", ["", ", timeout: 1h"])
@pytest.mark.parametrize("expect", ["", ", expect: {status: 2xx}", ", expect: {body: '${{ true }}'}"])
async def test_what_was_not_sent_in_time_is_tried_again_though_it_must_not_be_sent_twice(
    engine: Engine, more: str, expect: str
) -> None:
    with socket.socket() as silent:  # connections are made, and no TLS is spoken
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        http = f"{{url: 'https://127.0.0.1:{silent.getsockname()[1]}', timeout: 100ms{expect}}}"
        retry = "{max_attempts: 2, initial: 1ms}"
        text = f"name: w\nsteps: [{{id: call, http: {http}, effect: once, retry: {retry}{more}}}]\n"
        run = await engine.begin(await engine.publish(text))
        row = await engine.end(run)
    assert loads(row.record.error or "")["code"] == "ATTEMPT_TIMEOUT"
    assert attempts(await engine.rows(run)) == [("call", n, "TIMED_OUT", "ATTEMPT_TIMEOUT") for n in (1, 2)]


async def test_a_step_timeout_bounds_the_pauses_too(engine: Engine) -> None:
    engine.target.answer("/call", Answer(503))
    run = await engine.begin(await engine.publish(failing("initial: 1h, jitter: none", ", timeout: 10s")))
    error = loads((await engine.end(run)).record.error or "")
    # Known at once: the next attempt would begin after the limit.
    assert (error["code"], error["detail"]["last_error"]) == ("STEP_TIMEOUT", "STATUS_UNEXPECTED")


async def test_a_run_timeout_ends_a_running_attempt(engine: Engine) -> None:
    engine.target.answer("/call", Answer(hold=True))
    run = await engine.begin(await engine.publish(failing() + "timeout: 150ms\n"))
    row = await engine.end(run)
    assert (row.record.state, loads(row.record.error or "")["code"]) == ("FAILED", "RUN_TIMEOUT")
    assert attempts(await engine.rows(run)) == [("call", 1, "CANCELLED", None)]
    while engine.executor.in_flight:
        await asyncio.sleep(0)
    # The step did not fail by itself.
    assert await engine.service.list_dead_letters("OPEN", None, 10) == []


async def test_a_run_timeout_ends_a_pause_without_a_poll(engine: Engine) -> None:
    engine.target.answer("/call", Answer(503))
    run = await engine.begin(await engine.publish(failing("initial: 1h, jitter: none") + "timeout: 150ms\n"))
    assert loads((await engine.end(run)).record.error or "")["code"] == "RUN_TIMEOUT"


# ---- retry by a person

TWO = """
name: two
steps:
  - {id: first, http: {method: POST, url: URL/first}}
  - {id: second, http: {method: POST, url: URL/second, json: "${{ $first.body }}"}, retry: {max_attempts: 1}}
  - {id: third, http: {method: POST, url: URL/third}}
"""


async def test_a_retry_takes_up_what_failed_keeps_what_succeeded_and_marks_the_key(engine: Engine) -> None:
    engine.target.answer("/first", Answer(body={"n": 1}))
    engine.target.answer("/second", Answer(500), Answer(500), Answer())
    run = await engine.begin(await engine.publish(TWO))
    assert (await engine.end(run)).record.state == "FAILED"
    row = await engine.service.retry_run(run)
    assert row.record.generation == 2
    assert (await engine.end(run)).record.state == "FAILED"
    letters = await engine.service.list_dead_letters(None, None, 10)
    assert sorted((letter.state, letter.generation) for letter in letters) == [("OPEN", 2), ("RETRIED", 1)]
    (open_letter,) = [letter for letter in letters if letter.state == "OPEN"]
    await engine.service.retry_dead_letter(open_letter.id)
    assert (await engine.end(run)).record.state == "SUCCEEDED"
    assert engine.target.keys("/first") == [f"{run}/first"]
    assert engine.target.keys("/second") == [f"{run}/second", f"{run}/second~2", f"{run}/second~3"]
    # It had not begun before: its key is as it would have been.
    assert engine.target.keys("/third") == [f"{run}/third"]
    assert [seen.json for seen in engine.target.requests("/second")] == [{"n": 1}] * 3
    rows = await engine.rows(run)
    assert states(rows) == {"first": "SUCCEEDED", "second": "SUCCEEDED", "third": "SUCCEEDED"}
    with pytest.raises(NothingToRetry):
        await engine.service.retry_run(run)


async def test_a_cancelled_run_is_taken_up_where_it_was(engine: Engine) -> None:
    engine.target.answer("/second", Answer(hold=True), Answer())
    run = await engine.begin(await engine.publish(TWO))
    await engine.until("/second")
    with pytest.raises(RunNotEnded):
        await engine.service.retry_run(run)
    await engine.service.cancel_run(run)
    await engine.service.retry_run(run)
    assert (await engine.end(run)).record.state == "SUCCEEDED"
    assert engine.target.keys("/second") == [f"{run}/second", f"{run}/second~2"]
    assert engine.target.keys("/first") == [f"{run}/first"]


# ---- leases


@pytest.mark.parametrize("engine", [{"lease_ms": 300}], indirect=True)
async def test_a_lease_is_renewed_while_its_attempt_runs(engine: Engine) -> None:
    engine.target.answer("/call", Answer(hold=True))
    run = await engine.begin(await engine.publish(failing()))
    (attempt,) = (await engine.rows(run)).attempts
    until = attempt.record.lease_expires_at
    async with asyncio.timeout(10):
        while engine.clock.now() < until + 300:
            await asyncio.sleep(0.01)
    (attempt,) = (await engine.rows(run)).attempts
    assert (attempt.state, attempt.record.lease_expires_at > engine.clock.now()) == ("RUNNING", True)
    engine.target.release("/call")
    assert (await engine.end(run)).record.state == "SUCCEEDED"
    assert len(engine.target.keys()) == 1


async def test_a_wall_clock_that_is_set_back_or_forth_moves_no_lease_of_a_live_attempt(
    tmp_path: Path, target: Target
) -> None:
    clock = ManualClock()
    target.answer("/call", Answer(hold=True))
    async with running_engine(tmp_path, target, clock, poll_s=0.02, lease_ms=300) as engine:
        run = await engine.begin(await engine.publish(failing()))
        await engine.until("/call")
        for wall in (clock.now() - 3_600_000, clock.now() + 6 * 3_600_000):
            clock.set_wall(wall)
            await calls(engine, "renew_leases", 2)
            await calls(engine, "rescue_leases", 2)
            (attempt,) = (await engine.rows(run)).attempts
            assert attempt.record.lease_expires_at == clock.now() + 300
        # Nor does one begin with a lease that has lapsed already.
        clock.set_wall(clock.now() - 3_600_000)
        second = await engine.begin("call")
        (attempt,) = (await engine.rows(second)).attempts
        assert attempt.record.lease_expires_at == clock.now() + 300
        await engine.until("/call", 2)
        target.release("/call")
        for one in (run, second):
            assert (await engine.end(one)).record.state == "SUCCEEDED"
            assert attempts(await engine.rows(one)) == [("call", 1, "SUCCEEDED", None)]


async def calls(engine: Engine, verb: str, count: int) -> None:
    """Wait until the engine has called a verb of the store `count` times more."""
    before = engine.faults.calls[verb]
    async with asyncio.timeout(10):
        while engine.faults.calls[verb] < before + count:
            await asyncio.sleep(0.005)


async def test_an_attempt_of_another_node_is_rescued_when_its_lease_has_lapsed_and_not_before(
    tmp_path: Path, target: Target
) -> None:
    clock = ManualClock()
    target.answer("/call", Answer(hold=True), Answer())
    async with running_engine(tmp_path, target, clock, poll_s=0.02, lease_ms=30_000) as other:
        run = await other.begin(await other.publish(failing()))
        await other.until("/call")
        await other.timers.stop()
        other.timers.close()
        rows = await other.rows(run)
        async with running_engine(tmp_path, target, clock, poll_s=0.02, lease_ms=300, is_second=True) as engine:
            clock.set_wall(clock.now() - 3_600_000)
            clock.advance(rows.attempts[0].record.lease_expires_at - clock.now())
            await calls(engine, "rescue_leases", 2)
            assert attempts(await engine.rows(run)) == [("call", 1, "RUNNING", None)]
            clock.advance(1)
            assert (await engine.end(run)).record.state == "SUCCEEDED"
            found = attempts(await engine.rows(run))
            assert found == [("call", 1, "LOST", "LEASE_EXPIRED"), ("call", 2, "SUCCEEDED", None)]
            # The first node wakes up: its result comes too late.
            target.release("/call")
            while len(other.drivers):
                await asyncio.sleep(0.005)
            assert attempts(await engine.rows(run)) == found
