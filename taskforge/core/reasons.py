"""Why a run is where it is, in plain words: the codes of decisions, stable, and what each says.

A decision is one of the past (from the journal) or one that holds now. Failures have codes of their own
(`core.errors.FAILURE_CODES`).
"""

from __future__ import annotations

from typing import Any

from taskforge.core.errors import FAILURE_CODES
from taskforge.core.record import dataclass

SLOT_CODES: dict[str, str] = {
    "SLOT_FAILED": "the slot's run could not be started: its input did not fit, or could not be evaluated",
    "SLOT_FIRED": "the slot's run was started on time",
    "SLOT_HELD": "the slot came while the workflow was held back; when it is released, `catch_up` decides",
    "SLOT_LATE": "the slot's run was started late: nobody was there at its time, and `catch_up` has it made up for",
    "SLOT_MISSED": "nobody was there at the slot's time, and `catch_up: none` leaves it out",
    "SLOT_SUPERSEDED": "nobody was there at the slot's time, and `catch_up: latest` makes up for a later one only",
    "SLOT_TOO_OLD": "nobody was there at the slot's time, and it is older than `catch_up_window`",
}
"""Stable codes of decisions about slots of schedules, with their meaning."""

DECISION_CODES: dict[str, str] = SLOT_CODES | {
    "CONCURRENCY": "the run waits for a place: as many runs with its `concurrency` key go on as the limit allows",
    "DELAYED": "the run was asked to start later",
    "DUE": "the step's turn has come; it is about to begin",
    "EVALUATING": "the step's expressions are being evaluated",
    "HELD": "the workflow, or everything, is held back: no attempt begins until it is released",
    "IF_FALSE": "the step was skipped: its `if` was false",
    "NOT_REACHED": "the step's turn did not come",
    "NO_SLOT": "all slots for attempts are taken; the step begins when one is free",
    "PARENT_ENDED": "the step was cancelled because the block around it ended",
    "PROBING": "it is unknown whether the attempt took effect: the step's `probe` decides",
    "RATE_LIMITED": "the step's `rate_limit` lets its attempt begin later",
    "RELEASED": FAILURE_CODES["RELEASED"],
    "RETRY_ASKED": "a person had it run again",
    "RETRY_ASKED_OF_EXPRESSION": "the attempt failed; the step's `retry.when` decides whether there is another",
    "RETRY_SCHEDULED": "the attempt failed, and there is another one later",
    "RUN_ENDED": "the step was cancelled because the run ended",
    "RUNNING": "an attempt of the step is being carried out",
    "SIGNAL": "a signal came",
    "SKIPPED": "the step was skipped",
    "TAKEN_UP_ALONE": "a run that was in flight at several deaths of the server is carried out alone; others wait",
    "WAITING_CHILD": "the step waits for the end of its child run",
    "WAITING_SIGNAL": "the step waits for a signal",
    "WAITING_UNTIL": "the step waits for a time",
    "LOST": "the attempt was lost; the step is tried again, unless its `effect` is once",
}
"""Codes of decisions that are no failures, with their meaning."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One decision. `since` is when it was made, `until` when what it says ends; `current`: it holds now.

    `message` is None where the code's own words are enough.
    """

    code: str
    since: int
    step: str | None = None
    current: bool = False
    message: str | None = None
    until: int | None = None
    attempt: int | None = None
    generation: int | None = None
    signal: str | None = None
    holder: str | None = None
    error: str | None = None

    @property
    def words(self) -> str:
        """What it says, in one sentence without a full stop."""
        return self.message or meaning(self.code)


def meaning(code: str) -> str:
    """Return the words of a code; a code that nobody explains stands for itself."""
    return DECISION_CODES.get(code) or FAILURE_CODES.get(code) or code.lower().replace("_", " ")


def past_reason(entry: dict[str, Any], at: int) -> Reason | None:
    """Make a decision of an entry of the journal; None for a step's ordinary way."""
    step, attempt, code = entry.get("step"), entry.get("attempt"), entry.get("code")
    until, signal, error = entry.get("until"), entry.get("signal"), entry.get("error")
    generation, message = entry.get("generation"), entry.get("message")
    if "ended" in entry:
        if entry["ended"] == "SUCCEEDED":
            return None
        found = error or entry["ended"]
        told = f"attempt {attempt} ended {entry['ended']}: {message or meaning(found)}"
        return Reason(found, at, step, attempt=attempt, message=told)
    if signal is not None and step is None:
        return _signal(signal, at)
    if code is None and entry.get("to") == "WAITING":
        return waiting_reason(at, step, signal, until, current=False)
    if code is None and error is not None:
        return Reason(error, at, step, message=f"the run is {entry.get('run')}: {message or meaning(error)}")
    if code is None:
        return None
    words = _words(code, entry)
    return Reason(code, at, step, message=words, until=until, attempt=attempt, generation=generation, error=error)


def waiting_reason(since: int, step: str | None, signal: str | None, until: int | None, *, current: bool) -> Reason:
    """Why a step is WAITING."""
    if signal is None:
        return Reason("WAITING_UNTIL", since, step, current, until=until)
    if signal.startswith("!"):
        # `until` is when the step would be looked at were the child's end not told: no time that says anything.
        return Reason("WAITING_CHILD", since, step, current)
    words = f"the step waits for the signal {signal!r}"
    return Reason("WAITING_SIGNAL", since, step, current, words, until=until, signal=signal)


def _words(code: str, entry: dict[str, Any]) -> str | None:
    error = entry.get("error")
    if code == "RETRY_SCHEDULED" and error:
        return f"the attempt failed ({error}), and there is another one later"
    if entry.get("to") == "FAILED":
        return f"the step is FAILED for good: {meaning(code)}"
    if entry.get("to") == "SKIPPED" and code not in DECISION_CODES:
        return f"the step was skipped: {meaning(code)}"
    return None


def _signal(name: str, at: int) -> Reason:
    kind, _, target = name.partition(":")
    path = target.rpartition("~")[0]
    if kind == "!child":
        return Reason("SIGNAL", at, path, message="the step's child run has ended")
    if kind == "!resume":
        return Reason("SIGNAL", at, path, message="the step's one-time link was used")
    return Reason("SIGNAL", at, message=f"the signal {name!r} came", signal=name)
