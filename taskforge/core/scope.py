"""Checks every name in a document's expressions: what a step may see where it stands (interface, section 4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from taskforge.core.definition_read import Use
from taskforge.core.definition_steps import Node
from taskforge.core.findings import Findings, with_suggestion
from taskforge.core.model import Name
from taskforge.core.problem import Pointer, quoted, suggest

ROOTS = ("input", "vars", "secrets", "trigger", "run", "steps", "now")
"""Names that every expression may use."""

RUN_FIELDS = ("id", "number", "workflow", "version", "started_at")
TRIGGER_FIELDS = ("type", "body", "raw_body", "headers", "query", "method", "scheduled_at")

_ELSEWHERE = {
    "error": "$error is there only in on_failure, catch and undo steps",
    "item": "$item is there only inside foreach",
    "index": "$index is there only inside foreach",
    "state": "$state is not supported by this version of TaskForge",
    "env": "expressions do not see the environment; use $vars or $secrets",
    "ENV": "expressions do not see the environment; use $vars or $secrets",
}
_STORED = ("transform", "succeed", "fail", "output")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a step stands: the blocks around it, outermost first, and its position in the innermost list."""

    node: Node
    chain: tuple[tuple[Node, int], ...]
    positions: tuple[int, ...]
    loops: tuple[Node, ...]


@dataclass(slots=True)
class Scope:
    """Checks uses against what is visible. `hidden` are ids in blocks that were refused: nothing is said of them."""

    findings: Findings
    places: dict[str, _Place] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)

    def check_steps(self, nodes: list[Node]) -> set[str]:
        """Check the expressions of all steps; return the ids that are visible after them."""
        self._place(nodes, (), (), ())
        return self._walk(nodes, set(), frozenset())

    def _place(
        self,
        nodes: list[Node],
        chain: tuple[tuple[Node, int], ...],
        positions: tuple[int, ...],
        loops: tuple[Node, ...],
    ) -> None:
        for position, node in enumerate(nodes):
            here = (*positions, position)
            self.hidden |= node.hidden_ids
            if node.id is not None:
                self.places.setdefault(node.id, _Place(node, chain, here, loops))
            for number, (source, inner) in enumerate(node.blocks):
                self._place(inner, (*chain, (node, number)), here, (*loops, node) if source.loop else loops)

    def _walk(self, nodes: list[Node], visible: set[str], extra: frozenset[str]) -> set[str]:
        for node in nodes:
            for use in node.uses:
                self.check(use, visible, extra, node)
            after: set[str] = set()
            for source, inner in node.blocks:
                seen = self._walk(inner, set(visible), extra | set(source.adds))
                if not source.loop:
                    after |= seen
            visible |= after
            if node.id is not None:
                visible.add(node.id)
        return visible

    def check(
        self,
        use: Use,
        visible: Iterable[str],
        extra: Iterable[str] = (),
        node: Node | None = None,
        roots: Iterable[str] = ROOTS,
    ) -> None:
        """Check the names of one template. `extra` are further roots (`item`), `node` the step it belongs to."""
        steps, known = set(visible), {*roots, *extra}
        pointers = getattr(use.template, "pointers", ())
        for expression, pointer in zip(use.template.expressions, pointers, strict=True):
            place = use.place(pointer)
            for name in expression.names:
                if name.root in known:
                    self._check_field(use, place, name, steps, node)
                elif name.root not in steps:
                    self._unknown_root(place, name, steps, known, node)

    def _check_field(self, use: Use, place: Pointer, name: Name, steps: set[str], node: Node | None) -> None:
        root, fieldname = name.root, name.field
        if root == "secrets" and use.what in _STORED:
            message = f"a secret in {_what(use.what)} becomes part of what is stored; its value is masked there"
            self.findings.warn(place, message, hint="use $secrets where it is sent", offset=_offset(name))
        if fieldname is None:
            return
        known = {"run": RUN_FIELDS, "trigger": TRIGGER_FIELDS}.get(root)
        offset = _field_offset(name)
        if known is not None and fieldname not in known:
            message = f"${root} has no field {quoted(fieldname)}"
            near = suggest(fieldname, known)
            hint = None if near else "its fields are: " + ", ".join(known)
            self.findings.error(place, with_suggestion(message, near), hint=hint, offset=offset)
        if root == "steps" and fieldname not in steps:
            self._unknown_step(place, fieldname, offset, steps, (), node)

    def _unknown_root(self, place: Pointer, name: Name, steps: set[str], known: set[str], node: Node | None) -> None:
        if name.root in _ELSEWHERE:
            self.findings.error(place, _ELSEWHERE[name.root], offset=_offset(name))
        elif name.root in ROOTS:
            message = f"${name.root} is not known here; this sees {_listed(sorted(known))}"
            self.findings.error(place, message, offset=_offset(name))
        else:
            self._unknown_step(place, name.root, _offset(name), steps, known, node)

    def _unknown_step(
        self, place: Pointer, id: str, offset: int, steps: set[str], known: Iterable[str], node: Node | None
    ) -> None:
        """Say why a step's output is not there: unknown, later, itself, another branch, inside a loop."""
        if id in self.hidden:
            return
        if self.findings.is_full:
            self.findings.error(place, "")
            return
        there = self.places.get(id)
        if there is not None:
            here = None if node is None or node.id is None else self.places.get(node.id)
            self.findings.error(place, _why_not(id, there, here), offset=offset)
            return
        names = sorted(known)
        near = suggest(id, (*sorted(steps), *names))
        word = near.split('"')[1] if near else None
        if word in names:
            message = f"name {quoted('$' + id)} is not defined; did you mean {quoted(f'${word}')}?"
            self.findings.error(place, message, offset=offset)
            return
        hint = None if near else "here are: " + _listed((*sorted(steps), *names)) if steps or names else None
        self.findings.error(place, with_suggestion(f"step {quoted(id)} is not defined", near), hint=hint, offset=offset)


def _why_not(id: str, there: _Place, here: _Place | None) -> str:
    name = quoted(id)
    if here is None:
        return (
            f"step {name} is inside a loop; it is visible only there"
            if there.loops
            else f"step {name} is not visible here"
        )
    if here.node is there.node:
        return f"step {name} cannot use its own output"
    if any(node is there.node for node, _ in here.chain):
        return f"step {name} has not ended while its inner steps run"
    for (mine, my_block), (theirs, their_block) in zip(here.chain, there.chain, strict=False):
        if mine is not theirs:
            break
        if my_block != their_block:
            return f"step {name} is in another branch of {quoted(mine.id or 'the block')} and cannot have run"
    if there.positions > here.positions:
        return f"step {name} comes later and cannot have run yet"
    return f"step {name} is inside a loop; it is visible only there"


def _what(what: str) -> str:
    return "the output" if what == "output" else f"a {what}"


def _listed(names: Iterable[str]) -> str:
    listed = [f"${name}" for name in names]
    return ", ".join(listed[:12]) + (", …" if len(listed) > 12 else "")


def _offset(name: Name) -> int:
    return int(getattr(name, "offset", 0))


def _field_offset(name: Name) -> int:
    found = getattr(name, "field_offset", None)
    return _offset(name) if found is None else int(found)


def names_of(uses: Iterable[Use]) -> Mapping[str, set[str | None]]:
    """Return every root name with the fields that are taken of it (None: the whole)."""
    found: dict[str, set[str | None]] = {}
    for use in uses:
        for expression in use.template.expressions:
            for name in expression.names:
                found.setdefault(name.root, set()).add(name.field)
    return found
