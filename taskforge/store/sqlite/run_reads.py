"""Reading runs, their rows and their journal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, Literal, NoReturn

from taskforge.core.errors import NotFound
from taskforge.core.snapshot import AttemptRecord, RunRecord, SignalRecord, StepRecord
from taskforge.core.states import RUN_TERMINAL
from taskforge.store.protocol import AttemptRow, JournalRow, RunFilter, RunRow, RunRows
from taskforge.store.sqlite.connection import Session
from taskforge.store.sqlite.large import ENDING, INPUT, RUN_OUTPUT, TRIGGER, fetch_large, step_record

_ALL: Final = 2**62
"""More than there are keys, numbers, milliseconds or rows."""

_CLOCK_SLACK_MS: Final = 24 * 3_600_000
"""Keys follow `created_at` but where the machine's clock was set back; bounds by time are this much wider."""


def load_run(session: Session, key: int) -> RunRows:
    row = session.row("run_by_key", (key,))
    if row is None:
        raise NotFound(f"there is no run with the key {key}")
    steps = [step_record(session, key, step) for step in session.rows("steps_of_run", (key, "", _ALL))]
    attempts = [_attempt(attempt) for attempt in session.rows("attempts_of_whole_run", (key,))]
    return RunRows(_run(session, row), steps, attempts, _signals(session, key))


def load_runs(session: Session, keys: Sequence[int]) -> list[RunRows]:
    return [load_run(session, key) for key in keys]


def get_run(session: Session, ref: str) -> RunRow:
    return _run(session, _find(session, ref))


def get_run_rows(
    session: Session, ref: str, steps: Literal["none", "failed", "all"], cursor: str | None, limit: int
) -> RunRows:
    run = _run(session, _find(session, ref))
    found: list[StepRecord] = []
    attempts: list[AttemptRow] = []
    if steps == "all":
        rows = session.rows("steps_of_run", (run.key, cursor or "", limit))
        found = [step_record(session, run.key, row) for row in rows]
        if found:
            span = (run.key, found[0].path, found[-1].path)
            attempts = [_attempt(row) for row in session.rows("attempts_of_run", span)]
    elif steps == "failed":
        rows = session.rows("failed_steps_of_run", (run.key, cursor or "", limit))
        found = [step_record(session, run.key, row) for row in rows]
        for step in found:
            attempts += [_attempt(row) for row in session.rows("attempts_of_step", (run.key, step.path))]
    # A run that has ended keeps no signals.
    signals = [] if run.record.state in RUN_TERMINAL else _signals(session, run.key)
    return RunRows(run, found, attempts, signals)


def count_steps(session: Session, key: int) -> int:
    row = session.row("count_steps", (key,))
    return int(row[0]) if row else 0


def list_runs(session: Session, chosen: RunFilter) -> list[RunRow]:
    """Newest first. What is scanned is the smaller of the workflow's runs and the runs in the states asked for."""
    before = _ALL if chosen.cursor is None else chosen.cursor
    since = -_ALL if chosen.since is None else chosen.since
    until = _ALL if chosen.until is None else chosen.until
    first, last = _key_range(session, chosen)
    common = (min(before, last), first, since, until, chosen.trigger_type, chosen.limit)
    if chosen.workflow is not None and not (chosen.states and _states_are_fewer(session, chosen)):
        number = session.row("list_runs_cursor_number", (before, chosen.workflow))
        states = json.dumps(chosen.states) if chosen.states else None
        rows = session.rows("list_runs_of_workflow", (*common, chosen.workflow, number[0] if number else _ALL, states))
    elif chosen.states:
        rows = []
        for state in dict.fromkeys(chosen.states):
            rows += session.rows("list_runs_in_state", (*common, state, chosen.workflow))
        rows.sort(reverse=True)
        del rows[chosen.limit :]
    else:
        rows = session.rows("list_runs_newest", common)
    return [_run(session, row) for row in rows]


def list_journal(session: Session, run_key: int | None, after: int, limit: int) -> list[JournalRow]:
    if run_key is None:
        rows = session.rows("list_journal", (after, limit))
    else:
        rows = session.rows("list_journal_of_run", (run_key, after, limit))
    return [JournalRow._make(row) for row in rows]


def last_journal_id(session: Session) -> int:
    return int(session.rows("last_journal_id")[0][0])


def _find(session: Session, ref: str) -> Any:
    name, hash_sign, number = ref.rpartition("#")
    if not hash_sign:
        row = session.row("run_by_id", (ref,))
    elif number.isascii() and number.isdecimal() and len(number) < 19:
        row = session.row("run_by_number", (name, int(number)))
    else:
        row = None
    return row if row is not None else _no_run(ref)


def _no_run(ref: str) -> NoReturn:
    raise NotFound(f"there is no run {ref}")


def _run(session: Session, row: Sequence[Any]) -> RunRow:
    """Make a run from its columns, the part that changes, and `large`."""
    found, large = RunRow._make((*row[:14], RunRecord._make(row[14:29]))), row[29]
    if large & INPUT:
        found = found._replace(input=fetch_large(session, found.key, "", "input") or "null")
    if large & TRIGGER:
        found = found._replace(trigger=fetch_large(session, found.key, "", "trigger") or "null")
    if large & RUN_OUTPUT:
        output = fetch_large(session, found.key, "", "output")
        found = found._replace(record=found.record._replace(output=output))
    if large & ENDING:
        ending = fetch_large(session, found.key, "", "ending")
        found = found._replace(record=found.record._replace(ending=ending))
    return found


def _signals(session: Session, key: int) -> list[SignalRecord]:
    """Return what was sent to a run and not taken, in the order in which it came."""
    found: list[SignalRecord] = []
    for id, name, data, sent_at, large in session.rows("signals_of_run", (key,)):
        text = fetch_large(session, key, id, "signal") if large else data
        found.append(SignalRecord(id, name, text or "null", sent_at))
    return found


def _attempt(row: Sequence[Any]) -> AttemptRow:
    return AttemptRow(AttemptRecord._make(row[:7]), row[7], row[8], row[9])


def _key_range(session: Session, chosen: RunFilter) -> tuple[int, int]:
    """Return the first key, and the one after the last, among which the runs of the time asked for are."""
    first, last = 0, _ALL
    if chosen.since is not None:
        row = session.row("list_runs_first_since", (chosen.since - _CLOCK_SLACK_MS,))
        first = row[0] if row else _ALL
    if chosen.until is not None:
        row = session.row("list_runs_last_until", (chosen.until + _CLOCK_SLACK_MS,))
        last = row[0] + 1 if row else 0
    return first, last


def _states_are_fewer(session: Session, chosen: RunFilter) -> bool:
    size = session.row("list_runs_workflow_size", (chosen.workflow,))
    counts = {state: n for kind, state, n in session.rows("stats_counts") if kind == "run"}
    wanted: int = sum(counts.get(state, 0) for state in chosen.states)
    return wanted < int(size[0] if size else 0)
