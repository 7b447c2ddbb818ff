"""Reads single values of a workflow document: each function notes what is wrong and returns what the plan needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any, Literal

from taskforge.core.durations import format_duration, parse_duration
from taskforge.core.findings import Findings
from taskforge.core.kind import BlockSource, Kinds
from taskforge.core.model import JSON, Evaluation, Step, Template
from taskforge.core.problem import Pointer, quoted
from taskforge.core.record import dataclass
from taskforge.core.templated import describe, has_expression, is_condition

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
STEP_ID = re.compile(r"[a-z][a-z0-9_]{0,62}")
TRIGGER_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
RESERVED_IDS = frozenset(
    ("input", "vars", "secrets", "trigger", "run", "steps", "item", "index", "error", "now", "state", "env")
)


@dataclass(frozen=True, slots=True)
class DefinitionLimits:
    """Bounds of a document: its bytes, its steps, and how deep blocks may stand inside one another."""

    document_bytes: int = 256 * 1024
    steps: int = 500
    nesting: int = 10


@dataclass(frozen=True, slots=True)
class Use:
    """A template at its place. `place` leads from a pointer in the template's value to one in the document."""

    template: Template
    place: Callable[[Pointer], Pointer]
    what: str


Zone = Literal["main", "undo", "on_failure", "finally", "notify"]
"""When a step can run: with the run's own steps, or while the run is ending."""

HANDLERS = ("probe", "catch", "finally", "undo")
"""Lists of steps around a step."""


@dataclass(slots=True, eq=False)
class Node:
    """A step as it stands in the document, with what the check of names needs. `step` is None after an error.

    `uses` see what the step sees; `retry_use` also `$error`; `further_uses` also the steps of its blocks.
    """

    pointer: Pointer
    id: str | None = None
    kind: str | None = None
    step: Step | None = None
    uses: list[Use] = field(default_factory=list)
    retry_use: Use | None = None
    further_uses: list[Use] = field(default_factory=list)
    blocks: list[tuple[BlockSource, list[Node]]] = field(default_factory=list)
    handlers: dict[str, list[Node]] = field(default_factory=dict)
    needs: list[tuple[str, Pointer]] = field(default_factory=list)
    ends_list: bool = False
    """The steps after it in its list are never reached."""
    hidden_ids: set[str] = field(default_factory=set)
    """Ids inside blocks that could not be read: they are no unknown names."""


@dataclass(slots=True)
class Reading:
    """What the reading functions share. `strict` is False for stored versions, which were checked when they came."""

    findings: Findings
    kinds: Kinds
    parse_template: Callable[[JSON], Template]
    limits: DefinitionLimits
    strict: bool = True
    parse_schedule: Callable[[JSON], Any] | None = None
    """Reads a time trigger's settings; its error has `key`, `column` (of the key's text) and `hint`."""
    uses: list[Use] = field(default_factory=list)

    def template(self, pointer: Pointer, value: JSON, what: str) -> Use | None:
        """Parse a value that stands in the document at `pointer`."""
        return self.template_at(lambda inner: (*pointer, *inner), value, what)

    def template_at(self, place: Callable[[Pointer], Pointer], value: JSON, what: str) -> Use | None:
        """Parse a value; its problems are noted at the places that `place` gives."""
        try:
            template = self.parse_template(value)
        except Exception as error:
            # The parser belongs to `expressions`, which this layer does not know: its error is known by `problems`.
            problems = getattr(error, "problems", None)
            if problems is None:
                raise
            for problem in problems:
                self.findings.error(place(problem.pointer), problem.message, hint=problem.hint, offset=problem.offset)
            return None
        use = Use(template, place, what)
        self.uses.append(use)
        return use

    def condition(self, template: Template) -> Evaluation:
        """An evaluation that gives true when a condition holds and null when not; any other result is an error."""
        return Evaluation(template, self.parse_template(True))


def check_mapping(reading: Reading, pointer: Pointer, value: JSON, known: Sequence[str] | None = None) -> bool:
    """Check that a value is a mapping and, with `known`, that it has no other keys."""
    if not isinstance(value, dict):
        reading.findings.error(pointer, f"must be a mapping, not {describe(value)}")
        return False
    if known is not None:
        for key in value:
            if key not in known:
                reading.findings.unknown_key((*pointer, key), known)
    return True


def read_text(reading: Reading, pointer: Pointer, value: JSON) -> str | None:
    if value is None or isinstance(value, str):
        return value
    reading.findings.error(pointer, f"must be text, not {describe(value)}")
    return None


def read_flag(reading: Reading, pointer: Pointer, value: JSON) -> bool:
    if isinstance(value, bool):
        return value
    reading.findings.error(pointer, f"must be true or false, not {describe(value)}")
    return False


def read_word(
    reading: Reading, pointer: Pointer, value: JSON, pattern: re.Pattern[str], form: str, noun: str
) -> str | None:
    """Read a name or id of a given form."""
    if not isinstance(value, str):
        reading.findings.error(pointer, f"{noun} must be text, not {describe(value)}")
        return None
    if pattern.fullmatch(value) is None:
        reading.findings.error(pointer, f"{quoted(value)} is no valid {noun}; {form}")
        return None
    return value


def read_duration(reading: Reading, pointer: Pointer, value: JSON, *, least_ms: int = 1) -> int | None:
    """Milliseconds, or None after an error."""
    if has_expression(value):
        reading.findings.error(pointer, "no expression may stand here; write a duration such as 30s")
        return None
    try:
        found = parse_duration(value)
    except ValueError as error:
        reading.findings.error(pointer, str(error))
        return None
    if found < least_ms:
        reading.findings.error(pointer, f"must be at least {format_duration(least_ms)}")
        return None
    return found


def read_condition(reading: Reading, pointer: Pointer, value: JSON, what: str) -> Use | None:
    """An `if`: one whole expression, true or false."""
    if not is_condition(value):
        reading.findings.error(pointer, "a condition must be one whole ${{ … }}, true or false", hint=_rewrite(value))
        return None
    use = reading.template(pointer, value, what)
    if use is not None and not isinstance(value, bool) and not is_whole(use.template):
        reading.findings.error(pointer, "a condition must be one whole ${{ … }}, true or false")
        return None
    return use


def is_whole(template: Template) -> bool:
    """Whether the template is one expression and nothing around it: its result keeps its type."""
    if len(template.expressions) != 1:
        return False
    probe = [True]
    return template.render([probe]) is probe


def _rewrite(value: JSON) -> str | None:
    if isinstance(value, str) and value and "${{" not in value and len(value) <= 60:
        return f"write it as ${{{{ {value} }}}}"
    return None
