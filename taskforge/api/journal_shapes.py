"""The journal's entries as events and as log lines. An entry is known by `<decision>.<position>`, for resuming."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from taskforge.core.clock import to_rfc3339
from taskforge.core.jsontext import loads
from taskforge.store.protocol import JournalRow

_POSITION_BITS = 24  # more entries than that in one decision would be a run of another size altogether


class Place(NamedTuple):
    """An entry's place: its decision's id in the order of commits, and its position in it."""

    row: int
    position: int

    def __str__(self) -> str:
        return f"{self.row}.{self.position}"

    def to_number(self) -> int:
        """The place as one number, for cursors."""
        return self.row << _POSITION_BITS | self.position

    @classmethod
    def from_number(cls, number: int) -> Place:
        return cls(number >> _POSITION_BITS, number & (1 << _POSITION_BITS) - 1)


BEGINNING = Place(0, -1)
_LAST = 10**9


class Entry(NamedTuple):
    """One entry: where it stands, `run`, `step`, `attempt` or `signal`, and its data."""

    place: Place
    kind: str
    data: dict[str, Any]


def parse_place(text: str) -> Place:
    """`12.3` as a place; `12` is the end of decision 12. Raises ValueError."""
    row, point, position = text.partition(".")
    parts = (row, position) if point else (row,)
    if not all(part.isascii() and part.isdigit() and len(part) <= 18 for part in parts):
        raise ValueError("it is not the id of an event")
    return Place(int(row), int(position) if point else _LAST)


def raw_entries_after(rows: Iterable[JournalRow], place: Place) -> Iterator[tuple[Place, int, dict[str, Any]]]:
    """The entries of decisions as they were written, in order, after a place, each with its place and time. The rows
    may begin with the place's own decision."""
    for row in rows:
        for position, entry in enumerate(loads(row.entries)):
            here = Place(row.id, position)
            if here > place:
                yield here, row.at, entry


def entries_after(rows: Iterable[JournalRow], place: Place) -> Iterator[Entry]:
    """The same entries as events."""
    for row in rows:
        at = to_rfc3339(row.at)
        for here, _, entry in raw_entries_after((row,), place):
            yield _entry(here, row.run_id, at, entry)


def _entry(place: Place, run_id: str, at: str, entry: dict[str, Any]) -> Entry:
    rest = {key: to_rfc3339(value) if key == "until" else value for key, value in entry.items()}
    data: dict[str, Any] = {"run_id": run_id, "at": at}
    if "run" in rest:
        return Entry(place, "run", data | {"state": rest.pop("run")} | rest)
    if "signal" in rest and "step" not in rest:
        return Entry(place, "signal", data | _signal(rest["signal"]))
    own = str(rest.get("signal", ""))
    if own.startswith("!"):
        del rest["signal"]
    if own.startswith("!child:") and rest.get("to") == "WAITING":
        rest.pop("until", None)  # only when the step is looked at again, should nobody tell of the child's end
        rest["message"] = "for its child run"
    kind = "attempt" if "ended" in rest else "step"
    state = rest.pop("ended", None) or rest.pop("to", None)
    return Entry(place, kind, data | {"step": rest.pop("step", None), "state": state} | rest)


def _signal(name: str) -> dict[str, Any]:
    """A signal of a person has a name; one of ours tells a step of its child's end, or that its link was used."""
    kind, _, target = name.partition(":")
    own = {"!child": "child run has ended", "!resume": "one-time link was used"}.get(kind)
    if own is None:
        return {"signal": name}
    return {"step": target.rpartition("~")[0], "message": own}


def log_line(entry: Entry) -> dict[str, Any]:
    """The entry as a line for people: `{id, at, level, message, step?, attempt?}`."""
    data = entry.data
    state = data.get("state")
    line: dict[str, Any] = {"id": str(entry.place), "at": data["at"]}
    line["level"] = "error" if state in ("FAILED", "TIMED_OUT") else "warning" if state == "LOST" else "info"
    if entry.kind == "signal":
        line["message"] = f"signal {data['signal']}" if "signal" in data else f"step {data['step']}: {data['message']}"
        return line | ({"step": data["step"]} if "step" in data else {})
    what = "run" if entry.kind == "run" else f"step {data['step']}"
    if data.get("attempt") is not None:
        what += f", attempt {data['attempt']}"
    message = f"{what}: {data['items']} items" if "items" in data else f"{what}: {state}"
    why = data.get("message") or data.get("error") or data.get("code")
    line["message"] = f"{message}, {why}" if why else message
    line |= {key: data[key] for key in ("step", "attempt") if data.get(key) is not None}
    return line
