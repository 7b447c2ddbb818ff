"""A graph as Mermaid or DOT: the same text for the same workflow, and nothing in a name can leave its quotes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from taskforge.cli.graph_model import Graph, Node
from taskforge.cli.shown import escape

_MERMAID_SHAPES = {
    "switch": ("{", "}"), "start": ("([", "])"), "end": ("([", "])"), "trigger": ("[/", "/]"), "wait": ("([", "])"),
    "foreach": ("[[", "]]"), "repeat": ("[[", "]]"), "parallel": ("[[", "]]"), "workflow": ("[[", "]]"),
    "fail": ("{{", "}}"), "succeed": ("{{", "}}"), "notify": (">", "]"),
}  # fmt: skip
_DOT_SHAPES = {
    "switch": "diamond", "start": "oval", "end": "oval", "trigger": "parallelogram", "wait": "oval",
    "foreach": "box3d", "repeat": "box3d", "parallel": "box3d", "workflow": "component", "fail": "octagon",
    "succeed": "octagon", "notify": "note",
}  # fmt: skip
_COLOURS = {
    "SUCCEEDED": "#d3f5dc", "FAILED": "#ffd7d5", "RUNNING": "#d1eaff", "WAITING": "#e8dcff", "QUEUED": "#e8eaed",
    "SKIPPED": "#f6f8fa", "CANCELLED": "#fff1c2", "PENDING": "#ffffff",
}  # fmt: skip
_SPECIAL = re.compile(r"[#\"'<>&`\\\[\](){}|;%]")


def mermaid_text(graph: Graph) -> str:
    """A Mermaid flowchart."""
    ids = {id: f"n{at}" for at, id in enumerate(graph.nodes)}
    places = {id: f"g{at}" for at, id in enumerate(graph.groups)}
    lines = ["flowchart TD", f"  %% {_comment(graph.name)}"]

    def inside(group: str, margin: str) -> Iterator[str]:
        for node in graph.nodes.values():
            if node.group == group:
                yield f"{margin}{ids[node.id]}{_mermaid_node(node)}"
        for inner in graph.groups.values():
            if inner.parent == group:
                yield f'{margin}subgraph {places[inner.id]}["{_mermaid(inner.label)}"]'
                yield from inside(inner.id, margin + "  ")
                yield f"{margin}end"

    lines += inside("", "  ")
    for edge in graph.edges:
        label = f'|"{_mermaid(edge.label)}"|' if edge.label else ""
        lines.append(f"  {ids[edge.source]} {'-.->' if edge.is_aside else '-->'}{label} {ids[edge.target]}")
    for state, colour in _COLOURS.items():
        coloured = [ids[node.id] for node in graph.nodes.values() if node.state == state]
        if coloured:
            lines.append(f"  classDef {state} fill:{colour},stroke:#656d76,color:#1f2328")
            lines.append(f"  class {','.join(coloured)} {state}")
    return "\n".join(lines) + "\n"


def dot_text(graph: Graph) -> str:
    """A Graphviz digraph."""
    lines = [f"digraph {_dot(graph.name)} {{", "  rankdir=TB;", '  node [shape=box, fontname="sans-serif"];']
    numbers = {id: at for at, id in enumerate(graph.groups)}

    def inside(group: str, margin: str) -> Iterator[str]:
        for node in graph.nodes.values():
            if node.group == group:
                yield f"{margin}{_dot(node.id)} [{_dot_facts(node)}];"
        for inner in graph.groups.values():
            if inner.parent == group:
                yield f"{margin}subgraph cluster_{numbers[inner.id]} {{"
                yield f"{margin}  label={_dot(inner.label)};"
                yield from inside(inner.id, margin + "  ")
                yield f"{margin}}}"

    lines += inside("", "  ")
    for edge in graph.edges:
        facts = [f"label={_dot(edge.label)}"] if edge.label else []
        facts += ["style=dashed"] if edge.is_aside else []
        told = f" [{', '.join(facts)}]" if facts else ""
        lines.append(f"  {_dot(edge.source)} -> {_dot(edge.target)}{told};")
    return "\n".join([*lines, "}"]) + "\n"


def _mermaid_node(node: Node) -> str:
    opening, closing = _MERMAID_SHAPES.get(node.kind, ("[", "]"))
    return f'{opening}"{"<br/>".join(_mermaid(line) for line in _label(node))}"{closing}'


def _dot_facts(node: Node) -> str:
    facts = [f"label={_dot(*_label(node))}"]
    if node.kind in _DOT_SHAPES:
        facts.append(f"shape={_DOT_SHAPES[node.kind]}")
    if node.state:
        facts.append(f'style=filled, fillcolor="{_COLOURS.get(node.state, "#ffffff")}"')
    return ", ".join(facts)


def _label(node: Node) -> list[str]:
    kind = [] if node.kind in ("start", "end", "trigger", "notify") else [node.kind]
    return [node.label, *kind, *node.detail, *([node.state] if node.state else [])]


def _mermaid(text: str) -> str:
    """Text inside a quoted label: what Mermaid or the browser would act upon stands as its number."""
    return _SPECIAL.sub(lambda found: f"#{ord(found[0])};", escape(text))


def _comment(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9 _.-]", "_", text)


def _dot(*lines: str) -> str:
    quoted = (escape(line).replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(quoted) + '"'
