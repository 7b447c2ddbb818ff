"""Finds `${{ … }}` in the strings of a document and puts the results in their place.

Only strings of the document itself are looked at, once, when the version is published or loaded. Results are put in as
they are and never looked at again: data that contains `${{ … }}` stays data.

- A string that is one expression and nothing else (line breaks at its end, as YAML block scalars have, aside) keeps the
  result's JSON type.
- In a longer string the result goes in as text: strings as they are, numbers with all their digits, booleans, arrays
  and objects as compact JSON. null is an error.
- `$${{` is a literal `${{`. Object keys are never templates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import field, replace

from taskforge.core import jsontext
from taskforge.core.model import JSON
from taskforge.core.problem import format_path, quoted, suggest
from taskforge.core.record import dataclass
from taskforge.expressions.errors import EXPRESSION_ERROR, EXPRESSION_TOO_LARGE, EvaluationFailed, ExpressionSyntaxError
from taskforge.expressions.nodes import Name
from taskforge.expressions.nodes import Program as Syntax
from taskforge.expressions.syntax import parse_program

__all__ = ["Expression", "Name", "Problem", "Template", "TemplateError", "parse_template", "text_of", "unknown_names"]

Pointer = tuple[str | int, ...]
_Render = Callable[[Sequence[JSON]], JSON]

_OPENING = "${{"
_SPACE = " \t\r\n"
_INTERESTING = re.compile(r'["#{}]')
_IN_STRING = re.compile(r'"|\\\(|\\.|\\', re.DOTALL)
_IN_INTERPOLATION = re.compile(r'["#()]')
_UNTERMINATED = "`${{` is opened here and has no `}}`"
_QUOTE_IT = "put it in single quotes: '${{ … }}'; a `${{` that is plain text is written `$${{`"


@dataclass(frozen=True, slots=True)
class Expression:
    """One jq program in a template. `offset` is the program's first character within its scalar, from 0.

    The offsets of `names` count from the start of the scalar too.
    """

    source: str
    offset: int
    names: tuple[Name, ...]
    program: Syntax = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a template: in which scalar, at which character of it (from 0), what, and what to do."""

    pointer: Pointer
    offset: int
    message: str
    hint: str | None = None


