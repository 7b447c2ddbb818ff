"""SQL as files, one folder for each database: `queries.sql` with a named statement per act, and `migrations/`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable

_SHORTER = (
    ("\n", " "),
    ("    ", " "),
    ("  ", " "),
    ("  ", " "),
    (", ", ","),
    (" = ", "="),
    ("( ", "("),
    (" )", ")"),
    (") ", ")"),
    (" (", "("),
)
"""What is replaced in turn; every other space between two words is needed."""
_NAME = re.compile(r"^-- name: ([a-z][a-z0-9_]*)$", re.MULTILINE)


def load_queries(dialect: str) -> Mapping[str, str]:
    """Return the statements of `<dialect>/queries.sql` by name, without comments."""
    text = _folder(dialect).joinpath("queries.sql").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    parts = _NAME.split(text)
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        if name in found:
            raise ValueError(f"{dialect}/queries.sql has two statements named {name}")
        lines = (line for line in body.splitlines() if not line.lstrip().startswith("--"))
        found[name] = _short("\n".join(lines).strip().removesuffix(";"))
    return found


def _short(sql: str) -> str:
    """Leave out spaces that nothing needs: a cache of compiled statements reads the whole text each time."""
    parts = sql.split("'")  # every second one stands in quotes
    for index in range(0, len(parts), 2):
        part = parts[index]
        for long, short in _SHORTER:
            part = part.replace(long, short)
        parts[index] = part
    return "'".join(parts)


def migration_files(dialect: str) -> list[Traversable]:
    """Return the migration files of a database in the order of their numbers."""
    folder = _folder(dialect).joinpath("migrations")
    return sorted((entry for entry in folder.iterdir() if entry.name.endswith(".sql")), key=lambda entry: entry.name)


def _folder(dialect: str) -> Traversable:
    return files("taskforge.store.sql").joinpath(dialect)
