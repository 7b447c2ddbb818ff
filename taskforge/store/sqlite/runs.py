"""Starting runs and applying decisions to them: the hot path. Every function is one verb inside a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NoReturn

from taskforge.core.errors import IdempotencyMismatch, LeaseLost, NotFound, WorkflowDisabled
from taskforge.core.jsontext import loads
from taskforge.core.snapshot import Changes
from taskforge.core.states import RUN_TERMINAL
from taskforge.store.protocol import NewRun, StartedRun
from taskforge.store.sqlite.connection import Session
from taskforge.store.sqlite.consequences import consequences, note_end, told_of_start
from taskforge.store.sqlite.large import (
    ENDING,
    INLINE_LIMIT,
    INPUT,
    RUN_OUTPUT,
    TRIGGER,
    Encoded,
    step_rows,
    store_large,
    stored_signals,
)

IDEMPOTENCY_KEPT_MS: Final = 7 * 24 * 3_600_000
"""How long an Idempotency-Key names the run that it started."""

_ENDING_NEAR_LARGE: Final = INLINE_LIMIT - 200
"""Characters of output and error together up to which a run's ending, made of the same, was kept in its row."""


def start_run(session: Session, new: NewRun, changes: Changes, large: Encoded | None) -> StartedRun:
    if new.idempotency_key is not None:
        earlier = find_started(session, new.workflow, new.idempotency_key, new.request_hash, new.created_at)
        if earlier is not None:
            return earlier
        session.write("start_run_forget_key", (new.workflow, new.idempotency_key))
    number = _numbers(session, new.workflow, 1)
    told = None if new.parent is None else told_of_start(session, new.parent_key, loads(new.parent))
    session.execute(session.sql["start_run_insert"], _run_row(new, number, changes, large, told))
    key = session.last_insert_rowid()
    if changes.steps:
        session.insert("start_run_step", step_rows(key, changes.steps, large))
    if changes.leases:
        session.insert("apply_lease", [(key, *lease) for lease in changes.leases])
    if changes.journal is not None:
        session.execute(session.sql["apply_journal"], (key, changes.now, changes.journal))
    return _begun(session, new, key, number, changes, large)


def start_runs(session: Session, runs: Sequence[tuple[NewRun, Changes, Encoded | None]]) -> list[StartedRun]:
    """Several runs at a time in each statement, where they are runs of one workflow that nothing else asks about."""
    first = runs[0][0] if runs else None
    if first is None or any(
        new.workflow != first.workflow or new.idempotency_key is not None or new.parent is not None
        for new, _, _ in runs
    ):
        return [start_run(session, *run) for run in runs]
    number = _numbers(session, first.workflow, len(runs))
    session.insert(
        "start_run_insert",
        [_run_row(new, number + place, changes, large, None) for place, (new, changes, large) in enumerate(runs)],
    )
    # Keys are given in order, and nobody else writes meanwhile.
    start = session.last_insert_rowid() - len(runs) + 1
    steps: list[tuple[Any, ...]] = []
    leases: list[tuple[Any, ...]] = []
    entries: list[tuple[Any, ...]] = []
    for key, (_, changes, large) in enumerate(runs, start):
        steps += step_rows(key, changes.steps, large)
        if changes.leases:
            leases += [(key, *lease) for lease in changes.leases]
        if changes.journal is not None:
            entries.append((key, changes.now, changes.journal))
    session.insert("start_run_step", steps)
    session.insert("apply_lease", leases)
    session.insert("apply_journal", entries)
    return [
        _begun(session, new, start + place, number + place, changes, large)
        for place, (new, changes, large) in enumerate(runs)
    ]


def _numbers(session: Session, workflow: str, count: int) -> int:
    """Take the next numbers of a workflow's runs, and return the first."""
    number = session.numbers.get(workflow)
    if number is None or not session.write("start_run_take_numbers", (workflow, number, count)):
        found = session.row("start_run_next_number", (workflow,))
        if found is None:
            _refuse_start(session, workflow)
        number = int(found[0])
        session.write("start_run_take_numbers", (workflow, number, count))
    session.numbers[workflow] = number + count
    return number


def _run_row(new: NewRun, number: int, changes: Changes, large: Encoded | None, told: int | None) -> tuple[Any, ...]:
    run = changes.run
    input: str | None = new.input
    trigger: str | None = new.trigger
    output, ending, mask = _small(changes, large)
    if large:
        if ("", "input") in large:
            input, mask = None, mask | INPUT
        if ("", "trigger") in large:
            trigger, mask = None, mask | TRIGGER
    return (
        new.id, new.workflow, number, new.version, run.state, run.generation, changes.revision + 1, run.owner,
        run.due_at, run.suspect, new.priority, new.start_at, new.trigger_type, new.created_at, run.started_at,
        run.finished_at, new.idempotency_key, new.request_hash, new.lineage, run.needs_slot, run.latest_at,
        run.place, run.placed, run.undone, new.parent_key, told, mask, run.error, new.parent, ending, trigger,
        input, output,
    )  # fmt: skip


def _begun(session: Session, new: NewRun, key: int, number: int, changes: Changes, large: Encoded | None) -> StartedRun:
    """Write what only few runs have when they begin, and what the run means for others."""
    _write_rest(session, key, changes, large)
    run, due_at = changes.run, None
    if changes.claim is not None:
        due_at = consequences(session, key, changes)
    elif run.state in RUN_TERMINAL:
        # A run that begins has no children and holds no place yet.
        note_end(session, key, run.state, new.workflow)
    return StartedRun(new.id, key, number, run.state, True, due_at)


