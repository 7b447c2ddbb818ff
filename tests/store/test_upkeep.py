"""Retention and statistics."""

from __future__ import annotations

from taskforge.core import events as ev
from taskforge.store.protocol import RunFilter, Stats
from taskforge.store.sqlite.runs import IDEMPOTENCY_KEPT_MS
from tests.store.backends import Backend
from tests.store.desk import Desk
from tests.support.plans import ONE_CALL, THREE_GIVES, TWO_CALLS

# ---- prune_runs


async def test_ended_runs_are_deleted_with_all_their_rows_and_others_stay(desk: Desk, backend: Backend) -> None:
    ended = await desk.start(ONE_CALL)
    await desk.succeed(ended, output="x" * 5_000)
    waiting = await desk.start(start_at=desk.clock.now() + 10**9)
    running = await desk.start(ONE_CALL)
    desk.clock.advance(1_000)
    late = await desk.start(ONE_CALL)
    desk.clock.advance(1)
    await desk.succeed(late)
    assert await desk.store.prune_runs(desk.clock.now(), 100) == 1
    assert [row.key for row in await desk.store.list_runs(RunFilter())] == [late.key, running.key, waiting.key]
    for table, rows in backend.dump().items():
        if table in ("step_runs", "attempts", "journal", "outputs", "dead_letters"):
            assert ended.key not in [row[0] for row in rows if table != "journal"], table
    assert [row.run_id for row in await desk.store.list_journal(None, 0, 100)].count(ended.id) == 0


async def test_a_run_with_an_open_dead_letter_is_kept_until_that_is_closed(desk: Desk) -> None:
    run = await desk.start(ONE_CALL)
    await desk.fail(run, error_class=None)
    desk.clock.advance(1_000)
    assert await desk.store.prune_runs(desk.clock.now(), 100) == 0
    (letter,) = await desk.store.list_dead_letters(None, None, 10)
    await desk.store.discard_dead_letter(letter.id, desk.clock.now())
    assert await desk.store.prune_runs(desk.clock.now(), 100) == 1
    assert await desk.store.list_dead_letters(None, None, 10) == []


async def test_no_more_than_the_limit_are_deleted_oldest_first(desk: Desk) -> None:
    keys = []
    for _ in range(10):
        keys.append((await desk.start()).key)
        desk.clock.advance(10)
    assert [await desk.store.prune_runs(desk.clock.now(), 4) for _ in range(5)] == [4, 4, 2, 0, 0]


async def test_runs_that_stay_do_not_hide_those_behind_them(desk: Desk) -> None:
    """A sweep goes on where the last call ended, and begins anew when it has come to the end."""
    stuck = [await desk.start(ONE_CALL) for _ in range(5)]
    for _ in range(5):
        desk.clock.advance(1)
        await desk.start()
    desk.clock.advance(10)
    deleted = 0
    while found := await desk.store.prune_runs(desk.clock.now(), 2):
        deleted += found
    assert deleted == 5
    for run in stuck:
        await desk.succeed(run)
    desk.clock.advance(1)
    assert await desk.store.prune_runs(desk.clock.now(), 100) == 5


async def test_numbers_keys_and_journal_ids_are_not_used_again_after_a_deletion(desk: Desk, backend: Backend) -> None:
    await desk.start()
    last = await desk.store.last_journal_id()
    desk.clock.advance(1)
    assert await desk.store.prune_runs(desk.clock.now(), 100) == 1
    store = await backend.reopen()
    again = Desk(store, desk.clock)
    run = await again.start()
    assert run.number == 2
    assert (await store.list_journal(run.key, 0, 10))[0].id > last


async def test_a_run_that_an_idempotency_key_still_names_is_kept(desk: Desk) -> None:
    first = await desk.start(idempotency_key="k", request_hash="h")
    desk.clock.advance(IDEMPOTENCY_KEPT_MS)
    assert await desk.store.count_ended(desk.clock.now()) == 0
    assert await desk.store.prune_runs(desk.clock.now(), 100) == 0
    assert (await desk.start(idempotency_key="k", request_hash="h")).id != first.id  # the same run is found
    assert [row.id for row in await desk.store.list_runs(RunFilter())] == [first.id]
    desk.clock.advance(1)
    assert await desk.store.count_ended(desk.clock.now()) == 1
    assert await desk.store.prune_runs(desk.clock.now(), 100) == 1
    assert (await desk.start(idempotency_key="k", request_hash="h")).number == 2


