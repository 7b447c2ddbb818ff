"""`wait`: for a time, until an instant, or for a signal."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from taskforge.core.clock import MAX_MS, from_rfc3339
from taskforge.core.config_errors import ConfigProblem
from taskforge.core.durations import format_duration
from taskforge.core.errors import Failure
from taskforge.core.input_schema import check_schema
from taskforge.core.kind import BlockSource, ControlKind, resume_signal
from taskforge.core.model import JSON, Plan, Step
from taskforge.core.templated import AnyJSON, Duration, Plain, StepConfig, StepList, Templated, describe
from taskforge.steps.resolving import InvalidConfig, resolve_config

if TYPE_CHECKING:
    from taskforge.core.progress import Progress
    from taskforge.core.snapshot import Frame, StepRun

DEFAULT_TIMEOUT_MS = 30 * 86_400_000
"""How long a wait for a signal lasts that says nothing else."""

_SIGNAL = re.compile(r"[^\s!/\x00-\x1f\x7f][^\s/\x00-\x1f\x7f]{0,127}")
_SIGNAL_FORM = "must be a name of at most 128 characters without spaces or /, and not begin with !"
_FORM = "a wait is one of {for: 10m}, {until: …} or {signal: NAME, timeout: 24h}"
_EXPRESSION = re.compile(r"(?<!\$)\$\{\{.*?\}\}", re.DOTALL)


def _check_until(value: Any) -> Any:
    instant_ms(value)
    return value


def _check_signal(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"{_SIGNAL_FORM}; it is {describe(value)}")
    if _SIGNAL.fullmatch(value) is None:
        raise ValueError(_SIGNAL_FORM)
    return value


_Until = Annotated[Any, Plain(_check_until, {"type": ["string", "number"]})]
_Signal = Annotated[Any, Plain(_check_signal, {"type": "string", "minLength": 1, "maxLength": 128})]


class _Evaluated(StepConfig):
    for_: Annotated[
        Templated[Duration], Field(alias="for", description="A duration, counted from the step's turn.")
    ] = None
    until: Annotated[Templated[_Until], Field(description="An instant: RFC 3339 text, or seconds since 1970.")] = None
    signal: Annotated[
        Templated[_Signal], Field(description="The name of the signal to wait for: POST /v1/runs/{id}/signals/{name}.")
    ] = None
    timeout: Annotated[
        Templated[Duration], Field(description="How long to wait for the signal at most; default 30d.")
    ] = None


class WaitConfig(_Evaluated):
    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["for"]}, {"required": ["until"]}, {"required": ["signal"]}]},
    )

    schema_: Annotated[
        AnyJSON, Field(alias="schema", description="JSON Schema (2020-12) that the signal's data has to fit.")
    ] = None
    on_timeout: Annotated[
        StepList, Field(description="What runs when the signal does not come in time; else the step is FAILED.")
    ] = None

    @model_validator(mode="after")
    def _check_form(self) -> WaitConfig:
        given = self.model_fields_set
        if len(given & {"for_", "until", "signal"}) != 1:
            raise PydanticCustomError("plain", "{message}", {"message": _FORM})
        for field, key in (("timeout", "timeout"), ("schema_", "schema"), ("on_timeout", "on_timeout")):
            if field in given and "signal" not in given:
                message = f"`{key}` belongs to a wait for a signal; a time comes by itself"
                raise PydanticCustomError("plain_at_key", "{message}", {"message": message, "key": key})
        return self


class WaitKind(ControlKind):
    """The output is the signal's data; null after a wait for a time.

    - `for` counts from the step's turn; an `until` that has passed ends the wait at once.
    - A signal that was sent before the step's turn is taken at once; every signal is taken by one step, the one that
      has waited longest. Without `timeout` the step waits for 30 days.
    - When the signal does not come in time the `on_timeout` steps run, and the output is the last one's; without them
      the step is FAILED (WAIT_TIMEOUT).
    - `schema` is checked when the signal is sent: data that does not fit is refused there, and the step waits on.
    - While it waits, the step holds no slot and no memory. A retry of the run waits anew, unless `on_timeout` had
      begun: then it goes on there.

    `data` is null for a time, `{"signal": name}` while the step waits for one, `{"timed_out": true}` after that.
    """

    name = "wait"
    summary = "Wait for a time, until an instant, or for a signal; the output is the signal's data."
    Config = WaitConfig

    def check(self, config: JSON) -> list[ConfigProblem]:
        schema = config.get("schema") if isinstance(config, dict) else None
        if schema is None:
            return []
        return [
            ConfigProblem(("schema", *problem.pointer), problem.message, problem.key, problem.hint)
            for problem in check_schema(schema)
            if not problem.is_warning
        ]

    def evaluated(self, config: JSON) -> JSON:
        given = config if isinstance(config, dict) else {}
        return {key: given[key] for key in ("for", "until", "signal", "timeout") if key in given}

    def blocks(self, config: JSON) -> list[BlockSource]:
        found = isinstance(config, dict) and "on_timeout" in config
        return [BlockSource("on_timeout", ("on_timeout",))] if found else []

    def begin(self, decision: Progress, at: StepRun, value: JSON) -> None:
        try:
            given = resolve_config(self.name, _Evaluated, value)
        except InvalidConfig as error:
            decision.fail(at, error.failure)
            return
        if given.signal is not None:
            decision.remember(at, {"signal": given.signal})
            link = resume_signal(at.path, at.generation)
            sent = decision.find_signal(given.signal) or decision.find_signal(link)
            if sent is not None:
                decision.take_signal(at, sent)
            else:
                decision.wait(at, decision.now + (given.timeout or DEFAULT_TIMEOUT_MS), signal=given.signal)
            return
        until = instant_ms(given.until) if given.for_ is None else decision.now + given.for_
        if until <= decision.now:
            decision.succeed(at, None)
        else:
            decision.wait(at, until)

    def woke(self, decision: Progress, at: StepRun) -> None:
        decision.go_on(at)
        if at.data is None:
            decision.succeed(at, None)
        elif at.step.blocks:
            decision.remember(at, {"timed_out": True})
            decision.open(at, at.step.blocks[0].name, at.step.blocks[0].steps)
        else:
            waited = format_duration(decision.now - (at.started_at or decision.now))
            message = f"the signal {at.data['signal']!r} did not come within {waited}"
            decision.fail(at, Failure("WAIT_TIMEOUT", message, detail={"signal": at.data["signal"]}))

    def signalled(self, decision: Progress, at: StepRun, data: JSON) -> None:
        decision.succeed(at, data)

    def ended(self, decision: Progress, at: StepRun, frame: Frame, failure: Failure | None) -> None:
        if failure is not None:
            decision.fail(at, failure)
        else:
            decision.succeed(at, None if frame.last is None else frame.last.output)

    def resume(self, decision: Progress, at: StepRun) -> None:
        decision.reopen(at, at.step.blocks[0].name, at.step.blocks[0].steps)

    def goes_on(self, at: StepRun) -> bool:
        return isinstance(at.data, Mapping) and "timed_out" in at.data


def instant_ms(value: JSON) -> int:
    """Read an instant, RFC 3339 text or seconds since 1970, as milliseconds UTC. ValueError says what was expected."""
    if isinstance(value, str):
        return from_rfc3339(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(
            f"must be RFC 3339 text such as 2026-11-23T09:00:00Z or seconds since 1970, not {_shown(value)}"
        )
    ms = round(Fraction(value) * 1000)
    if not 0 <= ms <= MAX_MS:
        raise ValueError(f"{_shown(value)} seconds since 1970 is outside the years 1970 to 9999")
    return ms


def _shown(value: JSON) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value)[:40] if is_number else describe(value)


def signal_schema(plan: Plan, name: str) -> JSON:
    """Return the JSON Schema that the data of a signal has to fit, or None: what the `wait` steps say that may take it.
    Where several may, one of their schemas has to fit; where one of them has none, anything does."""
    takers = sorted((step for step in plan.index.values() if may_take(step, name)), key=lambda step: step.order)
    schemas = [step.config.get("schema") for step in takers]
    if not schemas or None in schemas:
        return None
    return schemas[0] if all(schema == schemas[0] for schema in schemas) else {"anyOf": schemas}


def may_take(step: Step, name: str) -> bool:
    """Return whether a step is a `wait` for a signal of this name, as far as its text says so: an expression in the
    name stands for anything."""
    if not isinstance(step.kind, WaitKind) or not isinstance(step.config, dict):
        return False
    text = step.config.get("signal")
    if not isinstance(text, str):
        return False
    parts = [part.replace("$${{", "${{") for part in _EXPRESSION.split(text)]
    if len(parts) == 1:
        return parts[0] == name
    start, *between, end = parts
    at, stop = len(start), len(name) - len(end)
    if not name.startswith(start) or not name.endswith(end):
        return False
    for part in between:
        found = name.find(part, at + 1, stop)
        if found < 0:
            return False
        at = found + len(part)
    return at < stop
