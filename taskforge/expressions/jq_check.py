"""What only jq itself can say of a document's expressions: whether it compiles them."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from taskforge.core.problem import Problem
from taskforge.expressions import worker
from taskforge.expressions.compiled import compile_program
from taskforge.expressions.syntax import parse_program

if TYPE_CHECKING:
    from taskforge.core.definition import Definition
    from taskforge.expressions.evaluator import Evaluator


_SECONDS: Final = 10.0
_MEMORY_BYTES: Final = 512 * 1024 * 1024


async def jq_problems(evaluator: Evaluator, definition: Definition) -> list[Problem]:
    """Return jq's complaints, each at its place. Programs that run in process need no jq, and are not sent."""
    sent = _programs([definition])
    if not sent:
        return []
    answers = await evaluator.check(list(sent.items()))
    wrong = {source: answer for source, answer in zip(sent, answers, strict=True) if answer is not None}
    return [
        definition.problem_at(expression, wrong[expression.source].message, offset=wrong[expression.source].offset)
        for expression in definition.expressions
        if expression.source in wrong
    ]


def jq_agrees(definitions: Iterable[Definition]) -> bool:
    """Return True only where jq compiles every program. For short-lived processes: a fork of this one, which gives up
    what it does not need as jq children do, costs a seventh of a child. What is wrong, `jq_problems` says.
    """
    programs = _programs(definitions)
    if not programs:
        return True
    if not hasattr(os, "fork") or threading.active_count() > 1:
        return False
    pid = os.fork()
    if pid == 0:
        agrees = False
        with contextlib.suppress(BaseException):
            agrees = worker.compile_all(
                list(programs), sorted({name for names in programs.values() for name in names}), _SECONDS, _MEMORY_BYTES
            )
        os._exit(0 if agrees else 1)
    return os.waitpid(pid, 0)[1] == 0


def _programs(definitions: Iterable[Definition]) -> dict[str, list[str]]:
    """The programs that do not run in process, each with the names that it uses."""
    sources = dict.fromkeys(expression.source for one in definitions for expression in one.expressions)
    return {source: _names(source) for source in sources if compile_program(source) is None}


def _names(source: str) -> list[str]:
    return list(dict.fromkeys(name.root for name in parse_program(source).names))
