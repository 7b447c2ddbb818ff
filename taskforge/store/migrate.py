"""Numbered schema migrations: which there are, and which a database still needs. Plain data, for every database."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from taskforge.core.errors import StartupError
from taskforge.store.sql import migration_files


class Migration(NamedTuple):
    """One file of `sql/<dialect>/migrations`. `checksum` is the SHA-256 of its text."""

    number: int
    name: str
    checksum: str
    sql: str


class Applied(NamedTuple):
    """A row of `schema_migrations`."""

    number: int
    name: str
    checksum: str
    applied_at: int
    program_version: str


def load_migrations(dialect: str) -> list[Migration]:
    """Return all migrations of a database, in order. Their numbers count up from 1."""
    found: list[Migration] = []
    for entry in migration_files(dialect):
        number, _, name = entry.name.removesuffix(".sql").partition("_")
        sql = entry.read_text(encoding="utf-8").replace("\r\n", "\n")
        found.append(Migration(int(number), name, hashlib.sha256(sql.encode()).hexdigest(), sql))
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"the migrations of {dialect} are not numbered from 1 without holes")
    return found


def pending(
    applied: Sequence[Applied], known: Sequence[Migration], *, program_version: str, place: str
) -> list[Migration]:
    """Return what is still to be applied. StartupError when the database is newer than the program, or when a migration
    was changed after it had been applied."""
    if len(applied) > len(known):
        newest = applied[-1]
        raise StartupError(
            f"{place} was written by TaskForge {newest.program_version} (schema {newest.number}); this is TaskForge "
            f"{program_version}, which knows schemas up to {len(known)}. Nothing was changed. "
            f"Start TaskForge {newest.program_version} or newer."
        )
    for row, migration in zip(applied, known, strict=False):
        if (row.number, row.checksum) != (migration.number, migration.checksum):
            raise StartupError(
                f"{place}: migration {row.number} ({row.name}), applied by TaskForge {row.program_version}, is not the "
                f"one of this TaskForge {program_version}: its checksum is {row.checksum[:12]}…, here it is "
                f"{migration.checksum[:12]}…. Nothing was changed. Install an unaltered TaskForge "
                f"{row.program_version} or newer."
            )
    return list(known[len(applied) :])
