"""Workflow documents: read, checked, and made into a `Plan`. Every error at once, each with its place.

`parse_definition` takes what a person wrote; `load_plan` takes what was stored after that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from taskforge.core.definition_read import (
    NAME,
    DefinitionLimits,
    Reading,
    Use,
    check_mapping,
    read_duration,
    read_retry,
    read_text,
    read_word,
)
from taskforge.core.definition_steps import Node, StepReader
from taskforge.core.definition_triggers import read_triggers
from taskforge.core.document import parse_document
from taskforge.core.errors import InvalidDefinition
from taskforge.core.findings import Findings, Locate
from taskforge.core.input_schema import check_schema
from taskforge.core.kind import Kinds
from taskforge.core.model import JSON, Evaluation, Plan, Step, Template
from taskforge.core.problem import InvalidDocument, Pointer, Problem, format_path
from taskforge.core.scope import Scope, names_of
from taskforge.core.source import DocumentLimits

__all__ = ["Definition", "DefinitionLimits", "PlacedExpression", "load_plan", "parse_definition"]

Media = Literal["yaml", "json"]
ParseTemplate = Callable[[JSON], Template]

KEYS = ("name", "description", "triggers", "inputs", "timeout", "defaults", "steps", "output")
LATER_KEYS = ("concurrency", "on_failure", "finally", "notify", "priority", "max_queue_time", "state", "rate_limit")
_NAME_FORM = "use lower-case letters, digits and -, beginning with a letter or digit, at most 63"
DEFAULT_LIMITS = DefinitionLimits()


@dataclass(frozen=True, slots=True)
class PlacedExpression:
    """One jq program of the document: for checks that only jq itself can make."""

    source: str
    pointer: Pointer
    offset: int


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
    text: bytes, media: Media, kinds: Kinds, parse_template: ParseTemplate, limits: DefinitionLimits = DEFAULT_LIMITS
) -> Definition:
    """Read and check a document. Raises InvalidDefinition with every error; nothing else, whatever the bytes are."""
    try:
        document = parse_document(text, media, DocumentLimits(max_bytes=limits.document_bytes))
    except InvalidDocument as error:
        raise _refused(error.problems) from None
    findings = Findings(document.locate)
    reading = Reading(findings, kinds, parse_template, limits)
    value = document.value
    plan = _read_document(reading, value)
    if findings.errors or plan is None:
        raise _refused(findings.errors)
    expressions = tuple(
        PlacedExpression(expression.source, place, expression.offset)
        for use in reading.uses
        for place, expression in _placed(use)
    )
    return Definition(plan, value, document.source, media, findings.warnings, expressions, document.locate)


def load_plan(document: JSON, kinds: Kinds, parse_template: ParseTemplate) -> Plan:
    """Make the plan of a stored document. It was checked when it was stored: names and schemas are not checked again.

    InvalidDefinition when it cannot be read any more, as when a kind of step is no longer installed.
    """
    findings = Findings()
    limits = DefinitionLimits(steps=1_000_000, nesting=100)
    plan = _read_document(Reading(findings, kinds, parse_template, limits, strict=False), document)
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
    _check_keys(findings, value)
    name = _read_name(reading, value)
    timeout = value.get("timeout")
    steps = StepReader(reading, _read_defaults(reading, value.get("defaults")))
    nodes = _read_steps(reading, steps, value)
    output = reading.template(("output",), value["output"], "output") if "output" in value else None
    inputs = _read_inputs(reading, value)
    scope = Scope(findings)
    visible: set[str] = set()
    if reading.strict:
        visible = scope.check_steps(nodes)
        if output is not None:
            scope.check(output, visible)
    used = names_of(reading.uses)
    triggers = read_triggers(reading, value.get("triggers"), inputs, scope, visible)
    top = tuple(node.step for node in nodes if node.step is not None)
    return Plan(
        name=name or "",
        description=read_text(reading, ("description",), value.get("description")),
        inputs=inputs,
        timeout_ms=None if timeout is None else read_duration(reading, ("timeout",), timeout),
        steps=top,
        output=None if output is None else Evaluation(None, output.template),
        triggers=triggers,
        index=_index(top),
        document=value,
        uses_run_number=bool(used.get("run", set()) & {None, "number"}),
        names_used=frozenset(used),
    )


def _check_keys(findings: Findings, value: dict[str, JSON]) -> None:
    for key in value:
        if key in LATER_KEYS:
            findings.error((key,), f"`{key}` is not supported by this version of TaskForge", key=True)
        elif key not in KEYS:
            findings.unknown_key((key,), KEYS)


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


def _index(steps: tuple[Step, ...]) -> dict[str, Step]:
    found: dict[str, Step] = {}
    pending = list(steps)
    while pending:
        step = pending.pop()
        found[step.id] = step
        pending.extend(inner for block in step.blocks for inner in block.steps)
    return found
