"""What the rows of a run are, as they follow from its start and its decisions: whoever has just written them all need
not read them. `tests/store/test_state_machine.py` holds it against what is read."""

from __future__ import annotations

from typing import Final

from taskforge.core.snapshot import Changes, RunRecord, StepRecord
from taskforge.core.states import RUN_TERMINAL
from taskforge.store.protocol import AttemptRow, RunRow, RunRows
from taskforge.store.triggered import NewRun, StartedRun

_MOST_STEPS: Final = 32
_MOST_TEXT: Final = 32_768
"""Steps, and characters of values, up to which they are kept in memory."""


class RunMirror:
    """The rows of one run from its start on, while all of its decisions pass by here. Only the ends of leases are not
    renewed in it."""

    __slots__ = ("_attempts", "_new", "_record", "_revision", "_size", "_started", "_steps")

    def __init__(self, new: NewRun, started: StartedRun) -> None:
        self._new = new
        self._started = started
        self._steps: dict[str, StepRecord] = {}
        self._attempts: dict[str, AttemptRow] = {}
        self._size = len(new.input) + len(new.trigger)
        self._record: RunRecord | None = None
        self._revision = 0

    def follow(self, changes: Changes) -> bool:
        """Take a decision that is stored. Returns False when the rows have become many or large, or when the store has
        more to say about them than the decision: then this is of no use any more."""
        self._record, self._revision = changes.run, changes.revision + 1
        steps, size = self._steps, self._size
        for step in changes.steps:
            steps[step.path] = step
            if step.output is not None:
                size += len(step.output)
            if step.data is not None:
                size += len(step.data)
        self._size = size
        for lease in changes.leases:
            self._attempts[lease.id] = AttemptRow(lease, "RUNNING", None, None)
        for end in changes.ends:
            begun = self._attempts.get(end.id)
            if begun is None:
                return False
            self._attempts[end.id] = AttemptRow(begun.record, end.state, end.finished_at, end.error)
        return (
            changes.claim is None
            and not changes.signals
            and not changes.signals_taken
            and len(steps) <= _MOST_STEPS
            and size <= _MOST_TEXT
        )

    @property
    def ended(self) -> bool:
        """Whether the run had ended with the last decision."""
        return self._record is not None and self._record.state in RUN_TERMINAL

    def rows(self) -> RunRows:
        """Return what `Store.get_run_rows` returns for this run. Some decision has been followed."""
        new, started, record = self._new, self._started, self._record
        assert record is not None
        run = RunRow(
            started.key, new.id, started.number, new.workflow, new.version, new.trigger, new.trigger_type, new.input,
            new.created_at, new.priority, new.start_at, self._revision, new.lineage, new.parent, record,
        )  # fmt: skip
        steps = self._steps
        attempts = sorted(self._attempts.values(), key=_place) if len(self._attempts) > 1 else self._attempts.values()
        return RunRows(run, [steps[path] for path in sorted(steps)], list(attempts))


def _place(row: AttemptRow) -> tuple[str, int, int]:
    record = row.record
    return record.path, record.generation, record.number
