"""`workflow`: a run of another workflow, waited for or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from taskforge.core.definition_read import NAME
from taskforge.core.errors import Failure
from taskforge.core.kind import ActionFailed, ActionKind, AttemptContext, Suspended, child_signal
from taskforge.core.model import JSON, AttemptFailure
from taskforge.core.templated import AnyJSON, Plain, StepConfig, Templated, describe
from taskforge.steps.resolving import InvalidConfig, resolve_config

if TYPE_CHECKING:
    from taskforge.core.progress import Progress
    from taskforge.core.snapshot import StepRun

LOOK_AGAIN_MS = 86_400_000
"""After how long a step is looked at that waits for its child: a net, for the child tells of its end."""

_FORM = "must be the name of a workflow: lower-case letters, digits and -"


def _check_name(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"{_FORM}, not {describe(value)}")
    if NAME.fullmatch(value) is None:
        raise ValueError(_FORM)
    return value


class WorkflowConfig(StepConfig):
    name: Annotated[
        Templated[Annotated[Any, Plain(_check_name, {"type": "string", "pattern": f"^{NAME.pattern}$"})]],
        Field(description="The workflow that is run."),
    ]
    input: Annotated[AnyJSON, Field(description="The child run's input; default {}.")] = None
    wait: Annotated[
        Templated[bool], Field(description="Wait for the child's end and take over its output. Default true.")
    ] = True
    version: Annotated[
        Templated[Annotated[int, Field(ge=1)]] | None, Field(description="Default: the newest version.")
    ] = None


class WorkflowKind(ActionKind):
    """The output is the child run's output or, with `wait: false`, `{run: <its id>}`.

    - The attempt only starts the child, once for all attempts of the step; then the step is WAITING and holds no slot.
    - A child that ends FAILED fails the step (CHILD_FAILED, `detail: {run, error}`), a CANCELLED one as well
      (CHILD_CANCELLED, `detail: {run}`). Neither is retried by `retry`, which is about starting it: the child has
      retried what it could. `catch` and `continue_on_error` take it as any failure. A retry of the run starts a new
      child.

    `data` is `{"signal": …, "wait": {"run": id}}` while it waits.
    """

    name = "workflow"
    summary = "Run another workflow; the output is its output."
    Config = WorkflowConfig

    async def run(self, value: JSON, context: AttemptContext) -> JSON | Suspended:
        try:
            config = resolve_config(self.name, WorkflowConfig, value)
        except InvalidConfig as error:
            raise ActionFailed(AttemptFailure(error.failure, sent=False)) from None
        given = {} if config.input is None else config.input
        run = await context.start_child(config.name, given, wait=config.wait, version=config.version)
        if not config.wait:
            return {"run": run}
        signal = child_signal(context.path, context.generation)
        return Suspended(signal, {"run": run}, context.now() + LOOK_AGAIN_MS)

    def signalled(self, decision: Progress, at: StepRun, data: JSON) -> None:
        """`data` is `{state, output, error, run}` of the child."""
        run, error = data.get("run"), data.get("error")
        if data["state"] == "SUCCEEDED":
            decision.succeed(at, data.get("output"))
        elif data["state"] == "CANCELLED":
            decision.fail(at, Failure("CHILD_CANCELLED", f"the child run {run} was cancelled", detail={"run": run}))
        else:
            why = f": {error['code']}: {error['message']}" if error else ""
            message = f"the child run {run} failed{why}"
            decision.fail(at, Failure("CHILD_FAILED", message, detail={"run": run, "error": error}))

    def woke(self, decision: Progress, at: StepRun) -> None:
        decision.put_off(at, decision.now + LOOK_AGAIN_MS)
