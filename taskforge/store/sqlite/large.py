"""Large values: kept out of the small hot rows, in `outputs`, compressed above a size; read back unseen.

A row's bit mask `large` says which of its values are there.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

from taskforge.core.snapshot import Changes, SignalRecord, StepRecord
from taskforge.core.states import RUN_TERMINAL
from taskforge.store.protocol import NewRun
from taskforge.store.sqlite.connection import Session

INLINE_LIMIT: Final = 800
"""Characters up to which a value stays in its row: a row of `step_runs` then needs no overflow page (4 KiB pages)."""

COMPRESS_FROM: Final = 4_096
"""Characters from which a value is compressed: from there on it would need overflow pages."""

INPUT, TRIGGER, RUN_OUTPUT, ENDING = 1, 2, 4, 8
"""Bits of `runs.large`."""

OUTPUT, DATA = 1, 2
"""Bits of `step_runs.large`."""

Encoded = dict[tuple[str, str], tuple[str, str | bytes]]
"""Large values by (path, field): their encoding and their body."""


Values = list[tuple[str, str, str]]
"""Large values as (path, field, text)."""


def is_large(text: str | None) -> bool:
    """Return whether a value is kept in `outputs`."""
    return text is not None and len(text) > INLINE_LIMIT


def find_large(changes: Changes, new: NewRun | None = None) -> Values:
    """Return the large values of a decision; mostly there are none."""
    found: Values = []
    if new is not None:
        if len(new.input) > INLINE_LIMIT:
            found.append(("", "input", new.input))
        if len(new.trigger) > INLINE_LIMIT:
            found.append(("", "trigger", new.trigger))
    output, ending = changes.run.output, changes.run.ending
    if output is not None and len(output) > INLINE_LIMIT:
        found.append(("", "output", output))
    if ending is not None and len(ending) > INLINE_LIMIT:
        found.append(("", "ending", ending))
    for sent in stored_signals(changes):
        if len(sent.data) > INLINE_LIMIT:
            found.append((sent.id, "signal", sent.data))
    for step in changes.steps:
        output, data = step.output, step.data
        if output is not None and len(output) > INLINE_LIMIT:
            found.append((step.path, "output", output))
        if data is not None and len(data) > INLINE_LIMIT:
            found.append((step.path, "data", data))
    return found


def stored_signals(changes: Changes) -> list[SignalRecord]:
    """Return the signals that a decision keeps; a run that has ended keeps none."""
    return [] if changes.run.state in RUN_TERMINAL else changes.signals


def encode(values: Iterable[tuple[str, str, str]]) -> Encoded:
    """Compress what is worth it."""
    found: Encoded = {}
    for path, field, text in values:
        if len(text) < COMPRESS_FROM:
            found[path, field] = ("text", text)
            continue
        raw = text.encode()
        body = zlib.compress(raw, 1)
        found[path, field] = ("zlib", body) if len(body) < len(raw) else ("text", text)
    return found


def store_large(session: Session, key: int, large: Encoded) -> None:
    """Write the large values of a run; what was there before is replaced."""
    rows = [(key, path, field, encoding, body) for (path, field), (encoding, body) in large.items()]
    session.executemany(session.sql["apply_large"], rows)


def step_rows(key: int, steps: Iterable[StepRecord], large: Encoded | None) -> list[tuple[Any, ...]]:
    """Return the rows of `step_runs`, without what is stored in `outputs`."""
    if not large:
        return [(key, *step, 0) for step in steps]
    found: list[tuple[Any, ...]] = []
    for step in steps:
        mask = (OUTPUT if (step.path, "output") in large else 0) | (DATA if (step.path, "data") in large else 0)
        if mask & OUTPUT:
            step = step._replace(output=None)
        if mask & DATA:
            step = step._replace(data=None)
        found.append((key, *step, mask))
    return found


def fetch_large(session: Session, key: int, path: str, field: str) -> str | None:
    """Return a large value as it was stored."""
    row = session.row("large_value", (key, path, field))
    if row is None:
        return None
    encoding, body = row
    text: str = zlib.decompress(body).decode() if encoding == "zlib" else body
    return text


def step_record(session: Session, key: int, row: Sequence[Any]) -> StepRecord:
    """Make a step from its columns and `large`."""
    mask = row[16]
    record = StepRecord._make(row[:16])
    if mask & OUTPUT:
        record = record._replace(output=fetch_large(session, key, record.path, "output"))
    if mask & DATA:
        record = record._replace(data=fetch_large(session, key, record.path, "data"))
    return record