async def test_runs_with_a_key_are_kept_by_their_age_and_not_by_what_is_asked_for(desk: Desk) -> None:
    await desk.start(idempotency_key="k", request_hash="h")
    await desk.start()
    desk.clock.advance(1)
    now = desk.clock.now()
    assert await desk.store.count_ended(now, now - IDEMPOTENCY_KEPT_MS) == 1
    assert await desk.store.prune_runs(now, 100, now - IDEMPOTENCY_KEPT_MS) == 1
    assert await desk.store.prune_runs(now, 100, now) == 1


async def test_free_pages_go_back_to_the_disk_a_few_at_a_time(desk: Desk) -> None:
    for _ in range(20):
        run = await desk.start(ONE_CALL)
        await desk.succeed(run, output=[str(number) * 50 for number in range(2_000)])
    desk.clock.advance(1)
    await desk.store.prune_runs(desk.clock.now(), 100)
    stats = await desk.store.stats(desk.clock.now())
    free = stats.free_bytes // 4096
    assert free > 30
    assert await desk.store.free_pages(10, keep=free) == free
    assert await desk.store.free_pages(10) == free - 10
    assert await desk.store.free_pages(10_000, keep=5) <= 5
    assert (await desk.store.stats(desk.clock.now())).db_bytes <= stats.db_bytes - (free - 5) * 4096


async def test_a_reopened_run_is_not_deleted(desk: Desk) -> None:
    run = await desk.start(ONE_CALL)
    await desk.fail(run, error_class=None)
    run = await desk.load(run)
    await desk.apply(desk.store.retry_run, run, ev.RetryAsked())
    desk.clock.advance(10**9)
    assert await desk.store.prune_runs(desk.clock.now(), 100) == 0


# ---- stats


async def test_an_empty_database_has_every_state_with_none(backend: Backend) -> None:
    stats = await backend.store.stats(1)
    assert stats.runs == dict.fromkeys(["QUEUED", "RUNNING", "WAITING", "SUCCEEDED", "FAILED", "CANCELLED"], 0)
    assert stats.steps == {**stats.runs, "SKIPPED": 0}
    assert (stats.ready_steps, stats.oldest_ready_ms, stats.dead_letters) == (0, None, 0)
    assert stats.db_bytes > 0 and stats.wal_bytes >= 0


async def test_statistics_follow_every_transition(desk: Desk) -> None:
    async def now() -> Stats:
        return await desk.store.stats(desk.clock.now())

    await desk.start(THREE_GIVES)
    run = await desk.start(TWO_CALLS)
    stats = await now()
    assert (stats.runs["SUCCEEDED"], stats.runs["RUNNING"]) == (1, 1)
    assert (stats.steps["SUCCEEDED"], stats.steps["RUNNING"], stats.ready_steps) == (3, 1, 0)
    await desk.fail(run, "first")
    desk.clock.advance(999)
    assert (await now()).ready_steps == 0 and (await now()).steps["QUEUED"] == 1
    desk.clock.advance(501)
    stats = await now()
    assert (stats.ready_steps, stats.oldest_ready_ms) == (1, 500)
    run = await desk.take_up(TWO_CALLS)
    await desk.succeed(run, "first")
    await desk.fail(run, "second", error_class=None)
    stats = await now()
    assert (stats.runs["FAILED"], stats.steps["FAILED"], stats.dead_letters) == (1, 1, 1)
    desk.clock.advance(1)
    await desk.store.prune_runs(desk.clock.now(), 10)
    stats = await now()
    assert (stats.runs["SUCCEEDED"], stats.runs["FAILED"], stats.steps["SUCCEEDED"]) == (0, 1, 1)
