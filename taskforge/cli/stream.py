"""Server-sent events: read in a thread of their own, and gone on with after the last one when the connection breaks."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from taskforge.cli.failure import CommandError
from taskforge.core.jsontext import JsonError, loads

if TYPE_CHECKING:
    from taskforge.cli.client import Client

PATIENCE_S = 30.0
"""How long a server may be away before it is given up."""

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_STEADY_S = 5.0
"""A connection that lasted so long counts as good, whatever came over it."""
_AHEAD = 10_000


class Event(NamedTuple):
    """One event: `kind` is run, step, attempt, signal or, after the last one, end."""

    id: str
    kind: str
    data: dict[str, Any]


class Away(NamedTuple):
    """The connection is broken; it is tried again."""

    why: str


class Back(NamedTuple):
    """The connection is there again."""


class GivenUp(NamedTuple):
    """No event will come any more: the server refuses, or has been away for too long."""

    fault: CommandError


News = Event | Away | Back | GivenUp


def read_events(lines: Iterable[str]) -> Iterator[Event]:
    """The events of a stream of lines. A part that is no event of ours is passed over."""
    id, kind, data = "", "message", list[str]()
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            id = value
        elif name == "event":
            kind = value
        elif name == "data":
            data.append(value)
        elif not line:
            if data:
                try:
                    found = loads("\n".join(data))
                except JsonError:
                    found = None
                if isinstance(found, dict):
                    yield Event(id, kind, found)
            kind, data = "message", []


class Feed:
    """The events of a run from its first, or after `last`, in order, each once. `next` gives what has come; a thread
    reads ahead."""

    def __init__(self, client: Client, run_id: str, last: str = "") -> None:
        self._client = client
        self._run_id = run_id
        self._news: queue.Queue[News] = queue.Queue(_AHEAD)
        self._last = last
        self._closed = False
        self._is_away = False
        threading.Thread(target=self._read, name="events", daemon=True).start()

    def next(self, timeout_s: float | None) -> News | None:
        """The next piece of news, or None when none came in time."""
        try:
            return self._news.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Read no more. The connection ends with the client's."""
        self._closed = True

    # ---- in the thread

    def _read(self) -> None:
        from taskforge.core.clock import SystemClock

        monotonic = SystemClock().monotonic
        away_since: float | None = None
        pause = _FIRST_PAUSE_S
        while not self._closed:
            began, seen = monotonic(), self._last
            why = self._read_once()
            if why is None:
                return
            now = monotonic()
            if away_since is None or self._last != seen or now - began > _STEADY_S:
                away_since, pause = now, _FIRST_PAUSE_S
            if not self._is_away:
                self._is_away = True
                self._tell(Away(why))
            if now - away_since > PATIENCE_S:
                self._tell(GivenUp(CommandError(f"the server did not come back within {PATIENCE_S:g} s: {why}")))
                return
            time.sleep(pause)
            pause = min(pause * 1.7, _LONGEST_PAUSE_S)

    def _read_once(self) -> str | None:
        """One connection, to its end; why it ended, or None where nothing more is to come."""
        try:
            lines = self._client.stream("runs", self._run_id, "events", headers=self._after())
            for event in read_events(self._heard(lines)):
                self._last = event.id or self._last
                self._tell(event)
                if event.kind == "end" or self._closed:
                    return None
        except CommandError as fault:
            if fault.refused:
                self._tell(GivenUp(fault))
                return None
            return fault.message
        except Exception as error:
            # The client was closed under us, or something that nobody thought of: whoever waits must not wait for ever.
            if not self._closed:
                self._tell(GivenUp(CommandError(f"the events cannot be read: {type(error).__name__}: {error}")))
            return None
        return "the server closed the connection"

    def _heard(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            if self._is_away:
                self._is_away = False
                self._tell(Back())
            yield line

    def _after(self) -> dict[str, str]:
        return {"last-event-id": self._last} if self._last else {}

    def _tell(self, news: News) -> None:
        while not self._closed:
            try:
                return self._news.put(news, timeout=1.0)
            except queue.Full:
                continue
