"""Following a run by its events: a live tree on a terminal, one line for each transition elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Paint, state
from taskforge.cli.stream import PATIENCE_S, Away, Back, Event, Feed, GivenUp, News
from taskforge.core.clock import SystemClock, from_rfc3339

if TYPE_CHECKING:
    from taskforge.cli.command import Session

_LOOK_S = 0.1
_BATCH = 2_000


def follow_run(session: Session, run_id: str, name: str, limit_s: float | None) -> dict[str, Any]:
    """Show what happens in a run until it ends, the time is over, or nobody reads any more; return it as it then is.

    CommandError: the server stayed away too long (exit code 3), or refuses.
    """
    from taskforge.cli.run_view import fetch_run

    show = _Tree(session, run_id, name) if session.screen.is_live else _Lines(session, name)
    feed, monotonic = Feed(session.client, run_id), SystemClock().monotonic
    end = None if limit_s is None else monotonic() + limit_s
    try:
        while True:
            left = None if end is None else end - monotonic()
            if left is not None and left <= 0:
                break
            news = feed.next(_LOOK_S if left is None else min(_LOOK_S, left))
            if show.take_all(feed, news) or not session.screen.has_reader():
                break
        # With the steps that a person or a program wants to see of it.
        return fetch_run(session, run_id, "all" if session.machine else None)
    finally:
        feed.close()
        show.close()


def come_back(name: str) -> str:
    """How to go on watching a run that goes on."""
    return f"watch it: taskforge runs logs -f {name}   end it: taskforge runs cancel {name}"


def away_words(name: str) -> str:
    """What is said once when the server goes away."""
    return f"the server cannot be reached; {name} goes on with it. Trying for {PATIENCE_S:g} s …"


class _Show:
    """What both ways of showing have in common."""

    def __init__(self, session: Session, name: str) -> None:
        self.session = session
        self.name = name

    def take_all(self, feed: Feed, news: News | None) -> bool:
        """Take what has come, as much as there is by now; True when the run has ended."""
        taken = 0
        while news is not None:
            if isinstance(news, GivenUp):
                raise self._given_up(news)
            if isinstance(news, Event) and news.kind == "end":
                return True
            self.take(news)
            taken += 1
            news = feed.next(0) if taken < _BATCH else None
        self.rest()
        return False

    def take(self, news: News) -> None:
        raise TypeError(f"{type(self).__name__} must define take()")

    def rest(self) -> None:
        """Nothing more has come by now."""

    def close(self) -> None:
        """Nothing is shown any more."""

    def _given_up(self, news: GivenUp) -> CommandError:
        fault = news.fault
        if fault.refused:
            return fault
        return CommandError(fault.message, hint=come_back(self.name), code=Exit.UNREACHABLE)


class _Lines(_Show):
    """One line for each transition, with the time since the run was made."""

    def __init__(self, session: Session, name: str) -> None:
        super().__init__(session, name)
        self._began: int | None = None
        self._told_away = False

    def take(self, news: News) -> None:
        screen = self.session.screen
        if isinstance(news, Away) and not self._told_away:
            self._told_away = True
            screen.note(away_words(self.name))
        elif isinstance(news, Event):
            self._tell(news)

    def _tell(self, event: Event) -> None:
        data, screen = event.data, self.session.screen
        at = from_rfc3339(str(data.get("at")))
        self._began = at if self._began is None else self._began
        words = told(event)
        if words is None or screen.quiet:
            return
        when = Paint(f"{(at - self._began) / 1000:>+9.3f}s ", "dim")
        say = screen.note if self.session.machine else screen.line
        moved = state(str(data.get("state") or ""))
        say(when, f" {data.get('step') or 'run':<16} ", moved, f"  {words}" if words else "")


class _Tree(_Show):
    """The steps as a tree that is drawn again in place."""

    def __init__(self, session: Session, run_id: str, name: str) -> None:
        super().__init__(session, name)
        from taskforge.cli.region import Region
        from taskforge.cli.run_view import read_document
        from taskforge.cli.tree import outline
        from taskforge.cli.watched import Watched

        run = session.client.get("runs", run_id, steps="none")
        self._watched = Watched(name, outline(read_document(session, run)))
        self._clock = SystemClock()
        self._region = Region(session.screen, self._clock.monotonic)
        self._away: float | None = None

    def take(self, news: News) -> None:
        if isinstance(news, Event):
            self._watched.take(news)
        elif isinstance(news, Away):
            self._away = self._clock.monotonic()
        elif isinstance(news, Back):
            self._away = None

    def rest(self) -> None:
        if not self._region.is_due:
            return
        note = ""
        if self._away is not None:
            note = f"{self._clock.monotonic() - self._away:.0f} s: {away_words(self.name)}"
        now, marks = self._clock.wall(), self.session.screen.marks
        self._region.draw(lambda columns, rows: self._watched.lines(columns, rows, now, marks, note))

    def close(self) -> None:
        self._region.clear()


def told(event: Event) -> str | None:
    """An event in words; None for one that only prepares the next."""
    from taskforge.core.durations import format_duration

    data = event.data
    if event.kind == "signal":
        return str(data.get("line") or "")
    if data.get("state") is None:
        return f"{data['items']} items" if "items" in data else str(data.get("message") or data.get("code") or "")
    if event.kind == "step" and data["state"] == "QUEUED" and "from" not in data:
        return None
    parts = [f"attempt {data['attempt']}" if data.get("attempt") is not None else ""]
    code, message = data.get("error") or data.get("code"), data.get("message")
    if data.get("until") and data["state"] in ("QUEUED", "WAITING"):
        left = from_rfc3339(str(data["until"])) - from_rfc3339(str(data["at"]))
        parts.append(("again in " if data["state"] == "QUEUED" else "for ") + format_duration(left))
    parts.append(": ".join(str(part) for part in (code, message) if part))
    if data.get("signal"):
        parts.append(f"signal {data['signal']}")
    return ", ".join(part for part in parts if part)
