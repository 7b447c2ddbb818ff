"""Workflow documents: read, checked, and made into a `Plan`. Every error at once, each with its place.

`parse_definition` takes what a person wrote; `load_plan` takes what was stored after that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from taskforge.core.definition_policies import MAX_PRIORITY, check_number, read_concurrency, read_retry
from taskforge.core.definition_read import (
    NAME,
    DefinitionLimits,
    Node,
    Reading,
    Use,
    check_mapping,
    read_duration,
    read_text,
    read_word,
)
from taskforge.core.definition_steps import StepReader
from taskforge.core.definition_triggers import read_triggers
from taskforge.core.document import parse_document
from taskforge.core.errors import InvalidDefinition
from taskforge.core.findings import Findings, Locate
from taskforge.core.input_schema import check_schema
from taskforge.core.kind import Kinds
from taskforge.core.model import (
    JSON,
    Concurrency,
    Evaluation,
    Name,
    Plan,
    Retry,
    Step,
    Template,
    Trigger,
    WebhookTrigger,
)
from taskforge.core.problem import InvalidDocument, Pointer, Problem, format_path
from taskforge.core.record import dataclass
from taskforge.core.scope import BEFORE, Scope, names_of
from taskforge.core.source import DocumentLimits

if TYPE_CHECKING:
    from taskforge.core.definition_notify import Notification

__all__ = ["Definition", "DefinitionLimits", "PlacedExpression", "load_plan", "parse_definition"]

Media = Literal["yaml", "json"]
ParseTemplate = Callable[[JSON], Template]
ParseSchedule = Callable[[JSON], Any]

KEYS = (
    "name",
    "description",
    "triggers",
    "inputs",
    "concurrency",
    "timeout",
    "max_queue_time",
    "priority",
    "defaults",
    "steps",
    "on_failure",
    "finally",
    "output",
    "notify",
)
_NAME_FORM = "use lower-case letters, digits and -, beginning with a letter or digit, at most 63"
DEFAULT_LIMITS = DefinitionLimits()


@dataclass(frozen=True, slots=True)
class PlacedExpression:
    """One jq program of the document: for checks that only jq itself can make."""

    source: str
    pointer: Pointer
    offset: int
    names: tuple[Name, ...] = ()


@dataclass(frozen=True, slots=True)
class Definition:
    """A valid document. `document` is its value with the keys as given; `source` is the text as given."""

    plan: Plan
    document: JSON
    source: str
    media: Media
    warnings: list[Problem]
    expressions: tuple[PlacedExpression, ...]
    locate: Locate

    def problem_at(self, expression: PlacedExpression, message: str, *, offset: int = 0) -> Problem:
        """A problem of an expression, `offset` characters into its program."""
        line, column = self.locate(expression.pointer, offset=expression.offset + offset)
        return Problem(format_path(expression.pointer), message, line, column)


def parse_definition(
    text: bytes,
    media: Media,
    kinds: Kinds,
    parse_template: ParseTemplate,
    limits: DefinitionLimits = DEFAULT_LIMITS,
    parse_schedule: ParseSchedule | None = None,
) -> Definition:
    """Read and check a document. Raises InvalidDefinition with every error; nothing else, whatever the bytes are."""
    try:
        document = parse_document(text, media, DocumentLimits(max_bytes=limits.document_bytes))
    except InvalidDocument as error:
        raise _refused(error.problems) from None
    findings = Findings(document.locate)
    reading = Reading(findings, kinds, parse_template, limits, parse_schedule=parse_schedule)
    value = document.value
    plan = _read_document(reading, value)
    if findings.errors or plan is None:
        raise _refused(findings.errors)
    expressions = tuple(
        PlacedExpression(expression.source, place, expression.offset, tuple(expression.names))
        for use in reading.uses
        for place, expression in _placed(use)
    )
    return Definition(plan, value, document.source, media, findings.warnings, expressions, document.locate)


def load_plan(
    document: JSON, kinds: Kinds, parse_template: ParseTemplate, parse_schedule: ParseSchedule | None = None
) -> Plan:
    """Make the plan of a stored document. It was checked when it was stored: names and schemas are not checked again.

    InvalidDefinition when it cannot be read any more, as when a kind of step is no longer installed.
    """
    findings = Findings()
    limits = DefinitionLimits(steps=1_000_000, nesting=100)
    reading = Reading(findings, kinds, parse_template, limits, strict=False, parse_schedule=parse_schedule)
    plan = _read_document(reading, document)
    if findings.errors or plan is None:
        raise _refused(findings.errors)
    return plan


def in_order(value: JSON) -> JSON:
    """Return a copy with the keys of every mapping sorted: two documents with equal copies mean the same."""
    if isinstance(value, dict):
        return {key: in_order(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [in_order(item) for item in value]
    return value


def _refused(problems: list[Problem]) -> InvalidDefinition:
    count = len(problems)
    return InvalidDefinition(f"the document has {count} error{'s' if count != 1 else ''}", problems=problems)


def _placed(use: Use) -> list[tuple[Pointer, Any]]:
    pointers = getattr(use.template, "pointers", ())
    return [(use.place(at), expression) for at, expression in zip(pointers, use.template.expressions, strict=True)]


def _read_document(reading: Reading, value: JSON) -> Plan | None:
    findings = reading.findings
    if not isinstance(value, dict):
        findings.error((), "a workflow is a mapping with name and steps")
        return None
    for key in value:
        if key not in KEYS:
            findings.unknown_key((key,), KEYS)
    retry = _read_defaults(reading, value.get("defaults"))
    steps = StepReader(reading, retry)
    parts = _Parts(
        _read_steps(reading, steps, value),
        _read_handlers(reading, steps, value, "on_failure"),
        _read_handlers(reading, steps, value, "finally"),
        _read_messages(reading, steps, value, retry),
        reading.template(("output",), value["output"], "output") if "output" in value else None,
        *_read_concurrency(reading, value.get("concurrency")),
    )
    inputs = _read_inputs(reading, value)
    scope = Scope(findings)
    visible = _check_names(reading, scope, parts, retry.get("when")) if reading.strict else set()
    triggers = read_triggers(reading, value.get("triggers"), inputs, scope, visible, value.get("name"))
    return _make_plan(reading, value, parts, inputs, triggers)


def _read_messages(
    reading: Reading, steps: StepReader, value: dict[str, Any], retry: dict[str, Any]
) -> list[Notification]:
    if value.get("notify") is None:
        return []
    from taskforge.core.definition_notify import read_notify  # few documents have messages

    return read_notify(reading, value["notify"], steps.ids, steps.next_order, _plain(retry))


@dataclass(frozen=True, slots=True)
class _Parts:
    """What of a document has expressions in it."""

    steps: list[Node]
    on_failure: list[Node]
    last: list[Node]
    notify: list[Notification]
    output: Use | None
    concurrency: Concurrency | None
    key: Use | None


def _check_names(reading: Reading, scope: Scope, parts: _Parts, retry_when: Use | None) -> set[str]:
    """Check every name in the document's expressions. Returns the steps that are visible after the last one."""
    visible = scope.check_steps(parts.steps, parts.on_failure, parts.last)
    if retry_when is not None:
        scope.check(retry_when, (), ("error",), roots=BEFORE)
    if parts.key is not None:
        scope.check(parts.key, (), roots=BEFORE)
    if parts.output is not None:
        scope.check(parts.output, visible)
    for message in parts.notify:
        scope.check(message.use, scope.visible_in("notify"), ("error",))
    return visible


