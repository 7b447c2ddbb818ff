"""Where steps stand in a document, and in words why one cannot see another's output from there."""

from __future__ import annotations

from taskforge.core.definition_read import HANDLERS, Node, Zone
from taskforge.core.problem import quoted
from taskforge.core.record import dataclass

_IN_LOOP = "inside a loop; it is visible only there"


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in a list: of the run (no owner), of a block, or of a handler. `together`: its steps run at once."""

    owner: Node | None
    name: str
    position: int
    together: bool = False

    @property
    def is_handler(self) -> bool:
        """Whether it stands in a handler of a step or of the run."""
        return self.name in HANDLERS or self.name == "on_failure"


@dataclass(frozen=True, slots=True)
class Place:
    """A step with the spots that lead to it, outermost first, and the loops around it."""

    node: Node
    chain: tuple[Spot, ...]
    loops: tuple[Node, ...]
    zone: Zone


def why_not(id: str, there: Place, here: Place | None) -> str:
    """Say why step `id`, which stands `there`, is not visible `here`; None is outside all steps."""
    name = quoted(id)
    if here is None:
        if there.zone != "main" and not there.loops:
            return f"step {name} is in `{there.zone}` and cannot have run yet"
        return f"step {name} is {_IN_LOOP if there.loops else 'not visible here'}"
    if here.node is there.node:
        return f"step {name} cannot use its own output"
    if any(spot.owner is there.node for spot in here.chain):
        return f"step {name} has not ended while its inner steps run"
    is_in_loop = here.loops[: len(there.loops)] != there.loops
    pairs = zip(here.chain, there.chain, strict=False)
    depth = next((at for at, (mine, theirs) in enumerate(pairs) if mine != theirs), None)
    if depth is None:  # it stands inside the very step that names it
        return f"step {name} comes later and cannot have run yet"
    mine, theirs = here.chain[depth], there.chain[depth]
    if mine.name != theirs.name:
        if theirs.is_handler and not is_in_loop:
            return f"step {name} is in `{theirs.name}` and cannot have run yet"
        if mine.is_handler:
            return f"step {name} is {_IN_LOOP}"
        owner = mine.owner.id if mine.owner is not None else None
        return f"step {name} is in another branch of {quoted(owner or 'the block')} and cannot have run"
    if mine.together and not is_in_loop:
        sibling = there.node if depth == len(there.chain) - 1 else there.chain[depth + 1].owner
        needed = quoted(sibling.id or "") if sibling is not None else name
        return f"step {name} runs at the same time; to use it, write {needed} into `needs`"
    is_in_handler = any(spot.is_handler for spot in here.chain)
    if theirs.position > mine.position and not mine.together and not (is_in_handler and is_in_loop):
        return f"step {name} comes later and cannot have run yet"
    if any(spot.name == "undo" for spot in there.chain[depth + 1 :]):
        return f"step {name} is in `undo` and cannot have run yet"
    return f"step {name} is {_IN_LOOP}"
