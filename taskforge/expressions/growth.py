"""What the tree of a program tells about its results before it runs."""

from __future__ import annotations

from collections.abc import Iterable

from taskforge.expressions import nodes
from taskforge.expressions.nodes import Node

_UNBOUNDED = 1_000_000
_OF_EACH = frozenset({"map"})
_OF_DOT = frozenset({"select", "first", "last", "sort_by", "group_by", "unique_by", "min_by", "max_by"})


def growth(node: Node, in_loop: bool = False) -> int:
    """Bound how many times over a result holds its inputs: `[., .]` 2, `[., .] | [., .]` 4.

    Elements of a list are parts of it; a variable inside a loop may come in any number of times.
    """
    return min(_growth(node, in_loop), _UNBOUNDED)


def _growth(node: Node, in_loop: bool) -> int:
    while isinstance(node, (nodes.Index, nodes.Slice, nodes.Iterate)):
        node = node.target
    if isinstance(node, nodes.Variable):
        return _UNBOUNDED if in_loop else 1
    if isinstance(node, nodes.Pipe):
        return _piped(node.parts, in_loop)
    if isinstance(node, nodes.Comma):
        return _sum(node.parts, in_loop)
    if isinstance(node, nodes.Binary):
        return _sum((node.left, node.right), in_loop)
    if isinstance(node, nodes.Array):
        return growth(node.body, in_loop) if node.body is not None else 1
    if isinstance(node, nodes.Object):
        return _sum((part for entry in node.entries for part in entry), in_loop)
    if isinstance(node, nodes.Interpolation):
        return _sum((part for part in node.parts if not isinstance(part, str)), in_loop)
    if isinstance(node, nodes.Bind):
        return growth(node.source, in_loop) * growth(node.body, in_loop or loops(node.source))
    if isinstance(node, nodes.If):
        return max(growth(body, in_loop) for body in (*(body for _, body in node.branches), node.otherwise))
    if isinstance(node, nodes.Try):
        return growth(node.body, in_loop)
    if isinstance(node, nodes.Call):
        return _called(node, in_loop)
    return 1


def _called(node: nodes.Call, in_loop: bool) -> int:
    if node.name in _OF_EACH and len(node.arguments) == 1:
        return growth(node.arguments[0], True)
    if node.name in ("first", "last", "add") and node.arguments:
        return growth(node.arguments[0], in_loop)
    if node.name in _OF_DOT or not node.arguments:
        return 1
    return 1 + _sum(node.arguments, in_loop)


def _piped(parts: Iterable[Node], in_loop: bool) -> int:
    total = 1
    for part in parts:
        total = min(total * growth(part, in_loop), _UNBOUNDED)
        in_loop = in_loop or loops(part)
    return total


def _sum(parts: Iterable[Node], in_loop: bool) -> int:
    return max(1, sum(growth(part, in_loop) for part in parts))


def loops(node: Node) -> bool:
    """Whether a node may give as many results as its input has elements."""
    while isinstance(node, (nodes.Index, nodes.Slice)):
        if isinstance(node, nodes.Index) and loops(node.key):
            return True
        node = node.target
    return isinstance(node, nodes.Iterate) or any(map(loops, _parts(node)))


def _parts(node: Node) -> tuple[Node, ...]:
    if isinstance(node, (nodes.Pipe, nodes.Comma)):
        return node.parts
    if isinstance(node, nodes.Binary):
        return node.left, node.right
    if isinstance(node, nodes.Call):
        return node.arguments
    if isinstance(node, nodes.Object):
        return tuple(part for entry in node.entries for part in entry)
    if isinstance(node, nodes.Interpolation):
        return tuple(part for part in node.parts if not isinstance(part, str))
    if isinstance(node, nodes.Bind):
        return node.source, node.body
    if isinstance(node, nodes.If):
        return (*(part for branch in node.branches for part in branch), node.otherwise)
    if isinstance(node, nodes.Try):
        return (node.body,)
    return (node.operand,) if isinstance(node, nodes.Negate) else ()


def is_constant(node: Node) -> bool:
    """Whether jq may know a node's value when it compiles."""
    if isinstance(node, nodes.Array):
        return node.body is None or is_constant(node.body)
    if isinstance(node, nodes.Comma):
        return all(map(is_constant, node.parts))
    if isinstance(node, nodes.Binary):
        return is_constant(node.left) and is_constant(node.right)
    if isinstance(node, nodes.Negate):
        return is_constant(node.operand)
    return isinstance(node, (nodes.Literal, nodes.Object))
