"""The JSON Schema of workflow documents, for editors: completion, descriptions, most mistakes. Made from the models.

Draft-07, which every editor speaks. What a schema cannot say (names in expressions, unique ids) only validation finds.
"""

from __future__ import annotations

from typing import Any

from taskforge.core.definition_notify import RECEIVERS, STATES
from taskforge.core.definition_policies import (
    MAX_ATTEMPTS,
    MAX_FACTOR,
    MAX_PLACES,
    MAX_PRIORITY,
    MAX_RATE,
    ON_LIMIT,
)
from taskforge.core.definition_read import NAME, RESERVED_IDS, STEP_ID, TRIGGER_NAME
from taskforge.core.definition_steps import EFFECTS
from taskforge.core.definition_triggers import MODELS
from taskforge.core.kind import Kind, Kinds
from taskforge.core.templated import CONDITION_SCHEMA, DURATION_SCHEMA

Schema = dict[str, Any]

_STATUS = {
    "anyOf": [
        {"enum": ["network", "timeout", "4xx", "5xx"]},
        {"type": "integer", "minimum": 100, "maximum": 599},
        {"type": "string", "pattern": "^([1-5][xX][xX]|[1-5][0-9][0-9])$"},
    ]
}


def workflow_schema(kinds: Kinds) -> Schema:
    """Return the schema of a whole document, with the config of every kind."""
    definitions: Schema = {
        "duration": {**DURATION_SCHEMA, "description": "500ms, 30s, 10m, 2h, 1d, 1h30m, or a number of seconds."},
        "condition": {**CONDITION_SCHEMA, "description": "One whole ${{ … }}, true or false."},
        "retry": _retry(),
        "rate_limit": _rate_limit(),
        "steps": {
            "type": "array",
            "items": _ref("step"),
            "description": "Steps that run one after the other.",
        },
    }
    definitions["step"] = _step(kinds, definitions)
    definitions["trigger"] = _trigger(definitions)
    definitions["message"] = _message(definitions)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "TaskForge workflow",
        "type": "object",
        "required": ["name", "steps"],
        "additionalProperties": False,
        "properties": _top(),
        "definitions": dict(sorted(definitions.items())),
    }


def _top() -> Schema:
    return {
        "name": {"type": "string", "pattern": f"^{NAME.pattern}$", "description": "The key of the workflow."},
        "description": {"type": ["string", "null"], "description": "What the workflow is for."},
        "triggers": {
            "type": ["object", "null"],
            "propertyNames": {"pattern": f"^{TRIGGER_NAME.pattern}$"},
            "additionalProperties": _ref("trigger"),
            "description": "What starts a run. A run can always be started by hand.",
        },
        "inputs": {
            "type": ["object", "null"],
            "description": "JSON Schema (2020-12) of the run's input; its defaults are applied.",
        },
        "concurrency": {
            "type": ["object", "null"],
            "additionalProperties": False,
            "properties": {
                "key": {"description": "Runs with the same key share the places; sees $input, $trigger, $vars."},
                "limit": _whole(1, MAX_PLACES, "How many runs may be between start and end at once. Default 1."),
                "on_limit": {
                    "enum": list(ON_LIMIT),
                    "description": "queue: wait for a place; skip: end CANCELLED at once; cancel_oldest: make room.",
                },
            },
            "description": "How many runs go on at once. A run keeps its place from start to end, waits included.",
        },
        "timeout": _described("duration", "Bound of the whole run, from its start."),
        "max_queue_time": _described("duration", "A run that has not begun by then is CANCELLED."),
        "priority": _whole(-MAX_PRIORITY, MAX_PRIORITY, "Higher goes first when attempts have to wait. Default 0."),
        "defaults": {
            "type": ["object", "null"],
            "additionalProperties": False,
            "properties": {"retry": _ref("retry")},
            "description": "Settings for all steps that do not say otherwise.",
        },
        "steps": {"allOf": [_ref("steps")], "minItems": 1, "description": "Steps that run one after the other."},
        "on_failure": _steps("What runs when the run has FAILED; sees $error and every step."),
        "finally": _steps("What runs at last, after success, failure or cancel."),
        "output": {"description": "The run's output: any JSON, with expressions. It sees every step."},
        "notify": {
            "type": ["array", "null"],
            "items": _ref("message"),
            "description": "Messages about the end of the run, delivered like http steps.",
        },
    }


