"""The total, common subset of jq as Python closures, answered in process.

Nothing in it recurses or counts upwards without an end, and what could grow is bounded: at a bound, or at a corner of
jq that is not certain here, a closure raises TooBig, and the caller sends the program to the jq child. A test compares
every closure with jq itself.

A program is compiled once; its closures are cheap to call (a plain path well under 1 µs). They run on one thread, the
event loop's: the loops of a program share a counter that bounds their work. Results share structure with the variables
they came from: values are never changed in place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from taskforge.core.model import JSON
from taskforge.core.record import dataclass
from taskforge.expressions import closures, functions, nodes, semantics
from taskforge.expressions.closures import Code, Fuel, One, Operation, Variables
from taskforge.expressions.errors import EvaluationFailed, ExpressionSyntaxError, TooBig
from taskforge.expressions.growth import growth, is_constant
from taskforge.expressions.nodes import Node, Program
from taskforge.expressions.results import single
from taskforge.expressions.syntax import parse_program

__all__ = ["TooBig", "compile_program", "compile_single", "single"]

_MAX_DEPTH = 60
_MAX_SOURCE = 8_192
_ARITHMETIC: dict[str, Operation] = {
    "+": semantics.add,
    "-": semantics.subtract,
    "*": semantics.multiply,
    "/": semantics.divide,
    "%": semantics.modulo,
}
_COMPARISONS: dict[str, Callable[[int], bool]] = {
    "==": lambda order: order == 0,
    "!=": lambda order: order != 0,
    "<": lambda order: order < 0,
    "<=": lambda order: order <= 0,
    ">": lambda order: order > 0,
    ">=": lambda order: order >= 0,
}


_MAX_GROWTH = 16
"""How many times over a result may hold its inputs before its size is checked."""


def compile_program(program: Program | str) -> Callable[[Variables, JSON], list[JSON]] | None:
    """Compile a program into a function of the variables and `.` that gives all its results. None: not in the subset.

    The function raises EvaluationFailed where jq has an error, and TooBig where the child has to decide.
    """
    compiled = _compile(program)
    if compiled is None:
        return None
    one, many, fuel, grows = compiled.code.one, compiled.code.many, compiled.fuel, compiled.grows
    if many is None and fuel is None and not grows:
        return lambda variables, dot: [one(variables, dot)]
    each, tank = compiled.code.each(), fuel or Fuel()

    def evaluate(variables: Variables, dot: JSON) -> list[JSON]:
        tank.left = Fuel.FULL
        results = closures.collect(each(variables, dot))
        if grows:
            semantics.check_size(results)
        return results

    return evaluate


def compile_single(program: Program | str) -> One | None:
    """The same for programs that must give exactly one result: the function gives it, or raises EvaluationFailed."""
    compiled = _compile(program)
    if compiled is None:
        return None
    one, many, fuel, grows = compiled.code.one, compiled.code.many, compiled.fuel, compiled.grows
    if many is None and fuel is None and not grows:
        return one
    tank = fuel or Fuel()

    def evaluate(variables: Variables, dot: JSON) -> JSON:
        tank.left = Fuel.FULL
        result = one(variables, dot) if many is None else single(closures.collect(many(variables, dot)))
        return semantics.check_size(result) if grows else result

    return evaluate


class _NotInSubset(Exception): ...


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A program's code; its fuel where it has loops; whether its results may be much larger than its inputs."""

    code: Code
    fuel: Fuel | None
    grows: bool


@functools.lru_cache(maxsize=512)
def _compile_source(source: str) -> _Compiled | None:
    try:
        return _compile(parse_program(source))
    except ExpressionSyntaxError:
        return None


def _compile(program: Program | str) -> _Compiled | None:
    if isinstance(program, str):
        return _compile_source(program) if len(program) <= _MAX_SOURCE else None
    if len(program.source) > _MAX_SOURCE:
        return None
    try:
        compiler = _Compiler(metered=False)
        code = compiler.node(program.body)
        grows = growth(program.body) > _MAX_GROWTH
        if not compiler.loops:
            return _Compiled(code, None, grows)
        # What is done once may cost what it costs; inside loops every step counts.
        compiler = _Compiler(metered=True)
        return _Compiled(compiler.node(program.body), compiler.fuel, grows)
    except _NotInSubset:
        return None