def _make_plan(
    reading: Reading,
    value: dict[str, JSON],
    parts: _Parts,
    inputs: JSON,
    triggers: dict[str, Trigger],
) -> Plan:
    name = _read_name(reading, value)
    used = names_of(reading.uses)
    evaluations = {}
    if parts.output is not None:
        evaluations["output"] = Evaluation(None, parts.output.template)
    if parts.key is not None:
        evaluations["concurrency"] = Evaluation(None, parts.key.template)
    for trigger in triggers.values():
        if isinstance(trigger, WebhookTrigger) and trigger.respond is not None:
            evaluations[f"respond {trigger.name}"] = trigger.respond
    steps, on_failure, last = map(_steps_of, (parts.steps, parts.on_failure, parts.last))
    notify = tuple((message.states, message.step) for message in parts.notify)
    index = {step.id: step for step in _all_steps((*steps, *on_failure, *last, *(step for _, step in notify)))}
    return Plan(
        name=name or "",
        description=read_text(reading, ("description",), value.get("description")),
        inputs=inputs,
        timeout_ms=_read_bound(reading, value, "timeout"),
        steps=steps,
        evaluations=evaluations,
        triggers=triggers,
        index=index,
        document=value,
        uses_run_number=bool(used.get("run", set()) & {None, "number"}),
        names_used=frozenset(used),
        on_failure=on_failure,
        finally_=last,
        has_undo=any("undo" in step.handlers for step in index.values()),
        concurrency=parts.concurrency,
        max_queue_ms=_read_bound(reading, value, "max_queue_time"),
        priority=_read_priority(reading, value.get("priority", 0)),
        notify=notify,
        uses_raw_body=bool(used.get("trigger", set()) & {None, "raw_body"}),
        has_children=any(step.kind.name == "workflow" for step in index.values()),
    )


