"""Runs one act again and again, each time in a process that is killed at its next step on the file system.

`python -m tests.support.dying ACT BEFORE PLACE`: ACT is `backup` or `restore` (below). For every n, PLACE is made a
fresh copy of the directory BEFORE, a child carries out the act and is killed (SIGKILL) at its n-th step on files, and
then what must hold is looked at. Ends when a child gets through; prints how many steps there were. One process, which
forks, and has no threads: cheap.

Steps are the interpreter's own audit events (opening, renaming, removing), every sync, and every statement of SQLite.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from taskforge.store.sqlite import backup as copying
from taskforge.store.sqlite import opening
from taskforge.store.sqlite.backup import Stamp
from taskforge.store.sqlite.health import check_file
from taskforge.store.sqlite.opening import prepare
from taskforge.store.sqlite.restore import Wish, restore_database

_EVENTS = ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir", "os.link")


def runs_in(database: Path) -> int:
    """How many runs a database has, read with its log and without changing anything."""
    conn = apsw.Connection(str(database))
    conn.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    try:
        return int(conn.execute("SELECT count(*) FROM runs").fetchall()[0][0])  # type: ignore[arg-type]
    finally:
        conn.close()


def backup(place: Path) -> None:
    opening.back_up(place / "taskforge.db", place / "backups" / "copy.db", Stamp(1, "key"))


def after_backup(place: Path, through: bool) -> None:
    """The copy is absent or whole, and the next one is made all the same."""
    copy = place / "backups" / "copy.db"
    assert copy.exists() or not through
    if copy.exists():
        assert check_file(copy) == [] and runs_in(copy) == runs_in(place / "taskforge.db")
        assert copy.stat().st_mode & 0o777 == 0o600
    opening.back_up(place / "taskforge.db", place / "backups" / "copy.db", Stamp(2, "key"))
    assert [path.name for path in (place / "backups").iterdir()] == ["copy.db"]


def restore(place: Path) -> None:
    restore_database(Wish(place / "source.db", place / "taskforge.db", 2_000_000_000_000, "then", ["key"]))


def after_restore(place: Path, through: bool) -> None:
    """A start finds the old database or the restored one, whole; nothing of the old one is lost."""
    source = runs_in(place / "source.db")
    prepare(place / "taskforge.db", place / "backups", 3).conn.close()
    assert check_file(place / "taskforge.db") == []
    found = runs_in(place / "taskforge.db")
    kept = place / "taskforge.db.replaced-then"
    if kept.exists():
        assert found == source and runs_in(kept) == OLD_RUNS
    else:
        assert found == OLD_RUNS and not through
    assert not list(place.glob("taskforge.db.restored-*"))


OLD_RUNS = 5
"""Runs of the database that is replaced; the test that calls this makes so many, the last in the log."""

ACTS: dict[str, tuple[Callable[[Path], None], Callable[[Path, bool], None]]] = {
    "backup": (backup, after_backup),
    "restore": (restore, after_restore),
}


def _die_at(step: int) -> None:
    """From now on count steps, and die at this one."""
    left = itertools.count()

    def met(event: str = "", _: tuple[Any, ...] = ()) -> None:
        if (event in _EVENTS or not event) and next(left) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(met)
    inner = copying.sync

    def sync(path: Path) -> None:
        met()
        inner(path)

    for module in (copying, opening, sys.modules["taskforge.store.sqlite.restoring"]):
        vars(module)["sync"] = sync

    def traced(*_: Any) -> bool:
        met()
        return True

    apsw.connection_hooks.append(lambda conn: conn.set_exec_trace(traced))
    # A copy in many pieces, so that it is interrupted within, too.
    vars(copying)["_PAGES_AT_ONCE"] = 16


def main() -> None:
    act, after = ACTS[sys.argv[1]]
    before, place = Path(sys.argv[2]), Path(sys.argv[3])
    for step in itertools.count():
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(before, place)
        child = os.fork()
        if child == 0:
            _die_at(step)
            try:
                act(place)
            except BaseException as error:
                print(f"step {step}: {error!r}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL), f"step {step} ended with {code}"
        after(place, code == 0)
        if code == 0:
            print(step)
            return


if __name__ == "__main__":
    main()
