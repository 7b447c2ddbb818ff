"""Reads single values of a workflow document: each function notes what is wrong and returns what the plan needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from taskforge.core.durations import format_duration, parse_duration
from taskforge.core.findings import Findings, with_suggestion
from taskforge.core.kind import Kinds
from taskforge.core.model import JSON, Retry, Template
from taskforge.core.problem import Pointer, quoted, suggest
from taskforge.core.templated import describe, has_expression, is_condition

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
STEP_ID = re.compile(r"[a-z][a-z0-9_]{0,62}")
TRIGGER_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
RESERVED_IDS = frozenset(
    ("input", "vars", "secrets", "trigger", "run", "steps", "item", "index", "error", "now", "state", "env")
)
RETRY_CLASSES = ("network", "timeout")

_STATUS_CLASS = re.compile(r"[1-5]xx")
_RETRY_KEYS = ("max_attempts", "initial", "factor", "max", "jitter", "on")
MAX_ATTEMPTS = 100
MAX_PAUSE_MS = 86_400_000
MAX_FACTOR = 100
_DEFAULT = Retry()


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


@dataclass(slots=True)
class Reading:
    """What the reading functions share. `strict` is False for stored versions, which were checked when they came."""

    findings: Findings
    kinds: Kinds
    parse_template: Callable[[JSON], Template]
    limits: DefinitionLimits
    strict: bool = True
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


def read_retry(reading: Reading, pointer: Pointer, value: JSON, base: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a `retry` mapping as fields of `Retry`, those of `base` where it says nothing."""
    found = dict(base)
    if not check_mapping(reading, pointer, value, _RETRY_KEYS):
        return found
    number = value.get("max_attempts")
    if "max_attempts" in value and _check_number(
        reading, (*pointer, "max_attempts"), number, 1, MAX_ATTEMPTS, whole=True
    ):
        found["max_attempts"] = number
    for key, name in (("initial", "initial_ms"), ("max", "max_ms")):
        if key in value:
            pause = read_duration(reading, (*pointer, key), value[key], least_ms=0)
            if pause is not None and pause > MAX_PAUSE_MS:
                reading.findings.error((*pointer, key), "must be at most 1d")
            elif pause is not None:
                found[name] = pause
    if "factor" in value and _check_number(reading, (*pointer, "factor"), value["factor"], 1, MAX_FACTOR):
        found["factor"] = float(value["factor"])
    if "jitter" in value:
        if value["jitter"] in ("full", "none"):
            found["jitter"] = value["jitter"]
        else:
            reading.findings.error((*pointer, "jitter"), "must be full or none")
    if "on" in value:
        found["on"] = _read_retry_on(reading, (*pointer, "on"), value["on"])
    longest = found.get("max_ms", _DEFAULT.max_ms)
    if found.get("initial_ms", 0) > longest:
        if "max" in value and "initial" in value:
            reading.findings.error((*pointer, "initial"), "initial is longer than max")
        found["max_ms"] = found["initial_ms"]
    return found


def _check_number(
    reading: Reading, pointer: Pointer, value: JSON, least: int, most: int, *, whole: bool = False
) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and not (whole and isinstance(value, float)) and least <= value <= most:
        return True
    noun = "a whole number" if whole else "a number"
    said = f"it is {value}" if is_number and len(str(value)) < 40 else f"not {describe(value)}"
    reading.findings.error(pointer, f"must be {noun} from {least} to {most}{', ' if said else ''}{said}")
    return False


def _read_retry_on(reading: Reading, pointer: Pointer, value: JSON) -> tuple[str, ...]:
    if has_expression(value):
        reading.findings.error(pointer, "an expression in retry.on is not supported by this version of TaskForge")
        return ()
    if not isinstance(value, list):
        reading.findings.error(pointer, f"must be a list such as [network, timeout, 429, 5xx], not {describe(value)}")
        return ()
    found: list[str] = []
    for position, item in enumerate(value):
        word = str(item).lower() if isinstance(item, str | int) and not isinstance(item, bool) else ""
        is_status = word.isdecimal() and word.isascii() and 100 <= int(word[:9]) <= 599
        if word in RETRY_CLASSES or _STATUS_CLASS.fullmatch(word) or is_status:
            found.append(word)
            continue
        is_number = isinstance(item, int) and not isinstance(item, bool)
        shown = quoted(item) if isinstance(item, str) else str(item) if is_number else describe(item)
        near = suggest(word, (*RETRY_CLASSES, "4xx", "5xx")) if isinstance(item, str) else None
        message = f"{shown[:90]} is nothing to retry on; use network, timeout, a status such as 429, or 5xx"
        reading.findings.error((*pointer, position), with_suggestion(message, near))
    return tuple(dict.fromkeys(found))
