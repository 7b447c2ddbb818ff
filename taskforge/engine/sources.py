"""The secrets that expressions see: those of the store and those of other providers, in the configured order.

What the store has is in memory. What another provider has must be fetched before it can be seen, and is kept for a
while; fetching waits, so an evaluation that needs it is made after it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from taskforge.core.clock import Clock
from taskforge.observe.logs import get_logger
from taskforge.security.providers import Provider, ProviderFailed

log = get_logger("secrets")

STORE: Final = "store"
VALUE_NAME: Final = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,62}$", re.ASCII)
"""What a secret or a variable may be called: what stands behind `$secrets.` or `$vars.`. No provider is asked for
another name: it may become the name of a file or an argument."""

_ABSENT_MS: Final = 1_000
_MOST_KEPT: Final = 10_000


class NotFetched(Exception):
    """A provider has to be asked before it is known what this secret is."""


class _Kept(NamedTuple):
    value: str | None
    until: float


class Sources:
    """`providers` in order, None for the store, whose values are `stored`. `on_value(name, value)` is told of every
    value before anybody sees it."""

    def __init__(
        self,
        stored: Mapping[str, str],
        clock: Clock,
        providers: Sequence[Provider | None] = (None,),
        keep_ms: int = 60_000,
        on_value: Callable[[str, str], None] = lambda name, value: None,
    ) -> None:
        self._stored = stored
        self._clock = clock
        self._providers = list(providers)
        self._keep_ms = keep_ms
        self._on_value = on_value
        self._kept: dict[tuple[int, str], _Kept] = {}
        self._asking: dict[tuple[int, str], asyncio.Task[str | None]] = {}

    @property
    def has_store(self) -> bool:
        return None in self._providers

    @property
    def is_open(self) -> bool:
        """Whether there may be names that nobody can list."""
        return any(provider is not None and not provider.can_list for provider in self._providers)

    def find(self, name: str) -> str | None:
        """The value of a secret, None where there is none. Never waits; raises NotFetched."""
        for index, provider in enumerate(self._providers):
            if provider is not None and VALUE_NAME.fullmatch(name) is None:
                continue
            value = self._stored.get(name) if provider is None else self._fresh(index, name).value
            if value is not None:
                return value
        return None

    async def fetch(self, names: Iterable[str]) -> None:
        """Ask the providers for these, so that `find` knows them. Raises ProviderFailed."""
        for name in names:
            for index, provider in enumerate(self._providers):
                if provider is not None and VALUE_NAME.fullmatch(name) is None:
                    continue
                value = self._stored.get(name) if provider is None else await self._obtain(index, provider, name)
                if value is not None:
                    break

    def listed(self) -> dict[str, str]:
        """The names that are known without asking for a value, each with the label of the provider that gives it."""
        found: dict[str, str] = {}
        for provider in reversed(self._providers):
            if provider is None:
                found |= dict.fromkeys(self._stored, STORE)
            else:
                found |= dict.fromkeys(filter(VALUE_NAME.fullmatch, provider.list_names()), provider.label)
        return found

    def forget(self) -> None:
        """Ask every provider anew."""
        self._kept.clear()

    def _fresh(self, index: int, name: str) -> _Kept:
        kept = self._kept.get((index, name))
        if kept is None or kept.until <= self._clock.monotonic():
            raise NotFetched(name)
        return kept

    async def _obtain(self, index: int, provider: Provider, name: str) -> str | None:
        try:
            return self._fresh(index, name).value
        except NotFetched:
            pass
        key = (index, name)
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(self._ask(index, provider, name))
            asking.add_done_callback(lambda task: self._asking.pop(key, None))
        return await asyncio.shield(asking)

    async def _ask(self, index: int, provider: Provider, name: str) -> str | None:
        try:
            value = await provider.read(name)
        except ProviderFailed as error:
            log.warning("provider_failed", secret=name, provider=provider.label, error=str(error))
            raise
        if value is not None:
            self._on_value(name, value)
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        keep_ms = self._keep_ms if value is not None else min(self._keep_ms, _ABSENT_MS)
        self._kept[index, name] = _Kept(value, self._clock.monotonic() + keep_ms / 1000)
        return value
