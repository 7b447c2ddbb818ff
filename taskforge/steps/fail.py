"""`fail`: the step fails on purpose, and the run with it unless something takes the failure."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field

from taskforge.core.errors import Failure
from taskforge.core.jsontext import dumps
from taskforge.core.kind import Outcome, PureKind
from taskforge.core.model import JSON
from taskforge.core.templated import AnyJSON, Plain, StepConfig, Templated, describe

_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
_CODE_FORM = "must be upper-case letters, digits and _, such as NOTHING_TO_DO"
_DEFAULT_MESSAGE = "a fail step ended the run"


def _check_code(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"{_CODE_FORM}, not {describe(value)}")
    if _CODE.fullmatch(value) is None:
        raise ValueError(_CODE_FORM)
    return value


class FailConfig(StepConfig):
    message: AnyJSON = Field(None, description="Why the run fails. Expressions may stand in it.")
    code: Annotated[
        Templated[Annotated[Any, Plain(_check_code, {"type": "string", "pattern": "^[A-Z][A-Z0-9_]{0,62}$"})]],
        Field(description="A stable code for the error; default STEP_FAILED."),
    ] = "STEP_FAILED"


class FailKind(PureKind):
    """Its failure is never retried and makes no dead letter."""

    name = "fail"
    summary = "End the run as FAILED, with a message of your own."
    Config = FailConfig
    optional = True

    def finish(self, value: JSON) -> Outcome:
        value = value or {}
        message, code = value.get("message"), value.get("code", "STEP_FAILED")
        text = _DEFAULT_MESSAGE if message is None else message if isinstance(message, str) else dumps(message)
        try:
            return Outcome(failure=Failure(_check_code(code), text))
        except ValueError as error:
            detail = {"path": "fail.code"}
            return Outcome(
                failure=Failure("INVALID_CONFIG", f"fail.code {error}; the message was: {text}", None, None, detail)
            )
