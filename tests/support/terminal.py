"""A command on a terminal of a given size, and what stands on its screen."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping

from tests.support.server import ROOT

_PATIENCE_S = 30.0
_CONTROL = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")


class Terminal:
    """`python -m taskforge` with a pseudo-terminal for all its streams. Use as a context manager."""

    def __init__(self, *arguments: str, environ: Mapping[str, str], columns: int = 80, rows: int = 24) -> None:
        self.columns, self.rows = columns, rows
        self.received = ""
        self._raw = b""
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "taskforge", *arguments],
            env={"TERM": "xterm", **environ},
            cwd=ROOT,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(_PATIENCE_S)
        os.close(self._master)

    def read_until(self, text: str) -> None:
        """Read until the screen shows the text. AssertionError when it never does."""
        deadline = time.monotonic() + _PATIENCE_S
        while text not in self.screen():
            assert self._read(deadline - time.monotonic()), f"{text!r} did not come:\n{self.screen()}"

    def interrupt(self) -> None:
        """What Ctrl-C does to the command."""
        self.process.send_signal(signal.SIGINT)

    def finish(self) -> int:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + _PATIENCE_S
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(_PATIENCE_S)

    def screen(self) -> str:
        """What a terminal shows after what came so far, with what has scrolled away above it."""
        return "\n".join(self._lines())

    def _read(self, seconds: float) -> bool:
        if not select.select([self._master], [], [], max(seconds, 0))[0]:
            return False
        try:
            chunk = os.read(self._master, 65_536)
        except OSError:  # the other side is closed
            return False
        self._raw += chunk
        self.received = self._raw.decode(errors="ignore")
        return bool(chunk)

    def _lines(self) -> list[str]:
        """The sequences that the program uses, and no others: an unknown one is an error."""
        lines, row, column = [""], 0, 0
        for found in _CONTROL.finditer(self.received):
            text, number, act = found[0], found[1], found[2]
            if text == "\r":
                column = 0
            elif text == "\n":
                row += 1
                lines += [""] if row == len(lines) else []
            elif act == "A":
                row = max(row - int(number or 1), len(lines) - self.rows, 0)
            elif act == "K":
                lines[row] = lines[row][:column]
            elif act == "J":
                lines[row] = lines[row][:column]
                del lines[row + 1 :]
            elif act is None:
                kept = lines[row].ljust(column)
                lines[row] = kept[:column] + text + kept[column + len(text) :]
                column += len(text)
            else:
                assert act == "m", text
        return lines
