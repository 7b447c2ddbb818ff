"""Step kinds of a package of its own: one of each role. `docs/steps-plugin.md` explains them line by line."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Annotated

from pydantic import Field

from taskforge.core.config_errors import ConfigProblem
from taskforge.core.errors import Failure
from taskforge.core.kind import ActionFailed, ActionKind, AttemptContext, ControlKind, Outcome, PureKind
from taskforge.core.model import JSON, AttemptFailure
from taskforge.core.progress import Progress
from taskforge.core.snapshot import StepRun
from taskforge.core.templated import StepConfig, Templated
from taskforge.steps.resolving import InvalidConfig, resolve_config

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS

Hour = Annotated[int, Field(ge=0, le=24)]


class SlugConfig(StepConfig):
    text: Templated[str] = Field(description="What becomes the slug.")
    longest: Templated[Annotated[int, Field(ge=1, le=200)]] = Field(60, description="Most characters; default 60.")


class SlugKind(PureKind):
    """`slug: {text: "Hello, World"}` gives `hello-world`."""

    name = "slug"
    summary = "Make a text fit for a URL."
    Config = SlugConfig

    def finish(self, value: JSON) -> Outcome:
        try:
            config = resolve_config("slug", SlugConfig, value)
        except InvalidConfig as error:
            return Outcome(failure=error.failure)
        words = re.findall(r"[a-z0-9]+", config.text.lower())
        return Outcome(output="-".join(words)[: config.longest].strip("-"))


class AppendLineConfig(StepConfig):
    file: Templated[str] = Field(description="Absolute path of a text file.")
    line: Templated[str] = Field(description="The line to add.")


class AppendLineKind(ActionKind):
    """`append_line: {file: /var/log/orders.txt, line: "…"}` gives `{"lines": n}`.

    An attempt that is made twice adds its line once: it knows its own line by the idempotency key.
    """

    name = "append_line"
    summary = "Add a line to a text file, once for all attempts."
    Config = AppendLineConfig

    def check(self, config: JSON) -> list[ConfigProblem]:
        line = config.get("line") if isinstance(config, dict) else None
        if isinstance(line, str) and "\n" in line.rstrip("\n"):
            return [ConfigProblem(("line",), "must be a single line")]
        return []

    async def run(self, value: JSON, context: AttemptContext) -> JSON:
        try:
            config = resolve_config("append_line", AppendLineConfig, value)
        except InvalidConfig as error:
            raise ActionFailed(AttemptFailure(error.failure, sent=False)) from None
        try:
            # Files block; the event loop must not.
            count = await asyncio.to_thread(_append, Path(config.file), config.line, context.idempotency_key)
        except OSError as error:
            failure = Failure("FILE_FAILED", f"{config.file}: {error.strerror}")
            # The class says what `retry.on` chooses by: `network` is retried by default.
            raise ActionFailed(AttemptFailure(failure, error_class="network", sent=False)) from None
        return {"lines": count}


def _append(file: Path, line: str, key: str) -> int:
    marked = f"{line.strip()}  # {key}\n"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    if marked not in lines:
        with file.open("a") as opened:
            opened.write(marked)
        lines.append(marked)
    return len(lines)


class OfficeHoursConfig(StepConfig):
    opens: Templated[Hour] = Field(9, description="First hour (UTC) in which steps go on.")
    closes: Templated[Hour] = Field(17, description="First hour (UTC) in which they wait for the next day.")


class OfficeHoursKind(ControlKind):
    """`office_hours: {opens: 9, closes: 17}` waits until somebody is there. Waiting costs a row and nothing else."""

    name = "office_hours"
    summary = "Wait until office hours (UTC)."
    Config = OfficeHoursConfig
    optional = True

    def begin(self, decision: Progress, at: StepRun, value: JSON) -> None:
        try:
            config = resolve_config("office_hours", OfficeHoursConfig, value)
        except InvalidConfig as error:
            decision.fail(at, error.failure)
            return
        until = _next_open_hour(decision.now, config.opens, config.closes)
        if until <= decision.now:
            decision.succeed(at, {"waited": False})
        else:
            decision.wait(at, until)

    def woke(self, decision: Progress, at: StepRun) -> None:
        decision.go_on(at)
        decision.succeed(at, {"waited": True})

    def resume(self, decision: Progress, at: StepRun) -> None:
        decision.succeed(at, {"waited": True})


def _next_open_hour(now: int, opens: int, closes: int) -> int:
    """The earliest time from now on that lies in office hours; milliseconds UTC."""
    midnight = now - now % _DAY_MS
    if midnight + opens * _HOUR_MS <= now < midnight + closes * _HOUR_MS:
        return now
    today = midnight + opens * _HOUR_MS
    return today if now < today else today + _DAY_MS
