"""What people ask for of definitions: validating, publishing, enabling, deleting, reading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Literal, Protocol

from taskforge.core.clock import Clock
from taskforge.core.definition import Definition
from taskforge.core.errors import InvalidDefinition, NameMismatch
from taskforge.core.model import Plan
from taskforge.core.problem import Problem
from taskforge.engine.applying import Applying
from taskforge.engine.drivers import Drivers
from taskforge.engine.plans import Plans
from taskforge.engine.starting import Starts
from taskforge.engine.triggers import Triggers
from taskforge.store.audit import name_target
from taskforge.store.protocol import Published, Store, VersionRow, WorkflowRow

Media = Literal["yaml", "json"]


class DefinitionReader(Protocol):
    """Reads and checks documents (`app` composes it of core, steps and expressions)."""

    def parse(self, source: bytes, media: Media) -> Definition:
        """Raises InvalidDefinition with every problem."""
        ...

    async def check_syntax(self, definition: Definition) -> list[Problem]:
        """What only jq itself finds wrong in the expressions."""
        ...


class DefinitionCalls:
    """Part of `engine.service.Service`: definitions."""

    _store: Store
    _clock: Clock
    _drivers: Drivers
    _plans: Plans
    _reader: DefinitionReader
    _starts: Starts
    _triggers: Triggers
    _applying: Applying

    async def validate_workflow(self, source: bytes, media: Media, *, offline: bool = False) -> Definition:
        """Read and check a document; nothing is stored. `offline`: without a look at what the server has. Raises
        InvalidDefinition."""
        definition = await self._read(source, media)
        known = [] if offline else await self._applying.warnings(definition)
        return replace(definition, warnings=[*definition.warnings, *known])

    async def _read(self, source: bytes, media: Media) -> Definition:
        definition = await asyncio.to_thread(self._reader.parse, source, media)
        problems = await self._reader.check_syntax(definition)
        if problems:
            raise InvalidDefinition("the document has errors", problems=problems)
        return definition

    async def publish_workflow(
        self, source: bytes, media: Media, name: str | None = None
    ) -> tuple[Published, list[Problem]]:
        """Store the document as the newest version, unless nothing changed. Returns the warnings as well."""
        definition = await self.validate_workflow(source, media)
        plan = definition.plan
        if name is not None and plan.name != name:
            raise NameMismatch(f"the document is named {plan.name!r}, the request says {name!r}; make them the same")
        name_target(f"workflows/{plan.name}")
        async with self._changing([plan.name]):
            document = await self._applying.stored_text(plan.name, definition.document)
            specs = self._triggers.specs(plan)
            published = await self._store.publish_workflow(
                plan.name, document, definition.source, media, plan.description, self._clock.now(), specs
            )
        if published.changed:
            self._plans.keep(plan.name, published.version, plan)
        return published, list(definition.warnings)

    async def set_enabled(self, name: str, enabled: bool) -> WorkflowRow:
        """Disabled: it starts no run. Enabled again, its schedules begin now: what was missed is not made up for."""
        async with self._changing([name]):
            before = await self._store.get_workflow(name)
            specs = self._triggers.specs(await self._plans.get(name, before.version)) if enabled else []
            return await self._store.set_enabled(name, enabled, self._clock.now(), specs)

    async def delete_workflow(self, name: str) -> None:
        async with self._changing([name]):
            await self._store.delete_workflow(name, self._clock.now())

    @asynccontextmanager
    async def _changing(self, names: Sequence[str]) -> AsyncIterator[None]:
        """Definitions are changed; then everybody looks again. Also when whoever asked has gone away, or it failed:
        they may be stored all the same. More names may be added meanwhile."""
        try:
            async with self._triggers.changing:
                yield
        finally:
            for name in names:
                self._starts.forget_workflow(name)
            await asyncio.shield(self._drivers.spawn(self._triggers.changed()))

    async def get_workflow(self, name: str) -> tuple[WorkflowRow, VersionRow]:
        row = await self._store.get_workflow(name)
        return row, await self._store.get_version(name, row.version)

    async def list_workflows(self, cursor: str | None, limit: int) -> list[WorkflowRow]:
        return await self._store.list_workflows(cursor, limit)

    async def get_version(self, name: str, version: int) -> VersionRow:
        return await self._store.get_version(name, version)

    async def list_versions(self, name: str, cursor: int | None, limit: int) -> list[VersionRow]:
        return await self._store.list_versions(name, cursor, limit)

    async def get_plan(self, workflow: str, version: int) -> Plan:
        return await self._plans.get(workflow, version)
