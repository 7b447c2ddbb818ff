"""What is late or was left behind. Beside a server it is a fault; without one it waits for the next start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from taskforge.cli.doctor.finding import Finding, failure, note, ok, some, warning

if TYPE_CHECKING:
    from taskforge.store.sqlite.inspecting import Rows

_START = "taskforge up"
_RESTART = "taskforge logs --level warning, then: taskforge down && taskforge up"


def check_work(rows: Rows, now: int, *, served: bool) -> Iterator[Finding]:
    """Times are milliseconds UTC."""
    found = [*_late(rows, now), *_left_behind(rows)] if served else list(_waiting(rows))
    found += _for_people(rows)
    if not any(finding.level in ("failure", "warning") for finding in found):
        found.append(
            ok("WORK_OK", "nothing is late" if served else "nothing is lost; what is due goes on at the next start")
        )
    yield from found


def _late(rows: Rows, now: int) -> Iterator[Finding]:
    from taskforge.core.durations import format_duration

    if rows.overdue_runs:
        name, since, _ = rows.overdue_runs[0]
        count, age = len(rows.overdue_runs), format_duration(now - since)
        stuck = [run for run, _, slot in rows.overdue_runs if not slot]
        if stuck:
            words = f"{_runs(count)} due and not taken up, {name} for {age}: the engine does not turn as it should"
            yield warning("RUNS_OVERDUE", words, f"taskforge why {stuck[0]}; {_RESTART}")
        else:
            words = f"{_runs(count)} due and without a slot, {name} for {age}"
            yield warning(
                "RUNS_OVERDUE", words, f"taskforge why {name}; raise [engine] max_attempts_in_flight if this lasts"
            )
    if rows.overdue_schedules:
        names = [name for name, _ in rows.overdue_schedules]
        age = format_duration(now - rows.overdue_schedules[0][1])
        yield warning("SCHEDULES_OVERDUE", f"{some(names)} should have fired, the first {age} ago",
                      f"taskforge schedule list; {_RESTART}")  # fmt: skip


def _left_behind(rows: Rows) -> Iterator[Finding]:
    if rows.expired:
        names = [name for name, _ in rows.expired]
        yield failure(
            "LEASES_EXPIRED", f"{len(names)} attempts have lost their lease and still run: {some(names)}", _RESTART
        )
    if rows.abandoned:
        words = f"{len(rows.abandoned)} runs are held by a process that is gone: {some(rows.abandoned)}"
        yield failure("RUNS_ABANDONED", words, _RESTART)


def _waiting(rows: Rows) -> Iterator[Finding]:
    if rows.expired:
        words = f"{len(rows.expired)} attempts were under way when the server ended; they are sent again"
        yield note("LEASES_EXPIRED", words, _START)
    if rows.abandoned:
        words = f"{len(rows.abandoned)} runs were in flight when the server ended; they go on at the next start"
        yield note("RUNS_ABANDONED", words, _START)
    if rows.overdue_runs:
        yield note("RUNS_OVERDUE", f"{_runs(len(rows.overdue_runs))} due; they go on at the next start", _START)
    if rows.overdue_schedules:
        names = [name for name, _ in rows.overdue_schedules]
        words = f"slots of {some(names)} have passed; the next start catches up as each says"
        yield note("SCHEDULES_OVERDUE", words, _START)


def _for_people(rows: Rows) -> Iterator[Finding]:
    if rows.suspects:
        words = f"{some(rows.suspects)}: in flight at several deaths of the server, so taken up alone"
        yield note("RUNS_SUSPECT", words, f"taskforge why {rows.suspects[0]}")
    if rows.holds:
        everything = "*" in rows.holds
        what = "every workflow" if everything else some(rows.holds)
        fix = "--all" if everything else " ".join(rows.holds[:5])
        yield note("WORK_HELD", f"held back: {what}", f"taskforge workflow release {fix}")
    if rows.open_letters:
        yield note(
            "DEAD_LETTERS",
            f"{rows.open_letters} open dead letter{'' if rows.open_letters == 1 else 's'}",
            "taskforge dead list",
        )


def _runs(count: int) -> str:
    return "1 run is" if count == 1 else f"{count} runs are"
