"""A workflow document as a graph: steps, what follows what and why, and which steps belong together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from typing import Any, NamedTuple

from taskforge.cli.tree import kind_of
from taskforge.core.record import dataclass

START, END = "(start)", "(end)"
"""No step has such an id."""

_LONGEST = 40
_DONE = ("FAILED", "RUNNING", "WAITING", "QUEUED", "CANCELLED", "SUCCEEDED", "SKIPPED", "PENDING")
"""States of a step that ran several times: the first of these that occurs stands for all."""


@dataclass(slots=True)
class Node:
    """`kind` is a step's kind, or start, end, trigger, notify. `detail` are further lines of the label."""

    id: str
    label: str
    kind: str
    detail: list[str] = field(default_factory=list)
    state: str = ""
    group: str = ""


class Edge(NamedTuple):
    """`is_aside`: not the ordinary way on, but what handles a step."""

    source: str
    target: str
    label: str = ""
    is_aside: bool = False


class Group(NamedTuple):
    """Nodes that stand together; `parent` is the group around this one, or ""."""

    id: str
    label: str
    parent: str


class Way(NamedTuple):
    """Where a step is left, and why that way is taken."""

    source: str
    label: str = ""
    is_aside: bool = False


@dataclass(slots=True)
class Graph:
    """All of a workflow, in the order of its document."""

    name: str
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    groups: dict[str, Group] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As data: `{name, nodes, edges, groups}`."""
        return {
            "name": self.name,
            "nodes": [
                {"id": node.id, "label": node.label, "kind": node.kind, "detail": node.detail}
                | ({"state": node.state} if node.state else {})
                | ({"group": node.group} if node.group else {})
                for node in self.nodes.values()
            ],
            "edges": [
                {"from": edge.source, "to": edge.target, "label": edge.label, "aside": edge.is_aside}
                for edge in self.edges
            ],
            "groups": [group._asdict() for group in self.groups.values()],
        }


def graph_of(document: Mapping[str, Any], states: Mapping[str, str] | None = None) -> Graph:
    """The graph of a valid document; `states` by step id colour it as a run."""
    return _Builder(str(document.get("name")), states or {}).build(document)


def states_of(steps: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The state of each step of a run by its id; of one that ran several times, the one that tells most."""
    found: dict[str, set[str]] = {}
    for step in steps:
        found.setdefault(str(step.get("id")), set()).add(str(step.get("state")))
    return {id: next((one for one in _DONE if one in states), "") for id, states in found.items()}


