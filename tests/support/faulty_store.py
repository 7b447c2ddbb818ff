"""A real store whose calls a test can interrupt: no fake, only a hand on the wire between engine and store."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, Literal, cast

from taskforge.store.protocol import Store

When = Literal["before", "after"]
Interrupt = Callable[[], Awaitable[None]]


def is_verb(member: Any) -> bool:
    """Return whether something of a store is called with `await`."""
    returned = getattr(member, "__annotations__", {}).get("return", "")
    return inspect.iscoroutinefunction(member) or str(returned).startswith("Awaitable[")


_READS = ("get_", "find_", "list_", "load_", "count_", "last_", "next_")
WRITE_VERBS = frozenset(
    name
    for kind in Store.__mro__
    for name, member in vars(kind).items()
    if is_verb(member) and not name.startswith(_READS) and name not in ("close", "stats", "check", "ping")
)
"""Every verb of the protocol that changes something."""


class FaultyStore:
    """Passes every call on to `store`. `meet` is called before and after each; what it raises, the caller gets.

    `refuse` makes calls fail before anything is stored; `lose_answer` fails them after it is stored; `hold` keeps a
    caller waiting, with nothing stored yet or with everything stored and the answer on its way.
    """

    def __init__(self, store: Store, meet: Callable[[When, str], None] = lambda when, verb: None) -> None:
        self.calls: Counter[str] = Counter()
        self._store = store
        self._meet = meet
        self._skipped: dict[str, Any] = {}
        self._plans: defaultdict[tuple[When, str], list[Interrupt]] = defaultdict(list)

    def as_store(self) -> Store:
        return cast(Store, self)

    def refuse(self, verb: str, error: Exception, times: int = 1) -> None:
        """The next calls of `verb` raise `error`, and nothing is stored."""
        self._plans["before", verb] += [_raising(error)] * times

    def lose_answer(self, verb: str, error: Exception, times: int = 1) -> None:
        """The next calls of `verb` are stored, and raise `error` all the same."""
        self._plans["after", verb] += [_raising(error)] * times

    def hold(self, verb: str, when: When = "before") -> Held:
        """The next call of `verb` waits until it is let go."""
        held = Held()
        self._plans[when, verb].append(held.wait)
        return held

    def skip(self, verb: str, result: Any) -> None:
        """Calls of `verb` do nothing and return `result`."""
        self._skipped[verb] = result

    @property
    def on_failure(self) -> Callable[[BaseException], None]:
        return self._store.on_failure

    @on_failure.setter
    def on_failure(self, called: Callable[[BaseException], None]) -> None:
        self._store.on_failure = called

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._store, name)
        if not is_verb(member):
            return member

        async def call(*args: Any, **named: Any) -> Any:
            self.calls[name] += 1
            if name in self._skipped:
                return self._skipped[name]
            await self._pass("before", name)
            result = await member(*args, **named)
            await self._pass("after", name)
            return result

        return call

    async def _pass(self, when: When, verb: str) -> None:
        self._meet(when, verb)
        planned = self._plans.get((when, verb))
        if planned:
            await planned.pop(0)()


class Held:
    """One call that waits. `reached` is set when it has come."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._gone = asyncio.Event()

    async def wait(self) -> None:
        self.reached.set()
        await self._gone.wait()

    def let_go(self) -> None:
        self._gone.set()


def _raising(error: Exception) -> Interrupt:
    async def interrupt() -> None:
        raise error

    return interrupt
