"""What applying documents would change, and what follows from it. Pure: what the server has is an argument."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import field
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any, Literal, NamedTuple

from taskforge.core.definition import Definition
from taskforge.core.differences import Change, Difference, compare_documents, same_document
from taskforge.core.jsontext import dumps, loads
from taskforge.core.model import JSON
from taskforge.core.outline import calls_of
from taskforge.core.problem import Problem
from taskforge.core.record import dataclass
from taskforge.engine.schedules import coming_firing
from taskforge.store.protocol import LiveRuns, RunRow, VersionRow
from taskforge.store.triggered import TIMES, ScheduleRow, TriggerSpec
from taskforge.triggers.forecast import local_text
from taskforge.triggers.schedule import parse_schedule

Action = Literal["new", "changed", "unchanged", "deleted"]

SHOWN_RUNS = 5
"""How many of the runs that stay on an old version are named."""


@dataclass(frozen=True, slots=True)
class Given:
    """A document as somebody gives it. `file` is what to call it; None: nothing but its place in the request."""

    source: bytes
    media: Literal["yaml", "json"]
    file: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What the server should have. `prune`: and no other workflow, but for names that fit a pattern in `keep`."""

    documents: Sequence[Given]
    prune: bool = False
    keep: Sequence[str] = ()

    def pruned(self, existing: Iterable[str], given: Collection[str]) -> list[str]:
        """The workflows that go."""
        if not self.prune:
            return []
        return [
            name
            for name in existing
            if name not in given and not any(fnmatchcase(name, pattern) for pattern in self.keep)
        ]


class Known(NamedTuple):
    """What the server has of a workflow: its newest version, and whether it is there (not deleted) and enabled."""

    version: VersionRow
    there: bool
    enabled: bool


class TriggerChange(NamedTuple):
    """`config` are the trigger's settings: the new ones, or those that go."""

    name: str
    change: Change
    config: JSON


class Firing(NamedTuple):
    """When a schedule fires next: milliseconds, the zone's own time, the zone, and the expression."""

    at: int | None
    local: str | None
    timezone: str
    schedule: str


class FiringMove(NamedTuple):
    """The next firing of a trigger before and after. None: there is no such schedule then."""

    trigger: str
    old: Firing | None
    new: Firing | None


class Stays(NamedTuple):
    """Runs that end on the version they began with: how many by version and state, and the newest of them by name."""

    counts: list[LiveRuns]
    named: list[str]


@dataclass(frozen=True, slots=True)
class WorkflowPlan:
    """What happens to one workflow. `version` is the newest before, None where the workflow is not there; `becomes` the
    one after, None where it is deleted. `returns`: it was deleted once, and its numbers go on. `digest` is the SHA-256
    of the document's text."""

    name: str
    action: Action
    version: int | None
    becomes: int | None
    file: str | None = None
    enabled: bool = True
    returns: bool = False
    digest: str | None = None
    differences: Sequence[Difference] = ()
    triggers: Sequence[TriggerChange] = ()
    firings: Sequence[FiringMove] = ()
    runs: Stays | None = None


@dataclass(slots=True)
class WorkflowsPlan:
    """The whole plan. `missing` are names by noun (`secrets`, `vars`, `workflows`), each with the workflows that use
    them; `hosts` are those that no workflow calls now; `computed` the steps (`workflow/step`) whose host an expression
    decides on, in workflows that are new or changed."""

    workflows: list[WorkflowPlan]
    missing: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    hosts: dict[str, list[str]] = field(default_factory=dict)
    computed: list[str] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    @property
    def expected(self) -> dict[str, int]:
        """What `apply_workflows` is told to expect, so that it does what is planned here or nothing."""
        return {one.name: one.version or 0 for one in self.workflows}


