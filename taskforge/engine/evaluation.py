"""Evaluates a step's expressions: in process where they compile, else in the jq child, one round trip a step.

Gives expressions their names (`$input`, `$<step>`, `$steps`, `$run`, …). Data is only ever a variable's value; nothing
that comes from outside is parsed as an expression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from taskforge.core.attempts import JUDGED
from taskforge.core.clock import to_rfc3339
from taskforge.core.errors import Failure
from taskforge.core.kind import ActionKind
from taskforge.core.model import JSON, SKIPPED, Evaluation, Name, Prepared, Template
from taskforge.core.progress import ASIDE
from taskforge.core.record import dataclass
from taskforge.core.snapshot import RunSnapshot, StepRun
from taskforge.core.states import StepState
from taskforge.engine.resuming import next_target, targets_by_id
from taskforge.engine.sources import NotFetched
from taskforge.engine.values import StoredValues
from taskforge.engine.workflow_state import WorkflowState
from taskforge.expressions.compiled import TooBig, compile_single
from taskforge.expressions.errors import EvaluationFailed
from taskforge.expressions.evaluator import Batch, Evaluator, Program, condition, single
from taskforge.security.providers import ProviderFailed
from taskforge.security.resume_links import ResumeLinks

Inline = Callable[[Mapping[str, JSON], JSON], JSON]

_LINK = "[one-time link]"


class _NotYet(Exception):
    """The run has no number yet (it gets one when it is stored), or the workflow's state is not in memory."""


@dataclass(slots=True)
class _Compiled:
    """An evaluation, taken apart once: the names it uses, and closures where every program has one."""

    names: frozenset[tuple[str, str | None]]
    guard: Inline | None
    programs: tuple[Inline, ...]
    is_inline: bool
    literal: Prepared | None
    """What is given each time, where nothing is to be evaluated."""


