"""Server processes that a command starts: how this program calls itself, and how one waits until it is ready."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from taskforge.cli.failure import CommandError
from taskforge.config.home import LOG_FILE
from taskforge.config.lock import Holder, forget_holder, read_holder

_LOOK_S = 0.02
_TOLD_LINES = 5
_LOG_BYTES = 16 * 1024 * 1024
_WORDS = "taskforge: "


class ServerEnded(CommandError):
    """The server that was started has ended before it was ready; `lines` are its last words."""


def own_command() -> tuple[list[str], dict[str, str]]:
    """How to start this program again: the beginning of the command line, and what its environment must have.

    A frozen program is its own interpreter; a zipapp or pex is a file for one; an installed package or a checkout is a
    module, found where this one was found and not in the directory where the user happens to be.
    """
    if getattr(sys, "frozen", False):
        return [sys.executable], {"PYINSTALLER_RESET_ENVIRONMENT": "1"}
    archive = sys.argv[0]
    if zipfile.is_zipfile(archive):
        return [sys.executable, os.path.abspath(archive)], {}
    import taskforge

    root = Path(taskforge.__file__).resolve().parent.parent
    command = [sys.executable, "-P", "-m", "taskforge"]
    if root.name in ("site-packages", "dist-packages"):
        return command, {}
    return command, {"PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))}


class ServerChild:
    """A server in a session of its own, with `serve.log` for its output and none of our streams."""

    def __init__(
        self, home: Path, environ: Mapping[str, str], arguments: Sequence[str] = (), log_bytes: int = _LOG_BYTES
    ) -> None:
        from taskforge.observe.log_file import open_log

        self.home = home
        forget_holder(home)
        command, added = own_command()
        log = open_log(home / LOG_FILE, log_bytes)
        try:
            self._log_start = os.fstat(log).st_size
            self.process = subprocess.Popen(
                [*command, "serve", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environ, **added, "TASKFORGE_HOME": str(home)},
                cwd=home,
                start_new_session=True,
            )
        finally:
            os.close(log)

    def wait_until_ready(self, limit_s: float) -> str:
        """The address, once the server answers that it is ready. Raises ServerEnded or CommandError: its last words."""
        for _ in range(max(1, round(limit_s / _LOOK_S))):
            code = self.process.poll()
            if code is not None:
                raise ServerEnded(f"the server ended while starting ({_ended(code)})", lines=self.last_words())
            holder = read_holder(self.home)
            if holder is not None and holder.url and self._is_ours(holder) and is_ready(holder):
                return holder.url
            time.sleep(_LOOK_S)
        raise CommandError(f"the server is not ready after {limit_s:g} s", lines=self.last_words())

    def _is_ours(self, holder: Holder) -> bool:
        """Is it this child, or the one that a frozen program's loader has started? Another `up` may be quicker."""
        try:
            return holder.pid == self.process.pid or os.getsid(holder.pid) == self.process.pid
        except OSError:
            return False

    def last_words(self) -> list[str]:
        """What this server said to people, else the end of what it wrote."""
        lines = self._written()
        told = [line.removeprefix(_WORDS) for line in lines if line.startswith(_WORDS)]
        return told or lines[-_TOLD_LINES:]

    def warnings(self) -> list[str]:
        """What this server warned of."""
        head = f"{_WORDS}warning: "
        return [line.removeprefix(head) for line in self._written() if line.startswith(head)]

    def _written(self) -> list[str]:
        try:
            with (self.home / LOG_FILE).open("rb") as log:
                log.seek(self._log_start)
                return log.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return []

    def kill(self) -> None:
        """SIGKILL to the server and to everything that it has started; returns when it is gone."""
        import signal

        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()


def is_ready(holder: Holder) -> bool:
    """Does the server that wrote this answer, and is it ready?"""
    from taskforge.cli.connection import reachable_url
    from taskforge.cli.probing import probe

    found = probe(reachable_url(holder.url or ""))
    return found is not None and found.status == 200


def _ended(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    import signal

    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"
