"""Reads jq programs: their tree, their free names, and the calls that are not allowed.

The grammar is that of jq 1.8 (its `parser.y`). A recursive-descent parser with bounded depth; what it lets through and
jq does not is found by `Evaluator.check`. Names and calls are resolved while parsing, where scopes are at hand.
"""

from __future__ import annotations

import functools
import re
from dataclasses import replace

from taskforge.expressions import nodes
from taskforge.expressions.builtins import KEYWORDS
from taskforge.expressions.errors import ExpressionSyntaxError, SyntaxProblem
from taskforge.expressions.nodes import Node, Program
from taskforge.expressions.scopes import Scopes
from taskforge.expressions.tokens import Stop, read_text

MAX_LENGTH = 32_768
"""Longest program, in characters."""

_PLAIN_TEXT = re.compile(r'(?:[^"\\]|\\[^(])*')
_PLAIN_NUMBER = re.compile(r"(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_BINARY = {
    "//": (1, "right"),
    **dict.fromkeys(("=", "|=", "+=", "-=", "*=", "/=", "%=", "//="), (2, "none")),
    "or": (3, "left"),
    "and": (4, "left"),
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), (5, "none")),
    **dict.fromkeys(("+", "-"), (6, "left")),
    **dict.fromkeys(("*", "/", "%"), (7, "left")),
}
_CONSTANTS = {"null": None, "true": True, "false": False}


_MAX_CACHED = 1_024


def parse_program(source: str) -> Program:
    """Read a program. Raises ExpressionSyntaxError with every problem that was found; offsets count from 0."""
    # Trees of long programs are large: whoever needs one often keeps it.
    return _parse_again(source) if len(source) <= _MAX_CACHED else _parse(source)


@functools.lru_cache(maxsize=512)
def _parse_again(source: str) -> Program:
    return _parse(source)


def _parse(source: str) -> Program:
    if len(source) > MAX_LENGTH:
        raise ExpressionSyntaxError(
            (SyntaxProblem(0, f"the expression has {len(source):,} characters; at most {MAX_LENGTH:,} are read"),)
        )
    parser = _Parser(source)
    try:
        body = parser.program()
    except Stop as stop:
        parser.problems.append(stop.problem)
        body = nodes.Identity()
    if parser.problems:
        raise ExpressionSyntaxError(tuple(sorted(parser.problems, key=lambda problem: problem.offset)))
    return Program(source, body, tuple(parser.names))


