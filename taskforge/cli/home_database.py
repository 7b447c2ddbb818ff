"""The database of a home, for commands that work on the file itself: where it is, and whether a server has it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from taskforge.cli.command import Session
from taskforge.cli.failure import CommandError, Exit

if TYPE_CHECKING:
    from taskforge.engine.upkeep import Upkeep

T = TypeVar("T")


def home_of(session: Session) -> Path:
    """The home that commands on files mean."""
    from taskforge.config.reading import resolve_home

    return resolve_home(session.screen.environ)


def is_elsewhere(session: Session) -> bool:
    """Is another server meant than the one of this home?"""
    from taskforge.cli.connection import home_url
    from taskforge.config.reading import load_settings

    connection = session.client.connection
    return not connection.local and connection.url != home_url(load_settings(connection.home, session.screen.environ))


def refuse_elsewhere(session: Session, what: str) -> None:
    """CommandError when another server is meant than the one of this home."""
    if is_elsewhere(session):
        raise CommandError(
            f"{what} works on the files of a home, and {session.client.connection.url} is the server of another one",
            hint="run it on the server's machine, with its TASKFORGE_HOME, without --server and --profile",
            code=Exit.USAGE,
        )


@contextlib.contextmanager
def locked_home(home: Path, doing: str) -> Iterator[None]:
    """Keep every server out of the home while the body runs. CommandError when one has it."""
    from taskforge.config.lock import HomeInUse, HomeLock

    try:
        lock = HomeLock(home)
    except HomeInUse as error:
        raise CommandError(f"{error.message.split(';')[0]}; {doing} needs it stopped", hint="taskforge down",
                           code=Exit.CONFLICT) from None  # fmt: skip
    try:
        yield
    finally:
        lock.release()


def with_upkeep(session: Session, home: Path, work: Callable[[Upkeep], Awaitable[T]]) -> T:
    """Open the database of a home that no server has, and let `work` look after it."""
    from taskforge.config.home import DATABASE_FILE
    from taskforge.core.clock import SystemClock
    from taskforge.core.errors import StartupError
    from taskforge.engine.upkeep import RetentionLimits, Upkeep
    from taskforge.store.sqlite.store import SqliteStore

    path = home / DATABASE_FILE
    if not path.is_file():
        raise StartupError(f"there is no database at {path}; set TASKFORGE_HOME to the home that you mean")

    async def main() -> T:
        clock = SystemClock()
        store = await SqliteStore.open(path, clock=clock)
        try:
            return await work(Upkeep(store, clock, home, RetentionLimits()))
        finally:
            await store.close()

    with locked_home(home, "this"):
        return asyncio.run(main())
