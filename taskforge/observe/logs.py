"""Log entries: an event and its fields, always on one line, and never a reason for the service to stop.

Built on the standard library's logging, so that entries of uvicorn and asyncio come out in the same form.
"""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

from taskforge.core.clock import to_rfc3339

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("auto", "json", "console")

_ROOT = "taskforge"
_RESERVED = frozenset({"time", "level", "logger", "event", "exception"})
_LONGEST = 10_000  # characters of one field
_CHUNK = 4096  # a pipe that polls as writable takes this much without blocking
_PATIENCE_MS = 50

_Raised = BaseException | tuple[type[BaseException], BaseException, TracebackType | None] | bool | None


class Logger:
    """Writes entries: `log.info("lease_lost", run=run_id)`. The event is a fixed word; what varies goes into fields."""

    __slots__ = ("_bound", "_logger")

    def __init__(self, logger: logging.Logger, bound: dict[str, Any]) -> None:
        self._logger = logger
        self._bound = bound

    def bind(self, **fields: Any) -> Logger:
        """A logger that adds these fields to every entry."""
        return Logger(self._logger, self._bound | fields)

    def debug(self, event: str, /, **fields: Any) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, /, exc_info: _Raised = None, **fields: Any) -> None:
        self._log(logging.WARNING, event, fields, exc_info)

    def error(self, event: str, /, exc_info: _Raised = None, **fields: Any) -> None:
        self._log(logging.ERROR, event, fields, exc_info)

    def exception(self, event: str, /, **fields: Any) -> None:
        """An error entry with the traceback of the exception that is being handled."""
        self._log(logging.ERROR, event, fields, True)

    def _log(self, level: int, event: str, fields: dict[str, Any], exc_info: _Raised = None) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, Entry(event, self._bound | fields), exc_info=exc_info)


class Entry:
    """What a Logger hands to the standard library's logging as the message."""

    __slots__ = ("event", "fields")

    def __init__(self, event: str, fields: dict[str, Any]) -> None:
        self.event = event
        self.fields = {(f"{key}_" if key in _RESERVED else key): value for key, value in fields.items()}

    def __str__(self) -> str:
        return " ".join([self.event, *(f"{key}={_token(value)}" for key, value in self.fields.items())])


def get_logger(name: str) -> Logger:
    """The logger of one part of the program, such as `driver`."""
    return Logger(logging.getLogger(f"{_ROOT}.{name}"), {})


def configure_logging(level: str = "info", format: str = "auto", descriptor: int | None = None) -> None:
    """Send entries to a file descriptor (default: standard error), as lines of JSON or of `key=value`.

    `auto` is `key=value` on a terminal and JSON elsewhere. Other libraries' entries are written from warning on.
    """
    if descriptor is None and sys.stderr is not None:  # None when it was closed: its number may now be another file's
        descriptor = sys.stderr.fileno()
    terminal = descriptor is not None and os.isatty(descriptor)
    handler = LineHandler(descriptor)
    handler.setFormatter(
        ConsoleFormatter() if format == "console" or (format == "auto" and terminal) else JsonFormatter()
    )
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, LineHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(_ROOT).setLevel(level.upper())
    logging.captureWarnings(True)


def mask_logs(mask: Callable[[str], str]) -> None:
    """Have every line that is written from now on pass through `mask`: no secret may come into the log."""
    LineHandler.mask = staticmethod(mask)


class LineHandler(logging.Handler):
    """Writes each entry at once, past Python's buffers. A disk that is full, a pipe that is closed or that nobody reads
    loses entries and stops nothing; when it takes them again, `log_entries_lost` says how many are missing.
    """

    mask: Callable[[str], str] = staticmethod(lambda line: line)
    wrote: Callable[[int], None] = staticmethod(lambda count: None)
    """Told how many bytes each line had; whoever keeps the file small sets it."""

    def __init__(self, descriptor: int | None) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lost = 0
        self._open_line = False

    def emit(self, record: logging.LogRecord) -> None:
        if self._descriptor is None:
            return
        try:
            line = LineHandler.mask(self.format(record))
        except Exception as error:  # a field that cannot be written must not stop who logs it
            line = json.dumps({"event": "log_entry_unreadable", "logger": record.name, "error": repr(error)})
        if self._lost and self._write(self._descriptor, self._told_lost()):
            self._lost = 0
        if not self._write(self._descriptor, line):
            self._lost += 1

    def _told_lost(self) -> str:
        entry = Entry("log_entries_lost", {"entries": self._lost})
        return self.format(logging.LogRecord(f"{_ROOT}.logs", logging.WARNING, "", 0, entry, None, None))

    def _write(self, descriptor: int, line: str) -> bool:
        data = f"{line}\n".encode("utf-8", "backslashreplace")
        if self._open_line:
            data = b"\n" + data
        patience = 0 if self._lost else _PATIENCE_MS
        try:
            while data:
                if not _takes_writes(descriptor, patience):
                    return False
                written = os.write(descriptor, data[:_CHUNK])
                self._open_line = not data[:written].endswith(b"\n") or len(data) > written
                data = data[written:]
        except OSError:
            return False
        LineHandler.wrote(len(line))
        return True


def _takes_writes(descriptor: int, patience_ms: int) -> bool:
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(patience_ms))


class JsonFormatter(logging.Formatter):
    """One JSON object, in ASCII: no byte of it ends the line or moves a terminal's cursor."""

    def format(self, record: logging.LogRecord) -> str:
        return "{" + ", ".join(f"{json.dumps(key)}: {_json(value)}" for key, value in _parts(record).items()) + "}"


class ConsoleFormatter(logging.Formatter):
    """`time level logger event key=value …`, with what is not printable escaped."""

    def format(self, record: logging.LogRecord) -> str:
        parts = _parts(record)
        head = [parts.pop(key) for key in ("time", "level", "logger", "event")]
        return " ".join(
            [head[0], f"{head[1]:<7}", head[2], _printable(head[3])]
            + [f"{_printable(key)}={_token(value)}" for key, value in parts.items()]
        )


def _parts(record: logging.LogRecord) -> dict[str, Any]:
    message = record.msg
    parts: dict[str, Any] = {
        "time": to_rfc3339(int(record.created * 1000)),
        "level": record.levelname.lower(),
        "logger": record.name.removeprefix(f"{_ROOT}."),
        "event": message.event if isinstance(message, Entry) else record.getMessage(),
    }
    if isinstance(message, Entry):
        parts |= message.fields
    if record.exc_info and record.exc_info[0] is not None:
        parts["exception"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
    return parts


def _cut(value: Any) -> Any:
    if not isinstance(value, str) or len(value) <= _LONGEST:
        return value
    return f"{value[:_LONGEST]}… ({len(value)} characters)"


def _json(value: object, ascii: bool = True) -> str:
    """The value as strict JSON; what JSON does not know, as text."""
    try:
        return json.dumps(_cut(value), ensure_ascii=ascii, allow_nan=False, default=lambda other: _cut(str(other)))
    except Exception:  # a foreign __str__ may raise anything, and who logs must not feel it
        return json.dumps(_cut(_described(value)), ensure_ascii=ascii)


def _described(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__} that cannot be shown>"


def _token(value: Any) -> str:
    if isinstance(value, str) and value.isascii() and value.isprintable() and value and not set(value) & set(' "=\\'):
        return str(_cut(value))
    return _printable(_json(value, ascii=False))


def _printable(text: str) -> str:
    text = str(_cut(text))
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)
