"""Expressions that people try out: by themselves, or against what a run saw. Nothing is stored, nothing is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager

from taskforge.core.clock import to_rfc3339
from taskforge.core.errors import ExpressionFailed, InvalidExpression, TooManyRequests
from taskforge.core.model import JSON, Step
from taskforge.core.problem import Problem, quoted, suggest
from taskforge.core.progress import ASIDE
from taskforge.core.record import dataclass
from taskforge.core.snapshot import RunSnapshot, StepRun
from taskforge.engine.evaluation import Expressions
from taskforge.expressions.compiled import compile_program
from taskforge.expressions.errors import EvaluationFailed, ExpressionSyntaxError
from taskforge.expressions.evaluator import Batch, Evaluator, Program
from taskforge.expressions.nodes import Name
from taskforge.expressions.syntax import parse_program
from taskforge.expressions.template import Expression, Template, TemplateError, parse_template

_OF_A_RUN = ("input", "vars", "secrets", "trigger", "run", "steps", "state", "now", "error")
_OF_THE_SERVER = ("vars", "secrets")
_OF_A_LOOP = ("item", "index")
_MOST_WAITING = 16


@dataclass(frozen=True, slots=True)
class _Asked:
    """An expression as given: the text, its programs, and for `${{ }}` the template that they stand in."""

    text: str
    expressions: tuple[Expression, ...]
    template: Template | None

    @property
    def names(self) -> Iterator[Name]:
        for expression in self.expressions:
            yield from expression.names

    def problem(self, offset: int, message: str, hint: str | None = None) -> Problem:
        """A finding `offset` characters into the text."""
        before = self.text[:offset]
        column = offset - (before.rfind("\n") + 1) + 1
        return Problem("expression", message, before.count("\n") + 1, column, hint)


class Trials:
    """Evaluates in the jq child with its limits, one trial at a time: runs always have the other children."""

    def __init__(self, evaluator: Evaluator, expressions: Expressions) -> None:
        self._evaluator = evaluator
        self._expressions = expressions
        self._turn = asyncio.Semaphore(1)
        self._waiting = 0

    async def evaluate(self, text: str, dot: JSON, variables: Mapping[str, JSON], now: int) -> list[JSON]:
        """Every result of a program (`${{ }}` may stand around it) with these variables, and `$now`.

        Raises InvalidExpression, ExpressionFailed, TooManyRequests.
        """
        asked = await asyncio.to_thread(_read, text)
        given = {"now": to_rfc3339(now), **variables}
        _check_names(asked, given)
        # Only what the program names: no key of `variables` is ever read as a piece of a program.
        named = {name.root: given[name.root] for name in asked.names}
        async with self._its_turn():
            return await self._ask(asked, named, dot, now)

    async def evaluate_in_run(
        self, run: RunSnapshot, at: StepRun | None, text: str, dot: JSON, now: int, *, with_values: bool = True
    ) -> list[JSON]:
        """The same with the names that a step, or without one the end of the run, sees in its expressions. With a step
        and without `dot`, `.` is the step's output. No value of a secret is seen, nor in a result."""
        asked = await asyncio.to_thread(_read, text)
        if not with_values:
            _refuse_values(asked)
        self._check_scope(asked, run, at)
        stored = self._expressions.stored
        async with self._its_turn():
            try:
                variables = await self._expressions.seen(run, at, asked.names)
            except EvaluationFailed as error:
                raise InvalidExpression(error.message, problems=[asked.problem(0, error.message)]) from None
            if dot is None and at is not None:
                dot = stored.mask(at.output)
            moment = (run.started_at or run.created_at) if at is None else at.ready_at
            results = await self._ask(asked, variables, dot, moment or now)
        masked: list[JSON] = stored.mask(results)
        return masked

    # ---- how

    @asynccontextmanager
    async def _its_turn(self) -> AsyncIterator[None]:
        if self._waiting >= _MOST_WAITING:
            raise TooManyRequests("many expressions are being tried out; try again in a moment")
        self._waiting += 1
        try:
            async with self._turn:
                yield
        finally:
            self._waiting -= 1

    async def _ask(self, asked: _Asked, variables: dict[str, JSON], dot: JSON, now: int) -> list[JSON]:
        await self._check_syntax(asked)
        programs = tuple(Program(expression.source, dot) for expression in asked.expressions)
        try:
            answers = await self._evaluator.evaluate(Batch(variables, now, programs))
            for answer in answers:
                if isinstance(answer, EvaluationFailed):
                    raise answer
            found = [answer for answer in answers if not isinstance(answer, EvaluationFailed)]
            if asked.template is None:
                return found[0]
            return [asked.template.render([_only(results) for results in found])]
        except EvaluationFailed as error:
            message = self._expressions.stored.mask(error.message)
            place = asked.problem(asked.expressions[0].offset if asked.expressions else 0, message)
            raise ExpressionFailed(message, detail={"reason": error.code}, problems=[place]) from None

    async def _check_syntax(self, asked: _Asked) -> None:
        """What only jq itself finds wrong."""
        doubtful = [one for one in asked.expressions if compile_program(one.source) is None]
        sources = [(one.source, list(dict.fromkeys(name.root for name in one.names))) for one in doubtful]
        complaints = await self._evaluator.check(sources)
        problems = [
            asked.problem(one.offset + complaint.offset, complaint.message, complaint.hint)
            for one, complaint in zip(doubtful, complaints, strict=True)
            if complaint is not None
        ]
        _refuse(problems)

    @staticmethod
    def _check_scope(asked: _Asked, run: RunSnapshot, at: StepRun | None) -> None:
        loops = () if at is None else at.step.loops
        in_scope = {id for id, step in run.plan.index.items() if step.loops == loops[: len(step.loops)]}
        known = {*_OF_A_RUN, *in_scope, *(_OF_A_LOOP if loops else ())}
        problems = []
        for name in asked.names:
            step = run.plan.index.get(name.root)
            if name.root in known:
                continue
            if name.root in _OF_A_LOOP or step is not None:
                problems.append(asked.problem(name.offset, _inside(name.root, step), _item_hint(run, step)))
            else:
                problems.append(_unknown(asked, name, known))
        _refuse(problems)