class _Builder:
    def __init__(self, name: str, states: Mapping[str, str]) -> None:
        self.graph = Graph(name)
        self.states = states

    def build(self, document: Mapping[str, Any]) -> Graph:
        self._node(START, "start", "start")
        for name, config in (document.get("triggers") or {}).items():
            id = f"(trigger {name})"
            self._node(id, str(name), "trigger", detail=trigger_detail(config))
            self._edge(Way(id), START)
        ways = self._sequence(document.get("steps") or [], [Way(START)], "")
        self._node(END, "end", "end")
        for way in ways:
            self._edge(way, END)
        after = [Way(END, "always", True)]
        if document.get("on_failure"):
            group = self._group("(on_failure)", "on_failure", "")
            after = [*after, *self._sequence(document["on_failure"], [Way(END, "failed", True)], group)]
        if document.get("finally"):
            after = self._sequence(document["finally"], after, self._group("(finally)", "finally", ""))
        for at, entry in enumerate(document.get("notify") or []):
            channel = next((key for key in entry if key != "on"), "")
            states = ", ".join(str(one) for one in entry.get("on") or [])
            self._node(f"(notify {at})", f"notify {channel}", "notify")
            self._edge(Way(END, states, True), f"(notify {at})")
        return self.graph

    # ---- steps

    def _sequence(self, steps: Any, ways: list[Way], group: str) -> list[Way]:
        for step in steps if isinstance(steps, list) else []:
            ways = self._step(step, ways, group)
        return ways

    def _step(self, step: Mapping[str, Any], ways: Iterable[Way], group: str) -> list[Way]:
        id, kind = str(step["id"]), kind_of(dict(step))
        self._node(id, id, kind, group, step_detail(step), self.states.get(id, ""))
        for way in ways:
            self._edge(way, id)
        found = self._beyond(id, kind, step.get(kind), group)
        if kind in ("fail", "succeed"):
            found = [Way(id, "if not")] if "if" in step else []
        if step.get("catch"):
            found += self._sequence(step["catch"], [Way(id, "catch", True)], group)
        if step.get("finally"):
            found = self._sequence(step["finally"], found or [Way(id, "finally", True)], group)
        for handler in ("probe", "undo"):
            if step.get(handler):
                self._sequence(step[handler], [Way(id, handler, True)], group)
        return found

    def _beyond(self, id: str, kind: str, config: Any, group: str) -> list[Way]:
        """The steps inside a step, and how it is left."""
        if kind == "switch" and isinstance(config, list):
            return list(self._branches(id, config, group))
        if kind == "parallel":
            inner = config if isinstance(config, list) else (config or {}).get("steps") or []
            return self._together(id, inner, self._group(id, f"{id}: together", group))
        if kind in ("foreach", "repeat") and isinstance(config, dict):
            label = "each item" if kind == "foreach" else "each round"
            inside = self._group(id, f"{id}: {label}", group)
            ways = self._sequence(config.get("steps"), [Way(id, label)], inside)
            if kind == "repeat":
                for way in ways:
                    self._edge(Way(way.source, "again", True), id)
            return ways
        if kind == "wait" and isinstance(config, dict) and config.get("on_timeout"):
            return [Way(id), *self._sequence(config["on_timeout"], [Way(id, "timeout", True)], group)]
        return [Way(id)]

    def _branches(self, id: str, branches: list[Any], group: str) -> Iterator[Way]:
        for branch in branches:
            label = "else" if "else" in branch else expression_text(branch.get("when"))
            yield from self._sequence(branch.get("else") or branch.get("steps"), [Way(id, label)], group)
        if not any("else" in branch for branch in branches):
            yield Way(id, "none of them")

    def _together(self, id: str, steps: list[Any], group: str) -> list[Way]:
        """Steps ordered by their `needs`: each after those that it needs, the others at once."""
        left, ends = {str(step["id"]): step for step in steps}, dict[str, list[Way]]()
        while left:
            ready = [name for name, step in left.items() if not any(need in left for need in step.get("needs") or [])]
            for name in ready or list(left):
                step = left.pop(name)
                ways = [way for need in step.get("needs") or [] for way in ends.get(need, [])]
                ends[name] = self._step(step, ways or [Way(id)], group)
        needed = {need for step in steps for need in step.get("needs") or []}
        return [way for name, ways in ends.items() if name not in needed for way in ways] or [Way(id)]

    # ---- parts

    def _node(
        self, id: str, label: str, kind: str, group: str = "", detail: list[str] | None = None, state: str = ""
    ) -> None:
        self.graph.nodes[id] = Node(id, label, kind, detail or [], state, group)

    def _edge(self, way: Way, target: str) -> None:
        edge = Edge(way.source, target, way.label, way.is_aside)
        if edge not in self.graph.edges:
            self.graph.edges.append(edge)

    def _group(self, id: str, label: str, parent: str) -> str:
        self.graph.groups[id] = Group(id, label, parent)
        return id


def step_detail(step: Mapping[str, Any]) -> list[str]:
    """What of a step is worth a line: its condition, and what it does."""
    kind = kind_of(dict(step))
    found = [f"if {expression_text(step['if'])}"] if "if" in step else []
    done = _deed(kind, step.get(kind))
    return [*found, _cut(done)] if done else found


def _deed(kind: str, config: Any) -> str:
    if not isinstance(config, dict):
        return ""
    if kind == "http":
        return f"{config.get('method', 'GET')} {config.get('url', '')}"
    if kind == "wait":
        return next((f"{key} {config[key]}" for key in ("for", "until", "signal") if key in config), "")
    if kind == "workflow":
        return str(config.get("name", ""))
    if kind == "foreach":
        return f"over {expression_text(config.get('items'))}"
    if kind == "repeat":
        return f"until {expression_text(config.get('until'))}" if "until" in config else ""
    return str(config.get("message", "")) if kind == "fail" else ""


def trigger_detail(config: Any) -> list[str]:
    """What a trigger is, in a line."""
    if not isinstance(config, dict):
        return []
    for key in ("cron", "at", "webhook", "run"):
        if key in config:
            told = config[key]
            return [_cut(f"{key} {told}" if isinstance(told, str) else key)]
    return [_cut(", ".join(str(key) for key in config))]


def expression_text(value: Any) -> str:
    """An expression without its `${{ }}`, on one line, as much of it as is of use."""
    from taskforge.cli.shown import encode

    text = value if isinstance(value, str) else encode(value, indent=None)
    text = " ".join(text.split())
    if text.startswith("${{") and text.endswith("}}") and text.count("${{") == 1:
        text = text[3:-2].strip()
    return _cut(text)


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
