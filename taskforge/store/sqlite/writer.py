"""The one connection that writes, with group commit.

What queued up while the last commit was syncing goes into the next transaction: every verb by itself, every caller told
after COMMIT. So a verb never waits on purpose, and many verbs share one fsync.

Whatever can wait for the disk runs in a thread: COMMIT, checkpoints, and verbs that touch many rows. The short verbs of
runs execute their statements on the event loop (ADR 0013): each statement lets go of the interpreter, and taking it
back from a busy loop costs more than the statement. Loop and thread take turns: while a group is with the thread,
nothing else touches the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
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

CHECKPOINT_PAGES: Final = 4_000
"""Pages in the WAL (16 MiB) at which they are copied into the database, between two groups. Whoever comes meanwhile
waits, so it is done for fewer than one run in a hundred."""

IDLE_SECONDS: Final = 2.0
"""Quiet time after which the WAL is copied into the database. Its file stays as large as it is: a commit that
overwrites it is synced in three quarters of the time that one takes which makes it longer."""

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
    is_short: bool


_Settled = list[tuple["asyncio.Future[Any]", Any, BaseException | None]]

_Work = tuple[list[_Job], _Settled | None]
"""A group for the thread: to be run and committed; or, with what its verbs returned, only to be committed. Without
jobs: the log is to be copied into the database."""


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
        self._waiting: deque[_Job] = deque()
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        self._queue_limit = queue_limit
        self._is_away = False
        """The connection is with the thread."""
        self._is_called = False
        self._idle: asyncio.TimerHandle | None = None
        self._closing = False
        self._wal_pages = 0
        self._checkpoint_at = CHECKPOINT_PAGES
        session.conn.set_wal_hook(self._committed)
        self._thread = threading.Thread(target=self._live, name="taskforge-writer", daemon=True)
        self._thread.start()

    async def submit(self, verb: Callable[Concatenate[Session, P], T], *args: P.args, **_: P.kwargs) -> T:
        """Run `verb(session, *args)` in a transaction; return when it is on disk. Raises what the verb raises, and
        Unavailable when the store takes nothing."""
        return await self.enqueue(verb, *args)

    def enqueue(self, verb: Callable[..., T], *args: Any, is_short: bool = False) -> asyncio.Future[T]:
        """Queue a verb without waiting for it; order is kept. A short one touches a few rows, and may be run again from
        its beginning."""
        entry = RECORDED.get()
        if entry is not None and not entry.is_claimed and verb.__name__ in entry.verbs:
            return self._enqueue_recorded(entry, verb, args)
        if self.failure is not None or self._closing:
            raise self._refusal()
        if len(self._waiting) >= self._queue_limit:
            raise Unavailable(f"{self._queue_limit} writes are waiting for the disk; try again in a moment")
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append(_Job(verb, args, future, is_short))
        if not self._is_away:
            if not is_short:
                self._take_turn()
            elif not self._is_called:
                # What else this turn of the loop brings goes into the same group.
                self._is_called = True
                self._loop.call_soon(self._take_turn)
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
            if self._idle is not None:
                self._idle.cancel()
            if not self._is_away:
                self._take_turn()
        await asyncio.to_thread(self._thread.join)

    # ---- on the loop

    def _take_turn(self) -> None:
        """Give the thread the next group, its short verbs already run; or the end, when closing."""
        self._is_called = False
        if self._is_away:
            return
        jobs: list[_Job] = []
        while self._waiting and len(jobs) < GROUP_LIMIT:
            job = self._waiting.popleft()
            if not job.future.cancelled():
                jobs.append(job)
        if not jobs:
            if self._closing:
                self._is_away = True
                self._work.put(None)
            return
        self._is_away = True
        settled = self._run_here(jobs) if all(job.is_short for job in jobs) else None
        self._work.put((jobs, settled))

    def _run_here(self, jobs: list[_Job]) -> _Settled | None:
        """Run a group of short verbs up to its COMMIT. None when anything is wrong: then nothing is left of it, and the
        thread runs it again from its beginning and finds out."""
        if self.failure is not None:
            return None
        conn = self._session.conn
        try:
            conn.set_busy_timeout(0)  # a lock of another process is waited for in the thread
            try:
                return self._run(jobs, savepoints=False)
            finally:
                conn.set_busy_timeout(BUSY_TIMEOUT_MS)
        except BaseException:
            self._roll_back()
            return None

    def _come_back(self, settled: _Settled) -> None:
        """A group is committed or refused, and the connection is free again."""
        _settle(settled)
        self._is_away = False
        if self._closing:
            self._take_turn()
        elif self._waiting:
            # Whoever was just told may have more for the same group.
            self._is_called = True
            self._loop.call_soon(self._take_turn)
        elif self._idle is None:
            self._rest()

    def _rest(self) -> None:
        """Have the log copied into the database when nothing is written for a while."""
        if self._wal_pages and not self._closing:
            self._idle = self._loop.call_later(IDLE_SECONDS, self._wake, self.commits)

    def _wake(self, commits: int) -> None:
        self._idle = None
        if self._is_away or self._is_called or commits != self.commits:
            self._rest()
        elif self._wal_pages and not self._closing and self.failure is None:
            self._is_away = True
            self._work.put(([], None))

    def _refuse_waiting(self) -> None:
        waiting, self._waiting = list(self._waiting), deque()
        _settle(_refused(waiting, self._refusal()))

    # ---- in the thread

    def _live(self) -> None:
        try:
            while (work := self._work.get()) is not None:
                self._serve(*work)
                del work  # or the last group would stay in memory until the next one comes
        except BaseException as error:
            self._fail(f"the writer stopped: {type(error).__name__}: {error}")
        finally:
            self._end()

    def _serve(self, jobs: list[_Job], settled: _Settled | None) -> None:
        """Commit a group, and tell."""
        if not jobs:
            self._checkpoint()
            self._tell(self._come_back, [])
            return
        try:
            settled = self._commit(jobs, settled)
        except BaseException as error:
            # Nobody may wait for an answer that never comes.
            self._tell(_settle, _refused(jobs, Unavailable(f"the store failed: {error}")))
            raise
        if self._wal_pages < self._checkpoint_at:
            self._tell(self._come_back, settled)
            return
        self._tell(_settle, settled)
        self._checkpoint()
        self._tell(self._come_back, [])

    def _commit(self, jobs: list[_Job], settled: _Settled | None) -> _Settled:
        """Run verbs in one transaction, where they have not run yet, and make it durable."""
        if self.failure is not None:
            self._roll_back()
            return _refused(jobs, self._refusal())
        try:
            if settled is None:
                try:
                    settled = self._run(jobs, savepoints=False)
                except _MustUndo:
                    self._roll_back()
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
        total = session.counts = {}
        execute("BEGIN IMMEDIATE")
        for run, args, future, _ in jobs:
            before = total_changes()
            if savepoints:
                session.counts = {}
                execute("SAVEPOINT verb")
            try:
                settled.append((future, run(session, *args), None))
            except Exception as error:
                if isinstance(error, _SHARED_ERRORS) or not session.conn.in_transaction:
                    raise
                if savepoints:
                    execute("ROLLBACK TO verb")
                    session.sources = None
                elif total_changes() != before:
                    raise _MustUndo from error
                settled.append((future, None, error))
            else:
                if savepoints:
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
        self._session.sources = None
        # SQLite rolls back by itself after some errors.
        if self._session.conn.in_transaction:
            with contextlib.suppress(apsw.Error):
                self._session.execute("ROLLBACK")

    def _committed(self, _conn: apsw.Connection, _name: str, pages: int) -> int:
        if pages < self._wal_pages:
            self._checkpoint_at = CHECKPOINT_PAGES
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _checkpoint(self) -> None:
        """Copy the WAL into the database, so that the next commit writes it from its start.

        A reader may keep part of it back, or the disk be full: it is tried again later, and nothing is lost meanwhile.
        """
        self._checkpoint_at = self._wal_pages + CHECKPOINT_AGAIN_PAGES
        try:
            pages, copied = self._session.conn.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error as error:
            if is_fatal(error):
                self._judge(error)
        else:
            if pages == copied:
                self._wal_pages, self._checkpoint_at = 0, CHECKPOINT_PAGES

    def _fail(self, reason: str) -> None:
        if self.failure is None:
            self.failure = reason
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._announce, Unavailable(reason))

    def _tell(self, call: Callable[[_Settled], None], settled: _Settled) -> None:
        # A loop that is closed has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, settled)

    def _end(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._refuse_waiting)
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