class _Parser(Scopes):
    """One pass over one program, by recursive descent."""

    # ---- queries

    def program(self) -> Node:
        """The whole text: one query."""
        self.advance()
        if self.kind == "end":
            raise Stop(SyntaxProblem(0, "the expression is empty"))
        body = self.query()
        if self.kind != "end":
            raise Stop(self.unexpected())
        return body

    def query(self) -> Node:
        """`a, b | c`, function definitions, `… as $x | …`; extends as far as it can."""
        self.nest()
        scopes = len(self.variables), len(self.functions), len(self.labels)
        parts = [self.alternatives()]
        while self.take("|"):
            parts.append(self.alternatives())
        del self.variables[scopes[0] :]
        del self.functions[scopes[1] :]
        del self.labels[scopes[2] :]
        self.leave()
        return parts[0] if len(parts) == 1 else nodes.Pipe(tuple(parts))

    def alternatives(self) -> Node:
        parts = [self.item()]
        while self.take(","):
            parts.append(self.item())
        return parts[0] if len(parts) == 1 else nodes.Comma(tuple(parts))

    def item(self) -> Node:
        if self.is_word("def"):
            self.function()
            self.query()
            return nodes.Beyond("def")
        if self.is_word("label"):
            self.advance()
            self.labels.append(self.binding())
            self.expect("|")
            self.query()
            return nodes.Beyond("label")
        for word in ("import", "include", "module"):
            if self.is_word(word):
                hint = "an expression loads no modules"
                raise Stop(SyntaxProblem(self.start, f"`{word}` is not available in expressions", hint))
        source = self.expression(0)
        if not self.is_word("as"):
            return source
        self.advance()
        name = self.patterns()
        self.expect("|", " and what to do with the variable")
        body = self.query()
        return nodes.Beyond("destructuring") if name is None else nodes.Bind(source, name, body)

    def function(self) -> None:
        """`def name(a; $b): body;` The name holds in the body and in what follows."""
        self.advance()
        if self.kind != "word" or self.text in KEYWORDS:
            raise Stop(self.unexpected("the function's name"))
        name = self.text
        self.advance()
        plain: list[str] = []
        bound: list[str] = []
        if self.take("("):
            while True:
                if self.kind == "variable":
                    bound.append(self.text[1:])
                elif self.kind != "word" or self.text in KEYWORDS:
                    raise Stop(self.unexpected("a parameter"))
                plain.append(self.text.lstrip("$"))
                self.advance()
                if not self.take(";"):
                    break
            self.expect(")")
        self.expect(":")
        scopes = len(self.variables), len(self.functions)
        self.functions.append((name, len(plain)))
        self.functions.extend((parameter, 0) for parameter in plain)
        self.variables.extend(bound)
        self.query()
        self.expect(";", " at the end of the function")
        del self.variables[scopes[0] :]
        del self.functions[scopes[1] + 1 :]

    # ---- patterns

    def patterns(self) -> str | None:
        """`$x`, `[$a, {b: $c}]`, `p1 ?// p2`. Binds their names; gives the name where it is one plain variable."""
        plain = self.text[1:] if self.kind == "variable" else None
        found: list[str] = []
        self.pattern(found)
        while self.take("?//"):
            plain = None
            self.pattern(found)
        self.variables.extend(found)
        return plain

    def pattern(self, found: list[str]) -> None:
        self.nest()
        if self.kind == "variable" and self.text != "$__loc__":
            found.append(self.binding())
        elif self.take("["):
            self.pattern(found)
            while self.take(","):
                self.pattern(found)
            self.expect("]")
        elif self.take("{"):
            self.field_pattern(found)
            while self.take(","):
                self.field_pattern(found)
            self.expect("}")
        else:
            raise Stop(self.unexpected("a variable such as `$x`"))
        self.leave()

    def field_pattern(self, found: list[str]) -> None:
        if self.kind == "variable":
            found.append(self.binding())
            if not self.is_op(":"):
                return
        elif self.kind == "word":
            self.advance()
        elif self.kind in ("quote", "format"):
            self.string()
        else:
            self.expect("(")
            self.query()
            self.expect(")")
        self.expect(":")
        self.pattern(found)

    def binding(self) -> str:
        if self.kind != "variable" or self.text == "$__loc__":
            raise Stop(self.unexpected("a variable such as `$x`"))
        name = self.text[1:]
        self.advance()
        return name

    # ---- expressions

    def expression(self, least: int) -> Node:
        """Operators of at least this precedence, by precedence climbing."""
        left = self.term()
        barred = 0
        while self.kind in ("op", "word"):
            level, side = _BINARY.get(self.text, (0, ""))
            if level <= least:
                break
            if level == barred:
                hint = "put parentheses around one of them"
                raise Stop(SyntaxProblem(self.start, f"`{self.text}` cannot follow another operator of its kind", hint))
            operator = self.text
            self.advance()
            if side == "right":
                self.nest()
                right = self.expression(level - 1)
                self.leave()
            else:
                right = self.expression(level)
            left = nodes.Beyond(operator) if level == 2 else nodes.Binary(operator, left, right)
            # A higher operator closes nothing: only an equal one right after is refused.
            barred = level if side == "none" else 0
        return left

    def term(self) -> Node:
        """A term with its suffixes: `.a.b[0]?`."""
        self.nest()
        node, name = self.primary()
        while True:
            key_at = self.start
            if self.kind == "field":
                key: Node = nodes.Literal(self.text[1:])
                key_at += 1
                self.advance()
                node = nodes.Index(node, key, self.optional())
            elif self.is_op("[") or (self.is_op(".") and self.source.startswith(("[", '"', "@"), self.next_start())):
                dotted = self.take(".")
                key_at = self.start
                if self.kind in ("quote", "format"):
                    key = self.string()
                    node = nodes.Index(node, key, self.optional())
                else:
                    key_at = self.next_start()
                    node, key = self.bracket(node)
                    if dotted and isinstance(node, nodes.Slice):
                        raise Stop(SyntaxProblem(key_at, "a slice takes no dot in front", "leave out the `.`"))
            elif self.take("?"):
                node = nodes.Try(node)
                continue
            else:
                break
            if name is not None:
                if isinstance(key, nodes.Literal) and isinstance(key.value, str):
                    self.names[name] = replace(self.names[name], field=key.value, field_offset=key_at)
                name = None
        self.leave()
        return node

    def optional(self) -> bool:
        return self.take("?")

    def bracket(self, target: Node) -> tuple[Node, Node]:
        """`[]`, `[key]`, `[from:to]` after a term; also gives the key."""
        nothing = nodes.Beyond("")
        self.expect("[")
        if self.take("]"):
            return nodes.Iterate(target, self.optional()), nothing
        if self.take(":"):
            end = self.query()
            self.expect("]")
            return nodes.Slice(target, None, end, self.optional()), nothing
        key = self.query()
        if self.take(":"):
            until = None if self.is_op("]") else self.query()
            self.expect("]")
            return nodes.Slice(target, key, until, self.optional()), nothing
        self.expect("]")
        return nodes.Index(target, key, self.optional()), key

    def primary(self) -> tuple[Node, int | None]:
        """The head of a term, and which of `names` it is."""
        kind, text = self.kind, self.text
        if kind == "field":
            self.advance()
            return nodes.Index(nodes.Identity(), nodes.Literal(text[1:]), self.optional()), None
        if kind == "variable":
            return self.variable()
        if kind == "number":
            return self.number(), None
        if kind == "quote":
            return self.string(), None
        if kind == "format":
            return self.format(), None
        if kind == "word":
            return self.word(), None
        if kind == "op":
            return self.symbol(), None
        raise Stop(self.unexpected())

    def number(self) -> Node:
        text = self.text
        self.advance()
        if _PLAIN_NUMBER.fullmatch(text) is None or len(text) > 17:
            return nodes.Beyond("number")
        value = float(text) if "." in text else int(text)
        # jq keeps a literal's text: only one that Python writes the same way is compiled.
        return nodes.Literal(value) if repr(value) == text else nodes.Beyond("number")

    def format(self) -> Node:
        name = self.text
        if self.source.startswith('"', self.next_start()):
            return self.string()
        self.advance()
        return nodes.Call("tostring", ()) if name == "@text" else nodes.Beyond(name)

    def symbol(self) -> Node:
        if self.take("."):
            if self.kind in ("quote", "format"):
                return nodes.Index(nodes.Identity(), self.string(), self.optional())
            return nodes.Identity()
        if self.take(".."):
            return nodes.Beyond("..")
        if self.take("-"):
            return nodes.Negate(self.term())
        if self.take("("):
            inner = self.query()
            self.expect(")")
            return inner
        if self.take("["):
            if self.take("]"):
                return nodes.Array(None)
            inner = self.query()
            self.expect("]")
            return nodes.Array(inner)
        if self.take("{"):
            return self.object()
        raise Stop(self.unexpected())

    # ---- words

    def word(self) -> Node:
        text, start = self.text, self.start
        if text in _CONSTANTS:
            self.advance()
            if not self.is_op("("):
                return nodes.Literal(_CONSTANTS[text])
        elif text in KEYWORDS:
            return self.keyword()
        else:
            self.advance()
        arguments: list[Node] = []
        if self.take("("):
            arguments.append(self.query())
            while self.take(";"):
                arguments.append(self.query())
            self.expect(")")
        return self.call(text, arguments, start)

    def keyword(self) -> Node:
        word, start = self.text, self.start
        if word == "if":
            return self.conditional()
        if word == "try":
            self.advance()
            body = self.term()
            if self.is_word("catch"):
                self.advance()
                self.term()
                return nodes.Beyond("catch")
            return nodes.Try(body)
        if word in ("reduce", "foreach"):
            self.advance()
            self.expression(0)
            self.expect("as")
            before = len(self.variables)
            self.patterns()
            self.expect("(")
            self.query()
            self.expect(";")
            self.query()
            if word == "foreach" and self.take(";"):
                self.query()
            self.expect(")")
            del self.variables[before:]
            return nodes.Beyond(word)
        if word == "break":
            self.advance()
            label = self.binding()
            if label not in self.labels:
                self.problems.append(SyntaxProblem(start, f"there is no `label ${label}` to break to"))
            return nodes.Beyond("break")
        raise Stop(self.unexpected())

    def conditional(self) -> Node:
        branches: list[tuple[Node, Node]] = []
        while True:
            self.advance()
            condition = self.query()
            self.expect("then")
            branches.append((condition, self.query()))
            if not self.is_word("elif"):
                break
        otherwise: Node = self.query() if self.take("else") else nodes.Identity()
        self.expect("end", " of `if`")
        return nodes.If(tuple(branches), otherwise)

    # ---- objects and strings

    def object(self) -> Node:
        entries: list[tuple[Node, Node]] = []
        while not self.is_op("}"):
            entries.append(self.entry())
            if not self.take(","):
                break
        self.expect("}")
        return nodes.Object(tuple(entries))

    def entry(self) -> tuple[Node, Node]:
        key: Node
        if self.kind == "variable":
            name = self.text[1:]
            key, _ = self.variable()
            if name != "__loc__" and self.take(":"):
                return key, self.entry_value()
            return nodes.Literal(name), key
        if self.kind == "word":
            key = nodes.Literal(self.text)
            self.advance()
        elif self.kind in ("quote", "format"):
            key = self.string()
        elif self.take("("):
            key = self.query()
            self.expect(")")
            self.expect(":")
            return key, self.entry_value()
        else:
            raise Stop(replace(self.unexpected("a key"), hint="put a key that is computed in parentheses: {(…): …}"))
        if self.take(":"):
            return key, self.entry_value()
        return key, nodes.Index(nodes.Identity(), key)

    def entry_value(self) -> Node:
        parts = [self.expression(0)]
        while self.take("|"):
            parts.append(self.expression(0))
        return parts[0] if len(parts) == 1 else nodes.Pipe(tuple(parts))

    def string(self) -> Node:
        """A string, with a format in front or not. The token that is looked at is its quote or its format."""
        format: str | None = None
        if self.kind == "format":
            format = None if self.text == "@text" else self.text
            self.advance()
        if self.kind != "quote":
            raise Stop(self.unexpected("a string"))
        opened = self.start
        parts: list[str | Node] = []
        while True:
            match = _PLAIN_TEXT.match(self.source, self.stop)
            assert match is not None
            if match.end() > self.stop:
                parts.append(read_text(match[0], self.stop))
            self.stop = match.end()
            if self.source.startswith("\\(", self.stop):
                self.stop += 2
                self.advance()
                parts.append(self.query())
                if not self.is_op(")"):
                    raise Stop(self.unexpected("`)`"))
                # Not `take`: after the `)` the string goes on.
            elif self.source.startswith('"', self.stop):
                self.stop += 1
                self.advance()
                break
            else:
                raise Stop(SyntaxProblem(opened, "the string is not closed", 'it ends with a `"`'))
        if all(isinstance(part, str) for part in parts):
            return nodes.Literal("".join(part for part in parts if isinstance(part, str)))
        return nodes.Beyond(format) if format else nodes.Interpolation(tuple(parts))
