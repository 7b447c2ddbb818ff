"""Lines of a server's log: what they say, the last ones of a file, and those that are still to come."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

LEVELS: Final = ("debug", "info", "warning", "error")

_BLOCK: Final = 64 * 1024
_LOOK_S: Final = 0.2
_KNOWN: Final = ("time", "level", "logger", "event", "exception")
_CONSOLE: Final = re.compile(r"(\d{4}-\d\d-\d\dT[0-9:.]+Z) (debug|info|warning|error|critical) +(\S+) (.*)", re.ASCII)
_READY: Final = re.compile(r"taskforge \S+ is ready at ")


class LogLine(NamedTuple):
    """One line. What is no entry of ours (a traceback, the words of a library) is an error, with its text as event."""

    time: str | None
    level: str
    logger: str
    event: str
    fields: dict[str, Any]
    exception: str | None = None

    def to_json(self) -> dict[str, Any]:
        head: dict[str, Any] = {"time": self.time, "level": self.level, "logger": self.logger, "event": self.event}
        return head | self.fields | ({"exception": self.exception} if self.exception else {})

    def is_at_least(self, level: str) -> bool:
        """Is it as severe as this level, or more? An unknown level is severe."""
        return self.level not in LEVELS or LEVELS.index(self.level) >= LEVELS.index(level)


def read_line(text: str) -> LogLine:
    """A line in any of the forms in which the server writes."""
    if text.startswith("{"):
        try:
            entry = json.loads(text)
        except (ValueError, RecursionError):
            entry = None
        if isinstance(entry, dict) and "event" in entry and "level" in entry:
            fields = {key: value for key, value in entry.items() if key not in _KNOWN}
            when, exception = entry.get("time"), entry.get("exception")
            return LogLine(
                when if isinstance(when, str) else None,
                str(entry["level"]),
                str(entry.get("logger", "")),
                str(entry["event"]),
                fields,
                exception if isinstance(exception, str) else None,
            )
    console = _CONSOLE.fullmatch(text)
    if console is not None:
        return LogLine(console[1], console[2], console[3], console[4], {})
    if text.startswith("taskforge: warning: "):
        return LogLine(None, "warning", "", text, {})
    return LogLine(None, "info" if _READY.match(text) else "error", "", text, {})


def last_lines(path: Path, count: int, level: str) -> tuple[list[LogLine], int]:
    """The last lines of this level or above, oldest first, and the place in the file behind the last whole line."""
    with path.open("rb") as file:
        end = _end_of_lines(file.fileno())
        found: list[LogLine] = []
        if count > 0:
            for text in _backwards(file.fileno(), end):
                line = read_line(text)
                if text and line.is_at_least(level):
                    found.append(line)
                    if len(found) == count:
                        break
    return found[::-1], end


def following_lines(path: Path, place: int, level: str) -> Iterator[LogLine]:
    """Lines from a place on, as they are written; goes on in the new file when the log was put aside. Never ends."""
    file = path.open("rb")
    file.seek(place)
    rest = b""
    try:
        while True:
            chunk = file.read(_BLOCK)
            if chunk:
                *whole, rest = (rest + chunk).split(b"\n")
                for text in whole:
                    line = read_line(text.decode("utf-8", "replace"))
                    if text and line.is_at_least(level):
                        yield line
                continue
            fresh = _successor(path, file.fileno(), file.tell())
            if fresh:
                file.close()
                file = path.open("rb")
                rest = b""
            else:
                time.sleep(_LOOK_S)
    finally:
        file.close()


def _successor(path: Path, descriptor: int, read: int) -> bool:
    """Is there another file under the name by now, or has this one become shorter?"""
    try:
        there = path.stat()
    except OSError:
        return False
    mine = os.fstat(descriptor)
    return (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino) or there.st_size < read


def _end_of_lines(descriptor: int) -> int:
    """The place behind the last line break; what follows it is still being written."""
    at = os.fstat(descriptor).st_size
    while at > 0:
        start = max(0, at - _BLOCK)
        found = os.pread(descriptor, at - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        at = start
    return 0


def _backwards(descriptor: int, end: int) -> Iterator[str]:
    """Whole lines before a place, the last one first."""
    rest, at = b"", max(0, end - 1)
    while at > 0:
        start = max(0, at - _BLOCK)
        first, *whole = (os.pread(descriptor, at - start, start) + rest).split(b"\n")
        for text in reversed(whole):
            yield text.decode("utf-8", "replace")
        rest, at = first, start
    if rest:
        yield rest.decode("utf-8", "replace")
