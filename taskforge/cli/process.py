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

from taskforge.cli.client import Client
from taskforge.cli.connection import Connection
from taskforge.cli.failure import CommandError
from taskforge.config.lock import Holder, read_holder

LOG_FILE = "serve.log"
_LOOK_S = 0.02
_TOLD_LINES = 5


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

    def __init__(self, home: Path, environ: Mapping[str, str], arguments: Sequence[str] = ()) -> None:
        self.home = home
        self._before = read_holder(home)
        command, added = own_command()
        log = os.open(home / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
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
        """The address, once the server answers that it is ready. Raises CommandError with its last words."""
        for _ in range(round(limit_s / _LOOK_S)):
            code = self.process.poll()
            holder = read_holder(self.home)
            if code is not None:
                raise CommandError(f"the server ended at once (exit code {code})", lines=self.last_words())
            if holder is not None and holder.url and holder != self._before and is_ready(holder):
                return holder.url
            time.sleep(_LOOK_S)
        raise CommandError(f"the server is not ready after {limit_s:g} s", lines=self.last_words())

    def last_words(self) -> list[str]:
        """The end of what this server wrote."""
        try:
            with (self.home / LOG_FILE).open("rb") as log:
                log.seek(self._log_start)
                return log.read().decode("utf-8", "replace").splitlines()[-_TOLD_LINES:]
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

    client = Client(Connection(reachable_url(holder.url or ""), "", False, Path()))
    try:
        return client.alive() is None
    except CommandError:
        return False
    finally:
        client.close()