def _only(results: list[JSON]) -> JSON:
    if len(results) == 1:
        return results[0]
    message = f"inside a longer text an expression must give one result, not {len(results)}"
    raise EvaluationFailed("EXPRESSION_ERROR", message)


def _read(text: str) -> _Asked:
    """Bare jq, one `${{ }}` alone, or a text with several of them."""
    bare = _Asked(text, (), None)
    if "${{" not in text:
        try:
            program = parse_program(text)
        except ExpressionSyntaxError as error:
            raise _refusal([bare.problem(one.offset, one.message, one.hint) for one in error.problems]) from None
        return _Asked(text, (Expression(text, 0, program.names, program),), None)
    try:
        template = parse_template(text)
    except TemplateError as error:
        raise _refusal([bare.problem(one.offset, one.message, one.hint) for one in error.problems]) from None
    alone = text.strip().startswith("${{") and len(template.expressions) == 1 and _is_whole(text, template)
    return _Asked(text, template.expressions, None if alone else template)


def _is_whole(text: str, template: Template) -> bool:
    """Whether nothing but space stands around the only expression."""
    only = template.expressions[0]
    return not text[only.offset + len(only.source) :].strip().removeprefix("}}").strip()


def _check_names(asked: _Asked, known: Collection[str]) -> None:
    _refuse([_unknown(asked, name, known) for name in asked.names if name.root not in known])


def _unknown(asked: _Asked, name: Name, known: Collection[str]) -> Problem:
    near = suggest(f"${name.root}", [f"${other}" for other in known])
    hint = near or "there are: " + ", ".join(sorted(f"${other}" for other in known)[:20])
    return asked.problem(name.offset, f"{quoted('$' + name.root)} is not defined", hint)


def _inside(name: str, step: Step | None) -> str:
    if step is None:
        return f"{quoted('$' + name)} is there only for a step inside a foreach or repeat"
    return f"{quoted('$' + name)} is seen only inside {quoted(step.loops[-1])}, once for each item"


def _item_hint(run: RunSnapshot, step: Step | None) -> str | None:
    """How to name one item's step: one that there is."""
    for path, at in run.steps.items():
        wanted = at.step is step if step is not None else bool(at.step.loops)
        if wanted and at.stage != ASIDE:
            return f"name a step whose names are meant, such as {quoted(path)}"
    return None


def _refusal(problems: list[Problem]) -> InvalidExpression:
    first = problems[0]
    place = f"line {first.line}, column {first.column}: " if first.line else ""
    return InvalidExpression(f"the expression is wrong: {place}{first.message}", problems=problems)


def _refuse_values(asked: _Asked) -> None:
    """`$vars` and `$secrets` belong to the server, not to a workflow."""
    told = "this token is for single workflows"
    _refuse(
        [
            asked.problem(name.offset, f"{quoted('$' + name.root)} is the server's; {told}")
            for name in asked.names
            if name.root in _OF_THE_SERVER
        ]
    )


def _refuse(problems: list[Problem]) -> None:
    if problems:
        raise _refusal(problems)
