"""What a one-time link resumes: a step that waits for a signal, or will, in the generation that the link is for."""

from __future__ import annotations

from typing import NamedTuple

from taskforge.core.errors import ResumeLinkUsed
from taskforge.core.kind import resume_signal
from taskforge.core.model import JSON, Plan, Step
from taskforge.core.progress import AGAIN, ASIDE
from taskforge.core.snapshot import RunSnapshot, StepRun
from taskforge.security.resume_links import ResumeTarget


class Resumable(NamedTuple):
    """A step that a link can resume. `run` is `name#number`, `schema` what its data has to fit (None: anything)."""

    run: str
    path: str
    schema: JSON


class AwaitedSignal(NamedTuple):
    """What a wait step waits for: a signal's name, and the schema of its data (None: anything)."""

    name: str
    schema: JSON


def awaited_signal(step: Step) -> AwaitedSignal | None:
    """Return what a step waits for, when that is a signal."""
    config = step.config
    if step.kind.name != "wait" or not isinstance(config, dict) or "signal" not in config:
        return None
    return AwaitedSignal(config["signal"], config.get("schema"))


def step_of(plan: Plan, path: str) -> Step | None:
    """Find the step of a path."""
    return plan.index.get(path.rpartition(".")[2])


def generation_of(run: RunSnapshot, path: str) -> int:
    """Return the generation in which a step runs, or will run when its turn comes."""
    at = run.steps.get(path)
    if at is None:
        return 1
    return run.generation if at.stage in (AGAIN, ASIDE) else at.generation


def check_resumable(run: RunSnapshot, target: ResumeTarget) -> None:
    """Raises ResumeLinkUsed, in plain words, where the step takes nothing from this link any more."""
    at = run.steps.get(target.path)
    name = f"step {target.path!r} of the run {run.workflow}#{run.number}"
    sent = resume_signal(target.path, target.generation)
    if any(record.name == sent for record in run.signals):
        raise ResumeLinkUsed(f"this link has been used: {name} goes on when its turn comes")
    if generation_of(run, target.path) != target.generation:
        raise ResumeLinkUsed(f"this link is of an earlier try: {name} was run again since it was made")
    if at is not None and at.stage not in (AGAIN, ASIDE):
        if at.ended:
            raise ResumeLinkUsed(f"this link has been used, or came too late: {name} has ended ({at.state})")
        if isinstance(at.data, dict) and "timed_out" in at.data:
            raise ResumeLinkUsed(f"this link came too late: {name} no longer waits")
    if run.ended:
        raise ResumeLinkUsed(f"this link resumes nothing any more: the run has ended ({run.state})")


def next_target(run: RunSnapshot, at: StepRun) -> ResumeTarget | None:
    """Find the step that waits for a signal next after `at` in the document, where it is visible from there."""
    later = [step for step in _waits(run.plan) if step.order > at.step.order]
    for step in sorted(later, key=lambda step: step.order):
        target = target_of(run, at, step)
        if target is not None:
            return target
    return None


def targets_by_id(run: RunSnapshot, at: StepRun) -> dict[str, ResumeTarget]:
    """Every step that waits for a signal and is in the same loops as `at`, or in fewer, by its id."""
    found = {step.id: target_of(run, at, step) for step in _waits(run.plan)}
    return {id: target for id, target in found.items() if target is not None}


def target_of(run: RunSnapshot, at: StepRun, step: Step) -> ResumeTarget | None:
    """Return what a link for `step` resumes, as seen from `at`: the step inside the same items of the same loops."""
    depth = len(step.loops)
    prefixes = at.scope or at.prefixes
    loops = at.step.loops if at.scope is None else (*at.step.loops, at.step.id)
    if depth >= len(prefixes) or loops[:depth] != step.loops:
        return None
    path = prefixes[depth] + step.id
    return ResumeTarget(run.id, path, generation_of(run, path))


def _waits(plan: Plan) -> list[Step]:
    return [step for step in plan.index.values() if awaited_signal(step) is not None]
