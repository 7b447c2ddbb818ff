"""What can go wrong with an expression, before and while it is evaluated."""

from __future__ import annotations

from taskforge.core.record import dataclass

EXPRESSION_ERROR = "EXPRESSION_ERROR"
EXPRESSION_TIMEOUT = "EXPRESSION_TIMEOUT"
EXPRESSION_MEMORY = "EXPRESSION_MEMORY"
EXPRESSION_TOO_LARGE = "EXPRESSION_TOO_LARGE"


class EvaluationFailed(Exception):
    """An evaluation that gave no result. ``code`` is one of the four above, ``message`` is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __repr__(self) -> str:
        return f"EvaluationFailed({self.code!r}, {self.message!r})"


class TooBig(Exception):
    """The in-process form of a program leaves this input to jq itself: too big, or a corner of jq.

    No error of the program: the caller sends the program to the jq child, which decides.
    """


@dataclass(frozen=True, slots=True)
class SyntaxProblem:
    """One thing wrong with a program. ``offset`` counts characters from 0; ``hint`` says what to do."""

    offset: int
    message: str
    hint: str | None = None


class ExpressionSyntaxError(Exception):
    """A program that cannot be used, with everything that is wrong with it. ``problems`` is never empty."""

    def __init__(self, problems: tuple[SyntaxProblem, ...]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = problems
