"""What is different between two documents, by what they mean: steps by their ids, settings by their paths.

Comments and the order of keys are no difference. The differences are complete: with them the new document can be made
of the old one (a test does so).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Literal, NamedTuple

from taskforge.core.definition import in_order
from taskforge.core.jsontext import dumps
from taskforge.core.model import JSON
from taskforge.core.outline import Outline, StepAt, outline
from taskforge.core.problem import Pointer
from taskforge.core.record import dataclass

Change = Literal["added", "removed", "moved", "changed"]


class Place(NamedTuple):
    """Where a step stands: in which list of steps, after which step of it."""

    block: str
    after: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference. Without a `step` it is one of the document: `path` is `("timeout",)`; with one, `path` leads into
    the step, and is empty where the step itself was added, removed or moved.

    `old` and `new` are the values: None where the setting was not there (or was null: `change` tells). A step that was
    added or removed is its own fields, without inner steps, which are differences of their own. `was` and `now` are the
    places of a step.
    """

    change: Change
    path: Pointer
    step: str | None = None
    kind: str | None = None
    old: JSON = None
    new: JSON = None
    was: Place | None = None
    now: Place | None = None


def same_document(one: JSON, other: JSON) -> bool:
    """Do they mean the same?"""
    return _text(one) == _text(other)


def compare_documents(old: JSON, new: JSON) -> list[Difference]:
    """All differences: settings of the document, steps that are gone, then steps in their new order."""
    before, after = outline(old), outline(new)
    found = list(_fields(before.fields, after.fields, ()))
    for step in before.steps.values():
        if step.id not in after.steps:
            found.append(Difference("removed", (), step.id, step.kind, old=step.fields, was=_place(step)))
    moved = _moved(before, after)
    for step in after.steps.values():
        was = before.steps.get(step.id)
        if was is None:
            found.append(Difference("added", (), step.id, step.kind, new=step.fields, now=_place(step)))
            continue
        if step.id in moved:
            found.append(Difference("moved", (), step.id, step.kind, was=_place(was), now=_place(step)))
        found += _fields(was.fields, step.fields, (), step)
    return found


def _place(step: StepAt) -> Place:
    return Place(step.block, step.after)


def _fields(old: JSON, new: JSON, path: Pointer, step: StepAt | None = None) -> Iterator[Difference]:
    """Differences within settings. Lists of one length are compared place by place, others as a whole."""
    id, kind = (None, None) if step is None else (step.id, step.kind)
    if isinstance(old, dict) and isinstance(new, dict):
        for key in (*old, *(key for key in new if key not in old)):
            if key not in new:
                yield Difference("removed", (*path, key), id, kind, old=old[key])
            elif key not in old:
                yield Difference("added", (*path, key), id, kind, new=new[key])
            else:
                yield from _fields(old[key], new[key], (*path, key), step)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and _has_parts(old, new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from _fields(*pair, (*path, index), step)
    elif _text(old) != _text(new):
        yield Difference("changed", path, id, kind, old, new)


def _has_parts(old: list[JSON], new: list[JSON]) -> bool:
    return any(isinstance(item, dict | list) for item in (*old, *new))


def _moved(before: Outline, after: Outline) -> set[str]:
    """The fewest steps that have to be taken out and put in elsewhere."""
    blocks: dict[str, list[str]] = {}
    moved = set()
    for step in after.steps.values():
        was = before.steps.get(step.id)
        if was is not None and was.block != step.block:
            moved.add(step.id)
        elif was is not None:
            blocks.setdefault(step.block, []).append(step.id)
    order = {id: number for number, id in enumerate(before.steps)}
    for ids in blocks.values():
        moved |= set(ids) - _longest_rising(ids, order)
    return moved


def _longest_rising(ids: list[str], order: dict[str, int]) -> set[str]:
    """The longest choice of these whose numbers rise."""
    ends: list[int] = []
    at_end: list[str] = []
    previous: dict[str, str | None] = {}
    for id in ids:
        length = bisect_left(ends, order[id])
        previous[id] = at_end[length - 1] if length else None
        ends[length : length + 1] = [order[id]]
        at_end[length : length + 1] = [id]
    found: set[str] = set()
    last = at_end[-1] if at_end else None
    while last is not None:
        found.add(last)
        last = previous[last]
    return found


def _text(value: JSON) -> str:
    return dumps(in_order(value))
