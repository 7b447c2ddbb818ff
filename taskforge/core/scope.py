"""Checks every name in a document's expressions: what a step may see where it stands (interface, section 4).

A step sees what has run before it, and inside a `parallel` only what it `needs`; the inner steps of a loop are seen
within it alone; handlers see every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field

from taskforge.core.definition_read import HANDLERS, Node, Use, Zone
from taskforge.core.findings import Findings, with_suggestion
from taskforge.core.model import Name
from taskforge.core.problem import Pointer, quoted, suggest
from taskforge.core.record import dataclass
from taskforge.core.scope_places import Place, Spot, why_not

ROOTS = ("input", "vars", "secrets", "trigger", "run", "steps", "now", "state")
"""Names that every expression of a step may use."""

BEFORE = tuple(root for root in ROOTS if root != "steps")
"""What is there before the first step has run."""

RUN_FIELDS = ("id", "number", "workflow", "version", "started_at", "resume_url", "resume_urls")
TRIGGER_FIELDS = (
    "type", "name", "body", "raw_body", "headers", "query", "method", "delivery", "scheduled_at", "late", "run",
    "number", "workflow", "state", "output", "error", "step", "depth",
)  # fmt: skip

_ELSEWHERE = {
    "error": "$error is there only in catch, finally, undo, on_failure and notify, and in retry.when",
    "item": "$item is there only inside foreach",
    "index": "$index is there only inside foreach and repeat",
    "env": "expressions do not see the environment; use $vars or $secrets",
    "ENV": "expressions do not see the environment; use $vars or $secrets",
}
_STORED = {
    "transform": "a transform",
    "succeed": "a succeed",
    "fail": "a fail",
    "output": "the output",
    "workflow": "a child's input",
    "set_state": "the workflow's state",
    "foreach": "the items of a foreach",
    "concurrency": "a concurrency key",
    "rate_limit": "a rate limit's key",
    "trigger_input": "a run's input",
}
_RANKS: dict[Zone, int] = {"main": 0, "undo": 1, "on_failure": 2, "finally": 3, "notify": 4}


@dataclass(slots=True)
class Scope:
    """Checks uses against what is visible. Of `hidden` ids, in blocks that could not be read, nothing is said."""

    findings: Findings
    places: dict[str, Place] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    _provided: dict[Node, frozenset[str]] = field(default_factory=dict)

    def check_steps(self, nodes: list[Node], on_failure: list[Node], last: list[Node]) -> set[str]:
        """Check the expressions of all steps, those of `on_failure` and `finally` too; return the ids that are visible
        after the run's own steps."""
        lists: tuple[tuple[Zone, list[Node]], ...] = (("main", nodes), ("on_failure", on_failure), ("finally", last))
        for zone, listed in lists:
            self._place(listed, (), (), zone, Spot(None, "steps" if zone == "main" else zone, 0))
        after = self._walk(nodes, set(), frozenset())
        self._walk(on_failure, self.visible_in("on_failure"), frozenset(("error",)))
        self._walk(last, self.visible_in("finally"), frozenset(("error",)))
        return after

    def visible_in(self, zone: Zone) -> set[str]:
        """Every step that can have run when the steps of a zone begin, but for those inside loops."""
        return {
            id for id, place in self.places.items() if not place.loops and _RANKS[place.zone] < _RANKS[zone]
        }  # fmt: skip

    # ---- where steps stand

    def _place(
        self, nodes: list[Node], chain: tuple[Spot, ...], loops: tuple[Node, ...], zone: Zone, spot: Spot
    ) -> None:
        for position, node in enumerate(nodes):
            here = (*chain, Spot(spot.owner, spot.name, position, spot.together))
            self.hidden |= node.hidden_ids
            if node.id is not None:
                self.places.setdefault(node.id, Place(node, here, loops, zone))
            for number, (source, inner) in enumerate(node.blocks):
                inner_loops = (*loops, node) if source.loop else loops
                self._place(inner, here, inner_loops, zone, Spot(node, str(number), 0, source.together))
            for name, inner in node.handlers.items():
                inner_zone: Zone = "undo" if name == "undo" else zone
                self._place(inner, here, loops, inner_zone, Spot(node, name, 0))

    def _provides(self, node: Node) -> frozenset[str]:
        """The ids that are visible once a step has ended: its own, and those inside that run once at most."""
        if node not in self._provided:
            found = set() if node.id is None else {node.id}
            for source, inner in node.blocks:
                if not source.loop:
                    found.update(*map(self._provides, inner))
            for name, inner in node.handlers.items():
                if name != "undo":
                    found.update(*map(self._provides, inner))
            self._provided[node] = frozenset(found)
        return self._provided[node]

    def _seen_by_handler(self, node: Node, handler: str) -> set[str]:
        """Every step in the same loops that can run before the handler does; not the handler's own."""
        if node.id is None or node.id not in self.places:
            return set()
        here = self.places[node.id]
        rank = _RANKS["undo" if handler == "undo" else here.zone]
        return {
            id
            for id, place in self.places.items()
            if _RANKS[place.zone] <= rank
            and here.loops[: len(place.loops)] == place.loops
            and not any(spot.owner is node and spot.name == handler for spot in place.chain)
        }

    # ---- what they see

    def _walk(self, nodes: list[Node], visible: set[str], extra: frozenset[str], *, together: bool = False) -> set[str]:
        needed = self._needed(nodes) if together else {}
        after = set(visible)
        for node in nodes:
            seen = visible | needed[node] if together else set(after)
            self._check_node(node, seen, extra)
            after |= self._provides(node)
        return after

    def _needed(self, nodes: list[Node]) -> dict[Node, set[str]]:
        """What each step of a `parallel` sees of the others: all that it needs, directly or not."""
        siblings = {node.id: node for node in nodes if node.id is not None}
        found: dict[Node, set[str]] = {}
        for node in nodes:
            pending, seen = [node], {node}
            while pending:
                for id, _ in pending.pop().needs:
                    other = siblings.get(id)
                    if other is not None and other not in seen:
                        seen.add(other)
                        pending.append(other)
            found[node] = set().union(*(self._provides(other) for other in seen if other is not node))
        return found

    def _check_node(self, node: Node, seen: set[str], extra: frozenset[str]) -> None:
        for use in node.uses:
            self.check(use, seen, extra, node)
        if node.retry_use is not None:
            self.check(node.retry_use, seen, extra | {"error"}, node)
        inside, added = set(seen), set(extra)
        for source, inner in node.blocks:
            inside |= self._walk(inner, set(seen), extra | set(source.adds), together=source.together)
            added |= set(source.adds)
        for use in node.further_uses:
            self.check(use, inside, added, node)
        for name in HANDLERS:
            if name == "probe":
                self._walk(node.handlers.get(name, []), set(seen), extra)
            elif name in node.handlers:
                self._walk(node.handlers[name], self._seen_by_handler(node, name), extra | {"error"})

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

    # ---- names

    def _check_field(self, use: Use, place: Pointer, name: Name, steps: set[str], node: Node | None) -> None:
        root, fieldname = name.root, name.field
        is_rate = node is not None and place[: len(node.pointer) + 1] == (*node.pointer, "rate_limit")
        stored = _STORED.get("rate_limit" if is_rate else use.what)
        if root == "secrets" and stored is not None:
            message = f"a secret in {stored} becomes part of what is stored; its value is masked there"
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
            self.findings.error(place, why_not(id, there, here), offset=offset)
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
