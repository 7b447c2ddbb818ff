"""What only jq itself can say of a document's expressions: whether it compiles them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskforge.core.problem import Problem
from taskforge.expressions.compiled import compile_program
from taskforge.expressions.syntax import parse_program

if TYPE_CHECKING:
    from taskforge.core.definition import Definition
    from taskforge.expressions.evaluator import Evaluator


async def jq_problems(evaluator: Evaluator, definition: Definition) -> list[Problem]:
    """Return jq's complaints, each at its place. Programs that run in process need no jq, and are not sent."""
    sent = {source: _names(source) for source in dict.fromkeys(one.source for one in definition.expressions)}
    sent = {source: names for source, names in sent.items() if compile_program(source) is None}
    if not sent:
        return []
    answers = await evaluator.check(list(sent.items()))
    wrong = {source: answer for source, answer in zip(sent, answers, strict=True) if answer is not None}
    return [
        definition.problem_at(expression, wrong[expression.source].message, offset=wrong[expression.source].offset)
        for expression in definition.expressions
        if expression.source in wrong
    ]


def needs_jq(definition: Definition) -> bool:
    """Return whether the document has a program that does not run in process."""
    return any(compile_program(expression.source) is None for expression in definition.expressions)


def _names(source: str) -> list[str]:
    return list(dict.fromkeys(name.root for name in parse_program(source).names))
