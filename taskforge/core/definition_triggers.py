"""Reads the triggers of a workflow document. Their own settings are stored as written; their shape is checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from taskforge.core.config_errors import config_problems
from taskforge.core.definition_read import TRIGGER_NAME, Reading, Use, check_mapping, read_condition, read_word
from taskforge.core.findings import with_suggestion
from taskforge.core.inputs import apply_defaults, check_input
from taskforge.core.model import JSON
from taskforge.core.problem import Pointer, quoted, suggest
from taskforge.core.scope import Scope
from taskforge.core.templated import AnyJSON, Condition, Duration, StepConfig

KINDS = ("manual", "cron", "webhook")
_SEES = ("trigger", "vars", "secrets", "now")
_NAME_FORM = "use lower-case letters, digits, - and _, at most 63"


class Manual(StepConfig):
    """Started by a person or a script; there is nothing to set."""


class Verify(StepConfig):
    """How a webhook's sender is known."""

    scheme: Literal["none", "token", "basic", "github", "stripe", "slack", "standard", "hmac"]
    secret: str | list[str] | None = None
    header: str | None = None
    parameter: str | None = None
    algorithm: str | None = None
    encoding: str | None = None
    prefix: str | None = None
    timestamp: AnyJSON = None
    tolerance: Duration = None


class Respond(StepConfig):
    """Answer with the run's result."""

    wait: Duration = None
    status: int | str | None = None
    headers: dict[str, str] | None = None
    body: AnyJSON = None


def _read_verify(value: Any) -> Any:
    return {"scheme": "none"} if value == "none" else value


def _or_none(schema: dict[str, Any]) -> None:
    inner = dict(schema)
    schema.clear()
    schema["anyOf"] = [inner, {"const": "none"}]


class Webhook(StepConfig):
    verify: Annotated[Verify, BeforeValidator(_read_verify)] = Field(
        description="Must be written out, `none` too.", json_schema_extra=_or_none
    )
    dedupe: str | None = Field(None, description="The delivery's id; known by itself for the named schemes.")
    if_: Condition = Field(None, alias="if", description="false: the delivery is kept as FILTERED, no run.")
    respond: Respond | None = None
    methods: list[str] | None = None


class CronTrigger(StepConfig):
    cron: str = Field(description="Five fields: minute hour day month weekday.", max_length=200)
    timezone: str | None = Field(None, description="IANA name; default UTC.")
    catch_up: Literal["latest", "all", "none"] = "latest"
    jitter: Duration = None
    start: str | None = None
    end: str | None = None
    input: AnyJSON = Field(None, description="The run's input; sees $trigger.")


class WebhookTrigger(StepConfig):
    webhook: Webhook
    input: AnyJSON = Field(None, description="The run's input; sees $trigger.")


class ManualTrigger(StepConfig):
    manual: Manual | None


MODELS: dict[str, type[BaseModel]] = {"manual": ManualTrigger, "cron": CronTrigger, "webhook": WebhookTrigger}


def read_triggers(reading: Reading, value: JSON, inputs: JSON, scope: Scope, visible: set[str]) -> dict[str, JSON]:
    """Return the triggers as written. `visible` are the steps that `respond` may name."""
    if not reading.strict:
        return value if isinstance(value, dict) else {}
    if value is None or not check_mapping(reading, ("triggers",), value):
        return {}
    for name, trigger in value.items():
        pointer: Pointer = ("triggers", name)
        problem = read_word(reading, pointer, name, TRIGGER_NAME, _NAME_FORM, "trigger name")
        if problem is not None and check_mapping(reading, pointer, trigger):
            _read_trigger(reading, pointer, trigger, inputs, scope, visible)
    return dict(value)


def _read_trigger(
    reading: Reading, pointer: Pointer, trigger: dict[str, Any], inputs: JSON, scope: Scope, visible: set[str]
) -> None:
    findings = reading.findings
    found = [key for key in trigger if key in KINDS]
    if len(found) != 1:
        needs = f"a trigger needs exactly one of {', '.join(KINDS)}"
        if "on_run" in trigger:
            findings.error((*pointer, "on_run"), "`on_run` is not supported by this version of TaskForge", key=True)
        elif found:
            findings.error((*pointer, found[1]), f"trigger has {' and '.join(found)}; {needs}", key=True)
        elif trigger:
            word = next((key for key in trigger if suggest(key, KINDS)), next(iter(trigger)))
            message = with_suggestion(f"{needs}; found {quoted(word)}", suggest(word, KINDS))
            findings.error((*pointer, word), message, key=True)
        else:
            findings.error(pointer, needs)
        return
    kind = found[0]
    try:
        MODELS[kind].model_validate(trigger)
    except ValidationError as error:
        for problem in config_problems(error, trigger, MODELS[kind]):
            findings.error((*pointer, *problem.pointer), problem.message, hint=problem.hint, key=problem.key)
        return
    if kind != "manual":
        message = f"this version of TaskForge does not fire {kind} triggers yet; the document is stored as it is"
        findings.warn((*pointer, kind), message, key=True)
        _check_required(reading, pointer, trigger, inputs)
    for use, steps in _uses(reading, pointer, trigger.get("webhook")):
        scope.check(use, visible if steps else (), roots=(*_SEES, "input", "run", "steps") if steps else _SEES)
    if "input" in trigger:
        given = reading.template((*pointer, "input"), trigger["input"], "trigger")
        if given is not None:
            scope.check(given, (), roots=_SEES)


def _uses(reading: Reading, pointer: Pointer, webhook: JSON) -> list[tuple[Use, bool]]:
    """The templates of a webhook; True where the run's steps are visible."""
    if not isinstance(webhook, dict):
        return []
    place = (*pointer, "webhook")
    condition = webhook.get("if")
    found = [
        (None if condition is None else read_condition(reading, (*place, "if"), condition, "if"), False),
        (reading.template((*place, "dedupe"), webhook.get("dedupe"), "trigger"), False),
        (reading.template((*place, "respond"), webhook.get("respond"), "trigger"), True),
    ]
    return [(use, steps) for use, steps in found if use is not None]


def _check_required(reading: Reading, pointer: Pointer, trigger: dict[str, Any], inputs: JSON) -> None:
    """A cron or webhook run without an `input` of its own has the defaults: they must be enough."""
    if "input" in trigger or not isinstance(inputs, dict):
        return
    for problem in check_input(inputs, apply_defaults(inputs)):
        message = f"the trigger gives no input, and the defaults are not enough: {problem.path}: {problem.message}"
        reading.findings.error(pointer, message, hint="give the trigger an `input`, or the field a default", key=True)
        return