class _Compiler:
    """Turns the nodes of one program into closures. `metered`: every step burns fuel."""

    def __init__(self, metered: bool) -> None:
        self.depth = 0
        self.fuel = Fuel()
        self.metered = metered
        self.loops = False

    def node(self, node: Node) -> Code:
        """Compile one node."""
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise _NotInSubset
        code: Code = getattr(self, f"on_{type(node).__name__.lower()}", self.on_beyond)(node)
        self.depth -= 1
        return code

    def of_one(self, function: Callable[[JSON], JSON]) -> Callable[[JSON], JSON]:
        """The function, burning fuel where that is due."""
        if not self.metered:
            return function
        fuel = self.fuel

        def metered(value: JSON) -> JSON:
            fuel.burn_for(value)
            result = function(value)
            fuel.burn_for(result)
            return result

        return metered

    def of_two(self, function: Operation) -> Operation:
        """The same for a function of two values."""
        if not self.metered:
            return function
        fuel = self.fuel

        def metered(a: JSON, b: JSON) -> JSON:
            fuel.burn_for(a)
            fuel.burn_for(b)
            return function(a, b)

        return metered

    def comparison(self, operator: str) -> Operation:
        """One of `== != < <= > >=`."""
        holds, fuel = _COMPARISONS[operator], self.fuel
        if not self.metered:
            return lambda a, b: holds(semantics.compare(a, b))

        def metered(a: JSON, b: JSON) -> JSON:
            budget = [min(fuel.left, 2_000)]
            before = budget[0]
            order = semantics.compare(a, b, budget)
            fuel.burn(1 + before - budget[0])
            return holds(order)

        return metered

    def on_beyond(self, node: Any) -> Code:
        raise _NotInSubset

    def on_identity(self, node: nodes.Identity) -> Code:
        return Code(lambda v, d: d)

    def on_literal(self, node: nodes.Literal) -> Code:
        value = node.value
        return Code(lambda v, d: value)

    def on_variable(self, node: nodes.Variable) -> Code:
        name = node.name
        return Code(lambda v, d: closures.variable(v, name))

    # ---- paths

    def on_index(self, node: nodes.Index) -> Code:
        path = closures.plain_path(node)
        if path is not None:
            return Code(closures.compile_path(*path))
        target, key = self.node(node.target), self.node(node.key)
        if target.many is None and key.many is None and not node.optional:
            one, other = target.one, key.one
            return Code(lambda v, d: semantics.index(one(v, d), other(v, d)))
        targets, keys, optional = target.each(), key.each(), node.optional

        def many(v: Variables, d: JSON) -> Iterator[JSON]:
            for k in keys(v, d):
                for t in targets(v, d):
                    try:
                        value = semantics.index(t, k)
                    except EvaluationFailed:
                        if optional:
                            continue
                        raise
                    yield value

        return closures.several(many)

    def on_slice(self, node: nodes.Slice) -> Code:
        nothing = nodes.Literal(None)
        target, start, end = (self.node(part or nothing) for part in (node.target, node.start, node.end))
        if node.optional or start.many or end.many:
            raise _NotInSubset
        first, last, cut = start.one, end.one, semantics.slice_of
        if target.many is None:
            one = target.one
            return Code(lambda v, d: cut(one(v, d), first(v, d), last(v, d)))
        targets = target.many

        def many(v: Variables, d: JSON) -> Iterator[JSON]:
            begin, stop = first(v, d), last(v, d)
            for value in targets(v, d):
                yield cut(value, begin, stop)

        return closures.several(many)

    def on_iterate(self, node: nodes.Iterate) -> Code:
        targets, optional, fuel = self.node(node.target).each(), node.optional, self.fuel
        self.loops = True

        def many(v: Variables, d: JSON) -> Iterator[JSON]:
            for target in targets(v, d):
                if optional and not isinstance(target, (list, dict)):
                    continue
                for item in semantics.items(target):
                    fuel.burn(1)
                    yield item

        return closures.several(many)

    def on_try(self, node: nodes.Try) -> Code:
        body = self.node(node.body).each()

        def many(v: Variables, d: JSON) -> Iterator[JSON]:
            try:
                results = body(v, d)
            except EvaluationFailed:
                return
            while True:
                try:
                    result = next(results)
                except (StopIteration, EvaluationFailed):
                    return
                yield result

        return closures.several(many)

    # ---- composition

    def on_pipe(self, node: nodes.Pipe) -> Code:
        code = self.node(node.parts[0])
        for part in node.parts[1:]:
            code = closures.piped(code, self.node(part))
        return code

    def on_comma(self, node: nodes.Comma) -> Code:
        parts, fuel = [self.node(part).each() for part in node.parts], self.fuel
        self.loops = True

        def many(v: Variables, d: JSON) -> Iterator[JSON]:
            for part in parts:
                for result in part(v, d):
                    fuel.burn(1)
                    yield result

        return closures.several(many)

    def on_bind(self, node: nodes.Bind) -> Code:
        source, body, name = self.node(node.source), self.node(node.body), node.name
        if source.many is None and body.many is None:
            one, then = source.one, body.one
            return Code(lambda v, d: then({**v, name: one(v, d)}, d))
        sources, bodies = source.each(), body.each()

        def many(v: Variables, d: JSON) -> Iterator[JSON]:
            for value in sources(v, d):
                yield from bodies({**v, name: value}, d)

        return closures.several(many)

    def on_if(self, node: nodes.If) -> Code:
        branches = [(self.node(condition), self.node(body)) for condition, body in node.branches]
        otherwise = self.node(node.otherwise)
        code = otherwise
        for condition, body in reversed(branches):
            code = closures.conditional(condition, body, code)
        return code

    def on_negate(self, node: nodes.Negate) -> Code:
        if isinstance(node.operand, nodes.Literal) and semantics.is_number(node.operand.value) and node.operand.value:
            return self.on_literal(nodes.Literal(semantics.negate(node.operand.value)))
        return closures.piped(self.node(node.operand), Code(lambda v, d: semantics.negate(d)))

    def on_binary(self, node: nodes.Binary) -> Code:
        left, right = self.node(node.left), self.node(node.right)
        if node.operator in ("and", "or"):
            return closures.logical(left, right, node.operator == "and")
        if node.operator == "//":
            return closures.alternative(left, right)
        constant = node.right.value if isinstance(node.right, nodes.Literal) else None
        if left.many is None and isinstance(constant, str) and node.operator in ("==", "!="):
            # The commonest of all conditions.
            one, expected, same = left.one, constant, node.operator == "=="
            return Code(lambda v, d: (one(v, d) == expected) is same)
        if node.operator in _COMPARISONS:
            return closures.combined(left, right, self.comparison(node.operator))
        return closures.combined(left, right, self.of_two(_ARITHMETIC[node.operator]))

    # ---- construction

    def on_array(self, node: nodes.Array) -> Code:
        if node.body is None:
            return Code(lambda v, d: [])
        mapped = self.mapped(node.body)
        if mapped is not None:
            return mapped
        body = self.node(node.body)
        if body.many is None:
            one = body.one
            return Code(lambda v, d: [one(v, d)])
        many = body.many
        return Code(lambda v, d: closures.collect(many(v, d)))

    def mapped(self, node: Node) -> Code | None:
        """`[.x[] | select(f) | g]`, the common form of a list, without generators where each part gives one result."""
        parts = node.parts if isinstance(node, nodes.Pipe) else (node,)
        if not isinstance(parts[0], nodes.Iterate) or parts[0].optional or len(parts) > 3:
            return None
        source = self.node(parts[0].target)
        test: Code | None = None
        rest = parts[1:]
        if rest and isinstance(rest[0], nodes.Call) and rest[0].name == "select" and len(rest[0].arguments) == 1:
            test = self.node(rest[0].arguments[0])
            rest = rest[1:]
        body = self.node(nodes.Pipe(rest)) if len(rest) > 1 else self.node(rest[0]) if rest else None
        if source.many is not None or (test and test.many) or (body and body.many):
            return None
        self.loops = True
        return Code(closures.list_of(source.one, test.one if test else None, body.one if body else None, self.fuel))

    def on_object(self, node: nodes.Object) -> Code:
        entries: list[tuple[Code, Code]] = []
        for key, value in node.entries:
            if is_constant(key) and not (isinstance(key, nodes.Literal) and isinstance(key.value, str)):
                raise _NotInSubset  # jq looks at constant keys when it compiles
            entries.append((self.node(key), self.node(value)))
        keys = [key.value for key, _ in node.entries if isinstance(key, nodes.Literal)]
        if all(value.many is None for _, value in entries) and len(keys) == len(entries):
            fields = [(key, value.one) for key, (_, value) in zip(keys, entries, strict=True)]
            return Code(lambda v, d: {key: one(v, d) for key, one in fields})
        return closures.several(closures.product(entries))

    def on_interpolation(self, node: nodes.Interpolation) -> Code:
        code: Code | None = None
        text, add = self.of_one(semantics.text), self.of_two(semantics.add)
        to_text = Code(lambda v, d: text(d))
        for part in node.parts:
            piece = (
                self.node(nodes.Literal(part)) if isinstance(part, str) else closures.piped(self.node(part), to_text)
            )
            code = piece if code is None else closures.combined(code, piece, add)
        assert code is not None
        return code

    # ---- functions

    def on_call(self, node: nodes.Call) -> Code:
        shape = (node.name, len(node.arguments))
        plain = functions.OF_DOT.get(node.name) if not node.arguments else None
        if plain is not None:
            function = self.of_one(plain)
            return Code(lambda v, d: function(d))
        of_values = functions.OF_VALUES.get(shape)
        if of_values is not None:
            arguments = [self.node(argument) for argument in node.arguments]
            if any(argument.many for argument in arguments):
                raise _NotInSubset
            first, operation = arguments[0].one, self.of_two(of_values)
            return Code(lambda v, d: operation(d, first(v, d)))
        if shape in functions.SELECTIONS:
            return closures.selection(functions.SELECTIONS[shape])
        special = getattr(self, f"call_{node.name}_{len(node.arguments)}", None)
        if special is None:
            raise _NotInSubset
        code: Code = special(*node.arguments)
        return code

    def call_empty_0(self) -> Code:
        return closures.several(lambda v, d: iter(()))

    def call_map_1(self, body: Node) -> Code:
        return self.on_array(nodes.Array(nodes.Pipe((nodes.Iterate(nodes.Identity()), body))))

    def call_select_1(self, test: Node) -> Code:
        tests = self.node(test).each()

        def many(v: Variables, d: JSON) -> Iterator[JSON]:
            for result in tests(v, d):
                if result is not None and result is not False:
                    yield d

        return closures.several(many)

    def call_first_1(self, body: Node) -> Code:
        bodies = self.node(body).each()

        def many(v: Variables, d: JSON) -> Iterator[JSON]:
            for result in bodies(v, d):
                yield result
                return

        return closures.several(many)

    def call_last_1(self, body: Node) -> Code:
        bodies = self.node(body).each()

        def many(v: Variables, d: JSON) -> Iterator[JSON]:
            results = closures.collect(bodies(v, d))
            yield from results[-1:]

        return closures.several(many)

    def call_isempty_1(self, body: Node) -> Code:
        bodies = self.node(body).each()

        def one(v: Variables, d: JSON) -> JSON:
            return next(bodies(v, d), closures.NOTHING) is closures.NOTHING

        return Code(one)

    def call_any_1(self, test: Node) -> Code:
        return self.call_any_2(nodes.Iterate(nodes.Identity()), test)

    def call_all_1(self, test: Node) -> Code:
        return self.call_all_2(nodes.Iterate(nodes.Identity()), test)

    def call_any_2(self, source: Node, test: Node) -> Code:
        results = closures.piped(self.node(source), self.node(test)).each()
        return Code(lambda v, d: any(closures.is_true(result) for result in results(v, d)))

    def call_all_2(self, source: Node, test: Node) -> Code:
        results = closures.piped(self.node(source), self.node(test)).each()
        return Code(lambda v, d: all(closures.is_true(result) for result in results(v, d)))

    def call_add_1(self, body: Node) -> Code:
        results = self.node(body).each()
        total = self.of_one(functions.total)
        return Code(lambda v, d: total(closures.collect(results(v, d))))

    def call_sort_by_1(self, key: Node) -> Code:
        return self.by_key(key, functions.sorted_by)

    def call_group_by_1(self, key: Node) -> Code:
        return self.by_key(key, functions.grouped_by)

    def call_unique_by_1(self, key: Node) -> Code:
        return self.by_key(key, functions.unique_by)

    def call_min_by_1(self, key: Node) -> Code:
        return self.by_key(key, functions.least_by)

    def call_max_by_1(self, key: Node) -> Code:
        return self.by_key(key, functions.greatest_by)

    def by_key(self, key: Node, choose: Callable[[JSON, list[JSON]], JSON]) -> Code:
        keys = self.call_map_1(nodes.Array(key)).one
        chosen = self.of_two(choose)
        return Code(lambda v, d: chosen(d, keys(v, d)))
