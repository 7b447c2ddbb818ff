"""A few connections that only read, each in a thread of its own. Every read is one short transaction."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Concatenate, ParamSpec, TypeVar

import apsw

from taskforge.core.errors import Unavailable
from taskforge.store.sqlite.connection import Session, translate

P = ParamSpec("P")
T = TypeVar("T")

_Job = tuple[Callable[..., Any], tuple[Any, ...], "asyncio.Future[Any]"]


class Readers:
    """Runs functions on reading connections. `connect` makes a session; it is called in the thread that uses it."""

    def __init__(
        self, connect: Callable[[], Session], path: Path, *, loop: asyncio.AbstractEventLoop, size: int = 2
    ) -> None:
        self._connect = connect
        self._path = path
        self._loop = loop
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._live, name=f"taskforge-reader-{index}", daemon=True) for index in range(size)
        ]
        for thread in self._threads:
            thread.start()

    async def submit(self, read: Callable[Concatenate[Session, P], T], *args: P.args, **_: P.kwargs) -> T:
        """Run `read(session, *args)` in a read transaction. Raises what it raises, and Unavailable."""
        if self._closed:
            raise Unavailable("the store is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((read, args, future))
        return await future

    async def close(self) -> None:
        """Finish what is queued and close the connections."""
        if not self._closed:
            self._closed = True
            for _ in self._threads:
                self._queue.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    # ---- in a thread

    def _live(self) -> None:
        session: Session | None = None
        try:
            while (job := self._queue.get()) is not None:
                session = self._answer(session, *job)
                del job  # or the last answer would stay in memory until the next question comes
        finally:
            if session is not None:
                with contextlib.suppress(apsw.Error):
                    session.conn.close()

    def _answer(
        self, session: Session | None, read: Callable[..., Any], args: tuple[Any, ...], future: asyncio.Future[Any]
    ) -> Session | None:
        """Read, and tell. Returns the connection, made when it is first needed."""
        if future.cancelled():
            return session
        result: Any = None
        error: BaseException | None = None
        try:
            if session is None:
                session = self._connect()
            result = self._read(session, read, args)
        except apsw.Error as raised:
            error = translate(raised, session.conn if session else None, self._path)
        except BaseException as raised:
            error = raised
        self._tell(future, result, error)
        return session

    @staticmethod
    def _read(session: Session, read: Callable[..., T], args: tuple[Any, ...]) -> T:
        session.execute("BEGIN")
        try:
            return read(session, *args)
        finally:
            # Nothing was written; this only lets go of the snapshot.
            session.execute("ROLLBACK")

    def _tell(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        # A loop that is closed has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_settle, future, result, error)


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
