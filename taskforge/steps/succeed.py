"""`succeed`: the run ends at once, SUCCEEDED."""

from __future__ import annotations

from pydantic import Field

from taskforge.core.kind import Outcome, PureKind
from taskforge.core.model import JSON
from taskforge.core.templated import AnyJSON, StepConfig


class SucceedConfig(StepConfig):
    output: AnyJSON = Field(None, description="The run's output, in place of the workflow's `output`; default null.")


class SucceedKind(PureKind):
    """Later steps do not run; the workflow's own `output` is not evaluated."""

    name = "succeed"
    summary = "End the run as SUCCEEDED, with an output."
    Config = SucceedConfig
    optional = True

    def finish(self, value: JSON) -> Outcome:
        return Outcome(output=(value or {}).get("output"), ends_run=True)