class Expressions:
    """Evaluates for the engine. `prepare` is pure and never waits; `prepare_in_child` asks the jq child."""

    def __init__(
        self,
        evaluator: Evaluator,
        state: WorkflowState,
        stored: StoredValues,
        links: ResumeLinks | None = None,
    ) -> None:
        self._evaluator = evaluator
        self._state = state
        self._links = links
        self.stored = stored
        self.values = stored.values

    def prepare(self, run: RunSnapshot, at: StepRun | None, name: str) -> Prepared | None:
        """Make an evaluation of a step (the empty name: its turn) or, without one, of the run. None where the jq child
        or the run's number is needed."""
        evaluation = at.step.evaluation if at is not None and not name else _evaluation(run, at, name)
        prepared = self._inline(run, at, evaluation)
        return prepared if prepared is None or not self.stored.has_masks else self._masked(at, name, prepared)

    async def prepare_in_child(self, run: RunSnapshot, at: StepRun | None, name: str) -> Prepared:
        """The same in the jq child."""
        return self._masked(at, name, await self._prepare_in_child(run, at, name))

    def _masked(self, at: StepRun | None, name: str, prepared: Prepared) -> Prepared:
        """Take the values of secrets out of what may be stored: everything but what an action is given to send."""
        sent = at is not None and not name and isinstance(at.step.kind, ActionKind)
        return self.stored.mask_prepared(prepared, value=not sent)

    async def _prepare_in_child(self, run: RunSnapshot, at: StepRun | None, name: str) -> Prepared:
        evaluation = _evaluation(run, at, name)
        compiled = _compile(evaluation)
        try:
            if any(root == "state" for root, _ in compiled.names):
                await self._state.load(run.workflow)
                prepared = self._inline(run, at, evaluation)
                if prepared is not None:
                    return prepared
            if await self._fetch(compiled.names):
                prepared = self._inline(run, at, evaluation)
                if prepared is not None:
                    return prepared
            variables = self._variables(run, at, compiled.names)
            now = run.started_at or run.created_at if at is None else at.ready_at
            return await self._ask(evaluation, variables, now)
        except EvaluationFailed as error:
            return Prepared(failure=Failure(error.code, error.message))

    async def evaluate_apart(self, evaluation: Evaluation, names: Mapping[str, JSON], now: int) -> JSON:
        """Evaluate what belongs to no run, such as a trigger's `input`, with these names beside `$vars`, `$secrets` and
        `$now`. Null where a condition does not hold. Raises EvaluationFailed. Nothing is masked."""
        compiled = _compile(evaluation)
        if compiled.literal is not None:
            return compiled.literal.value
        variables = dict(names)
        await self._fetch(compiled.names)
        for root, name in compiled.names:
            if root == "now":
                variables[root] = to_rfc3339(now)
            elif root == "vars":
                variables[root] = _chosen(variables.get(root), self.values.vars, root, name)
            elif root == "secrets":
                variables[root] = self._secret(variables.get(root), name)
        if compiled.is_inline:
            try:
                if compiled.guard is not None and not condition(compiled.guard(variables, None)):
                    return None
                return evaluation.template.render([program(variables, None) for program in compiled.programs])
            except TooBig:
                pass
        prepared = await self._ask(evaluation, variables, now)
        return prepared.value if prepared.admitted else None

    async def evaluate_later(self, run: RunSnapshot, at: StepRun, template: Template, dot: JSON) -> JSON:
        """Evaluate a template of a running action with `.` = dot. Raises EvaluationFailed."""
        names = _names([template])
        if any(root == "state" for root, _ in names):
            await self._state.load(run.workflow)
        await self._fetch(names)
        variables = self._variables(run, at, names)
        results = []
        inline = [compile_single(expression.source) for expression in template.expressions]
        try:
            if all(inline):
                results = [program(variables, dot) for program in inline if program is not None]
                return template.render(results)
        except TooBig:
            results = []
        programs = tuple(Program(expression.source, dot) for expression in template.expressions)
        answers = await self._evaluator.evaluate(Batch(variables, at.ready_at, programs, "all"))
        return template.render([single(answer) for answer in answers])

    async def seen(self, run: RunSnapshot, at: StepRun | None, names: Iterable[Name]) -> dict[str, JSON]:
        """What the names of an expression stand for where a step (None: the run's end) stands, for a person's eyes:
        secrets are their masks, one-time links are hidden, and every text that has a secret in it is masked."""
        wanted = _wanted(names)
        if any(root == "state" for root, _ in wanted):
            await self._state.load(run.workflow)
        try:
            found = self._variables(run, at, wanted)
        except _NotYet:
            raise EvaluationFailed("EXPRESSION_ERROR", "the run has just begun; ask again") from None
        if "secrets" in found:
            found["secrets"] = {name: f"[secret {name}]" for name in found["secrets"]}
        about = found.get("run")
        if isinstance(about, dict):
            found["run"] = about | {key: _LINK for key in ("resume_url", "resume_urls") if key in about}
        return {name: self.stored.mask(value) for name, value in found.items()}

    # ---- in process

    def _inline(self, run: RunSnapshot, at: StepRun | None, evaluation: Evaluation) -> Prepared | None:
        compiled = evaluation.compiled or _compile(evaluation)
        if compiled.literal is not None:
            return compiled.literal
        if not compiled.is_inline:
            return None
        try:
            variables = self._variables(run, at, compiled.names)
            if compiled.guard is not None and not condition(compiled.guard(variables, None)):
                return SKIPPED
            if evaluation.mode == "first_true":
                return Prepared(_first_true(compiled.programs, variables))
            return Prepared(evaluation.template.render([program(variables, None) for program in compiled.programs]))
        except (TooBig, _NotYet, NotFetched):
            return None
        except EvaluationFailed as error:
            return Prepared(failure=Failure(error.code, error.message))

    # ---- in the child

    async def _ask(self, evaluation: Evaluation, variables: dict[str, JSON], now: int) -> Prepared:
        template = evaluation.template
        programs = tuple(Program(expression.source) for expression in template.expressions)
        guard = () if evaluation.guard is None else tuple(Program(e.source) for e in evaluation.guard.expressions)
        if evaluation.guard is not None and not guard and not condition(evaluation.guard.render(())):
            return SKIPPED
        if guard and (evaluation.mode == "first_true" or not programs):
            answers = await self._evaluator.evaluate(Batch(variables, now, guard, "all"))
            if not condition(single(answers[0])):
                return SKIPPED
            guard = ()
        if not programs:
            return Prepared(template.render(()))
        if evaluation.mode == "first_true":
            answers = await self._evaluator.evaluate(Batch(variables, now, programs, "first_true"))
            for index, answer in enumerate(answers):
                if condition(single(answer)):
                    return Prepared(index)
            return Prepared(None)
        answers = await self._evaluator.evaluate(Batch(variables, now, guard + programs, "guard" if guard else "all"))
        if guard and not condition(single(answers[0])):
            return SKIPPED
        return Prepared(template.render([single(answer) for answer in answers[len(guard) :]]))

    # ---- names

    def _variables(
        self, run: RunSnapshot, at: StepRun | None, names: frozenset[tuple[str, str | None]]
    ) -> dict[str, JSON]:
        found: dict[str, JSON] = {}
        for root, name in names:
            if root == "input":
                found[root] = run.input
            elif root in _SPECIAL:
                _SPECIAL[root](self, found, run, at, name)
            else:
                step = run.plan.index.get(root)
                if step is not None and not step.loops:
                    # Outside of loops there is one, wherever `at` stands.
                    seen = run.steps.get(root)
                    if seen is not None and seen.stage == ASIDE:
                        seen = None
                else:
                    seen = _visible(run, at, root)
                found[root] = None if seen is None else seen.output
        return found

    def _run(self, found: dict[str, JSON], run: RunSnapshot, at: StepRun | None, name: str | None) -> None:
        if run.number is None and name in (None, "number"):
            raise _NotYet
        started = run.started_at if run.started_at is not None else run.created_at
        values = found.setdefault("run", {})
        values |= {
            "id": run.id,
            "number": run.number,
            "workflow": run.workflow,
            "version": run.version,
            "started_at": to_rfc3339(started),
        }
        if at is None or self._links is None:
            return
        # Only where they are named: who has such a link may resume the step.
        if name == "resume_url":
            following = next_target(run, at)
            values["resume_url"] = None if following is None else self._links.url(following)
        elif name == "resume_urls":
            targets = targets_by_id(run, at).items()
            values["resume_urls"] = {id: self._links.url(target) for id, target in targets}

    def _steps(self, found: dict[str, JSON], run: RunSnapshot, at: StepRun | None, name: str | None) -> None:
        steps = found.setdefault("steps", {})
        for id in run.plan.index if name is None else (name,):
            step = _visible(run, at, id)
            if step is not None:
                steps[id] = {
                    "state": str(step.state),
                    "output": step.output,
                    "error": None if step.error is None else step.error.to_json(),
                    "attempts": step.attempts,
                }

    def _trigger(self, found: dict[str, JSON], run: RunSnapshot, at: StepRun | None, name: str | None) -> None:
        found["trigger"] = run.trigger

    def _now(self, found: dict[str, JSON], run: RunSnapshot, at: StepRun | None, name: str | None) -> None:
        found["now"] = to_rfc3339(at.ready_at if at is not None else run.started_at or run.created_at)

    def _item(self, found: dict[str, JSON], run: RunSnapshot, at: StepRun | None, name: str | None) -> None:
        innermost = _loop(run, at, with_items=False)
        with_items = _loop(run, at, with_items=True)
        found["item"] = None if with_items is None else with_items[0]
        found["index"] = None if innermost is None else innermost[1]

    def _error(self, found: dict[str, JSON], run: RunSnapshot, at: StepRun | None, name: str | None) -> None:
        failure = _caught(run, at)
        found["error"] = None
        if failure is not None:
            found["error"] = {"step": failure.step, "attempt": failure.attempt, **failure.to_json()}

    def _workflow_state(self, found: dict[str, JSON], run: RunSnapshot, at: StepRun | None, name: str | None) -> None:
        values = self._state.find(run.workflow)
        if values is None:
            raise _NotYet
        found["state"] = dict(values)

    def _vars(self, found: dict[str, JSON], run: RunSnapshot, at: StepRun | None, name: str | None) -> None:
        found["vars"] = _chosen(found.get("vars"), self.values.vars, "vars", name)

    def _secrets(self, found: dict[str, JSON], run: RunSnapshot, at: StepRun | None, name: str | None) -> None:
        found["secrets"] = self._secret(found.get("secrets"), name)

    def _secret(self, before: JSON, name: str | None) -> dict[str, JSON]:
        """The secrets that were chosen before, and this one. Raises NotFetched, EvaluationFailed."""
        if name is None:
            return dict(self.values.secrets)
        value = self.stored.sources.find(name)
        return _chosen(before, {} if value is None else {name: value}, "secrets", name)

    async def _fetch(self, names: frozenset[tuple[str, str | None]]) -> bool:
        """Have the secrets of these names at hand; return whether there are any. Raises EvaluationFailed."""
        wanted = [name for root, name in names if root == "secrets" and name is not None]
        try:
            await self.stored.sources.fetch(wanted)
        except ProviderFailed as error:
            raise EvaluationFailed("SECRET_UNAVAILABLE", str(error)) from None
        return bool(wanted)


