"""Which steps run again when a person has an ended run taken up again.

It is written down in the rows (`StepRun.stage`) in the decision that takes the request, so that a crash, a wait for a
place or a window of `max_parallel` later changes nothing: AGAIN is a step to be taken up where it stands, ASIDE is one
whose outcome belongs to what was before; to everything but its own history it is as though it had not run.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator
from enum import Enum, auto

from taskforge.core.kind import ControlKind
from taskforge.core.model import Plan, Step
from taskforge.core.progress import AGAIN, ASIDE, Progress
from taskforge.core.record import dataclass
from taskforge.core.snapshot import StepRun
from taskforge.core.states import StepState


@dataclass(frozen=True, slots=True)
class Place:
    """Where a step stands: inside which step, and in which of its handlers ("" for its blocks). Without an owner it
    stands in a list of the run itself, whose name is then `handler` ("" for the main one)."""

    owner: Step | None
    handler: str = ""


def plan_places(plan: Plan) -> dict[str, Place]:
    """Return the place of every step of a workflow by id."""
    lists = [("", plan.steps), ("on_failure", plan.on_failure), ("finally", plan.finally_)]
    lists += [("notify", (step,)) for _, step in plan.notify]
    return {step.id: place for handler, steps in lists for step, place in _walk(steps, Place(None, handler))}


def _walk(steps: tuple[Step, ...], place: Place) -> Iterator[tuple[Step, Place]]:
    for step in steps:
        yield step, place
        for block in step.blocks:
            yield from _walk(block.steps, Place(step))
        for handler, inner in step.handlers.items():
            yield from _walk(inner, Place(step, handler))


class _Fate(Enum):
    KEPT = auto()
    GOES_ON = auto()
    ANEW = auto()
    ASIDE = auto()


class RunRetrying(Progress, ABC):
    """Marks the rows of a run that is taken up again."""

    def mark_for_retry(self, from_step: str | None) -> None:
        """Mark what failed or was cut off, and everything that came after `from_step` (a path)."""
        marking = _Marking(self, plan_places(self.run.plan))
        if from_step is not None:
            marking.rewind(self.run.steps[from_step])
        for at in self.run.steps.values():
            fate = marking.fate(at)
            if fate is _Fate.ASIDE:
                self.set_aside(at)
            elif fate is not _Fate.KEPT:
                at.stage = AGAIN
                if fate is _Fate.ANEW:
                    at.data = None
                self.touch(at)


class _Marking:
    """Finds the fate of every row; what is around a step decides first."""

    def __init__(self, decision: RunRetrying, places: dict[str, Place]) -> None:
        self._steps = decision.run.steps
        self._places = places
        self._fates: dict[str, _Fate] = {}

    def fate(self, at: StepRun) -> _Fate:
        found = self._fates.get(at.path)
        if found is None:
            found = self._fates[at.path] = self._find_fate(at)
        return found

    def rewind(self, chosen: StepRun) -> None:
        """Set aside a step and what followed it; the blocks around it go on. A step inside a handler stands for the
        step that is handled; one inside a handler of the run for nothing, since that runs again anyway."""
        inner = self._handled(chosen)
        while inner is not None:
            self._fates.setdefault(inner.path, _Fate.ASIDE)
            owner = self._owner(inner)
            for other in list(self._steps.values()):
                if self._is_beside(other, inner, owner) and _follows(owner, inner, other):
                    self._fates[other.path] = _Fate.ASIDE
            if owner is not None:
                self._fates[owner.path] = _Fate.GOES_ON
                assert isinstance(owner.step.kind, ControlKind)
                owner.step.kind.rewound(owner, inner)
            inner = owner

    def _handled(self, chosen: StepRun) -> StepRun | None:
        found: StepRun | None = chosen
        at: StepRun | None = chosen
        while at is not None:
            owner = self._owner(at)
            if self._places[at.step.id].handler:
                found = owner
            at = owner
        return found

    def _owner(self, at: StepRun) -> StepRun | None:
        owner = self._places[at.step.id].owner
        return None if owner is None else self._steps[at.prefixes[len(owner.loops)] + owner.id]

    def _is_beside(self, other: StepRun, inner: StepRun, owner: StepRun | None) -> bool:
        """Whether both stand in blocks of the same step of the same item, or in the run's main list."""
        mine, theirs = self._places[inner.step.id], self._places[other.step.id]
        if other is inner or theirs.owner is not mine.owner or theirs.handler:
            return False
        return owner is None or self._owner(other) is owner

    def _find_fate(self, at: StepRun) -> _Fate:
        handler = self._places[at.step.id].handler
        owner = self._owner(at)
        if owner is None:
            return _Fate.ASIDE if handler else _own_fate(at)
        around = self.fate(owner)
        if around is _Fate.KEPT:
            # It has ended for good; what may be unfinished is the handler that was running when the run ended.
            return _own_fate(at) if handler and owner.stage == handler else _Fate.KEPT
        return _own_fate(at) if around is _Fate.GOES_ON and not handler else _Fate.ASIDE


def _follows(owner: StepRun | None, inner: StepRun, other: StepRun) -> bool:
    if owner is None:
        return other.step.order > inner.step.order
    assert isinstance(owner.step.kind, ControlKind)
    return owner.step.kind.follows(owner, inner, other)


def _own_fate(at: StepRun) -> _Fate:
    """The fate of a step that nothing around it decides."""
    if at.stage == ASIDE:
        return _Fate.ASIDE
    if at.state is not StepState.CANCELLED and at.stage != AGAIN and not Progress.has_failed(at):
        return _Fate.KEPT
    kind = at.step.kind
    goes_on = isinstance(kind, ControlKind) and at.data is not None and kind.goes_on(at)
    return _Fate.GOES_ON if goes_on else _Fate.ANEW