def cancel_run(session: Session, changes: Changes, large: Encoded | None) -> int | None:
    return apply_changes(session, changes, large)


def retry_run(session: Session, changes: Changes, large: Encoded | None) -> int | None:
    return apply_changes(session, changes, large)


def send_signal(session: Session, changes: Changes, large: Encoded | None) -> int | None:
    return apply_changes(session, changes, large)


def apply_changes(session: Session, changes: Changes, large: Encoded | None) -> int | None:
    """Apply a decision on a stored run, guarded by its revision and by the token of every attempt that ends. Return the
    time since when a run is due that was given a place by this."""
    run, key, sql = changes.run, changes.key, session.sql
    if changes.moves_run or large:
        output, ending, mask = _small(changes, large)
        session.execute(
            sql["apply_run"],
            (
                key, changes.revision, run.state, run.generation, run.owner, run.due_at, run.suspect, output, run.error,
                run.started_at, run.finished_at, run.needs_slot, ending, run.place, run.placed, run.undone,
                run.latest_at, mask,
            ),
        )  # fmt: skip
    else:
        session.execute(sql["apply_run_revision"], (key, changes.revision))
    if session.changes() != 1:
        raise LeaseLost(f"run {key} has moved on from revision {changes.revision}")
    for end in changes.ends:
        session.execute(sql["finish_attempt"], (key, *end))
        if session.changes() != 1:
            raise LeaseLost(f"attempt {end.id} of run {key} holds no lease any more")
    if changes.steps:
        session.executemany(sql["apply_step"], step_rows(key, changes.steps, large))
    if changes.dead_letters_to is not None:
        closed = session.write("apply_dead_letters_to", (key, changes.dead_letters_to, changes.now))
        if closed:
            session.add("dead_letter", "OPEN", -closed)
            session.add("dead_letter", changes.dead_letters_to, closed)
    for id in changes.signals_taken:
        _take_signal(session, key, id)
    if changes.told_child is not None:
        session.execute(sql["apply_told"], (changes.told_child,))
    if run.ending is None and len(run.output or "") + len(run.error or "") > _ENDING_NEAR_LARGE:
        session.execute(sql["apply_ending_over"], (key,))
    if changes.leases:
        session.insert("apply_lease", [(key, *lease) for lease in changes.leases])
    if changes.journal is not None:
        session.execute(sql["apply_journal"], (key, changes.now, changes.journal))
    _write_rest(session, key, changes, large)
    return consequences(session, key, changes)


def _small(changes: Changes, large: Encoded | None) -> tuple[str | None, str | None, int]:
    """Return the run's output and ending as they are kept in its row, and the mask of what is in `outputs`."""
    output, ending, mask = changes.run.output, changes.run.ending, 0
    if large:
        if ("", "output") in large:
            output, mask = None, RUN_OUTPUT
        if ("", "ending") in large:
            ending, mask = None, mask | ENDING
    return output, ending, mask


def _take_signal(session: Session, key: int, id: str) -> None:
    taken = session.row("apply_signal_taken", (key, id))
    if taken is None:
        raise LeaseLost(f"signal {id} of run {key} was taken before")
    if taken[0]:
        session.execute(session.sql["apply_signal_forget"], (key, id))


def _write_rest(session: Session, key: int, changes: Changes, large: Encoded | None) -> None:
    """Write what few decisions have, and add up what all of them count."""
    sql = session.sql
    if changes.dead_letters:
        session.executemany(sql["apply_dead_letter"], [(key, *letter) for letter in changes.dead_letters])
        session.add("dead_letter", "OPEN", len(changes.dead_letters))
    if changes.signals:
        for sent in stored_signals(changes):
            is_large = large is not None and (sent.id, "signal") in large
            data = None if is_large else sent.data
            session.execute(sql["apply_signal"], (key, sent.id, sent.name, data, sent.sent_at, is_large))
    if changes.rates:
        session.executemany(sql["apply_rate"], list(changes.rates.items()))
    if large:
        store_large(session, key, large)
    counts = session.counts
    for name, difference in changes.counts.items():
        counts[name] = counts.get(name, 0) + difference


def find_started(
    session: Session, workflow: str, idempotency_key: str, request_hash: str | None, now: int
) -> StartedRun | None:
    row = session.row("start_run_idempotent", (workflow, idempotency_key))
    if row is None:
        return None
    key, id, number, state, earlier_hash, created_at = row
    if created_at < now - IDEMPOTENCY_KEPT_MS:
        return None
    if earlier_hash != request_hash:
        shown = idempotency_key.partition("\x1f")[0]  # a batch's runs have their places behind it
        raise IdempotencyMismatch(
            f"the Idempotency-Key {shown!r} started {workflow}#{number} with another body; send the same "
            "body, or choose another key",
            detail={"run": id},
        )
    return StartedRun(id, key, number, state, False)


def _refuse_start(session: Session, workflow: str) -> NoReturn:
    if session.row("get_workflow", (workflow,)) is None:
        raise NotFound(f"there is no workflow {workflow}")
    raise WorkflowDisabled(f"workflow {workflow} is disabled; enable it with `taskforge workflow enable {workflow}`")
