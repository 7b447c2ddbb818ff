"""How the tests of documents read one: with the real kinds and the real expression language."""

from __future__ import annotations

from typing import Literal

from taskforge.core.definition import Definition, DefinitionLimits, parse_definition
from taskforge.core.errors import InvalidDefinition
from taskforge.core.problem import Problem, format_problem
from taskforge.expressions.template import parse_template
from taskforge.steps.registry import built_in_kinds
from taskforge.triggers.schedule import parse_schedule

KINDS = built_in_kinds()


def read(text: str | bytes, media: Literal["yaml", "json"] = "yaml", **limits: int) -> Definition:
    data = text.encode() if isinstance(text, str) else text
    return parse_definition(data, media, KINDS, parse_template, DefinitionLimits(**limits), parse_schedule)


def problems_of(text: str | bytes, media: Literal["yaml", "json"] = "yaml", **limits: int) -> list[Problem]:
    """The errors of a document, or the warnings of a valid one."""
    try:
        return read(text, media, **limits).warnings
    except InvalidDefinition as error:
        return error.problems


def lines_of(text: str | bytes, media: Literal["yaml", "json"] = "yaml", **limits: int) -> list[str]:
    return [format_problem(problem) for problem in problems_of(text, media, **limits)]
