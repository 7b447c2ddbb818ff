"""What must hold of a database whatever has happened: I1 to I8, as SQL, asked by an independent witness.

The witness is a process of its own with Python's sqlite3 through aiosqlite: another SQLite library than the server's,
and none in the process that tests. It reads only. I6 and I7 (one run per slot, one per delivery) come with the
schedules and the inbox.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

_STEP_SETTINGS = """
settings (workflow, version, step, continues, max_attempts) AS (
    SELECT v.workflow, v.version, t.atom,
        coalesce(v.document -> t.path ->> '$.continue_on_error', 0),
        coalesce(
            v.document -> t.path ->> '$.retry.max_attempts', v.document ->> '$.defaults.retry.max_attempts', 3
        )
    FROM workflow_versions AS v, json_tree(v.document) AS t
    WHERE t.key = 'id' AND t.type = 'text'
)"""

_HOPS = """
hops (run, path, state, code, position) AS (
    SELECT journal.run, coalesce(entry.value ->> 'step', ''), coalesce(entry.value ->> 'run', entry.value ->> 'to'),
        entry.value ->> 'code', journal.id * 100000 + entry.key
    FROM journal, json_each(journal.entries) AS entry
    WHERE entry.value ->> 'run' IS NOT NULL OR entry.value ->> 'to' IS NOT NULL
)"""

RULES: dict[str, str] = {
    "I1: an acknowledged start has exactly one run": """
        SELECT wanted.value, count(runs.key) FROM json_each(:acknowledged) AS wanted
        LEFT JOIN runs ON runs.id = wanted.value GROUP BY wanted.key HAVING count(runs.key) <> 1""",
    "I2: a run enters a terminal state once in a generation": f"""
        WITH {_HOPS}
        SELECT runs.id, count(*), runs.generation FROM hops JOIN runs ON runs.key = hops.run
        WHERE hops.path = '' AND hops.state IN ('SUCCEEDED', 'FAILED', 'CANCELLED') GROUP BY runs.key
        HAVING count(*) <> runs.generation - (runs.state NOT IN ('SUCCEEDED', 'FAILED', 'CANCELLED'))""",
    "I2: a terminal run or step changes again only by a retry": f"""
        WITH {_HOPS},
        pairs AS (
            SELECT *, lag(state) OVER (PARTITION BY run, path ORDER BY position) AS before FROM hops
        )
        SELECT runs.id, path, before, pairs.state, code FROM pairs JOIN runs ON runs.key = pairs.run
        WHERE before IN ('SUCCEEDED', 'FAILED', 'CANCELLED', 'SKIPPED') AND code IS NOT 'RETRY_ASKED'""",
    "I2: the journal ends in the state of the row": f"""
        WITH {_HOPS},
        latest AS (SELECT run, path, state, max(position) FROM hops GROUP BY run, path)
        SELECT runs.id, latest.path, latest.state FROM latest JOIN runs ON runs.key = latest.run
            LEFT JOIN step_runs ON step_runs.run = latest.run AND step_runs.path = latest.path
        WHERE latest.state IS NOT CASE latest.path WHEN '' THEN runs.state ELSE step_runs.state END""",
    "every change of state is in the table of transitions": f"""
        WITH {_HOPS},
        pairs AS (
            SELECT *, lag(state, 1, 'NEW') OVER (PARTITION BY run, path ORDER BY position) AS before FROM hops
        )
        SELECT runs.id, pairs.path, before, pairs.state FROM pairs JOIN runs ON runs.key = pairs.run
        WHERE NOT EXISTS (
            SELECT 1 FROM json_each(:transitions -> iif(pairs.path = '', 'run', 'step') -> pairs.before)
            WHERE value = pairs.state)""",
    "a terminal run has no live step, no owner and no due time": """
        SELECT id, state FROM runs WHERE state IN ('SUCCEEDED', 'FAILED', 'CANCELLED') AND (
            owner IS NOT NULL OR due_at IS NOT NULL OR finished_at IS NULL OR EXISTS (
                SELECT 1 FROM step_runs WHERE run = runs.key AND state IN ('QUEUED', 'RUNNING', 'WAITING')))""",
    "I3: no attempt runs whose lease ended more than 5 s ago": """
        SELECT runs.id, path, attempts.number, lease_expires_at FROM attempts JOIN runs ON runs.key = attempts.run
        WHERE attempts.state = 'RUNNING' AND lease_expires_at < :now - 5000""",
    "I3: a step is RUNNING by exactly one attempt that runs": """
        SELECT runs.id, s.path, s.state, count(a.id)
        FROM step_runs AS s JOIN runs ON runs.key = s.run
            LEFT JOIN attempts AS a
                ON a.run = s.run AND a.path = s.path AND a.generation = s.generation AND a.state = 'RUNNING'
        WHERE s.kind = 'http' GROUP BY s.run, s.path HAVING count(a.id) <> (s.state = 'RUNNING')""",
    "I4: a run that nobody holds has a due time, one that somebody holds has none": """
        SELECT id, state, owner, due_at FROM runs
        WHERE state IN ('QUEUED', 'RUNNING', 'WAITING') AND (owner IS NULL) = (due_at IS NULL)""",
    "I4: a QUEUED step has a due time": """
        SELECT runs.id, path FROM step_runs JOIN runs ON runs.key = step_runs.run
        WHERE step_runs.state = 'QUEUED' AND available_at IS NULL""",
    "I4: nothing is overdue by more than 5 s while workers are idle": """
        SELECT id, due_at FROM runs WHERE :idle AND due_at < :now - 5000""",
    "I5: attempts that count are no more than allowed": f"""
        WITH {_STEP_SETTINGS}
        SELECT runs.id, a.path, count(*), settings.max_attempts
        FROM attempts AS a JOIN runs ON runs.key = a.run
            JOIN step_runs AS s ON s.run = a.run AND s.path = a.path
            JOIN settings
                ON settings.workflow = runs.workflow AND settings.version = runs.version AND settings.step = s.step
        WHERE a.state <> 'LOST' GROUP BY a.run, a.path, a.generation HAVING count(*) > settings.max_attempts""",
    "I5: attempts are numbered without holes": """
        SELECT runs.id, path, min(attempts.number), max(attempts.number), count(*)
        FROM attempts JOIN runs ON runs.key = attempts.run GROUP BY attempts.run, path, attempts.generation
        HAVING min(attempts.number) <> 1 OR max(attempts.number) <> count(*)""",
    "I5: a SUCCEEDED http step has exactly one SUCCEEDED attempt, any other none": """
        SELECT runs.id, s.path, s.state, count(a.id)
        FROM step_runs AS s JOIN runs ON runs.key = s.run
            LEFT JOIN attempts AS a
                ON a.run = s.run AND a.path = s.path AND a.generation = s.generation AND a.state = 'SUCCEEDED'
        WHERE s.kind = 'http' GROUP BY s.run, s.path HAVING count(a.id) <> (s.state = 'SUCCEEDED')""",
    "I6: a slot that fired has exactly one run, and a run at most one slot": """
        SELECT d.schedule, d.slot, d.run, count(r.key) FROM slots AS d LEFT JOIN runs AS r ON r.id = d.run
        WHERE d.run IS NOT NULL GROUP BY d.schedule, d.slot HAVING count(r.key) <> 1
        UNION ALL
        SELECT schedule, min(slot), run, count(*) FROM slots WHERE run IS NOT NULL GROUP BY run HAVING count(*) > 1""",
    "I6: a run of a schedule has its slot": """
        SELECT id, trigger ->> '$.scheduled_at' FROM runs
        WHERE trigger_type = 'cron' AND lineage IS NULL AND id NOT IN (SELECT run FROM slots WHERE run IS NOT NULL)""",
    "I7: a delivery that was accepted has exactly one run": """
        SELECT d.id, d.run_id, count(r.key) FROM deliveries AS d LEFT JOIN runs AS r ON r.id = d.run_id
        WHERE d.state = 'ACCEPTED' GROUP BY d.key HAVING count(r.key) <> 1""",
    "I7: a delivery id starts one run": """
        SELECT workflow, trigger, dedupe, count(*) FROM deliveries
        WHERE state = 'ACCEPTED' AND dedupe IS NOT NULL GROUP BY workflow, trigger, dedupe HAVING count(*) <> 1""",
    "I7: a duplicate belongs to a delivery that was accepted, with its run": """
        SELECT d.id, d.dedupe FROM deliveries AS d LEFT JOIN deliveries AS e ON e.id = d.earlier
        WHERE d.state = 'DUPLICATE' AND (e.state IS NOT 'ACCEPTED' OR e.run_id IS NOT d.run_id)""",
    "I8: an action that is FAILED for good and uncaught has a dead letter": f"""
        WITH {_STEP_SETTINGS}
        SELECT runs.id, s.path, s.generation
        FROM step_runs AS s JOIN runs ON runs.key = s.run
            JOIN settings
                ON settings.workflow = runs.workflow AND settings.version = runs.version AND settings.step = s.step
        WHERE s.kind = 'http' AND s.state = 'FAILED' AND NOT settings.continues AND 1 <> (
            SELECT count(*) FROM dead_letters AS d
            WHERE d.run = s.run AND d.path = s.path AND d.generation = s.generation)""",
    "I8: an open dead letter belongs to a FAILED action that nothing took": f"""
        WITH {_STEP_SETTINGS}
        SELECT d.id, d.path, s.state
        FROM dead_letters AS d JOIN runs ON runs.key = d.run
            LEFT JOIN step_runs AS s ON s.run = d.run AND s.path = d.path
            LEFT JOIN settings
                ON settings.workflow = runs.workflow AND settings.version = runs.version AND settings.step = s.step
        WHERE d.state = 'OPEN'
            AND (s.state IS NOT 'FAILED' OR s.kind <> 'http' OR s.generation <> d.generation OR settings.continues)""",
    "the kept counts are exact": """
        WITH really (kind, state, n) AS (
            SELECT 'run', state, count(*) FROM runs GROUP BY state
            UNION ALL SELECT 'step', state, count(*) FROM step_runs GROUP BY state
            UNION ALL SELECT 'dead_letter', state, count(*) FROM dead_letters GROUP BY state
            UNION ALL SELECT 'delivery', state, count(*) FROM deliveries GROUP BY state
            UNION ALL SELECT 'inbox', 'BYTES', sum(body_bytes) FROM deliveries WHERE body IS NOT NULL
                HAVING count(*) > 0)
        SELECT kind, state, counts.n, really.n FROM counts LEFT JOIN really USING (kind, state)
        WHERE counts.n <> coalesce(really.n, 0)
        UNION ALL SELECT kind, state, NULL, really.n FROM really LEFT JOIN counts USING (kind, state)
        WHERE counts.n IS NULL""",
    "the file is whole": "SELECT * FROM pragma_integrity_check WHERE integrity_check <> 'ok'",
    "foreign keys hold": "SELECT * FROM pragma_foreign_key_check",
}


@dataclass(frozen=True)
class Asked:
    """What the witness is told. `idle`: there are free workers, so nothing may be overdue; `now`: milliseconds."""

    path: str
    acknowledged: Sequence[str]
    idle: bool
    now: int
    queries: dict[str, str]


def check_invariants(
    database: Path, acknowledged: Iterable[str] = (), *, idle: bool = True, now: int | None = None
) -> None:
    """AssertionError that lists every broken rule with the rows that break it. `now` only for tests with a clock of
    their own."""
    broken = _ask(database, RULES, acknowledged, idle, now)
    assert not any(broken.values()), "\n".join(f"{rule}: {rows[:5]}" for rule, rows in broken.items() if rows)


def look(database: Path, query: str) -> list[Any]:
    """The rows of one query, read by the witness."""
    return _ask(database, {"rows": query}, (), False)["rows"]


def _ask(
    database: Path, queries: dict[str, str], acknowledged: Iterable[str], idle: bool, now: int | None = None
) -> dict[str, list[Any]]:
    told = int(time.time() * 1000) if now is None else now
    asked = Asked(str(database), list(acknowledged), idle, told, queries)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.invariants"],
        input=json.dumps(asdict(asked)).encode(),
        cwd=ROOT,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, list[Any]] = json.loads(done.stdout)
    return found


async def _witness(asked: Asked) -> dict[str, list[Any]]:
    import aiosqlite  # here only: nothing but the witness may load a second SQLite

    found = {}
    bindings = {
        "acknowledged": json.dumps(asked.acknowledged),
        "idle": asked.idle,
        "now": asked.now,
        "transitions": (ROOT / "contracts" / "states.json").read_text(),
    }
    async with aiosqlite.connect(f"file:{asked.path}?mode=ro", uri=True) as connection:
        for rule, query in asked.queries.items():
            async with connection.execute(query, bindings) as cursor:
                found[rule] = [list(row) async for row in cursor]
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_witness(Asked(**json.load(sys.stdin))))))
