"""Reads the config of a step: checked by its kind's model, its expressions found and parsed."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from taskforge.core.config_errors import config_problems
from taskforge.core.definition_read import Node, Reading, Use, is_whole
from taskforge.core.kind import Kind
from taskforge.core.model import JSON, Evaluation, Template
from taskforge.core.problem import Pointer
from taskforge.core.record import dataclass

_ONE_WHOLE = "a condition must be one whole ${{ … }}, true or false"


@dataclass(frozen=True, slots=True)
class ReadConfig:
    """A config and the templates in it: `template` for the step's turn, the others for later, by name."""

    config: JSON
    template: Template
    later: dict[str, Template]
    evaluations: dict[str, Evaluation]


def read_config(
    reading: Reading, node: Node, kind: Kind, pointer: Pointer, config: JSON, is_limited: bool, key: JSON
) -> ReadConfig | None:
    """Read the config that stands at `pointer`. With a rate limit its `key` is evaluated in the same round trip."""
    _check_model(reading, kind, pointer, config)
    try:
        evaluated, later, further = kind.evaluated(config), kind.later(config), kind.further(config)
    except (TypeError, KeyError, AttributeError, IndexError):
        if reading.strict and reading.findings.errors:
            return None  # a config of another shape, which the model has refused
        raise
    use = _read_evaluated(reading, node, kind, pointer, evaluated, is_limited, key)
    if use is None:
        return None
    node.uses.append(use)
    _check_conditions(reading, kind, config, evaluated, use)
    found = _read_named(reading, kind, pointer, later, node.uses)
    evaluations = _read_named(reading, kind, pointer, further, node.further_uses)
    if found is None or evaluations is None:
        return None
    made = {name: Evaluation(None, template) for name, template in evaluations.items()}
    return ReadConfig(config, use.template, found, made)


def _check_model(reading: Reading, kind: Kind, pointer: Pointer, config: JSON) -> None:
    if kind.Config is None or not reading.strict:
        return
    found = list(kind.check(config))
    try:
        kind.Config.model_validate(config)
    except ValidationError as error:
        found += config_problems(error, config, kind.Config)
    for problem in found:
        place = (*pointer, *problem.pointer)
        reading.findings.error(place, problem.message, hint=problem.hint, key=problem.key)


def _read_evaluated(
    reading: Reading, node: Node, kind: Kind, pointer: Pointer, evaluated: JSON, is_limited: bool, key: JSON
) -> Use | None:
    def place(inner: Pointer) -> Pointer:
        return (*pointer, *kind.place(inner))

    if not is_limited:
        return reading.template_at(place, evaluated, kind.name)

    def place_both(inner: Pointer) -> Pointer:
        if inner[:1] == ("key",):
            return (*node.pointer, "rate_limit", *inner)
        return place(inner[1:])

    return reading.template_at(place_both, {"key": key, "config": evaluated}, kind.name)


def _check_conditions(reading: Reading, kind: Kind, config: JSON, evaluated: JSON, use: Use) -> None:
    """The conditions of a `switch` are one whole expression each."""
    if kind.evaluation_mode(config) != "first_true" or not isinstance(evaluated, list):
        return
    for position, value in enumerate(evaluated):
        alone = reading.parse_template(value)
        if alone.expressions and not is_whole(alone):
            reading.findings.error(use.place((position,)), _ONE_WHOLE)


def _read_named(
    reading: Reading, kind: Kind, pointer: Pointer, values: Any, uses: list[Use]
) -> dict[str, Template] | None:
    """Parse the templates of `Kind.later` or `Kind.further`; None when one of them cannot be."""
    found: dict[str, Template] = {}
    for name, (inner, value) in values.items():
        use = reading.template((*pointer, *inner), value, name)
        if use is None:
            return None
        uses.append(use)
        found[name] = use.template
        if name in kind.conditions and use.template.expressions and not is_whole(use.template):
            reading.findings.error((*pointer, *inner), _ONE_WHOLE)
    return found
