"""`switch`: the steps of the first branch whose condition is true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field, RootModel, model_validator
from pydantic_core import PydanticCustomError

from taskforge.core.errors import Failure
from taskforge.core.kind import BlockSource, ControlKind
from taskforge.core.model import JSON
from taskforge.core.problem import Pointer
from taskforge.core.templated import Condition, StepConfig, StepList

if TYPE_CHECKING:
    from taskforge.core.progress import Progress
    from taskforge.core.snapshot import Frame, StepRun

_FORM = "a branch is {when: …, steps: […]}; the last one may be {else: […]}"


class Branch(StepConfig):
    """`{when, steps}`, or `{else: [steps]}` as the last one."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["when", "steps"]}, {"required": ["else"]}]},
    )

    when: Condition = Field(None, description="One whole ${{ … }} that gives true, false or null.")
    steps: StepList = Field(None, description="What runs when the condition is true.")
    otherwise: StepList = Field(None, alias="else", description="What runs when no condition was true.")

    @model_validator(mode="after")
    def _check_form(self) -> Branch:
        given = self.model_fields_set
        if given not in ({"when", "steps"}, {"otherwise"}):
            raise PydanticCustomError("plain", "{message}", {"message": _FORM})
        return self


class SwitchConfig(RootModel[list[Branch]]):
    model_config = ConfigDict(strict=True, defer_build=True)

    root: list[Branch] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_else(self) -> SwitchConfig:
        for branch in self.root[:-1]:
            if "otherwise" in branch.model_fields_set:
                raise PydanticCustomError(
                    "plain", "{message}", {"message": "else must be the last branch, and the only one"}
                )
        return self


class SwitchKind(ControlKind):
    """`data` is `{"branch": n}`, counted from 0; the `else` branch has the last number."""

    name = "switch"
    summary = "Run the steps of the first branch whose condition is true, or of `else`."
    Config = SwitchConfig

    def evaluated(self, config: JSON) -> JSON:
        branches = [branch for branch in config if isinstance(branch, dict)] if isinstance(config, list) else []
        return [_expression(branch["when"]) for branch in branches if "when" in branch]

    def evaluation_mode(self, config: JSON) -> Literal["all", "first_true"]:
        return "first_true"

    def place(self, pointer: Pointer) -> Pointer:
        return (pointer[0], "when", *pointer[1:]) if pointer else ()

    def blocks(self, config: JSON) -> list[BlockSource]:
        found: list[BlockSource] = []
        for position, branch in enumerate(config if isinstance(config, list) else []):
            if isinstance(branch, dict):
                key: Any = "else" if "else" in branch else "steps"
                if key in branch:
                    found.append(BlockSource(str(position), (position, key)))
        return found

    def begin(self, decision: Progress, at: StepRun, value: JSON) -> None:
        branches = at.step.blocks
        conditions = sum(1 for branch in at.step.config if "when" in branch)
        chosen = conditions if value is None else value
        if chosen >= len(branches):
            decision.remember(at, {"branch": None})
            decision.succeed(at, None)
            return
        decision.remember(at, {"branch": chosen})
        decision.open(at, branches[chosen].name, branches[chosen].steps)

    def ended(self, decision: Progress, at: StepRun, frame: Frame, failure: Failure | None) -> None:
        if failure is not None:
            decision.fail(at, failure)
        else:
            decision.succeed(at, None if frame.last is None else frame.last.output)

    def resume(self, decision: Progress, at: StepRun) -> None:
        chosen = at.data["branch"]
        decision.reopen(at, at.step.blocks[chosen].name, at.step.blocks[chosen].steps)


def _expression(condition: JSON) -> JSON:
    """true and false as expressions, so that every condition is one."""
    return f"${{{{ {str(condition).lower()} }}}}" if isinstance(condition, bool) else condition
