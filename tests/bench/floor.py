"""The floor: the least SQL that such a run needs, with no engine. The engine is measured against it in the same run."""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path

import apsw

_SCHEMA = """
PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
CREATE TABLE runs(
    key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, state TEXT NOT NULL, started_at INTEGER NOT NULL,
    finished_at INTEGER, input TEXT NOT NULL, output TEXT
) STRICT;
CREATE TABLE steps(
    run INTEGER NOT NULL, step INTEGER NOT NULL, state TEXT NOT NULL, lease TEXT, lease_until INTEGER, output TEXT,
    PRIMARY KEY (run, step)
) STRICT, WITHOUT ROWID;
"""


def runs_per_second(directory: Path, group: int, seconds: float = 1.0) -> float:
    """Three-step runs a second: start, three completions of which each leases the next step, `group` transitions a
    commit. A run has an id, its times, input and output; a completion counts only while its lease is held."""
    database = apsw.Connection(str(directory / f"floor-{group}.db"))
    database.execute(_SCHEMA).fetchall()
    execute, changes = database.execute, database.changes
    begun, done, run = time.perf_counter(), 0, 0
    pending: deque[tuple[int, int, str]] = deque()
    while time.perf_counter() - begun < seconds:
        now = time.time_ns() // 1_000_000
        execute("BEGIN IMMEDIATE")
        for _ in range(group):
            if pending:
                key, step, lease = pending.popleft()
                execute(
                    "UPDATE steps SET state = 'SUCCEEDED', output = '1', lease = NULL, lease_until = NULL "
                    "WHERE run = ? AND step = ? AND lease = ?",
                    (key, step, lease),
                )
                assert changes() == 1
                if step < 2:
                    lease = f"att_{key:028x}{step + 1:04x}"
                    execute(
                        "INSERT INTO steps VALUES (?, ?, 'RUNNING', ?, ?, NULL)", (key, step + 1, lease, now + 30_000)
                    )
                    pending.append((key, step + 1, lease))
                else:
                    execute(
                        "UPDATE runs SET state = 'SUCCEEDED', finished_at = ?, output = '1' WHERE key = ?", (now, key)
                    )
                    done += 1
            else:
                run += 1
                lease = f"att_{run:028x}{0:04x}"
                execute("INSERT INTO runs VALUES (?, ?, 'RUNNING', ?, NULL, '{}', NULL)", (run, f"run_{run:032x}", now))
                execute("INSERT INTO steps VALUES (?, 0, 'RUNNING', ?, ?, NULL)", (run, lease, now + 30_000))
                pending.append((run, 0, lease))
        execute("COMMIT")
    rate = done / (time.perf_counter() - begun)
    database.close()
    return rate


def fsyncs_per_second(directory: Path, seconds: float = 0.5) -> float:
    """How often the disk syncs a small append."""
    descriptor = os.open(directory / "fsync", os.O_WRONLY | os.O_CREAT)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        os.write(descriptor, b"x" * 4096)
        os.fdatasync(descriptor)
        count += 1
    os.close(descriptor)
    return count / (time.perf_counter() - begun)