def _read_name(reading: Reading, value: dict[str, JSON]) -> str | None:
    if "name" not in value:
        reading.findings.error((), '"name" is missing', hint=f"every workflow has a name; {_NAME_FORM}")
        return None
    return read_word(reading, ("name",), value["name"], NAME, _NAME_FORM, "workflow name")


def _read_defaults(reading: Reading, value: JSON) -> dict[str, Any]:
    if value is None or not check_mapping(reading, ("defaults",), value, ("retry",)) or "retry" not in value:
        return {}
    return read_retry(reading, ("defaults", "retry"), value["retry"], {})


def _read_steps(reading: Reading, steps: StepReader, value: dict[str, JSON]) -> list[Node]:
    if "steps" not in value:
        reading.findings.error((), '"steps" is missing', hint="a workflow has at least one step")
        return []
    if value["steps"] == []:
        reading.findings.error(("steps",), "must have at least one step")
        return []
    return steps.read_list(("steps",), value["steps"])


def _read_inputs(reading: Reading, value: dict[str, JSON]) -> JSON:
    """The schema of the input, or None without one or after an error."""
    schema = value.get("inputs")
    if schema is None or not reading.strict:
        return schema
    failed = False
    for problem in check_schema(schema):
        note = reading.findings.warn if problem.is_warning else reading.findings.error
        note(("inputs", *problem.pointer), problem.message, hint=problem.hint, key=problem.key)
        failed = failed or not problem.is_warning
    return None if failed else schema


def _read_handlers(
    reading: Reading, steps: StepReader, value: dict[str, JSON], key: Literal["on_failure", "finally"]
) -> list[Node]:
    if key not in value:
        return []
    if value[key] == []:
        reading.findings.error((key,), "must have at least one step")
    return steps.read_list((key,), value[key], zone=key)


def _read_concurrency(reading: Reading, value: JSON) -> tuple[Concurrency | None, Use | None]:
    return (None, None) if value is None else read_concurrency(reading, ("concurrency",), value)


def _read_bound(reading: Reading, value: dict[str, JSON], key: str) -> int | None:
    return None if value.get(key) is None else read_duration(reading, (key,), value[key])


def _read_priority(reading: Reading, value: JSON) -> int:
    is_fine = check_number(reading, ("priority",), value, -MAX_PRIORITY, MAX_PRIORITY, whole=True)
    return int(value) if is_fine else 0


def _plain(retry: dict[str, Any]) -> Retry:
    """The default policy without its condition: for steps that TaskForge itself adds."""
    return Retry(**{key: value for key, value in retry.items() if key != "when"})


def _steps_of(nodes: list[Node]) -> tuple[Step, ...]:
    return tuple(node.step for node in nodes if node.step is not None)


def _all_steps(steps: Iterable[Step]) -> Iterator[Step]:
    """Every step, those of blocks and handlers too."""
    pending = list(steps)
    while pending:
        step = pending.pop()
        yield step
        for inner in (*(block.steps for block in step.blocks), *step.handlers.values()):
            pending.extend(inner)