_SPECIAL = {
    "item": Expressions._item,
    "index": Expressions._item,
    "error": Expressions._error,
    "run": Expressions._run,
    "steps": Expressions._steps,
    "trigger": Expressions._trigger,
    "now": Expressions._now,
    "state": Expressions._workflow_state,
    "vars": Expressions._vars,
    "secrets": Expressions._secrets,
}


def _evaluation(run: RunSnapshot, at: StepRun | None, name: str) -> Evaluation:
    if at is None:
        return run.plan.evaluations[name]
    return at.step.evaluations[name] if name else at.step.evaluation


def _loop(run: RunSnapshot, at: StepRun | None, *, with_items: bool) -> tuple[JSON, int] | None:
    """Find the item and index of the innermost loop around a step; with `with_items`, of the innermost `foreach`."""
    for prefix in reversed(_prefixes(at)):
        if prefix:
            path, _, index = prefix[:-2].rpartition("[")
            loop = run.steps[path]
            items = loop.data.get("items") if isinstance(loop.data, dict) else None
            if items is not None:
                return items[int(index)], int(index)
            if not with_items:
                return None, int(index)
    return None


def _prefixes(at: StepRun | None) -> tuple[str, ...]:
    return ("",) if at is None else at.scope or at.prefixes


def _caught(run: RunSnapshot, at: StepRun | None) -> Failure | None:
    """Find the failure that the nearest handler around a step handles: a step's, or the run's."""
    if at is not None and at.state is StepState.QUEUED and at.stage == JUDGED:
        return at.error
    frame = None if at is None else at.parent
    while frame is not None and frame.owner is not None:
        if frame.name.startswith("!") and frame.owner.error is not None:
            return frame.owner.error
        frame = frame.owner.parent
    return None if run.ending is None else run.ending.error