class TemplateError(Exception):
    """A template that cannot be used, with everything that is wrong with it, in the order of the document."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = list(problems)


class Template:
    """A JSON value with expressions in it. Immutable; made by `parse_template`.

    `expressions` in the order of the document, `pointers` says where each sits.
    """

    __slots__ = ("_render", "expressions", "is_literal", "pointers")

    def __init__(self, expressions: Sequence[Expression], pointers: Sequence[Pointer], render: _Render) -> None:
        self.expressions: tuple[Expression, ...] = tuple(expressions)
        self.pointers: tuple[Pointer, ...] = tuple(pointers)
        self.is_literal = not self.expressions
        self._render = render

    def render(self, results: Sequence[JSON]) -> JSON:
        """Put one result for each expression in its place. Literal parts are shared: do not change them.

        Raises EvaluationFailed (EXPRESSION_ERROR) where null goes into a longer string.
        """
        return self._render(results)


def parse_template(value: JSON) -> Template:
    """Find and read every expression in a JSON value. Raises TemplateError with all problems."""
    reader = _Reader()
    render = reader.value(value, ())
    if reader.problems:
        raise TemplateError(reader.problems)
    if render is None:
        literal = reader.literal(value)
        return Template((), (), lambda results: literal)
    return Template(reader.expressions, reader.pointers, render)


def unknown_names(template: Template, known: Collection[str]) -> list[Problem]:
    """Give a problem for every free name that is not known, each with the nearest known one."""
    problems = []
    for expression, pointer in zip(template.expressions, template.pointers, strict=True):
        for name in expression.names:
            if name.root not in known:
                hint = suggest(f"${name.root}", [f"${other}" for other in known])
                problems.append(Problem(pointer, name.offset, f"{quoted('$' + name.root)} is not defined", hint))
    return problems


def text_of(value: JSON) -> str:
    """A value as it stands inside a longer string. null has no text: the caller refuses it."""
    if isinstance(value, str):
        return value
    try:
        return jsontext.dumps(value)
    except jsontext.JsonError as error:
        raise EvaluationFailed(EXPRESSION_TOO_LARGE, f"a result cannot be put into a text: {error}") from None


class _Reader:
    """Walks a value once. Gives a render function for what holds expressions and None for what is literal."""

    def __init__(self) -> None:
        self.expressions: list[Expression] = []
        self.pointers: list[Pointer] = []
        self.problems: list[Problem] = []
        self.escapes = False

    def value(self, value: JSON, pointer: Pointer) -> _Render | None:
        if isinstance(value, str):
            return self.scalar(value, pointer) if _OPENING in value else None
        if isinstance(value, list):
            items = [self.value(item, (*pointer, index)) for index, item in enumerate(value)]
            return _list_render([self.part(*pair) for pair in zip(items, value, strict=True)]) if any(items) else None
        if isinstance(value, dict):
            fields = {key: self.value(item, (*pointer, key)) for key, item in value.items()}
            if not any(fields.values()):
                return None
            return _object_render({key: self.part(fields[key], item) for key, item in value.items()})
        return None

    def part(self, render: _Render | None, value: JSON) -> tuple[_Render | None, JSON]:
        return render, None if render else self.literal(value)

    def literal(self, value: JSON) -> JSON:
        """The value with `$${{` read as `${{`; the value itself where there is none."""
        if not self.escapes:
            return value
        if isinstance(value, str):
            return value.replace("$${{", _OPENING)
        if isinstance(value, list):
            return [self.literal(item) for item in value]
        if isinstance(value, dict):
            return {key: self.literal(item) for key, item in value.items()}
        return value

    def scalar(self, text: str, pointer: Pointer) -> _Render | None:
        parts: list[str | int] = []
        position = 0
        first = len(self.expressions)
        for start, end in self.spans(text, pointer):
            if start < 0:
                parts += [text[position : end - len(_OPENING) - 1], _OPENING]
                position = end
                continue
            parts.append(text[position : start - len(_OPENING)])
            parts.append(len(self.expressions))
            self.add(text[start:end], start, pointer)
            position = end + 2
        if len(self.expressions) == first:
            self.escapes = self.escapes or bool(parts)
            return None
        parts.append(text[position:])
        kept = [part for part in parts if part != ""]
        if len(kept) > 1 and kept[0] == first and kept[1:] == [text[position:]] and not text[position:].strip("\r\n"):
            kept = kept[:1]
        return _whole_render(first) if len(kept) == 1 else _text_render(kept, pointer)

    def spans(self, text: str, pointer: Pointer) -> Iterator[tuple[int, int]]:
        """Start and end of each program; (-1, end) for a `$${{` that ends there."""
        position = 0
        while (found := text.find(_OPENING, position)) >= 0:
            start = found + len(_OPENING)
            if found > position and text[found - 1] == "$":
                yield -1, start
                position = start
                continue
            end = _find_end(text, start)
            if end < 0:
                self.problems.append(Problem(pointer, found, _UNTERMINATED, _QUOTE_IT))
                return
            yield start, end
            position = end + 2

    def add(self, source: str, offset: int, pointer: Pointer) -> None:
        offset += len(source) - len(source.lstrip(_SPACE))
        source = source.strip(_SPACE)
        try:
            program = parse_program(source)
        except ExpressionSyntaxError as error:
            self.problems += [Problem(pointer, offset + p.offset, p.message, p.hint) for p in error.problems]
            program = parse_program(".")
        names = tuple(
            replace(
                name,
                offset=name.offset + offset,
                field_offset=None if name.field_offset is None else name.field_offset + offset,
            )
            for name in program.names
        )
        self.expressions.append(Expression(source, offset, names, program))
        self.pointers.append(pointer)


def _find_end(text: str, position: int) -> int:
    """Where the `}}` stands that ends the program: outside strings and balanced braces. -1 when there is none."""
    braces = 0
    while match := _INTERESTING.search(text, position):
        position = match.end()
        character = match[0]
        if character == "{":
            braces += 1
        elif character == "}":
            if braces:
                braces -= 1
            elif text.startswith("}", position):
                return match.start()
        elif character == "#":
            # A comment runs to the end of its line, but hides no end: `${{ .a # note }}` is whole.
            newline = text.find("\n", position)
            line_end = len(text) if newline < 0 else newline
            if not braces and (close := text.find("}}", position, line_end)) >= 0:
                return close
            position = line_end
        else:
            position = _skip_string(text, position)
            if position < 0:
                return -1
    return -1


def _skip_string(text: str, position: int) -> int:
    """The end of the jq string whose text starts here, interpolations included; -1 when it is not closed."""
    open_parens: list[int] = []
    inside = True
    while match := (_IN_STRING if inside else _IN_INTERPOLATION).search(text, position):
        position = match.end()
        character = match[0]
        if inside:
            if character == "\\(":
                open_parens.append(0)
                inside = False
            elif character == '"':
                if not open_parens:
                    return position
                inside = False
        elif character == '"':
            inside = True
        elif character == "#":
            newline = text.find("\n", position)
            position = len(text) if newline < 0 else newline
        elif character == "(":
            open_parens[-1] += 1
        elif open_parens[-1]:
            open_parens[-1] -= 1
        else:
            open_parens.pop()
            inside = True
    return -1


def _whole_render(index: int) -> _Render:
    return lambda results: results[index]


def _text_render(parts: Sequence[str | int], pointer: Pointer) -> _Render:
    def render(results: Sequence[JSON]) -> JSON:
        texts = []
        for part in parts:
            if isinstance(part, str):
                texts.append(part)
                continue
            result = results[part]
            if result is None:
                message = (
                    f"{format_path(pointer) or 'the text'}: an expression gave null, which has no place inside a text"
                )
                raise EvaluationFailed(EXPRESSION_ERROR, message + '; give it a default, such as `… // ""`')
            texts.append(text_of(result))
        return "".join(texts)

    return render


def _list_render(parts: Sequence[tuple[_Render | None, JSON]]) -> _Render:
    return lambda results: [render(results) if render else literal for render, literal in parts]


def _object_render(parts: dict[str, tuple[_Render | None, JSON]]) -> _Render:
    items = tuple((key, render, literal) for key, (render, literal) in parts.items())
    return lambda results: {key: render(results) if render else literal for key, render, literal in items}
