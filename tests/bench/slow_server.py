"""`python -m tests.bench.slow_server serve …`: a server on a disk that takes its time, for `tests.bench.slow_disk`.

Each COMMIT takes BENCH_SYNC_MS longer and lets go of the interpreter meanwhile, as a sync does. (An apsw VFS in Python
could make the sync itself slow, but has no shared memory, and so no readers beside the writer.) BENCH_WRITING says who
does the writing: `loop and thread`, as it is; `thread`, all of it; `loop`, all of it.
"""

from __future__ import annotations

import os
import sys
import time
from queue import SimpleQueue
from typing import Any

from taskforge.cli.main import run_command_line
from taskforge.store.sqlite import store
from taskforge.store.sqlite.connection import Session
from taskforge.store.sqlite.writer import Writer, _Job, _Settled, _Work

_SYNC_S = float(os.environ.get("BENCH_SYNC_MS", "0")) / 1000
_WRITING = os.environ.get("BENCH_WRITING", "loop and thread")


class _Here(SimpleQueue["_Work | None"]):
    """The way to the thread: the loop does the work itself, all but the end."""

    writer: Writer

    def put(self, item: _Work | None, block: bool = True, timeout: float | None = None) -> None:
        if item is None:
            super().put(item)
        else:
            self.writer._serve(*item)


class _SlowWriter(Writer):
    def __init__(self, session: Session, *args: Any, **named: Any) -> None:
        execute = session.execute

        def slow(sql: str, *values: Any) -> Any:
            if sql == "COMMIT":
                time.sleep(_SYNC_S)
            return execute(sql, *values)

        if _SYNC_S:
            session.execute = slow  # type: ignore[assignment]
        super().__init__(session, *args, **named)

    def _live(self) -> None:
        if _WRITING == "loop":
            here = _Here()
            here.writer = self
            self._work = here
        super()._live()

    def _run_here(self, jobs: list[_Job]) -> _Settled | None:
        return None if _WRITING == "thread" else super()._run_here(jobs)


if __name__ == "__main__":
    store.Writer = _SlowWriter  # type: ignore[attr-defined]
    sys.exit(run_command_line(sys.argv[1:]))
