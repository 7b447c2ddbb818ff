"""`transform`: a JSON value with expressions in it becomes the step's output."""

from __future__ import annotations

from taskforge.core.kind import Outcome, PureKind
from taskforge.core.model import JSON


class TransformKind(PureKind):
    """Any JSON value; what its expressions give is the output."""

    name = "transform"
    summary = "Reshape data: the value, with its expressions evaluated, is the step's output."
    Config = None

    def finish(self, value: JSON) -> Outcome:
        return Outcome(output=value)