def _visible(run: RunSnapshot, at: StepRun | None, id: str) -> StepRun | None:
    """Find the step run that `$<id>` means where `at` stands: the one inside the same items of the same loops."""
    step = run.plan.index.get(id)
    if step is None:
        return None
    prefixes = _prefixes(at)
    depth = len(step.loops)
    found = run.steps.get(prefixes[depth] + id) if depth < len(prefixes) else None
    return None if found is None or found.stage == ASIDE else found


def _chosen(before: JSON, values: Mapping[str, JSON], root: str, name: str | None) -> dict[str, JSON]:
    if name is None:
        return dict(values)
    if name not in values:
        noun = "secret" if root == "secrets" else "variable"
        raise EvaluationFailed("EXPRESSION_ERROR", f"there is no {noun} {name!r}; set it, or correct ${root}.{name}")
    return {**(before or {}), name: values[name]}


def _first_true(programs: Sequence[Inline], variables: Mapping[str, JSON]) -> int | None:
    for index, program in enumerate(programs):
        if condition(program(variables, None)):
            return index
    return None


def _names(templates: Sequence[Template | None]) -> frozenset[tuple[str, str | None]]:
    used: set[tuple[str, str | None]] = set()
    for template in templates:
        if template is not None:
            for expression in template.expressions:
                used |= _wanted(expression.names)
    return frozenset(used)


def _wanted(names: Iterable[Name]) -> frozenset[tuple[str, str | None]]:
    return frozenset((name.root, name.field if name.root in _SPECIAL else None) for name in names)


def _constant(value: JSON) -> Inline:
    return lambda variables, dot: value


def _compile(evaluation: Evaluation) -> _Compiled:
    if isinstance(evaluation.compiled, _Compiled):
        return evaluation.compiled
    guard = None
    if evaluation.guard is not None:
        if evaluation.guard.expressions:
            guard = compile_single(evaluation.guard.expressions[0].source)
        else:
            guard = _constant(evaluation.guard.render(()))
    programs = [compile_single(expression.source) for expression in evaluation.template.expressions]
    has_guard = evaluation.guard is not None
    is_literal = not programs and not has_guard and evaluation.mode == "all"
    compiled = _Compiled(
        names=_names([evaluation.guard, evaluation.template]),
        guard=guard,
        programs=tuple(program for program in programs if program is not None),
        is_inline=all(program is not None for program in programs) and (guard is not None or not has_guard),
        literal=Prepared(evaluation.template.render(())) if is_literal else None,
    )
    evaluation.compiled = compiled
    return compiled
