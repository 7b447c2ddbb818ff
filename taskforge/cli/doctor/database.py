"""The database file: from outside, as SQLite sees it, and what of its rows the other checks need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from taskforge.cli.doctor.finding import Finding, failure, note, ok, warning

if TYPE_CHECKING:
    from taskforge.store.sqlite.connection import Session
    from taskforge.store.sqlite.inspecting import Rows

_RESTORE: Final = "taskforge down, keep a copy of the home, then: taskforge db restore BACKUP"
_REPORT: Final = "keep a copy (taskforge db backup) and report it; what it concerns: taskforge db check"
_WAL_BYTES: Final = 64 * 1024 * 1024
_MIB: Final = 1024 * 1024


def check_database(path: Path, now: int, *, served: bool, quick: bool) -> tuple[list[Finding], Rows | None]:
    """Everything about the file, and its rows if they can be read. Changes nothing."""
    import apsw

    from taskforge.store.sqlite.inspecting import look_outside, read_rows, reading
    from taskforge.store.sqlite.place import doubts_about

    try:
        outside = look_outside(path)
        refused = _judge_outside(path, outside.kind, outside.size, outside.wanted, outside.log_size)
        if refused is not None:
            return [refused], None
        found = [warning("DB_PLACE", words, "move the home to a directory of its own on a local disk")
                 for words in doubts_about(path)]  # fmt: skip
    except OSError as error:
        return [_unreadable(path, (error.strerror or str(error)).lower())], None
    if outside.log_is_foreign:
        words = f"{path.name}-wal beside {path} is not its log: what was accepted last is missing"
        found.append(
            failure(
                "DB_LOG_FOREIGN", words, f"put the right {path.name}-wal back before a server starts, or: {_RESTORE}"
            )
        )
    if outside.log_size is not None and outside.log_size > _WAL_BYTES:
        words = f"{path.name}-wal has {outside.log_size // _MIB} MiB"
        fix = "end what reads the database for long (another program, a backup)" if served else "taskforge up"
        found.append(warning("WAL_LARGE", words, fix))
    try:
        with reading(path) as session:
            inside = list(_look_inside(session, path, served=served, quick=quick))
            readable = not any(
                finding.code in ("DB_NEWER", "DB_ALTERED", "DB_OLDER", "DB_FOREIGN") for finding in inside
            )
            rows = read_rows(session, now, served=served) if readable else None
    except (apsw.CorruptError, apsw.NotADBError) as error:
        return [*found, failure("DB_DAMAGED", f"{path} is damaged ({error})", _RESTORE)], None
    except apsw.Error as error:
        return [*found, _unreadable(path, str(error))], None
    found += inside
    if not any(finding.level in ("failure", "warning") for finding in found):
        size = f"{outside.size / _MIB:.1f} MiB, log {(outside.log_size or 0) / _MIB:.1f} MiB"
        found.append(ok("DB_OK", f"{path}: {size}" + (f", schema {rows.schema}" if rows is not None else "")))
    return found, rows


def _judge_outside(path: Path, kind: str, size: int, wanted: int, log_size: int | None) -> Finding | None:
    away = f"{_RESTORE}; to begin anew move {path} and what lies beside it away"
    if kind == "missing" and log_size is None:
        return note("DB_MISSING", f"there is no {path} yet; the first start makes it")
    if kind == "missing":
        words = f"{path}-wal is there but {path} is not: the database was moved or deleted without its log"
        return failure("DB_MISSING", words, f"put {path.name} back beside its log, or: {_RESTORE}")
    if kind == "empty":
        return failure("DB_EMPTY", f"{path} is empty (0 bytes): what was in it is lost", away)
    if kind == "not_a_file":
        return failure("DB_FOREIGN", f"{path} is no file", f"move it away, or: {_RESTORE}")
    if kind == "foreign":
        return failure("DB_FOREIGN", f"{path} is not a database of TaskForge", away)
    if kind == "truncated":
        return failure("DB_TRUNCATED", f"{path} is cut short: it has {size} bytes and should have {wanted}", _RESTORE)
    return None


def _look_inside(session: Session, path: Path, *, served: bool, quick: bool) -> Iterator[Finding]:
    from taskforge.store.sqlite import health
    from taskforge.store.sqlite.marks import missing_log, was_open

    tables = {name for (name,) in session.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()}
    if "schema_migrations" not in tables:
        yield failure("DB_FOREIGN", f"{path} has no tables of TaskForge", _RESTORE)
        return
    parts: list[tuple[str, Callable[[Session], list[str]]]] = [
        ("DB_DAMAGED", health.find_damage),
        ("DB_ORPHANS", health.find_orphans),
        ("DB_COUNTS", health.find_wrong_counts),
        ("DB_INVARIANT", health.find_broken_invariants),
    ]
    if quick:
        yield note("DB_NOT_READ", "the file was not read as a whole", "taskforge doctor")
        parts = []
    schema = _judge_schema(session, path)
    if schema is not None:
        yield schema
        parts = parts[:1]
    for code, part in parts:
        texts = health.look(session, part)
        if not texts:
            continue
        met = any(text.startswith("damage met") for text in texts)
        fix = _RESTORE if met or code in ("DB_DAMAGED", "DB_ORPHANS") else _REPORT
        yield failure("DB_DAMAGED" if met else code, _counted(texts), fix)
    if schema is None and was_open(session.conn):
        yield from _judge_mark(path, missing_log(path), served=served)


def _judge_mark(path: Path, words: str, *, served: bool) -> Iterator[Finding]:
    """The file says that it is open: then its log must be there."""
    from taskforge.store.sqlite.opening import wal_path

    log = wal_path(path)
    if log.exists():
        if not served:
            yield note("DB_NOT_CLOSED", "the last server was ended at once; the next start takes its log in")
    elif served:
        words = f"{log} was deleted while a server uses it: other programs, and a backup of files, see old data"
        yield failure(
            "DB_LOG_MISSING", words, "taskforge down && taskforge up   (the server still has it, and takes it in)"
        )
    else:
        fix = f"put {log.name} back beside it before a server starts; or compare with a backup, then start"
        yield failure("DB_LOG_MISSING", words, fix)


def _counted(texts: list[str]) -> str:
    return texts[0] + (f" (and {len(texts) - 1} more; taskforge db check lists them)" if len(texts) > 1 else "")


def _judge_schema(session: Session, path: Path) -> Finding | None:
    """A schema that is not this program's: its rows may mean something else."""
    from taskforge import __version__
    from taskforge.core.errors import StartupError
    from taskforge.store.migrate import load_migrations, pending
    from taskforge.store.sqlite.opening import applied_migrations

    known, applied = load_migrations("sqlite"), applied_migrations(session.conn)
    try:
        missing = pending(applied, known, program_version=__version__, place=str(path))
    except StartupError as error:
        newer = len(applied) > len(known)
        fix = "install that version of TaskForge, or a newer one"
        return failure("DB_NEWER" if newer else "DB_ALTERED", error.message, fix)
    if missing:
        words = f"{path} has schema {len(applied)}, this program has {len(known)}; the next start migrates it"
        return note("DB_OLDER", words, "taskforge up   (a backup is made before)")
    return None


def _unreadable(path: Path, words: str) -> Finding:
    return failure(
        "DB_UNREADABLE", f"{path} cannot be opened: {words}", f"check the owner and mode of {path.parent} and its files"
    )
