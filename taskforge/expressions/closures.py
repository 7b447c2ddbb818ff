"""The closures that `compiled` puts together: how results of parts become results of the whole.

jq's programs give any number of results. A `Code` that gives exactly one is a plain function; any other is a generator
function, lazy as jq is, so that what jq would not evaluate is not evaluated here either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from taskforge.core.model import JSON
from taskforge.core.record import dataclass
from taskforge.expressions import nodes, semantics
from taskforge.expressions.errors import TooBig
from taskforge.expressions.nodes import Node

Variables = Mapping[str, JSON]
One = Callable[[Variables, JSON], JSON]
Many = Callable[[Variables, JSON], Iterator[JSON]]
Operation = Callable[[JSON, JSON], JSON]


class Fuel:
    """Bounds the work of one evaluation. Shared by the closures of a program; filled when an evaluation starts."""

    __slots__ = ("left",)

    FULL = 20_000

    def __init__(self) -> None:
        self.left = self.FULL

    def burn(self, amount: int) -> None:
        """Use some of it up: about 1 for each elementary step. Raises TooBig when there is none left."""
        self.left -= amount
        if self.left < 0:
            raise TooBig

    def burn_for(self, value: JSON) -> None:
        """Use up what it costs to go through a value once."""
        self.burn(1 + (len(value) >> 7 if type(value) is str else len(value) if type(value) in (list, dict) else 0))


@dataclass(frozen=True, slots=True)
class Code:
    """A compiled node: `many` yields any number of results; where it is None, `one` gives exactly one."""

    one: One
    many: Many | None = None

    def each(self) -> Many:
        if self.many is not None:
            return self.many
        one = self.one

        def each(v: Variables, d: JSON) -> Iterator[JSON]:
            yield one(v, d)

        return each


def collect(results: Iterable[JSON]) -> list[JSON]:
    collected: list[JSON] = []
    for result in results:
        collected.append(result)
        if len(collected) > semantics.MAX_ITEMS:
            raise TooBig
    return collected


def several(many: Many) -> Code:
    return Code(unused, many)


def unused(v: Variables, d: JSON) -> JSON:
    raise AssertionError("a program with many results has no single form")


def variable(v: Variables, name: str) -> JSON:
    try:
        return v[name]
    except KeyError:
        raise semantics.fail(f"${name} is not defined") from None


NOTHING = object()


def is_true(value: JSON) -> bool:
    return value is not None and value is not False


def plain_path(node: Node) -> tuple[str | None, tuple[str | int, ...]] | None:
    """`$name.a.b[0]` or `.a.b[0]` as its root (None for `.`) and its keys."""
    keys: list[str | int] = []
    while isinstance(node, nodes.Index):
        key = node.key
        if node.optional or not isinstance(key, nodes.Literal) or type(key.value) not in (str, int):
            return None
        assert isinstance(key.value, (str, int))
        keys.append(key.value)
        node = node.target
    keys.reverse()
    if isinstance(node, nodes.Identity):
        return None, tuple(keys)
    return (node.name, tuple(keys)) if isinstance(node, nodes.Variable) else None


def compile_path(root: str | None, keys: tuple[str | int, ...]) -> One:
    def slowly(v: Variables, d: JSON) -> JSON:
        value = d if root is None else variable(v, root)
        for key in keys:
            value = semantics.index(value, key)
        return value

    # With string keys, a subscript that Python accepts means the same to jq; all else goes the slow way.
    if root is None or not 1 <= len(keys) <= 3 or not all(isinstance(key, str) for key in keys):
        return slowly
    name: str = root
    first, second, third = (*keys, None, None)[:3]

    def one_key(v: Variables, d: JSON) -> JSON:
        try:
            return v[name][first]
        except (KeyError, TypeError):
            return slowly(v, d)

    def two_keys(v: Variables, d: JSON) -> JSON:
        try:
            return v[name][first][second]
        except (KeyError, TypeError):
            return slowly(v, d)

    def three_keys(v: Variables, d: JSON) -> JSON:
        try:
            return v[name][first][second][third]
        except (KeyError, TypeError):
            return slowly(v, d)

    return (one_key, two_keys, three_keys)[len(keys) - 1]


def piped(left: Code, right: Code) -> Code:
    if left.many is None:
        one = left.one
        if right.many is None:
            then = right.one
            return Code(lambda v, d: then(v, one(v, d)))
        rest = right.many
        return several(lambda v, d: rest(v, one(v, d)))
    lefts, rights = left.many, right.each()
    if right.many is None:
        after = right.one

        def flat(v: Variables, d: JSON) -> Iterator[JSON]:
            for value in lefts(v, d):
                yield after(v, value)

        return several(flat)

    def many(v: Variables, d: JSON) -> Iterator[JSON]:
        for value in lefts(v, d):
            yield from rights(v, value)

    return several(many)


def combined(left: Code, right: Code, operation: Operation) -> Code:
    if left.many is None and right.many is None:
        one, other = left.one, right.one

        def both(v: Variables, d: JSON) -> JSON:
            second = other(v, d)
            return operation(one(v, d), second)

        return Code(both)
    lefts, rights = left.each(), right.each()

    def many(v: Variables, d: JSON) -> Iterator[JSON]:
        for second in rights(v, d):
            for first in lefts(v, d):
                yield operation(first, second)

    return several(many)


def logical(left: Code, right: Code, conjunction: bool) -> Code:
    if left.many is None and right.many is None:
        one, other = left.one, right.one
        if conjunction:
            return Code(lambda v, d: is_true(one(v, d)) and is_true(other(v, d)))
        return Code(lambda v, d: is_true(one(v, d)) or is_true(other(v, d)))
    lefts, rights = left.each(), right.each()

    def many(v: Variables, d: JSON) -> Iterator[JSON]:
        for first in lefts(v, d):
            if is_true(first) is conjunction:
                for second in rights(v, d):
                    yield is_true(second)
            else:
                yield not conjunction

    return several(many)


def alternative(left: Code, right: Code) -> Code:
    if left.many is None and right.many is None:
        one, other = left.one, right.one

        def either(v: Variables, d: JSON) -> JSON:
            value = one(v, d)
            return other(v, d) if value is None or value is False else value

        return Code(either)
    lefts, rights = left.each(), right.each()

    def many(v: Variables, d: JSON) -> Iterator[JSON]:
        found = False
        for value in lefts(v, d):
            if is_true(value):
                found = True
                yield value
        if not found:
            yield from rights(v, d)

    return several(many)


def conditional(condition: Code, body: Code, otherwise: Code) -> Code:
    if condition.many is None and body.many is None and otherwise.many is None:
        test, then, last = condition.one, body.one, otherwise.one
        return Code(lambda v, d: then(v, d) if is_true(test(v, d)) else last(v, d))
    tests, bodies, others = condition.each(), body.each(), otherwise.each()

    def many(v: Variables, d: JSON) -> Iterator[JSON]:
        for result in tests(v, d):
            yield from (bodies if is_true(result) else others)(v, d)

    return several(many)


def list_of(source: One, test: One | None, body: One | None, fuel: Fuel) -> One:
    """`[source[] | select(test) | body]` in one comprehension."""

    def mapped(v: Variables, d: JSON) -> JSON:
        found = semantics.items(source(v, d))
        fuel.burn(len(found))
        if test is None:
            return list(found) if body is None else [body(v, item) for item in found]
        if body is None:
            return [item for item in found if is_true(test(v, item))]
        return [body(v, item) for item in found if is_true(test(v, item))]

    return mapped


def product(entries: Sequence[tuple[Code, Code]]) -> Many:
    parts = [(key.each(), value.each()) for key, value in entries]

    def build(v: Variables, d: JSON, position: int, made: dict[str, JSON]) -> Iterator[JSON]:
        if position == len(parts):
            yield made
            return
        keys, values = parts[position]
        for key in keys(v, d):
            for value in values(v, d):
                if not isinstance(key, str):
                    raise semantics.fail(f"Cannot use {semantics.shown(key)} as object key")
                yield from build(v, d, position + 1, {**made, key: value})

    return lambda v, d: build(v, d, 0, {})


def selection(kinds: frozenset[str]) -> Code:
    def many(v: Variables, d: JSON) -> Iterator[JSON]:
        if semantics.kind(d) in kinds:
            yield d

    return several(many)
