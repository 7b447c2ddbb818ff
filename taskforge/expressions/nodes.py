"""The tree that `syntax.parse_program` makes of a jq program.

Only what `compiled` can use keeps its shape; everything else is a `Beyond`, which the jq child evaluates. Names and
calls are collected while parsing, so the tree is not needed to find them.
"""

from __future__ import annotations

from typing import TypeAlias

from taskforge.core.record import dataclass


@dataclass(frozen=True, slots=True)
class Beyond:
    """Something outside the subset that is compiled in process."""

    what: str


@dataclass(frozen=True, slots=True)
class Identity:
    """`.`"""


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant: null, true, false, a number or a string without interpolation."""

    value: bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Variable:
    """`$name`"""

    name: str


@dataclass(frozen=True, slots=True)
class Index:
    """`target.key`, `target[key]`"""

    target: Node
    key: Node
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Slice:
    """`target[start:end]`; a side that is not written is None."""

    target: Node
    start: Node | None
    end: Node | None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Iterate:
    """`target[]`"""

    target: Node
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Try:
    """`try body` and `body?`"""

    body: Node


@dataclass(frozen=True, slots=True)
class Pipe:
    """`a | b | c`"""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Comma:
    """`a, b, c`"""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Binary:
    """`left op right` for `+ - * / % == != < <= > >= and or //`"""

    operator: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Negate:
    """`-term`"""

    operand: Node


@dataclass(frozen=True, slots=True)
class Array:
    """`[body]`; None for `[]`."""

    body: Node | None


@dataclass(frozen=True, slots=True)
class Object:
    """`{key: value, …}`"""

    entries: tuple[tuple[Node, Node], ...]


@dataclass(frozen=True, slots=True)
class Interpolation:
    """`"text \\(program) text"`: constants and programs in their order."""

    parts: tuple[str | Node, ...]


@dataclass(frozen=True, slots=True)
class If:
    """`if c1 then b1 elif c2 then b2 else b3 end`; without `else` the last branch is `.`"""

    branches: tuple[tuple[Node, Node], ...]
    otherwise: Node


@dataclass(frozen=True, slots=True)
class Call:
    """`name`, `name(a; b)`"""

    name: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Bind:
    """`source as $name | body`"""

    source: Node
    name: str
    body: Node


Node: TypeAlias = (
    Beyond
    | Identity
    | Literal
    | Variable
    | Index
    | Slice
    | Iterate
    | Try
    | Pipe
    | Comma
    | Binary
    | Negate
    | Array
    | Object
    | Interpolation
    | If
    | Call
    | Bind
)


@dataclass(frozen=True, slots=True)
class Name:
    """A free `$root` of a program, with its first field where that is a constant: `$vars.X`, `$vars["X"]`.

    `offset` and `field_offset` count characters from 0, from the start of the program (in a template: of the scalar).
    """

    root: str
    field: str | None
    offset: int
    field_offset: int | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """A jq program that has been read. `names` are its free variables, in the order of the text."""

    source: str
    body: Node
    names: tuple[Name, ...]
