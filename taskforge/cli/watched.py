"""A run as its events tell of it, and the lines of a live tree: as many and as wide as the terminal has room for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any, NamedTuple

from taskforge.cli.render import Cell, Paint, fit_cells, state
from taskforge.cli.stream import Event
from taskforge.cli.timeline import TERMINAL
from taskforge.cli.tree import Place
from taskforge.core.clock import from_rfc3339
from taskforge.core.durations import format_duration
from taskforge.core.record import dataclass

_IN_LOOP = re.compile(r"(.*)\[(\d+)\]\.[^.\[\]]+")
_ENDED = frozenset({"SUCCEEDED", "FAILED", "SKIPPED", "CANCELLED"})
_GONE_WRONG = frozenset({"FAILED", "CANCELLED"})
_LIVELY = frozenset({"RUNNING", "WAITING", "QUEUED"})
_ITEMS = 10
"""Most items of a loop that are drawn one by one."""
_BAR = 20


@dataclass(slots=True)
class Node:
    """One step, or the run itself under the path "". Times in milliseconds UTC."""

    path: str
    state: str = "PENDING"
    began: int | None = None
    ended: int | None = None
    attempt: int = 0
    words: str = ""
    until: int | None = None
    items: int | None = None
    """Of a loop: how many items it goes over, where that is known."""
    counts: dict[str, int] = field(default_factory=dict)
    """Of a loop: items by what they are: active, done, failed."""
    each: dict[int, str] = field(default_factory=dict)


class Line(NamedTuple):
    """A line of the tree. `weight`: what has more of it stays where there is no room for all."""

    cells: list[Cell]
    weight: int


class Watched:
    """What is known of a run. `places` are the steps of its document (`tree.outline`)."""

    def __init__(self, name: str, places: Mapping[str, Place]) -> None:
        self.name = name
        self.places = places
        self.run = Node("", "QUEUED")
        self.nodes: dict[str, Node] = {}
        self._children: dict[str, list[str]] = {}
        self._last_of: dict[str, str] = {}
        for id, place in places.items():
            if place.parent is not None and not place.role:
                self._last_of[place.parent] = id
        for id, place in places.items():
            if place.parent is None and not place.role:
                self._node(id)

    # ---- events

    def take(self, event: Event) -> None:
        """Learn from an event. The same one twice does no harm."""
        data = event.data
        try:
            at = from_rfc3339(str(data.get("at")))
        except ValueError:
            return
        if event.kind == "run":
            self._take_run(data, at)
        elif event.kind in ("step", "attempt") and isinstance(data.get("step"), str) and data["step"]:
            node = self._node(data["step"])
            if event.kind == "attempt":
                node.words = _words(data)
            else:
                self._take_step(node, data, at)

    def _take_run(self, data: Mapping[str, Any], at: int) -> None:
        node, name = self.run, str(data.get("state"))
        node.began = at if node.began is None else node.began
        node.state = name
        node.ended = at if name in TERMINAL else None
        if name in TERMINAL:
            node.words = _words(data)

    def _take_step(self, node: Node, data: Mapping[str, Any], at: int) -> None:
        if isinstance(data.get("items"), int):
            node.items = data["items"]
            return
        name = data.get("state")
        if not isinstance(name, str):
            return
        if name == "QUEUED" and "from" not in data:
            node.began, node.words, node.attempt, node.ended = at, "", 0, None
        if name in ("RUNNING", "QUEUED"):
            node.ended = None
        node.state = name
        node.until = _time(data.get("until"))
        if isinstance(data.get("attempt"), int):
            node.attempt = data["attempt"]
        if name in _ENDED:
            node.ended = at
            node.began = at if node.began is None else node.began
        if name == "SUCCEEDED":
            node.words = ""
        elif name in ("SKIPPED", "CANCELLED"):
            node.words = str(data.get("code") or "")
        self._count(node.path, name)

    def _count(self, path: str, name: str) -> None:
        """Keep the numbers of the loop around a step, so that nobody has to look at all items."""
        found = _IN_LOOP.fullmatch(path)
        if found is None:
            return
        loop, index, id = self.nodes.get(found[1]), int(found[2]), path.rpartition(".")[2]
        place = self.places.get(id)
        if loop is None or place is None or place.role or place.parent != found[1].rpartition(".")[2]:
            return
        before = loop.each.get(index)
        now = before or "active"
        if name in _LIVELY:
            now = "active"
        elif name in _GONE_WRONG:
            now = "failed"
        elif id == self._last_of.get(place.parent or ""):
            now = "done"
        if now != before:
            loop.each[index] = now
            loop.counts[now] = loop.counts.get(now, 0) + 1
            if before is not None:
                loop.counts[before] -= 1

    def _node(self, path: str) -> Node:
        node = self.nodes.get(path)
        if node is None:
            node = self.nodes[path] = Node(path)
            parent = self._parent(path)
            if parent:
                self._node(parent)
            self._children.setdefault(parent, []).append(path)
        return node

    def _parent(self, path: str) -> str:
        prefix, _, id = path.rpartition(".")
        place = self.places.get(id)
        loop = _IN_LOOP.fullmatch(path)
        if place is None or place.parent is None:
            return loop[1] if loop else ""
        if loop is not None and loop[1].rpartition(".")[2] == place.parent:
            return loop[1]
        return f"{prefix}.{place.parent}" if prefix else place.parent

    # ---- lines

    def lines(self, columns: int, rows: int, now: int, mark: Mapping[str, str], note: str = "") -> list[list[Cell]]:
        """The tree as it stands: at most `rows` lines of at most `columns` columns. `mark` has a sign for each state,
        `note` stands at the end."""
        found = [self._head(now, mark), *self._branches("", "  ", now, mark)]
        tail: list[list[Cell]] = [[Paint(f"  {note}", "yellow")]] if note else []
        shown = [line.cells for line in _fitting(found, rows - len(tail))] + tail
        return [fit_cells(cells, columns) for cells in shown[: max(rows, 0)]]

    def _head(self, now: int, mark: Mapping[str, str]) -> Line:
        run = self.run
        cells: list[Cell] = [mark.get(run.state, "?"), " ", Paint(self.name, "bold"), "  ", state(run.state)]
        if run.began is not None:
            cells.append(f"  {format_duration(max((run.ended or now) - run.began, 0))}")
        return Line(cells, 9)

    def _branches(self, parent: str, margin: str, now: int, mark: Mapping[str, str]) -> Iterator[Line]:
        children = self._children.get(parent, ())
        loop = self.nodes.get(parent)
        if loop is not None and max(len(loop.each), loop.items or 0) > _ITEMS:
            return
        paths = sorted(children, key=self._order)
        for at, path in enumerate(paths):
            node, last = self.nodes[path], at == len(paths) - 1
            if node.state == "PENDING" and self.run.state in TERMINAL:
                continue
            label = path[len(parent) :] if parent and path.startswith(f"{parent}[") else path.rpartition(".")[2]
            head: list[Cell] = [Paint(margin + ("└─ " if last else "├─ "), "dim"), mark.get(node.state, "?"), " "]
            weight = 3 if node.state in _LIVELY else 2 if node.state in _GONE_WRONG else 0
            yield Line([*head, label, "  ", *self._facts(node, now)], weight)
            yield from self._branches(path, margin + ("   " if last else "│  "), now, mark)

    def _facts(self, node: Node, now: int) -> Iterator[Cell]:
        place = self.places.get(node.path.rpartition(".")[2])
        yield Paint(f"{place.kind}  " if place and place.kind else "", "dim")
        yield state(node.state)
        many = max(len(node.each), node.items or 0)
        if many > _ITEMS or (node.each and node.items is None):
            yield from _progress(node)
        if node.state != "PENDING" and node.began is not None and (node.ended or node.state != "QUEUED"):
            yield f"  {format_duration(max((node.ended or now) - node.began, 0))}"
        if node.attempt > 1:
            yield Paint(f"  attempt {node.attempt}", "yellow")
        if node.until is not None and node.until > now and node.state in ("WAITING", "QUEUED"):
            words = "for" if node.state == "WAITING" else "again in"
            yield Paint(f"  {words} {format_duration(node.until - now)}", "blue")
        if many > _ITEMS and node.state in _LIVELY:
            yield from _bar(node)
        if node.words:
            yield Paint(f"  {node.words}", "red" if node.state in (*_GONE_WRONG, "QUEUED") else "dim")

    def _order(self, path: str) -> tuple[Any, ...]:
        place = self.places.get(path.rpartition(".")[2])
        return (
            tuple(int(number) for number in re.findall(r"\[(\d+)\]", path)),
            place.order if place else 1_000_000,
            path,
        )


def _progress(node: Node) -> Iterator[Cell]:
    """`312/1000`, and how many have failed; for a loop without a known end, the number of rounds."""
    if node.items is None:
        yield f"  round {len(node.each)}"
        return
    yield Paint(f"  {_done(node)}/{node.items}", "bold")
    if node.counts.get("failed"):
        yield Paint(f"  {node.counts['failed']} failed", "bad")


def _bar(node: Node) -> Iterator[Cell]:
    if node.items:
        full = _done(node) * _BAR // node.items
        yield Paint(f"  {'█' * full}{'░' * (_BAR - full)}", "cyan")
    if node.counts.get("active"):
        yield Paint(f"  {node.counts['active']} under way", "dim")


def _done(node: Node) -> int:
    assert node.items is not None
    if node.state == "SUCCEEDED":
        return node.items
    return min(node.counts.get("done", 0) + node.counts.get("failed", 0), node.items)


def _fitting(lines: list[Line], rows: int) -> list[Line]:
    """As many lines as there are rows, in their order; what goes on or went wrong stays, the rest is counted."""
    if len(lines) <= rows:
        return lines
    room = max(rows - 1, 0)
    chosen = sorted(range(len(lines)), key=lambda at: (-lines[at].weight, -at))[:room]
    hidden = len(lines) - room
    return [lines[at] for at in sorted(chosen)] + [Line([Paint(f"  … {hidden} more steps", "dim")], 0)]


def _words(data: Mapping[str, Any]) -> str:
    code, message = data.get("error") or data.get("code"), data.get("message")
    return ": ".join(str(part) for part in (code, message) if part)


def _time(text: Any) -> int | None:
    try:
        return from_rfc3339(text) if isinstance(text, str) else None
    except ValueError:
        return None
