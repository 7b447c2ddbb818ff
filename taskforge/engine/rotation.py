"""A new key for the home, and every secret sealed with it, so that a death at any point loses none.

First `secret.key` holds both keys; then all secrets are sealed anew in one transaction; then the old key is removed
from the file. Whatever is stored is sealed with one of the keys that are in the file. What a death interrupts is
finished at the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from taskforge.engine.values import StoredValues
from taskforge.observe.logs import get_logger
from taskforge.security.keys import KeyFile, KeyRing, new_key
from taskforge.security.resume_links import ResumeLinks
from taskforge.security.secrets import SecretBox
from taskforge.store.audit import AuditEntry, recorded

log = get_logger("keys")


class Rotated(NamedTuple):
    """What was done: the ids of the keys, and how many secrets were sealed anew."""

    key_id: str
    previous_key_id: str
    resealed: int


class KeyRotation:
    """The one keeper of the home's keys."""

    def __init__(
        self, file: KeyFile, values: StoredValues, links: ResumeLinks, make: Callable[[], bytes] = new_key
    ) -> None:
        self._file = file
        self._values = values
        self._links = links
        self._make = make
        self._ring = file.read()
        self._working: asyncio.Task[Rotated] | None = None
        self._adopt(self._ring)

    async def finish(self, now: int) -> None:
        """At the start: finish what a death has interrupted."""
        self._file.remove_leftover()
        if self._ring.previous is not None:
            verbs = frozenset({"reseal_secrets"})
            with recorded(AuditEntry(now, None, "server", "rotate_key", "secrets", None, verbs, {"finished": True})):
                done = await self._finish(self._ring)
            log.info("key_change_finished", key=done.key_id, secrets=done.resealed)

    async def rotate(self, *, keep_links: bool = True) -> Rotated:
        """Change the key. Goes on also when whoever asked has gone away. Raises Unavailable, StoreFull; then a change
        that has begun is finished by the next call, or at the next start."""
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._rotate(keep_links))
        return await asyncio.shield(self._working)

    async def _rotate(self, keep_links: bool) -> Rotated:
        async with self._values.changing:
            ring = self._ring
            if ring.previous is None:
                ring = ring.begin_change(self._make(), keep_links=keep_links)
                await asyncio.to_thread(self._file.write, ring)
                self._adopt(ring)
            return await self._finish(ring)

    async def _finish(self, ring: KeyRing) -> Rotated:
        assert ring.previous is not None
        resealed = await self._values.reseal()
        done = ring.end_change()
        await asyncio.to_thread(self._file.write, done)
        self._adopt(done)
        return Rotated(SecretBox(ring.current).key_id, SecretBox(ring.previous).key_id, resealed)

    def _adopt(self, ring: KeyRing) -> None:
        self._ring = ring
        self._values.use_keys(SecretBox(ring.current), None if ring.previous is None else SecretBox(ring.previous))
        self._links.use_keys(ring.current, ring.links)
