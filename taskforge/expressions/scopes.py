"""What the names and calls of a jq program mean where they stand: bound, free, known, forbidden."""

from __future__ import annotations

from taskforge.core.problem import quoted, suggest
from taskforge.expressions import nodes
from taskforge.expressions.builtins import FORBIDDEN, FORBIDDEN_VARIABLES, KNOWN
from taskforge.expressions.errors import SyntaxProblem
from taskforge.expressions.nodes import Name, Node
from taskforge.expressions.tokens import Tokens


class Scopes(Tokens):
    """A program's tokens, with what is in scope. `names` and `problems` grow as the parser goes."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self.names: list[Name] = []
        self.problems: list[SyntaxProblem] = []
        self.variables: list[str] = []
        self.functions: list[tuple[str, int]] = []
        self.labels: list[str] = []

    def variable(self) -> tuple[Node, int | None]:
        """The variable that is looked at; where it is free, its place in `names` too."""
        name, start = self.text[1:], self.start
        self.advance()
        if name == "__loc__":
            return nodes.Beyond("$__loc__"), None
        if name in self.variables:
            return nodes.Variable(name), None
        if name in FORBIDDEN_VARIABLES:
            problem = SyntaxProblem(start, f"`${name}` is not available in expressions", FORBIDDEN_VARIABLES[name])
            self.problems.append(problem)
            return nodes.Beyond("forbidden"), None
        self.names.append(Name(name, None, start))
        return nodes.Variable(name), len(self.names) - 1

    def call(self, name: str, arguments: list[Node], start: int) -> Node:
        """A call, checked against what is defined, known and forbidden."""
        count = len(arguments)
        if (name, count) in self.functions:
            return nodes.Beyond("call")
        if name in FORBIDDEN:
            self.problems.append(SyntaxProblem(start, f"`{name}` is not available in expressions", FORBIDDEN[name]))
            return nodes.Beyond("forbidden")
        counts = KNOWN.get(name)
        if counts is None:
            near = suggest(name, [*KNOWN, *(defined for defined, _ in self.functions)])
            written = f"a variable is written ${name}, a field .{name}"
            hint = f"{near} {written}" if near else written
            self.problems.append(SyntaxProblem(start, f"the function {quoted(name)} is not defined", hint))
        elif count not in counts:
            takes = " or ".join("no arguments" if n == 0 else f"{n} argument{'s' * (n > 1)}" for n in counts)
            separated = "arguments are separated by `;`" if count == 1 else None
            self.problems.append(SyntaxProblem(start, f"`{name}` takes {takes}, not {count}", separated))
        return nodes.Call(name, tuple(arguments))
