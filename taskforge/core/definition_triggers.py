"""Reads the triggers of a workflow document."""

from __future__ import annotations

from collections.abc import Set
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from taskforge.core.config_errors import config_problems
from taskforge.core.definition_policies import MAX_RATE
from taskforge.core.definition_read import NAME, TRIGGER_NAME, Reading, Use, check_mapping, read_condition, read_word
from taskforge.core.findings import with_suggestion
from taskforge.core.inputs import apply_defaults, check_input
from taskforge.core.model import (
    JSON,
    Evaluation,
    RateLimit,
    RunTrigger,
    TimeTrigger,
    Trigger,
    WebhookTrigger,
)
from taskforge.core.problem import Pointer, quoted, suggest
from taskforge.core.scope import Scope
from taskforge.core.states import RUN_TERMINAL
from taskforge.core.templated import AnyJSON, Condition, Duration, StepConfig, Templated, has_expression
from taskforge.core.verify_config import VerifyConfig, parse_verify

KINDS = ("manual", "cron", "at", "webhook", "on_run")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
DEFAULT_RESPOND_MS = 10_000
MAX_RESPOND_MS = 600_000
_SEES = ("trigger", "vars", "secrets", "now")
_WORKFLOW_FORM = "use lower-case letters, digits and -, beginning with a letter or digit, at most 63"
_NAME_FORM = "use lower-case letters, digits, - and _, at most 63"


class Manual(StepConfig):
    """Started by a person or a script; there is nothing to set."""


class Verify(StepConfig):
    """How a webhook's sender is known."""

    scheme: Literal["none", "token", "basic", "github", "stripe", "slack", "standard", "hmac"]
    secret: str | list[str] | None = Field(None, description="Names of secrets, newest first.")
    header: str | None = None
    parameter: str | None = None
    user: str | None = None
    algorithm: str | None = None
    encoding: str | None = None
    prefix: str | None = None
    timestamp: AnyJSON = None
    tolerance: Duration = None


class Respond(StepConfig):
    """Answer with the run's result."""

    wait: Duration = Field(None, description="How long to wait for the run's end; default 10s, at most 10m.")
    status: Templated[int] = Field(200, description="From 200 to 599.")
    headers: dict[str, str] = Field(default_factory=dict)
    body: AnyJSON = Field(None, description="Text is sent as text, anything else as JSON; default the run's output.")


class RateLimited(StepConfig):
    """At most `max` deliveries in `per`; more are answered 429."""

    max: int = Field(ge=1, le=MAX_RATE)
    per: Duration


class Debounce(StepConfig):
    """Of a burst of deliveries with one key, one run, when none has come `for` a while; it has the last one's input."""

    key: AnyJSON = None
    for_: Duration = Field(alias="for")


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
    methods: list[Literal["GET", "POST", "PUT", "PATCH", "DELETE"]] | None = Field(
        None, min_length=1, description="Default all of them."
    )
    rate_limit: RateLimited | None = None
    debounce: Debounce | None = None


class OnRun(StepConfig):
    """Started by the end of another workflow's run."""

    workflow: str
    states: list[Literal["SUCCEEDED", "FAILED", "CANCELLED"]] | None = Field(
        None, min_length=1, description="The states in which the run ended; default all three."
    )


class _Triggered(StepConfig):
    input: AnyJSON = Field(None, description="The run's input; sees $trigger.")


class _Timed(_Triggered):
    timezone: str | None = Field(None, description="IANA name; default UTC.")
    catch_up: Literal["latest", "all", "none"] | None = Field(
        None, description="What becomes of slots that nobody was there for; default latest."
    )
    catch_up_window: Duration = Field(None, description="Older slots are left out.")
    jitter: Duration = Field(None, description="Each slot fires up to this much later, always by the same time.")
    start: str | None = None
    end: str | None = None


class CronTrigger(_Timed):
    cron: str = Field(description="Five fields: minute hour day month weekday; or @daily, @every 90s.", max_length=200)


class AtTrigger(_Timed):
    at: str = Field(description="One time, as 2027-03-01T09:00.", max_length=100)


class WebhookModel(_Triggered):
    webhook: Webhook


class OnRunTrigger(_Triggered):
    on_run: OnRun


class ManualTrigger(StepConfig):
    manual: Manual | None


