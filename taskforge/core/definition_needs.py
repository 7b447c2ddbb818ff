"""Reads `needs`: the order of steps that run together, a graph without circles."""

from __future__ import annotations

from taskforge.core.definition_read import Node, Reading
from taskforge.core.findings import with_suggestion
from taskforge.core.model import JSON
from taskforge.core.problem import Pointer, quoted, suggest
from taskforge.core.templated import describe

_SHOWN = 6


def read_needs(reading: Reading, pointer: Pointer, value: JSON, *, together: bool) -> list[tuple[str, Pointer]]:
    """The ids that a step names in `needs`, each with its place."""
    findings = reading.findings
    if not together:
        message = "`needs` orders the steps of a `parallel`; in a list, steps run one after the other anyway"
        findings.error(pointer, message, key=True)
        return []
    if not isinstance(value, list):
        hint = f"write [{value}]" if isinstance(value, str) and value.isidentifier() else None
        findings.error(pointer, f"must be a list of step ids, not {describe(value)}", hint=hint)
        return []
    found: list[tuple[str, Pointer]] = []
    for position, id in enumerate(value):
        if isinstance(id, str):
            found.append((id, (*pointer, position)))
        else:
            findings.error((*pointer, position), f"must be a step id, not {describe(id)}")
    return found


def check_needs(reading: Reading, nodes: list[Node]) -> None:
    """Check the `needs` of all steps of one `parallel` against each other."""
    findings = reading.findings
    siblings = {node.id: node for node in nodes if node.id is not None}
    for node in nodes:
        for id, place in node.needs:
            if id == node.id:
                findings.error(place, f"step {quoted(id)} cannot need itself")
            elif id not in siblings:
                near = suggest(id, [other for other in siblings if other != node.id])
                hint = None if near else "`needs` names steps of the same list"
                findings.error(place, with_suggestion(f"step {quoted(id)} is not in this parallel", near), hint=hint)
    for circle in _circles(siblings):
        names = [node.id or "" for node in circle]
        place = next(place for id, place in circle[0].needs if id == names[1 % len(names)])
        shown = names if len(names) <= _SHOWN else [*names[: _SHOWN - 2], "…", names[-1]]
        findings.error(place, f"needs go round in a circle: {' → '.join([*shown, names[0]])}")


def _circles(siblings: dict[str, Node]) -> list[list[Node]]:
    """Every circle of needs that shares no step with another that was found before it."""
    found: list[list[Node]] = []
    done: set[Node] = set()
    for start in siblings.values():
        path: list[Node] = []
        branches = [iter([start])]
        while branches:
            node = next(branches[-1], None)
            if node is None:
                branches.pop()
                if path:
                    done.add(path.pop())
            elif node in path:
                circle = path[path.index(node) :]
                if not any(set(circle) & set(other) for other in found):
                    found.append(circle)
            elif node not in done:
                path.append(node)
                others = [siblings[id] for id, _ in node.needs if id in siblings and id != node.id]
                branches.append(iter(others))
    return found
