"""What `doctor` can find: every code, with its subject and its meaning. The only list of them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from taskforge.core.record import dataclass


class Level(StrEnum):
    """`failure`: something does not work, or data is in danger. `warning`: it will, or might. `note`: worth knowing."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    FAILURE = "failure"


class Meaning(NamedTuple):
    subject: str
    words: str


CODES: Final[dict[str, Meaning]] = {
    "PROGRAM_OK": Meaning("program", "the program and its SQLite library can be relied on"),
    "SQLITE_OLD": Meaning("program", "the SQLite library can lose commits; the server refuses to start with it"),
    "HOME_OK": Meaning("home", "the directory is there, and only its owner can enter it"),
    "HOME_MISSING": Meaning("home", "there is no home yet"),
    "HOME_UNUSABLE": Meaning("home", "no directory, of another user, or it cannot be written"),
    "HOME_OPEN": Meaning("home", "others can enter the directory"),
    "FILE_OPEN": Meaning("home", "others can read the database, a log or a backup"),
    "CONFIG_OK": Meaning("configuration", "every setting is known and in its range"),
    "CONFIG_MISSING": Meaning("configuration", "there is no config.toml; the next start makes one, with a new token"),
    "CONFIG_INVALID": Meaning("configuration", "a setting is unknown or out of range; the server does not start"),
    "CONFIG_OPEN": Meaning("configuration", "others can read the administrator's token"),
    "CONFIG_WARNING": Meaning("configuration", "a setting that works, but is probably not meant"),
    "TOKEN_MISSING": Meaning("configuration", "no administrator's token is set"),
    "ADDRESS_EXPOSED": Meaning("configuration", "tokens and data would cross a network in the clear"),
    "TLS_UNUSABLE": Meaning("configuration", "certificate or key cannot be used"),
    "TLS_NOT_YET": Meaning("configuration", "the certificate is not valid yet, or the clock is behind"),
    "TLS_EXPIRED": Meaning("configuration", "the certificate is not valid any more"),
    "TLS_EXPIRING": Meaning("configuration", "the certificate will soon not be valid any more"),
    "KEY_OK": Meaning("key", "the key opens every stored secret"),
    "KEY_MISSING": Meaning("key", "secret.key is not there"),
    "KEY_INVALID": Meaning("key", "secret.key cannot be read or holds no key"),
    "KEY_OPEN": Meaning("key", "others can read secret.key"),
    "KEY_WRONG": Meaning("key", "secrets were sealed with another key"),
    "KEY_CHANGING": Meaning("key", "`secret rotate-key` was broken off; the next start finishes it"),
    "KEY_UNCHECKED": Meaning("key", "the key is one, but the secrets cannot be read to compare"),
    "SECRET_DAMAGED": Meaning("key", "a secret was sealed with this key, and was changed since"),
    "DB_OK": Meaning("database", "the file is whole, and every invariant of runs holds"),
    "DB_MISSING": Meaning("database", "there is no database"),
    "DB_EMPTY": Meaning("database", "the file has 0 bytes; what was in it is lost"),
    "DB_FOREIGN": Meaning("database", "the file is no database, or not one of TaskForge"),
    "DB_TRUNCATED": Meaning("database", "the file is shorter than it should be"),
    "DB_UNREADABLE": Meaning("database", "the file cannot be opened"),
    "DB_DAMAGED": Meaning("database", "SQLite finds damage in the file"),
    "DB_LOG_MISSING": Meaning("database", "it was not closed, and its log is gone: a plain copy, or a lost file"),
    "DB_LOG_FOREIGN": Meaning("database", "the file beside it that ends in -wal is not its log"),
    "DB_NOT_CLOSED": Meaning("database", "the last server was ended at once; the next one takes the log in"),
    "DB_NEWER": Meaning("database", "a newer program has written it"),
    "DB_ALTERED": Meaning("database", "a migration was applied that this program does not have in that form"),
    "DB_OLDER": Meaning("database", "the next start migrates it, after a backup"),
    "DB_ORPHANS": Meaning("database", "rows without the row that they belong to"),
    "DB_COUNTS": Meaning("database", "kept counts differ from the rows"),
    "DB_INVARIANT": Meaning("database", "an invariant of runs does not hold"),
    "DB_NOT_READ": Meaning("database", "the file was not read as a whole (--quick)"),
    "DB_PLACE": Meaning("database", "a network file system, or a second name of the file"),
    "WAL_LARGE": Meaning("database", "the log has grown: somebody reads for long, or it is not taken in"),
    "DISK_OK": Meaning("disk", "there is room"),
    "DISK_FULL": Meaning("disk", "less is free than the server needs to accept work"),
    "DISK_LOW": Meaning("disk", "it will soon be full"),
    "DISK_INODES": Meaning("disk", "no more files can be made"),
    "CLOCK_OK": Meaning("clock", "the machine's clock agrees with what is stored"),
    "CLOCK_WRONG": Meaning("clock", "the machine's clock cannot be right"),
    "CLOCK_BEHIND": Meaning("clock", "something was stored at a time that is still to come"),
    "ZONES_OK": Meaning("time zones", "every stored schedule's time zone is known"),
    "ZONES_MISSING": Meaning("time zones", "there is no time zone data"),
    "ZONES_OLD": Meaning("time zones", "the time zone data is old"),
    "ZONE_UNKNOWN": Meaning("time zones", "a stored schedule's time zone is not known here"),
    "SERVER_READY": Meaning("server", "it answers that it is ready"),
    "SERVER_STOPPED": Meaning("server", "none runs"),
    "SERVER_STOPPING": Meaning("server", "it was told to end"),
    "SERVER_SILENT": Meaning("server", "a process holds the home, but does not answer"),
    "SERVER_NOT_READY": Meaning("server", "it answers that it is not ready"),
    "SERVER_ELSEWHERE": Meaning("server", "commands of this shell talk to another server than the home's"),
    "PID_STALE": Meaning("server", "serve.pid names a server that is gone"),
    "VERSION_DIFFERS": Meaning("server", "it is of another version than this program"),
    "TOKEN_OK": Meaning("token", "the server accepts the token of the configuration"),
    "TOKEN_REFUSED": Meaning("token", "the server does not accept the token of the configuration"),
    "PORT_OK": Meaning("port", "it is free"),
    "PORT_TAKEN": Meaning("port", "another program listens there"),
    "PORT_FORBIDDEN": Meaning("port", "this user may not listen there"),
    "ADDRESS_UNKNOWN": Meaning("port", "the address to listen on is not one of this machine"),
    "WORK_OK": Meaning("work", "nothing is late, and nothing is left behind"),
    "LEASES_EXPIRED": Meaning("work", "attempts whose lease has lapsed have not been taken up"),
    "RUNS_ABANDONED": Meaning("work", "runs are held by a process that is gone"),
    "RUNS_OVERDUE": Meaning("work", "runs are due and nobody takes them up"),
    "RUNS_SUSPECT": Meaning("work", "runs that were in flight at several deaths of the server"),
    "SCHEDULES_OVERDUE": Meaning("work", "schedules should have fired"),
    "WORK_HELD": Meaning("work", "workflows are held back by a person"),
    "DEAD_LETTERS": Meaning("work", "steps have failed for good and wait for somebody"),
    "BACKUP_OK": Meaning("backups", "there is a recent one"),
    "BACKUP_NONE": Meaning("backups", "there is none"),
    "BACKUP_OLD": Meaning("backups", "the newest is old"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """`fix` is a command or what else to do; every warning and failure has one."""

    code: str
    level: Level
    message: str
    fix: str | None = None

    @property
    def subject(self) -> str:
        return CODES[self.code].subject

    def to_json(self) -> dict[str, Any]:
        return {
            "level": self.level.value,
            "code": self.code,
            "subject": self.subject,
            "message": self.message,
            "fix": self.fix,
        }


def ok(code: str, message: str) -> Finding:
    return Finding(code, Level.OK, message)


def note(code: str, message: str, fix: str | None = None) -> Finding:
    return Finding(code, Level.NOTE, message, fix)


def warning(code: str, message: str, fix: str) -> Finding:
    return Finding(code, Level.WARNING, message, fix)


def failure(code: str, message: str, fix: str) -> Finding:
    return Finding(code, Level.FAILURE, message, fix)


def some(names: Sequence[str], shown: int = 5) -> str:
    """The first few of many."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
