"""`set_state`: writes a value of the workflow's own small store, which later runs see as `$state.KEY`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from taskforge.core.errors import Failure
from taskforge.core.jsontext import dumps
from taskforge.core.kind import ActionFailed, ActionKind, AttemptContext
from taskforge.core.model import JSON, AttemptFailure
from taskforge.core.templated import AnyJSON, Plain, StepConfig, Templated, describe
from taskforge.steps.resolving import InvalidConfig, resolve_config

_LONGEST = 200
_FORM = f"must be text of 1 to {_LONGEST} characters"


def _check_key(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"{_FORM}, not {describe(value)}")
    if not 0 < len(value) <= _LONGEST:
        raise ValueError(_FORM)
    return value


class SetStateConfig(StepConfig):
    key: Annotated[
        Templated[Annotated[Any, Plain(_check_key, {"type": "string", "minLength": 1, "maxLength": _LONGEST})]],
        Field(description="The key; later runs of the workflow see $state.KEY."),
    ]
    value: AnyJSON = Field(description="Any JSON. null removes the key.")
    expected: Annotated[
        AnyJSON, Field(description="Write only where the value is this one now; null: where there is none.")
    ] = None


class SetStateKind(ActionKind):
    """The output is the value.

    With `expected` the value is written only where that is what stands there now (null: nothing does); else the step is
    FAILED (STATE_CONFLICT). That is no error of the network, so `retry` does not try it again unless its own condition
    says so. A write counts once for all attempts of the step.
    """

    name = "set_state"
    summary = "Write a value that later runs of the workflow see as $state.KEY."
    Config = SetStateConfig

    async def run(self, value: JSON, context: AttemptContext) -> JSON:
        try:
            config = resolve_config(self.name, SetStateConfig, value)
        except InvalidConfig as error:
            raise ActionFailed(AttemptFailure(error.failure, sent=False)) from None
        compare = "expected" in config.model_fields_set
        if not await context.set_state(config.key, config.value, config.expected, compare=compare):
            message = f"the state of {config.key!r} is not {dumps(config.expected)[:200]}"
            failure = Failure("STATE_CONFLICT", message, detail={"key": config.key})
            raise ActionFailed(AttemptFailure(failure, sent=False))
        return config.value
