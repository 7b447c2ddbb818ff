"""Reads what bounds attempts and runs: `retry`, `rate_limit`, `concurrency`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from taskforge.core.definition_read import Reading, Use, check_mapping, read_condition, read_duration
from taskforge.core.findings import with_suggestion
from taskforge.core.model import JSON, Concurrency, RateLimit, Retry
from taskforge.core.problem import Pointer, quoted, suggest
from taskforge.core.templated import describe, has_expression

RETRY_CLASSES = ("network", "timeout")
MAX_ATTEMPTS = 100
MAX_PAUSE_MS = 86_400_000
MAX_FACTOR = 100
MAX_RATE = 1_000_000
MAX_PLACES = 10_000
MAX_PRIORITY = 1_000
ON_LIMIT = ("queue", "skip", "cancel_oldest")

_STATUS_CLASS = re.compile(r"[1-5]xx")
_RETRY_KEYS = ("max_attempts", "initial", "factor", "max", "jitter", "on", "when")
_DEFAULT = Retry()


def read_retry(reading: Reading, pointer: Pointer, value: JSON, base: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a `retry` as fields of `Retry`, `when` as a `Use`; those of `base` where it says nothing."""
    found = dict(base)
    if not check_mapping(reading, pointer, value, _RETRY_KEYS):
        return found
    if "max_attempts" in value and check_number(
        reading, (*pointer, "max_attempts"), value["max_attempts"], 1, MAX_ATTEMPTS, whole=True
    ):
        found["max_attempts"] = value["max_attempts"]
    for key, name in (("initial", "initial_ms"), ("max", "max_ms")):
        if key in value:
            pause = read_duration(reading, (*pointer, key), value[key], least_ms=0)
            if pause is not None and pause > MAX_PAUSE_MS:
                reading.findings.error((*pointer, key), "must be at most 1d")
            elif pause is not None:
                found[name] = pause
    if "factor" in value and check_number(reading, (*pointer, "factor"), value["factor"], 1, MAX_FACTOR):
        found["factor"] = float(value["factor"])
    if "jitter" in value:
        if value["jitter"] in ("full", "none"):
            found["jitter"] = value["jitter"]
        else:
            reading.findings.error((*pointer, "jitter"), "must be full or none")
    _read_what_is_retried(reading, pointer, value, found)
    longest = found.get("max_ms", _DEFAULT.max_ms)
    if found.get("initial_ms", 0) > longest:
        if "max" in value and "initial" in value:
            reading.findings.error((*pointer, "initial"), "initial is longer than max")
        found["max_ms"] = found["initial_ms"]
    return found


def _read_what_is_retried(reading: Reading, pointer: Pointer, value: dict[str, JSON], found: dict[str, Any]) -> None:
    """`on` or `when`: each takes the place of what the defaults say."""
    if "on" in value and "when" in value:
        message = "retry has on and when; `when` decides alone, so write what `on` says into it"
        reading.findings.error((*pointer, "on"), message, key=True)
    if "on" in value:
        found["on"] = _read_retry_on(reading, (*pointer, "on"), value["on"])
        found["when"] = None
    if "when" in value:
        found["when"] = read_condition(reading, (*pointer, "when"), value["when"], "retry")


def _read_retry_on(reading: Reading, pointer: Pointer, value: JSON) -> tuple[str, ...]:
    if has_expression(value):
        hint = "write an expression over $error as `when`"
        reading.findings.error(pointer, "must be a list such as [network, timeout, 429, 5xx]", hint=hint)
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


def read_rate_limit(reading: Reading, pointer: Pointer, value: JSON) -> RateLimit | None:
    """`{key, max, per}`; the key is evaluated with the step's config."""
    if not check_mapping(reading, pointer, value, ("key", "max", "per")):
        return None
    if not _has_all(reading, pointer, value, ("max", "per")):
        return None
    is_number = check_number(reading, (*pointer, "max"), value["max"], 1, MAX_RATE, whole=True)
    per = read_duration(reading, (*pointer, "per"), value["per"])
    return RateLimit(value["max"], per) if is_number and per is not None else None


def read_concurrency(reading: Reading, pointer: Pointer, value: JSON) -> tuple[Concurrency | None, Use | None]:
    """`{key, limit, on_limit}` of a workflow, and the template of its key."""
    if not check_mapping(reading, pointer, value, ("key", "limit", "on_limit")):
        return None, None
    limit, on_limit = value.get("limit", 1), value.get("on_limit", "queue")
    use = None if value.get("key") is None else reading.template((*pointer, "key"), value["key"], "concurrency")
    if not check_number(reading, (*pointer, "limit"), limit, 1, MAX_PLACES, whole=True):
        limit = 1
    if on_limit not in ON_LIMIT:
        near = suggest(on_limit, ON_LIMIT) if isinstance(on_limit, str) else None
        message = with_suggestion(f"must be one of {', '.join(ON_LIMIT)}", near)
        reading.findings.error((*pointer, "on_limit"), message)
        return None, use
    return Concurrency(limit, on_limit), use


def check_number(
    reading: Reading, pointer: Pointer, value: JSON, least: int, most: int, *, whole: bool = False
) -> bool:
    """Check that a value is a number in a range; an expression is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and not (whole and isinstance(value, float)) and least <= value <= most:
        return True
    noun = "a whole number" if whole else "a number"
    said = f"it is {value}" if is_number and len(str(value)) < 40 else f"not {describe(value)}"
    reading.findings.error(pointer, f"must be {noun} from {least} to {most}, {said}")
    return False


def _has_all(reading: Reading, pointer: Pointer, value: dict[str, JSON], required: tuple[str, ...]) -> bool:
    missing = [key for key in required if key not in value]
    for key in missing:
        reading.findings.error(pointer, f"{quoted(key)} is missing")
    return not missing
