"""What the results of a program must be where they are used: exactly one, or a condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from taskforge.core.model import JSON
from taskforge.expressions.errors import EXPRESSION_ERROR, EvaluationFailed

Result: TypeAlias = "list[JSON] | EvaluationFailed"
"""Every result of a program, or why it has none."""


def single(results: Sequence[JSON] | EvaluationFailed) -> JSON:
    """The one result of a program. Raises EvaluationFailed: the program's own, or that there are none or several."""
    if isinstance(results, EvaluationFailed):
        raise results
    if len(results) == 1:
        return results[0]
    if not results:
        raise EvaluationFailed(
            EXPRESSION_ERROR, "the expression gave no result; use `[…]` for a list, which may be empty"
        )
    message = f"the expression gave {len(results):,} results; use `[…]` for a list of them or `first(…)` for the first"
    raise EvaluationFailed(EXPRESSION_ERROR, message)


def condition(value: JSON) -> bool:
    """The value of an `if`, `when` or `until`: true, false or null. Raises EvaluationFailed for anything else."""
    if value is True:
        return True
    if value is False or value is None:
        return False
    names = {int: "a number", float: "a number", str: "a string", list: "an array", dict: "an object"}
    message = f"a condition must give true, false or null, not {names[type(value)]}"
    raise EvaluationFailed(EXPRESSION_ERROR, message + "; compare it, as in `… == 1` or `… | length > 0`")
