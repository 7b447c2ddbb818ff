"""Dead letters: made by failures, closed once, listed newest first."""

from __future__ import annotations

import pytest

from taskforge.core import events as ev
from taskforge.core.errors import DeadLetterClosed, NotFound
from taskforge.core.jsontext import loads
from taskforge.core.snapshot import RunSnapshot
from tests.store.backends import Backend
from tests.store.desk import Desk
from tests.support.plans import CALL, ONE_CALL, plan, step


async def bury(desk: Desk) -> RunSnapshot:
    run = await desk.start(ONE_CALL)
    await desk.fail(run, error_class=None)
    desk.clock.advance(1)
    return run


async def test_a_step_that_failed_for_good_leaves_a_letter_with_its_input_and_error(desk: Desk) -> None:
    run = await bury(desk)
    (letter,) = await desk.store.list_dead_letters(None, None, 10)
    assert letter == await desk.store.get_dead_letter(letter.id)
    assert (letter.state, letter.run_id, letter.run_number, letter.workflow) == ("OPEN", run.id, 1, "flow")
    assert (letter.path, letter.generation, letter.input, letter.closed_at) == ("call", 1, '{"url":"x"}', None)
    error = loads(letter.error)
    assert isinstance(error, dict) and error["code"] == "CONNECT_REFUSED"


async def test_letters_are_listed_newest_first_in_pages(desk: Desk) -> None:
    runs = [await bury(desk) for _ in range(5)]
    first = await desk.store.list_dead_letters(None, None, 3)
    rest = await desk.store.list_dead_letters(None, first[-1].id, 3)
    assert [letter.run_id for letter in first + rest] == [run.id for run in reversed(runs)]


async def test_letters_are_listed_by_state(desk: Desk) -> None:
    for _ in range(4):
        await bury(desk)
    letters = await desk.store.list_dead_letters(None, None, 10)
    await desk.store.discard_dead_letter(letters[1].id, desk.clock.now())
    assert [at.id for at in await desk.store.list_dead_letters("DISCARDED", None, 10)] == [letters[1].id]
    opened = await desk.store.list_dead_letters("OPEN", None, 2)
    assert [at.id for at in opened] == [letters[0].id, letters[2].id]
    assert [at.id for at in await desk.store.list_dead_letters("OPEN", opened[-1].id, 2)] == [letters[3].id]
    assert await desk.store.list_dead_letters("RETRIED", None, 10) == []


async def test_a_letter_is_discarded_once(desk: Desk, backend: Backend) -> None:
    await bury(desk)
    (letter,) = await desk.store.list_dead_letters("OPEN", None, 10)
    closed = await desk.store.discard_dead_letter(letter.id, desk.clock.now())
    assert (closed.state, closed.closed_at) == ("DISCARDED", desk.clock.now())
    assert (await desk.store.stats(desk.clock.now())).dead_letters == 0
    before = backend.dump()
    with pytest.raises(DeadLetterClosed) as refusal:
        await desk.store.discard_dead_letter(letter.id, desk.clock.now() + 1)
    assert refusal.value.detail == {"state": "DISCARDED"}
    assert backend.dump() == before


async def test_an_unknown_letter_is_not_found(desk: Desk, backend: Backend) -> None:
    before = backend.dump()
    with pytest.raises(NotFound):
        await desk.store.get_dead_letter("dead_x")
    with pytest.raises(NotFound):
        await desk.store.discard_dead_letter("dead_x", 1)
    assert backend.dump() == before


async def test_a_retry_of_the_run_closes_its_open_letters_as_retried(desk: Desk) -> None:
    run, other = await bury(desk), await bury(desk)
    run = await desk.load(run)
    await desk.apply(desk.store.retry_run, run, ev.RetryAsked())
    (retried,) = await desk.store.list_dead_letters("RETRIED", None, 10)
    assert (retried.run_id, retried.closed_at) == (run.id, desk.clock.now())
    assert [letter.run_id for letter in await desk.store.list_dead_letters("OPEN", None, 10)] == [other.id]
    assert (await desk.store.stats(desk.clock.now())).dead_letters == 1
    with pytest.raises(DeadLetterClosed):
        await desk.store.discard_dead_letter(retried.id, desk.clock.now())
    # It fails again: a second letter beside the first.
    await desk.fail(run, error_class=None)
    assert [letter.generation for letter in await desk.store.list_dead_letters("OPEN", None, 10)] == [2, 1]


async def test_a_discarded_letter_stays_discarded_when_its_run_is_retried(desk: Desk) -> None:
    run = await bury(desk)
    (letter,) = await desk.store.list_dead_letters(None, None, 10)
    await desk.store.discard_dead_letter(letter.id, desk.clock.now())
    run = await desk.load(run)
    await desk.apply(desk.store.retry_run, run, ev.RetryAsked())
    assert (await desk.store.get_dead_letter(letter.id)).state == "DISCARDED"
    await desk.succeed(run)


async def test_a_failure_that_was_continued_leaves_no_letter(desk: Desk) -> None:
    run = await desk.start(plan(step("call", CALL, continue_on_error=True), step("after")))
    await desk.fail(run, error_class=None)
    assert (await desk.load(run)).state == "SUCCEEDED"
    assert await desk.store.list_dead_letters(None, None, 10) == []


async def test_a_large_input_comes_back_whole(desk: Desk) -> None:
    run = await desk.start(plan(step("call", CALL, {"body": "x" * 200_000})))
    await desk.fail(run, error_class=None)
    (letter,) = await desk.store.list_dead_letters(None, None, 10)
    assert letter.input is not None and loads(letter.input) == {"body": "x" * 200_000}
