"""The kinds of steps: those that come with TaskForge, and those of installed packages (entry points)."""

from __future__ import annotations

from importlib.metadata import entry_points

from taskforge.core.errors import StartupError
from taskforge.core.kind import Kind
from taskforge.steps.fail import FailKind
from taskforge.steps.foreach import ForeachKind
from taskforge.steps.http import HttpKind
from taskforge.steps.parallel import ParallelKind
from taskforge.steps.repeat import RepeatKind
from taskforge.steps.set_state import SetStateKind
from taskforge.steps.succeed import SucceedKind
from taskforge.steps.switch import SwitchKind
from taskforge.steps.transform import TransformKind
from taskforge.steps.wait import WaitKind
from taskforge.steps.workflow import WorkflowKind

GROUP = "taskforge.steps"


def built_in_kinds() -> dict[str, Kind]:
    """Return the kinds of this package by name, in the order in which messages list them."""
    kinds: list[Kind] = [
        HttpKind(),
        TransformKind(),
        SwitchKind(),
        ForeachKind(),
        ParallelKind(),
        RepeatKind(),
        WaitKind(),
        WorkflowKind(),
        SetStateKind(),
        FailKind(),
        SucceedKind(),
    ]
    return {kind.name: kind for kind in kinds}


def load_kinds() -> dict[str, Kind]:
    """Return all kinds by name. An entry point names a class or a function that makes a `Kind`.

    StartupError when one cannot be loaded, is no kind, or takes a name that is taken.
    """
    kinds = built_in_kinds()
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        package = point.dist.name if point.dist is not None else point.value
        try:
            kind = point.load()()
        except Exception as error:
            raise StartupError(
                f'the step kind "{point.name}" of package {package} cannot be loaded: {error}; '
                "repair or uninstall the package"
            ) from error
        if not isinstance(kind, Kind) or kind.name != point.name:
            raise StartupError(f'the step kind "{point.name}" of package {package} is no Kind of that name')
        if kind.name in kinds:
            raise StartupError(f'the step kind "{point.name}" of package {package} takes a name that is taken')
        kinds[kind.name] = kind
    return kinds
