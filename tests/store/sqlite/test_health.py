"""`check` finds what it is there to find: each kind of damage is planted once."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from taskforge.core.model import Concurrency
from tests.store.desk import Desk
from tests.support.plans import CALL, ONE_CALL, WAIT, plan, step

FAILED_CALL = "(SELECT key FROM runs WHERE state = 'FAILED')"
RUNNING = "(SELECT key FROM runs WHERE state = 'RUNNING')"
HOLDER = "(SELECT key FROM runs WHERE placed = 1)"
QUEUED = "(SELECT key FROM runs WHERE place IS NOT NULL AND placed = 0)"
WAITING = "(SELECT key FROM runs WHERE state = 'WAITING')"
ENDED = "(SELECT key FROM runs WHERE state = 'SUCCEEDED')"

WAITING_ALONE = plan(step("wait", WAIT, {"signal": "go"}))

PLANTED = {
    "counts: run": "UPDATE counts SET n = n + 1 WHERE kind = 'run' AND state = 'FAILED'",
    "counts: step": "DELETE FROM counts WHERE kind = 'step'",
    "foreign key": "DELETE FROM runs WHERE state = 'SUCCEEDED'",
    "migrations": "UPDATE schema_migrations SET checksum = 'x'",
    "I2 a run that has ended is still": f"UPDATE runs SET due_at = 1 WHERE key = {ENDED}",
    "I2 a run that has ended is": f"UPDATE step_runs SET state = 'RUNNING' WHERE run = {ENDED}",
    "I2 a run has more ends": "INSERT INTO journal (run, at, entries) VALUES "
    f'({ENDED}, 1, \'[{{"run":"SUCCEEDED","from":"RUNNING"}}]\')',
    "I2 a step has more ends": "INSERT INTO journal (run, at, entries) VALUES "
    f'({ENDED}, 1, \'[{{"step":"call","from":"RUNNING","to":"SUCCEEDED"}}]\')',
    "I4 a run is held by nobody": f"UPDATE runs SET owner = NULL WHERE key = {RUNNING}",
    "I4 a run is held by": f"UPDATE runs SET place_limit = NULL WHERE key = {QUEUED}",
    "I4 a run is": f"UPDATE step_runs SET state = 'RUNNING' WHERE run = {WAITING}; "
    f"UPDATE runs SET due_at = NULL WHERE key = {WAITING}",
    "I4 a run waits for a place": f"UPDATE runs SET state = 'FAILED', finished_at = 1 WHERE key = {HOLDER}",
    "I4 a run waits": f"UPDATE runs SET place_limit = 2 WHERE key = {QUEUED}",
    "more runs hold a place": f"UPDATE runs SET placed = 1, due_at = 1 WHERE key = {QUEUED}",
    "I4 the parent of a run": f"UPDATE runs SET told = 0, parent_key = {ENDED} WHERE key = {WAITING}",
    "I4 the parent": f"UPDATE runs SET told = 0, parent_key = 999 WHERE key = {WAITING}",
    "I4 a step waits": f"UPDATE step_runs SET state = 'QUEUED', available_at = NULL WHERE run = {RUNNING}",
    "I3 an attempt runs in a run": f"UPDATE runs SET owner = 'other' WHERE key = {RUNNING}",
    "I3 an attempt runs but": f"UPDATE step_runs SET state = 'QUEUED' WHERE run = {RUNNING}",
    "I5 the attempts": f"UPDATE attempts SET number = 2 WHERE run = {ENDED}",
    "I8 an open dead letter": "UPDATE dead_letters SET generation = 2",
    "I8 a run failed": "DELETE FROM dead_letters",
}


@pytest.mark.parametrize(("finding", "damage"), PLANTED.items(), ids=PLANTED)
async def test_planted_damage_is_found(desk: Desk, path: Path, finding: str, damage: str) -> None:
    await desk.succeed(await desk.start(ONE_CALL))
    await desk.fail(await desk.start(ONE_CALL), error_class=None)
    await desk.start(ONE_CALL)
    for _ in range(2):
        await desk.start(plan(step("call", CALL), concurrency=Concurrency()))
    await desk.start(WAITING_ALONE)
    assert await desk.store.check() == []
    conn = apsw.Connection(str(path))
    conn.execute(damage)
    conn.close()
    findings = await desk.store.check()
    assert any(line.startswith(finding) for line in findings), findings
    assert all("\n" not in line for line in findings)


async def test_failures_that_need_no_letter_are_no_finding(desk: Desk) -> None:
    run = await desk.start(plan(step("call", CALL, continue_on_error=True), step("other", CALL)))
    await desk.fail(run, error_class=None)
    await desk.fail(run, "other", error_class=None)
    (letter,) = await desk.store.list_dead_letters("OPEN", None, 10)
    await desk.store.discard_dead_letter(letter.id, 1)
    assert await desk.store.check() == []
