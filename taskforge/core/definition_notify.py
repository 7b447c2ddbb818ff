"""Reads `notify`: messages about the end of a run, made into `http` steps that are delivered like any other."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from taskforge.core.config_errors import config_problems
from taskforge.core.definition_read import Reading, Use, check_mapping
from taskforge.core.findings import with_suggestion
from taskforge.core.model import JSON, Evaluation, Retry, Step
from taskforge.core.problem import Pointer, quoted, suggest
from taskforge.core.record import dataclass
from taskforge.core.states import RunState
from taskforge.core.templated import AnyJSON, Plain, Scalar, StepConfig, Templated, describe

STATES = ("SUCCEEDED", "FAILED", "CANCELLED")
"""What `on` may name; without it a message is sent when the run FAILED."""

_NAMED = "\\($run.workflow)#\\($run.number)"
_WHERE = '(if $error.step then " at \\($error.step)" else "" end)'
_TEXTS = {
    "SUCCEEDED": f'"{_NAMED} succeeded"',
    "FAILED": f'"{_NAMED} failed" + {_WHERE} + ": \\($error.message) [\\($error.code)]"',
    "CANCELLED": f'"{_NAMED} was cancelled: \\($error.message)"',
}
_SLACK = '({}) | gsub("&"; "&amp;") | gsub("<"; "&lt;") | gsub(">"; "&gt;")'
_DISCORD = "({})[:2000]"


def _check_secret_name(value: Any) -> Any:
    if not isinstance(value, str) or not value.isidentifier() or not value.isascii():
        said = describe(value) if not isinstance(value, str) else quoted(value)
        raise ValueError(f"must be the name of a secret such as SLACK_URL, not {said}")
    return value


SecretName = Annotated[Any, Plain(_check_secret_name, {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"})]


class _Receiver(StepConfig):
    url_secret: SecretName = Field(None, description="Name of the secret that holds the URL.")
    url: str | None = Field(None, description="The URL itself, where it is no secret. Expressions may stand in it.")

    @model_validator(mode="after")
    def _check_url(self) -> _Receiver:
        if (self.url_secret is None) == (self.url is None):
            raise PydanticCustomError("plain", "{message}", {"message": "needs exactly one of url_secret, url"})
        return self


class Slack(_Receiver):
    """A message to an incoming webhook of Slack."""

    text: Templated[str] | None = Field(None, description="Default: the run's name, how it ended, and why.")


class Discord(_Receiver):
    """A message to a webhook of Discord; it mentions nobody."""

    text: Templated[str] | None = Field(None, description="Default: the run's name, how it ended, and why.")


class PlainWebhook(_Receiver):
    """A POST of JSON to any URL."""

    headers: Templated[dict[str, Scalar]] | None = Field(None, description="Request headers.")
    json_: AnyJSON = Field(
        None, alias="json", description="Default: {workflow, version, run, number, state, error, text}."
    )


RECEIVERS: dict[str, type[BaseModel]] = {"slack": Slack, "discord": Discord, "webhook": PlainWebhook}


@dataclass(frozen=True, slots=True)
class Notification:
    """One message: the states in which it is sent, the step that sends it, and its use of names."""

    states: frozenset[str]
    step: Step
    use: Use


def read_notify(reading: Reading, value: JSON, ids: set[str], order: int, retry: Retry) -> list[Notification]:
    """Read the list of messages. `ids` are taken; `order` is the place in the document of the first."""
    pointer: Pointer = ("notify",)
    if value is None:
        return []
    if not isinstance(value, list):
        reading.findings.error(pointer, f"must be a list such as [{{on: [FAILED], slack: …}}], not {describe(value)}")
        return []
    found: list[Notification] = []
    for position, entry in enumerate(value):
        place = (*pointer, position)
        if not check_mapping(reading, place, entry, ("on", *RECEIVERS)):
            continue
        states = _read_states(reading, (*place, "on"), entry.get("on", ["FAILED"]))
        receiver = _read_receiver(reading, place, entry)
        for state in states if receiver is not None else ():
            id = f"notify_{position + 1}" + (f"_{state.lower()}" if len(states) > 1 else "")
            while id in ids:
                id += "_"
            ids.add(id)
            made = _make_step(reading, (*place, receiver or ""), id, state, entry[receiver], order + len(found), retry)
            if made is not None:
                found.append(made)
    return found


def _read_states(reading: Reading, pointer: Pointer, value: JSON) -> list[str]:
    if not isinstance(value, list) or not value:
        reading.findings.error(pointer, f"must be a list of {', '.join(STATES)}")
        return []
    found: list[str] = []
    for position, state in enumerate(value):
        if state in STATES:
            found.append(state)
            continue
        shown = quoted(state) if isinstance(state, str) else describe(state)
        message = f"{shown} is no state in which a run ends: {', '.join(STATES)}"
        near = suggest(state, STATES) if isinstance(state, str) else None
        reading.findings.error((*pointer, position), with_suggestion(message, near))
    return list(dict.fromkeys(found))


def _read_receiver(reading: Reading, pointer: Pointer, entry: dict[str, JSON]) -> str | None:
    given = [key for key in entry if key in RECEIVERS]
    if len(given) != 1:
        has = f"; this has {' and '.join(given)}" if given else ""
        reading.findings.error(pointer, f"a message needs exactly one of {', '.join(RECEIVERS)}{has}")
        return None
    model = RECEIVERS[given[0]]
    try:
        model.model_validate(entry[given[0]])
    except ValidationError as error:
        for problem in config_problems(error, entry[given[0]], model):
            place = (*pointer, given[0], *problem.pointer)
            reading.findings.error(place, problem.message, hint=problem.hint, key=problem.key)
        return None
    return given[0]


def _make_step(
    reading: Reading, pointer: Pointer, id: str, state: str, settings: dict[str, JSON], order: int, retry: Retry
) -> Notification | None:
    kind = reading.kinds["http"]
    config = _config(str(pointer[-1]), state, settings)

    def place(inner: Pointer) -> Pointer:
        if inner[:1] == ("url",):
            return (*pointer, "url_secret" if "url_secret" in settings else "url", *inner[1:])
        if "text" in settings and inner[:1] == ("json",):
            return (*pointer, "text", *inner[2:])
        return (*pointer, *inner) if inner and inner[0] in settings else pointer

    use = reading.template_at(place, config, "notify")
    if use is None:
        return None
    evaluation = Evaluation(None, use.template)
    where = reading.findings.place(pointer[:-1])
    step = Step(id, kind, config, evaluation, retry, order=order, position=where)
    return Notification(frozenset({RunState(state)}), step, use)


def _config(receiver: str, state: str, settings: dict[str, JSON]) -> dict[str, JSON]:
    """The config of the `http` step that sends the message."""
    url = settings.get("url") or f"${{{{ $secrets.{settings.get('url_secret')} }}}}"
    config: dict[str, JSON] = {"method": "POST", "url": url}
    if receiver == "slack":
        text = settings.get("text") or _expression(_SLACK.format(_TEXTS[state]))
        return {**config, "json": {"text": text}}
    if receiver == "discord":
        text = settings.get("text") or _expression(_DISCORD.format(_TEXTS[state]))
        return {**config, "json": {"content": text, "allowed_mentions": {"parse": []}}}
    if settings.get("headers") is not None:
        config["headers"] = settings["headers"]
    if "json" in settings:
        return {**config, "json": settings["json"]}
    return {
        **config,
        "json": {
            "workflow": "${{ $run.workflow }}",
            "version": "${{ $run.version }}",
            "run": "${{ $run.id }}",
            "number": "${{ $run.number }}",
            "state": state,
            "error": "${{ $error }}",
            "text": _expression(_TEXTS[state]),
        },
    }


def _expression(source: str) -> str:
    return f"${{{{ {source} }}}}"
