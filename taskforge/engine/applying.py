"""Many documents at once: what they would change, and the change itself: all of it or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Literal

from taskforge.core.clock import Clock
from taskforge.core.definition import Definition
from taskforge.core.differences import same_document
from taskforge.core.errors import InvalidDefinition, NotFound, WorkflowsMoved
from taskforge.core.jsontext import dumps, loads
from taskforge.core.model import JSON
from taskforge.core.outline import calls_of, children_of
from taskforge.core.problem import Problem, format_path, quoted, suggest
from taskforge.core.record import dataclass
from taskforge.core.states import RUN_TERMINAL, RunState
from taskforge.engine.planning import (
    SHOWN_RUNS,
    Known,
    Request,
    WorkflowPlan,
    WorkflowsPlan,
    new_hosts,
    plan_deletion,
    plan_workflow,
    stays_of,
)
from taskforge.engine.plans import Plans
from taskforge.engine.triggers import Triggers
from taskforge.engine.values import StoredValues
from taskforge.store.protocol import LiveRuns, NewVersion, Published, RunFilter, Store, VersionRow, WorkflowRow
from taskforge.store.triggered import ScheduleRow

ReadOne = Callable[[bytes, Literal["yaml", "json"]], Awaitable[Definition]]

_MAX_PROBLEMS = 1_000
_PAGE = 100
_SCHEDULES = 500
_LIVE = tuple(str(state) for state in RunState if state not in RUN_TERMINAL)


@dataclass(frozen=True, slots=True)
class Applied:
    """What was stored: `published` in the order of the documents."""

    published: Sequence[Published]
    deleted: Sequence[str]
    warnings: Sequence[Problem]


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """A valid document of a request."""

    definition: Definition
    file: str | None


class Applying:
    """Plans and applies requests. `read` checks one document by itself; `changing` is held while definitions of these
    names are changed."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        plans: Plans,
        values: StoredValues,
        triggers: Triggers,
        read: ReadOne,
        changing: Callable[[Sequence[str]], AbstractAsyncContextManager[None]],
    ) -> None:
        self._store = store
        self._clock = clock
        self._plans = plans
        self._values = values
        self._triggers = triggers
        self._read = read
        self._changing = changing

    # ---- what would change

    async def plan(self, request: Request) -> WorkflowsPlan:
        """What `apply` would do now, and what follows. Changes nothing. Raises InvalidDefinition."""
        given = await self._read_all(request)
        newest, called = await self._look(request, given)
        rows = {row.name: row async for row in self._workflows()}
        schedules: dict[str, list[ScheduleRow]] = {}
        async for schedule in self._schedules():
            schedules.setdefault(schedule.workflow, []).append(schedule)
        deleted = [name for name in request.pruned(newest, given) if name in rows]
        plans: list[tuple[WorkflowPlan, JSON]] = []
        for name, one in given.items():
            known = await self._known(name, newest, rows)
            specs = self._triggers.specs(one.definition.plan)
            plan = await asyncio.to_thread(
                plan_workflow, one.definition, known, one.file, specs, schedules.get(name, ()), self._clock.wall()
            )
            plans.append((plan, one.definition.document))
        for name in deleted:
            known = Known(newest[name], True, rows[name].enabled)
            plans.append((plan_deletion(known, schedules.get(name, ()), self._clock.wall()), None))
        after = (rows.keys() - set(deleted)) | given.keys()
        hosts, computed = await asyncio.to_thread(new_hosts, plans, called)
        live = await self._store.count_live_runs()
        return WorkflowsPlan(
            [self._masked(await self._with_runs(plan, live)) for plan, _ in plans],
            self._missing(given, after),
            hosts,
            computed,
            self._warnings(given, after),
        )

    async def _look(
        self, request: Request, given: Mapping[str, ReadDocument]
    ) -> tuple[dict[str, VersionRow], set[str]]:
        """The newest versions that a request is about, and the hosts that all of the server's workflows call."""
        newest: dict[str, VersionRow] = {}
        called: set[str] = set()
        cursor = None
        while rows := await self._store.list_newest_versions(cursor, _PAGE):
            cursor = rows[-1].workflow
            called |= await asyncio.to_thread(_called, rows)
            about = {*given, *request.pruned([row.workflow for row in rows], given)}
            newest |= {row.workflow: row for row in rows if row.workflow in about}
        return newest, called

    async def _known(
        self, name: str, newest: Mapping[str, VersionRow], rows: Mapping[str, WorkflowRow]
    ) -> Known | None:
        if name in newest and name in rows:
            return Known(newest[name], True, rows[name].enabled)
        before = await self._find_newest(name)
        return None if before is None else Known(before, False, True)

    async def _with_runs(self, plan: WorkflowPlan, live: Sequence[LiveRuns]) -> WorkflowPlan:
        if plan.action == "unchanged" or not any(each.workflow == plan.name for each in live):
            return plan
        newest = await self._store.list_runs(RunFilter(plan.name, states=_LIVE, limit=SHOWN_RUNS))
        return replace(plan, runs=stays_of(plan.name, live, newest))

    def _masked(self, plan: WorkflowPlan) -> WorkflowPlan:
        """Without the value of a secret that somebody has written into a document."""
        mask = self._values.mask
        return replace(
            plan,
            differences=[replace(each, old=mask(each.old), new=mask(each.new)) for each in plan.differences],
            triggers=[each._replace(config=mask(each.config)) for each in plan.triggers],
        )

    def _missing(self, given: Mapping[str, ReadDocument], known: Collection[str]) -> dict[str, dict[str, list[str]]]:
        found: dict[str, dict[str, list[str]]] = {"secrets": {}, "vars": {}, "workflows": {}}
        for name, one in given.items():
            lacking = self._values.missing(one.definition)
            lacking |= {("workflows", child.workflow) for child in children_of(one.definition.document)
                        if child.workflow not in known}  # fmt: skip
            for noun, missing in lacking:
                found[noun].setdefault(missing, []).append(name)
        return {noun: dict(sorted(names.items())) for noun, names in found.items()}

    # ---- the change

    async def apply(self, request: Request, expected: Mapping[str, int] | None = None) -> Applied:
        """Store every document as the newest version of its workflow, unless it is that already, and delete what is to
        be pruned: one transaction. With `expected` (versions by name, 0: not there), only where these are the newest
        versions, and nothing is deleted that is not among them.

        Raises InvalidDefinition with the problems of all documents, WorkflowsMoved."""
        given = await self._read_all(request)
        names = list(given)
        async with self._changing(names):
            existing = [row async for row in self._workflows()]
            deleted = request.pruned([row.name for row in existing], given)
            names += deleted
            if expected is not None:
                unplanned = [row for row in existing if row.name in deleted and row.name not in expected]
                if unplanned:
                    raise WorkflowsMoved.of(
                        [{"name": row.name, "expected": 0, "version": row.version} for row in unplanned]
                    )
            versions = [await self._new_version(one.definition) for one in given.values()]
            published, deleted = await self._store.apply_workflows(versions, deleted, expected or {}, self._clock.now())
        for one, result in zip(given.values(), published, strict=True):
            if result.changed:
                self._plans.keep(result.name, result.version, one.definition.plan)
        known = ({row.name for row in existing} - set(deleted)) | given.keys()
        return Applied(published, deleted, self._warnings(given, known))

    async def _new_version(self, definition: Definition) -> NewVersion:
        plan = definition.plan
        document = await self.stored_text(plan.name, definition.document)
        specs = self._triggers.specs(plan)
        return NewVersion(plan.name, document, definition.source, definition.media, plan.description, specs)

    async def stored_text(self, name: str, document: JSON) -> str:
        """A document's text for the store. Where it means the same as the newest version it is that one's text, so that
        no version is made: comments and the order of keys do not count."""
        newest = await self._find_newest(name)
        same = newest is not None and same_document(loads(newest.document), document)
        return newest.document if same and newest is not None else dumps(document)

    # ---- documents

    async def _read_all(self, request: Request) -> dict[str, ReadDocument]:
        """The definitions by name. Raises InvalidDefinition with the problems of all of them."""
        found: dict[str, ReadDocument] = {}
        problems: list[Problem] = []
        wrong = 0
        for number, given in enumerate(request.documents):
            file = given.file if given.file is not None else f"documents[{number}]"
            try:
                definition = await self._read(given.source, given.media)
            except InvalidDefinition as error:
                wrong += 1
                problems += [replace(each, file=file) for each in error.problems if each.severity == "error"]
                continue
            name = definition.plan.name
            if name in found:
                wrong += 1
                line, column = definition.locate(("name",))
                message = f"workflow {quoted(name)} is also in {found[name].file}"
                problems.append(Problem("name", message, line, column, "a workflow has one document", file=file))
            else:
                found[name] = ReadDocument(definition, file)
        if problems:
            count = len(request.documents)
            told = f"{wrong} of {count} documents have errors" if count > 1 else "the document has errors"
            raise InvalidDefinition(told, problems=problems[:_MAX_PROBLEMS])
        return found

    def _warnings(self, given: Mapping[str, ReadDocument], known: Collection[str]) -> list[Problem]:
        found: list[Problem] = []
        for one in given.values():
            definition = one.definition
            warnings = [
                *definition.warnings,
                *self._values.warnings(definition),
                *unknown_children(definition, known),
            ]
            found += [replace(each, file=one.file) for each in warnings]
        return found[:_MAX_PROBLEMS]

    async def warnings(self, definition: Definition) -> list[Problem]:
        """What a document names and the server does not have."""
        children = {child.workflow for child in children_of(definition.document)} - {definition.plan.name}
        known = {definition.plan.name}
        for name in children:
            try:
                await self._store.get_workflow(name)
            except NotFound:
                known |= {row.name async for row in self._workflows()}
                break
            known.add(name)
        return [*self._values.warnings(definition), *unknown_children(definition, known)]

    # ---- the store, page by page

    async def _find_newest(self, name: str) -> VersionRow | None:
        """The newest version, also of a deleted workflow."""
        rows = await self._store.list_versions(name, None, 1)
        return rows[0] if rows else None

    async def _workflows(self) -> AsyncIterator[WorkflowRow]:
        cursor = None
        while rows := await self._store.list_workflows(cursor, _SCHEDULES):
            cursor = rows[-1].name
            for row in rows:
                yield row

    async def _schedules(self) -> AsyncIterator[ScheduleRow]:
        cursor = 0
        while rows := await self._store.list_schedules(None, cursor, _SCHEDULES):
            cursor = rows[-1].id
            for row in rows:
                yield row


def unknown_children(definition: Definition, known: Collection[str]) -> Iterator[Problem]:
    """Workflows that a document names and that are not known: they may come later."""
    for child in children_of(definition.document):
        if child.workflow not in known and child.workflow != definition.plan.name:
            line, column = definition.locate(child.pointer)
            message = f"there is no workflow {quoted(child.workflow)} on the server yet"
            hint = suggest(child.workflow, known) or "apply it, too"
            yield Problem(format_path(child.pointer), message, line, column, hint, "warning")


def _called(rows: Collection[VersionRow]) -> set[str]:
    """The hosts that versions call."""
    return {host for row in rows for host in calls_of(loads(row.document)).hosts}


class ApplyCalls:
    """What people ask for of many documents: part of `engine.service.Service`."""

    _applying: Applying

    async def plan_workflows(self, request: Request) -> WorkflowsPlan:
        """What `apply_workflows` would do now, and what follows; nothing is changed. Raises InvalidDefinition."""
        return await self._applying.plan(request)

    async def apply_workflows(self, request: Request, expected: Mapping[str, int] | None = None) -> Applied:
        """Make the server have these documents: all or nothing. Raises InvalidDefinition, WorkflowsMoved."""
        return await self._applying.apply(request, expected)
