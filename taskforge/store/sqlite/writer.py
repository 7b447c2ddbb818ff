"""The one connection that writes, in a thread of its own, with group commit.

What queued up while the last commit was syncing goes into the next transaction: every verb in its own savepoint, every
caller told after COMMIT. So a verb never waits on purpose, and many verbs share one fsync.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, TypeVar

import apsw

from taskforge.core.errors import Unavailable
from taskforge.store.audit import RECORDED, AuditEntry
from taskforge.store.sqlite.audit import do_recorded
from taskforge.store.sqlite.connection import BUSY_TIMEOUT_MS, Session, is_fatal, translate
from taskforge.store.sqlite.marks import mark_closed

P = ParamSpec("P")
T = TypeVar("T")

GROUP_LIMIT: Final = 256
"""Most verbs in one transaction."""

QUEUE_LIMIT: Final = 20_000
"""Most verbs that wait; more are refused."""

CHECKPOINT_PAGES: Final = 1_000
"""Pages in the WAL at which they are copied into the database, between two groups."""

IDLE_SECONDS: Final = 2.0
"""Quiet time after which the WAL is emptied."""

_TRUNCATE_WAIT_MS: Final = 50
"""How long emptying the WAL waits for readers."""


CHECKPOINT_AGAIN_PAGES: Final = 500
"""Growth after which it is tried again while a reader keeps the WAL from starting anew."""

_SHARED_ERRORS: Final = (
    apsw.FullError,
    apsw.IOError,
    apsw.BusyError,
    apsw.LockedError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.ReadOnlyError,
    apsw.CantOpenError,
    apsw.NoMemError,
    apsw.InterruptError,
)
"""Errors of the file or the machine, not of the verb that met them."""


class _Job(NamedTuple):
    run: Callable[..., Any]
    args: tuple[Any, ...]
    future: asyncio.Future[Any]


_Settled = list[tuple["asyncio.Future[Any]", Any, BaseException | None]]


class _MustUndo(Exception):
    """A verb was refused after it had written."""


class Writer:
    """Takes verbs from the event loop and commits them. `on_failure` is called, on the loop, when nothing can be
    acknowledged any more; `failure` then says why."""

    def __init__(
        self,
        session: Session,
        path: Path,
        *,
        loop: asyncio.AbstractEventLoop,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        self.failure: str | None = None
        self.commits = 0
        self.verbs = 0
        self._session = session
        self._path = path
        self._loop = loop
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._queue_limit = queue_limit
        self._closing = False
        self._ended = False
        self._wal_pages = 0
        self._checkpoint_at = CHECKPOINT_PAGES
        session.conn.set_wal_hook(self._committed)
        self._thread = threading.Thread(target=self._live, name="taskforge-writer", daemon=True)
        self._thread.start()

    async def submit(self, verb: Callable[Concatenate[Session, P], T], *args: P.args, **_: P.kwargs) -> T:
        """Run `verb(session, *args)` in a transaction; return when it is on disk. Raises what the verb raises, and
        Unavailable when the store takes nothing."""
        return await self.enqueue(verb, *args)

    def enqueue(self, verb: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Queue a verb without waiting for it; order is kept."""
        entry = RECORDED.get()
        if entry is not None and not entry.is_claimed and verb.__name__ in entry.verbs:
            return self._enqueue_recorded(entry, verb, args)
        if self.failure is not None or self._closing:
            raise self._refusal()
        if self._queue.qsize() >= self._queue_limit:
            raise Unavailable(f"{self._queue_limit} writes are waiting for the disk; try again in a moment")
        future: asyncio.Future[T] = self._loop.create_future()
        job = _Job(verb, args, future)
        self._queue.put(job)
        if self._ended:
            # The thread may have emptied the queue just before.
            _settle(_refused([job], self._refusal()))
        return future

    def _enqueue_recorded(self, entry: AuditEntry, verb: Callable[..., T], args: tuple[Any, ...]) -> asyncio.Future[T]:
        """Queue a verb that takes an entry of the audit log along. Refused, it leaves the entry to the next one."""

        def settled(done: asyncio.Future[T]) -> None:
            # Cancelled, it may be stored all the same, and then with its entry.
            entry.is_claimed = done.cancelled() or done.exception() is None

        entry.is_claimed = True
        try:
            future: asyncio.Future[T] = self.enqueue(do_recorded, entry, verb, *args)
        except BaseException:
            entry.is_claimed = False
            raise
        future.add_done_callback(settled)
        return future

    def _refusal(self) -> Unavailable:
        return Unavailable(self.failure or "the store is closed")

    def _announce(self, error: BaseException) -> None:
        self.on_failure(error)

    async def close(self) -> None:
        """Commit what is queued, then end the thread and close the connection."""
        if not self._closing:
            self._closing = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    # ---- in the thread

    def _live(self) -> None:
        try:
            while self._serve():
                pass
        except BaseException as error:
            self._fail(f"the writer stopped: {type(error).__name__}: {error}")
        finally:
            self._end()

    def _serve(self) -> bool:
        """Take what is queued and commit it; return False when closing."""
        try:
            first = self._queue.get(timeout=IDLE_SECONDS if self._wal_pages else None)
        except Empty:
            self._checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
            return True
        jobs: list[_Job] = []
        taken: _Job | None = first
        with contextlib.suppress(Empty):
            while taken is not None:
                if not taken.future.cancelled():
                    jobs.append(taken)
                if len(jobs) >= GROUP_LIMIT:
                    break
                taken = self._queue.get_nowait()
        if jobs:
            try:
                settled = self._commit(jobs)
            except BaseException as error:
                # Nobody may wait for an answer that never comes.
                self._tell(_refused(jobs, Unavailable(f"the store failed: {error}")))
                raise
            self._tell(settled)
            if self._wal_pages >= self._checkpoint_at:
                self._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
        return taken is not None

    def _commit(self, jobs: list[_Job]) -> _Settled:
        """Run verbs in one transaction and make it durable."""
        if self.failure is not None:
            return _refused(jobs, self._refusal())
        try:
            try:
                settled = self._run(jobs, savepoints=False)
            except _MustUndo:
                self._session.execute("ROLLBACK")
                settled = self._run(jobs, savepoints=True)
            self._session.execute("COMMIT")
        except apsw.Error as error:
            self._roll_back()
            return _refused(jobs, self._judge(error))
        self.commits += 1
        self.verbs += len(jobs)
        return settled

    def _run(self, jobs: list[_Job], *, savepoints: bool) -> _Settled:
        """Run each verb by itself: what one refuses leaves no trace and does not touch the others.

        A savepoint costs a copy of every page that the verb writes, and hardly any verb is refused after it has
        written. So the group is first run without; when a verb has to be undone after all, it is run again with.
        """
        session = self._session
        execute, total_changes = session.execute, session.conn.total_changes
        settled: _Settled = []
        total: dict[tuple[str, str], int] = {}
        execute("BEGIN IMMEDIATE")
        for run, args, future in jobs:
            session.counts = {}
            before = total_changes()
            if savepoints:
                execute("SAVEPOINT verb")
            try:
                settled.append((future, run(session, *args), None))
            except Exception as error:
                if isinstance(error, _SHARED_ERRORS) or not session.conn.in_transaction:
                    raise
                if savepoints:
                    execute("ROLLBACK TO verb")
                elif total_changes() != before:
                    raise _MustUndo from error
                settled.append((future, None, error))
            else:
                for key, difference in session.counts.items():
                    total[key] = total.get(key, 0) + difference
            if savepoints:
                execute("RELEASE verb")
        if total:
            rows = sorted((kind, state, n) for (kind, state), n in total.items() if n)
            session.executemany(session.sql["apply_counts"], rows)
        return settled

    def _judge(self, error: apsw.Error) -> BaseException:
        """Return what the callers are told; a fatal error ends all acknowledgements."""
        told = translate(error, self._session.conn, self._path)
        if is_fatal(error):
            self._fail(f"{told.message}. Nothing is acknowledged any more; restart TaskForge")
        return told

    def _roll_back(self) -> None:
        # SQLite rolls back by itself after some errors.
        if self._session.conn.in_transaction:
            with contextlib.suppress(apsw.Error):
                self._session.execute("ROLLBACK")

    def _committed(self, _conn: apsw.Connection, _name: str, pages: int) -> int:
        if pages < self._wal_pages:
            self._checkpoint_at = CHECKPOINT_PAGES
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _checkpoint(self, mode: int) -> None:
        """Copy the WAL into the database, so that the next commit writes it from its start.

        A reader may keep part of it back, or the disk be full: it is tried again later, and nothing is lost meanwhile.
        """
        conn = self._session.conn
        self._checkpoint_at = self._wal_pages + CHECKPOINT_AGAIN_PAGES
        try:
            if mode == apsw.SQLITE_CHECKPOINT_TRUNCATE:
                conn.set_busy_timeout(_TRUNCATE_WAIT_MS)
            conn.wal_checkpoint(mode=mode)
            if mode == apsw.SQLITE_CHECKPOINT_TRUNCATE:
                self._wal_pages = 0
        except apsw.Error as error:
            if is_fatal(error):
                self._judge(error)
        finally:
            conn.set_busy_timeout(BUSY_TIMEOUT_MS)

    def _fail(self, reason: str) -> None:
        if self.failure is None:
            self.failure = reason
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._announce, Unavailable(reason))

    def _tell(self, settled: _Settled) -> None:
        # A loop that is closed has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_settle, settled)

    def _end(self) -> None:
        self._ended = True
        left: list[_Job] = []
        with contextlib.suppress(Empty):
            while True:
                job = self._queue.get_nowait()
                if job is not None:
                    left.append(job)
        self._tell(_refused(left, self._refusal()))
        with contextlib.suppress(apsw.Error):
            if self.failure is None:
                mark_closed(self._session.conn)
            else:
                # What could not be synced is not taken for good; the next start reads the log as it is on the disk.
                self._session.conn.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        with contextlib.suppress(apsw.Error):
            self._session.conn.close()


def _refused(jobs: list[_Job], error: BaseException) -> _Settled:
    return [(job.future, None, error) for job in jobs]


def _settle(settled: _Settled) -> None:
    for future, result, error in settled:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