def _step(kinds: Kinds, definitions: Schema) -> Schema:
    properties: Schema = {
        "id": {
            "type": "string",
            "pattern": f"^{STEP_ID.pattern}$",
            "not": {"enum": sorted(RESERVED_IDS)},
            "description": "Unique in the workflow; later steps see the output as $id.",
        },
        "description": {"type": ["string", "null"], "description": "What the step is for."},
        "if": _described("condition", "The step is SKIPPED when this is false or null."),
        "needs": {
            "type": "array",
            "items": {"type": "string", "pattern": f"^{STEP_ID.pattern}$"},
            "description": "Inside parallel: steps of the same list that must have ended before this one begins.",
        },
        "retry": _described("retry", "When and how often a failed attempt is followed by another."),
        "timeout": _described("duration", "Bound of all attempts of the step and the pauses between them."),
        "continue_on_error": {"type": "boolean", "description": "Go on when the step fails; its output is null."},
        "rate_limit": _described("rate_limit", "At most so many attempts in a time, over all runs of the workflow."),
        "effect": {
            "enum": list(EFFECTS),
            "description": "once: an attempt whose outcome is unknown is not sent again. Default idempotent.",
        },
        "probe": _steps("With effect: once. What finds out whether a lost attempt took effect: gives true or false."),
        "catch": _steps("What runs when the step fails; then the run goes on. Sees $error."),
        "finally": _steps("What runs after the step, however it ended."),
        "undo": _steps("What takes the step back when the run fails later; last step first."),
    }
    for name, kind in kinds.items():
        properties[name] = _config(kind, definitions)
    return {
        "type": "object",
        "required": ["id"],
        "properties": properties,
        "additionalProperties": False,
        "oneOf": [{"required": [name]} for name in kinds],
    }


def _config(kind: Kind, definitions: Schema) -> Schema:
    described: Schema = {"description": kind.summary}
    if kind.Config is None:
        return described
    inner = _model_schema(kind.Config, definitions)
    inner.pop("title", None)
    if kind.optional:
        return {**described, "anyOf": [inner, {"type": "null"}]}
    return {**inner, **described}


def _trigger(definitions: Schema) -> Schema:
    found = [_model_schema(model, definitions) for model in MODELS.values()]
    return {"anyOf": found, "description": "manual, cron or webhook."}


def _model_schema(model: Any, definitions: Schema) -> Schema:
    """pydantic's schema of a model; its inner models become definitions of their own."""
    made = model.model_json_schema(ref_template="#/definitions/{model}")
    for name, inner in made.pop("$defs", {}).items():
        definitions[name] = _tidy(inner)
    tidied: Schema = _tidy(made)
    return tidied


def _tidy(value: Any) -> Any:
    """Without pydantic's titles; references of ours and beside a description as draft-07 wants them."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    tidied = {key: _tidy(item) for key, item in value.items() if not (key == "title" and isinstance(item, str))}
    if "x-ref" in tidied:
        tidied["$ref"] = f"#/definitions/{tidied.pop('x-ref')}"
    if "$ref" in tidied and len(tidied) > 1:
        tidied["allOf"] = [{"$ref": tidied.pop("$ref")}]
    if tidied.get("default", 0) is None:
        del tidied["default"]
    return tidied


def _retry() -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "max_attempts": {"type": "integer", "minimum": 1, "maximum": MAX_ATTEMPTS, "description": "Default 3."},
            "initial": _described("duration", "Pause before the second attempt; default 1s, at most 1d."),
            "factor": {
                "type": "number",
                "minimum": 1,
                "maximum": MAX_FACTOR,
                "description": "What the pause is multiplied by each time; default 2.",
            },
            "max": _described("duration", "The longest pause; default 1m, at most 1d."),
            "jitter": {"enum": ["full", "none"], "description": "full: a random part of the pause. Default full."},
            "on": {
                "type": "array",
                "items": _STATUS,
                "description": "What is retried; default [network, timeout, 408, 429, 5xx].",
            },
            "when": _described("condition", "In place of `on`: whether the error in $error is retried."),
        },
        "not": {"required": ["on", "when"]},
    }


def _rate_limit() -> Schema:
    return {
        "type": "object",
        "required": ["max", "per"],
        "additionalProperties": False,
        "properties": {
            "key": {"description": "Each value has a limit of its own; default one for the step."},
            "max": _whole(1, MAX_RATE, "How many attempts."),
            "per": _described("duration", "In what time."),
        },
    }


def _message(definitions: Schema) -> Schema:
    receivers: Schema = {}
    for name, model in RECEIVERS.items():
        made = _model_schema(model, definitions)
        receivers[name] = {**made, "oneOf": [{"required": ["url_secret"]}, {"required": ["url"]}]}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "on": {
                "type": "array",
                "items": {"enum": list(STATES)},
                "minItems": 1,
                "description": "The states of the run in which the message is sent; default [FAILED].",
            },
            **receivers,
        },
        "oneOf": [{"required": [name]} for name in RECEIVERS],
    }


def _steps(description: str) -> Schema:
    return {"allOf": [_ref("steps")], "minItems": 1, "description": description}


def _whole(least: int, most: int, description: str) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most, "description": description}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


def _described(name: str, description: str) -> Schema:
    return {"allOf": [_ref(name)], "description": description}