MODELS: dict[str, type[BaseModel]] = {
    "manual": ManualTrigger,
    "cron": CronTrigger,
    "at": AtTrigger,
    "webhook": WebhookModel,
    "on_run": OnRunTrigger,
}
_TIME_KEYS = ("cron", "at", "timezone", "start", "end", "jitter", "catch_up", "catch_up_window")


def read_triggers(
    reading: Reading, value: JSON, inputs: JSON, scope: Scope, visible: set[str], workflow: JSON
) -> dict[str, Trigger]:
    """Return the triggers by name. `visible` are the steps that `respond` may name."""
    if value is None or not check_mapping(reading, ("triggers",), value):
        return {}
    found: dict[str, Trigger] = {}
    for name, trigger in value.items():
        pointer: Pointer = ("triggers", name)
        good = read_word(reading, pointer, name, TRIGGER_NAME, _NAME_FORM, "trigger name")
        if good is not None and check_mapping(reading, pointer, trigger):
            made = _TriggerReader(reading, pointer, name, trigger, inputs, scope, visible).read(workflow)
            if made is not None:
                found[name] = made
    return found


class _TriggerReader:
    """Reads one trigger."""

    def __init__(
        self,
        reading: Reading,
        pointer: Pointer,
        name: str,
        value: dict[str, Any],
        inputs: JSON,
        scope: Scope,
        visible: set[str],
    ) -> None:
        self.reading = reading
        self.findings = reading.findings
        self.pointer = pointer
        self.name = name
        self.value = value
        self.inputs = inputs
        self.scope = scope
        self.visible = visible

    def read(self, workflow: JSON) -> Trigger | None:
        kind = self._kind()
        if kind is None:
            return None
        try:
            model: Any = MODELS[kind].model_validate(self.value)
        except ValidationError as error:
            problems = list(config_problems(error, self.value, MODELS[kind]))
            for problem in problems:
                place = (*self.pointer, *problem.pointer)
                self.findings.error(place, problem.message, hint=problem.hint, key=problem.key)
            if kind in ("cron", "at"):
                self._refuse_other_times({str(key) for problem in problems for key in problem.pointer[:1]})
            return None
        if kind == "manual":
            return Trigger(self.name)
        input = self._template(("input",), self.value["input"], "trigger_input") if "input" in self.value else None
        self._check_required()
        if kind == "webhook":
            return self._webhook(model.webhook, input)
        if kind == "on_run":
            return self._on_run(model.on_run, input, workflow)
        return self._timed(input)

    def _kind(self) -> str | None:
        trigger, findings = self.value, self.findings
        found = [key for key in trigger if key in KINDS]
        if len(found) == 1:
            return found[0]
        needs = f"a trigger needs exactly one of {', '.join(KINDS)}"
        if found:
            findings.error((*self.pointer, found[1]), f"trigger has {' and '.join(found)}; {needs}", key=True)
        elif trigger:
            word = next((key for key in trigger if suggest(key, KINDS)), next(iter(trigger)))
            message = with_suggestion(f"{needs}; found {quoted(word)}", suggest(word, KINDS))
            findings.error((*self.pointer, word), message, key=True)
        else:
            findings.error(self.pointer, needs)
        return None

    # ---- the kinds

    def _timed(self, input: Evaluation | None) -> Trigger | None:
        config = {key: self.value[key] for key in _TIME_KEYS if self.value.get(key) is not None}
        schedule = None
        if self.reading.parse_schedule is not None:
            try:
                schedule = self.reading.parse_schedule(config)
            except ValueError as error:
                self._refuse_time(error)
                self._refuse_other_times({str(getattr(error, "key", None))})
                return None
            for remark in schedule.remarks:
                self.findings.warn((*self.pointer, "cron"), remark)
        return TimeTrigger(self.name, input, config, schedule)

    def _refuse_time(self, error: ValueError) -> None:
        key = getattr(error, "key", None)
        place = (*self.pointer, key) if key in self.value else self.pointer
        offset = max(0, (getattr(error, "column", None) or 1) - 1)
        self.findings.error(place, str(error), hint=getattr(error, "hint", None), offset=offset)

    def _refuse_other_times(self, told: Set[str]) -> None:
        """A fault ended the reading: look at each other setting by itself, so that all faults are told at once."""
        if self.reading.parse_schedule is None:
            return
        for key in _TIME_KEYS:
            if key in told or self.value.get(key) is None:
                continue
            alone = {key: self.value[key]}
            try:
                self.reading.parse_schedule(alone if key in ("cron", "at") else {"cron": "* * * * *", **alone})
            except ValueError as error:
                if getattr(error, "key", None) == key:
                    self._refuse_time(error)

    def _on_run(self, model: OnRun, input: Evaluation | None, workflow: JSON) -> Trigger:
        place = (*self.pointer, "on_run", "workflow")
        read_word(self.reading, place, model.workflow, NAME, _WORKFLOW_FORM, "workflow name")
        if model.workflow == workflow:
            self.findings.error(place, "a workflow cannot be started by the end of its own runs")
        states = sorted(map(str, RUN_TERMINAL)) if model.states is None else [str(state) for state in model.states]
        return RunTrigger(self.name, input, model.workflow, tuple(dict.fromkeys(states)))

    def _webhook(self, model: Webhook, input: Evaluation | None) -> Trigger:
        value = self.value["webhook"]
        debounce = None
        if model.debounce is not None:
            debounce = self._template(("webhook", "debounce", "key"), value["debounce"].get("key"))
        rate = model.rate_limit
        respond, respond_ms = self._respond(model.respond, value.get("respond"))
        if respond is not None and model.debounce is not None:
            self.findings.error(
                (*self.pointer, "webhook", "respond"), "a debounced run begins later; there is nothing to respond with"
            )
        return WebhookTrigger(
            self.name,
            input,
            verify=self._verify(value["verify"]),
            methods=frozenset(model.methods or METHODS),
            dedupe=None if model.dedupe is None else self._template(("webhook", "dedupe"), model.dedupe),
            condition=self._condition(value.get("if")),
            respond=respond,
            respond_ms=respond_ms,
            rate_limit=None if rate is None else RateLimit(rate.max, rate.per),
            debounce=debounce,
            debounce_ms=0 if model.debounce is None else model.debounce.for_,
        )

    def _verify(self, value: JSON) -> VerifyConfig:
        place = (*self.pointer, "webhook", "verify")
        try:
            config = parse_verify(value)
        except ValueError as error:
            self.findings.error(place, str(error))
            return VerifyConfig("none")
        if config.scheme != "none" and not config.secrets:
            self.findings.error(
                place, f"scheme {config.scheme} needs `secret`: the name of a secret, or a list of names"
            )
        return config

    def _condition(self, value: JSON) -> Evaluation | None:
        if value is None:
            return None
        use = read_condition(self.reading, (*self.pointer, "webhook", "if"), value, "if")
        if use is None:
            return None
        self._check(use)
        return self.reading.condition(use.template)

    def _respond(self, model: Respond | None, value: JSON) -> tuple[Evaluation | None, int]:
        if model is None:
            return None, 0
        place = (*self.pointer, "webhook", "respond")
        wait = DEFAULT_RESPOND_MS if model.wait is None else model.wait
        if wait > MAX_RESPOND_MS:
            self.findings.error((*place, "wait"), "must be at most 10m")
        if not has_expression(model.status) and not 200 <= model.status <= 599:
            self.findings.error((*place, "status"), "must be from 200 to 599")
        # What is evaluated keeps its place in the document, so that a problem is shown where it stands.
        shown = {key: value[key] for key in ("status", "headers", "body") if key in value}
        use = self.reading.template(place, shown, "trigger")
        if use is None:
            return None, wait
        if self.reading.strict:
            self.scope.check(use, self.visible, roots=(*_SEES, "input", "run", "steps"))
        return Evaluation(None, use.template), wait

    # ---- templates and inputs

    def _template(self, inside: Pointer, value: JSON, what: str = "trigger") -> Evaluation | None:
        use = self.reading.template((*self.pointer, *inside), value, what)
        if use is None:
            return None
        self._check(use)
        return Evaluation(None, use.template)

    def _check(self, use: Use) -> None:
        if self.reading.strict:
            self.scope.check(use, (), roots=_SEES)

    def _check_required(self) -> None:
        """A run without an `input` of its own has the defaults: they must be enough."""
        if not self.reading.strict or "input" in self.value or not isinstance(self.inputs, dict):
            return
        for problem in check_input(self.inputs, apply_defaults(self.inputs)):
            message = f"the trigger gives no input, and the defaults are not enough: {problem.path}: {problem.message}"
            hint = "give the trigger an `input`, or the field a default"
            self.findings.error(self.pointer, message, hint=hint, key=True)
            return