def plan_workflow(
    definition: Definition,
    known: Known | None,
    file: str | None,
    specs: Sequence[TriggerSpec],
    schedules: Sequence[ScheduleRow],
    now: int,
) -> WorkflowPlan:
    """What becomes of a workflow when this document is applied. `specs` are the triggers it would have if it were
    applied `now` (of the wall clock), `schedules` those that the workflow has."""
    name, document = definition.plan.name, definition.document
    digest = sha256(definition.source.encode()).hexdigest()
    if known is None or not known.there:
        number = 0 if known is None else known.version.version
        again = known is not None and same_document(loads(known.version.document), document)
        changes = trigger_changes({}, document)
        firings = _firings((), specs, now)
        becomes = number if again else number + 1
        return WorkflowPlan(name, "new", None, becomes, file, True, known is not None, digest, (), changes, firings)
    old = loads(known.version.document)
    version = known.version.version
    differences = compare_documents(old, document)
    if not differences:
        return WorkflowPlan(name, "unchanged", version, version, file, known.enabled, digest=digest)
    active = [row for row in schedules if row.active]
    return WorkflowPlan(
        name,
        "changed",
        version,
        version + 1,
        file,
        known.enabled,
        digest=digest,
        differences=differences,
        triggers=trigger_changes(old, document),
        firings=_firings(active, specs, now) if known.enabled else (),
    )


def plan_deletion(known: Known, schedules: Sequence[ScheduleRow], now: int) -> WorkflowPlan:
    """What follows when a workflow is deleted."""
    row = known.version
    active = [schedule for schedule in schedules if schedule.active]
    return WorkflowPlan(
        row.workflow,
        "deleted",
        row.version,
        None,
        enabled=known.enabled,
        triggers=trigger_changes(loads(row.document), {}),
        firings=_firings(active, (), now),
    )


def trigger_changes(old: JSON, new: JSON) -> list[TriggerChange]:
    """The triggers that come, go, or have other settings, by name."""
    before, after = (document.get("triggers") or {} for document in (old, new))
    found = [TriggerChange(name, "removed", config) for name, config in before.items() if name not in after]
    for name, config in after.items():
        if name not in before:
            found.append(TriggerChange(name, "added", config))
        elif not same_document(before[name], config):
            found.append(TriggerChange(name, "changed", config))
    return found


def _firings(rows: Sequence[ScheduleRow], specs: Sequence[TriggerSpec], now: int) -> list[FiringMove]:
    """The schedules whose next firing is another one. A schedule whose times stay goes on from where it is."""
    before = {row.trigger: row for row in rows}
    moves = []
    for spec in specs:
        if spec.config is None:
            continue
        row = before.pop(spec.name, None)
        old = None if row is None else _firing_of(row, now)
        if row is not None and _times(row.config) == _times(spec.config):
            new = _firing_of(row._replace(config=spec.config), now)
        else:
            new = _firing(loads(spec.config), spec.next_at)
        if old is None or old.at != new.at:
            moves.append(FiringMove(spec.name, old, new))
    return moves + [FiringMove(row.trigger, _firing_of(row, now), None) for row in before.values()]


def _firing_of(row: ScheduleRow, now: int) -> Firing:
    return _firing(loads(row.config), coming_firing(row, now))


def _firing(config: Mapping[str, Any], at: int | None) -> Firing:
    zone = parse_schedule(config).zone
    local = None if at is None else local_text(at, zone)
    return Firing(at, local, config.get("timezone") or "UTC", str(config.get("cron") or config.get("at")))


def _times(config: str) -> str:
    value = loads(config)
    return dumps({name: value[name] for name in TIMES if name in value})


def stays_of(name: str, live: Sequence[LiveRuns], newest: Sequence[RunRow]) -> Stays | None:
    """The runs of a workflow that go on; None without any."""
    counts = [each for each in live if each.workflow == name]
    return Stays(counts, [f"{row.workflow}#{row.number}" for row in newest]) if counts else None


def new_hosts(
    plans: Sequence[tuple[WorkflowPlan, JSON]], called: Collection[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """The hosts that new and changed workflows call and that are not among `called`, each with these workflows; and the
    steps whose host is computed."""
    hosts: dict[str, list[str]] = {}
    computed: list[str] = []
    for plan, document in plans:
        if plan.action not in ("new", "changed"):
            continue
        calls = calls_of(document)
        for host in sorted(calls.hosts - set(called)):
            hosts.setdefault(host, []).append(plan.name)
        computed += [f"{plan.name}/{step}" for step in calls.computed]
    return dict(sorted(hosts.items())), computed
