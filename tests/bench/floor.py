"""The floor: the least SQL that such a run needs, with no engine. The engine is measured against it in the same run."""

from __future__ import annotations

import os
import time
from pathlib import Path

import apsw

_SCHEMA = """
PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
CREATE TABLE runs(id INTEGER PRIMARY KEY, state TEXT, output TEXT) STRICT;
CREATE TABLE steps(run INTEGER, step INTEGER, state TEXT, output TEXT, PRIMARY KEY (run, step)) STRICT, WITHOUT ROWID;
"""


def runs_per_second(directory: Path, group: int, seconds: float = 1.0) -> float:
    """Three-step runs a second: start, three completions that lease the next, `group` transitions a commit."""
    database = apsw.Connection(str(directory / f"floor-{group}.db"))
    database.execute(_SCHEMA).fetchall()
    begun, done, run = time.perf_counter(), 0, 0
    pending: list[tuple[int, int]] = []
    while time.perf_counter() - begun < seconds:
        database.execute("BEGIN IMMEDIATE")
        for _ in range(group):
            if pending:
                key, step = pending.pop()
                database.execute("UPDATE steps SET state='SUCCEEDED', output='1' WHERE run=? AND step=?", (key, step))
                if step < 2:
                    database.execute("INSERT INTO steps VALUES(?,?,'RUNNING',NULL)", (key, step + 1))
                    pending.insert(0, (key, step + 1))
                else:
                    database.execute("UPDATE runs SET state='SUCCEEDED', output='1' WHERE id=?", (key,))
                    done += 1
            else:
                run += 1
                database.execute("INSERT INTO runs VALUES(?,'RUNNING',NULL)", (run,))
                database.execute("INSERT INTO steps VALUES(?,0,'RUNNING',NULL)", (run,))
                pending.insert(0, (run, 0))
        database.execute("COMMIT")
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
