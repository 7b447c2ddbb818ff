"""A real server process in a home of its own, for tests of what a person or a script sees."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_READY = re.compile(rb"is ready at (\S+)")
_START_S = 30.0
_END_S = 30.0


def clean_environ(home: Path, **more: str) -> dict[str, str]:
    """This process's environment without what would steer TaskForge or the look of its output."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TASKFORGE_") and name not in ("NO_COLOR", "COLUMNS", "FORCE_COLOR")
    }
    own = {"TASKFORGE_HOME": str(home), "XDG_CONFIG_HOME": str(home.with_name(f"{home.name}.config"))}
    return kept | own | {"PYTHONPATH": str(ROOT)} | more


class ServerProcess:
    """`python -m taskforge serve` on a free port that stays the same over restarts. `config` maps `section__key` to a
    value, given as variables: `engine__grace_seconds=1`.
    """

    def __init__(self, home: Path, config: Mapping[str, Any]) -> None:
        self.home = home
        self.environ = clean_environ(home, **{f"TASKFORGE_{key.upper()}": str(value) for key, value in config.items()})
        self.log = home.with_name(f"{home.name}.log")
        self.command = [sys.executable, "-m", "taskforge", "serve"]
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None

    # ---- its life

    def start(self) -> None:
        """Start it and wait for its ready line."""
        port = self.url.rpartition(":")[2] or "0"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, "--port", port],
                env=self.environ,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self.url = self._await_ready_line()

    def kill(self) -> None:
        """SIGKILL: no last words, no tidying."""
        self._end(signal.SIGKILL)

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        return self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Start it again at the same address; kill it first if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.start()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    # ---- what it tells

    @property
    def token(self) -> str:
        found = re.search(r'^token = "([^"]+)"', (self.home / "config.toml").read_text(), re.MULTILINE)
        assert found is not None
        return found[1]

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """One request with the token; `body` is bytes (YAML) or a JSON value. Returns status and decoded answer."""
        raw = isinstance(body, bytes)
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else body if raw else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.token}",
                "Content-Type": "application/yaml" if raw else "application/json",
                **(headers or {}),
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, content = error.code, error.read()
        try:
            return status, json.loads(content) if content else None
        except ValueError:
            return status, content

    def run_cli(self, *arguments: str, stdin: str | bytes = b"", **environ: str) -> subprocess.CompletedProcess[str]:
        """The command line as a real process beside this server, with pipes for its streams."""
        return run_cli(*arguments, environ=self.environ | environ, stdin=stdin)

    def output(self) -> str:
        """Everything that it has written to standard error since its first start."""
        return self.log.read_text(errors="replace")

    # ---- how

    def _await_ready_line(self) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        deadline, said = time.monotonic() + _START_S, b""
        while (found := _READY.search(said)) is None:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                self.kill()
                raise AssertionError(f"the server did not become ready: {said!r}\n{self.output()}")
            chunk = os.read(self.process.stdout.fileno(), 4096)
            if not chunk:
                code = self._end(signal.SIGKILL)
                raise AssertionError(f"the server ended with exit code {code}: {said!r}\n{self.output()}")
            said += chunk
        return found[1].decode()

    def _end(self, number: int) -> int:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        try:
            code = self.process.wait(_END_S)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            if self.process.stdout is not None:
                self.process.stdout.close()
        return code


@contextlib.contextmanager
def running_server(tmp_path: Path, **config: Any) -> Iterator[ServerProcess]:
    """A server in `tmp_path/home`, ready; killed at the end, with everything that it has started."""
    server = ServerProcess(tmp_path / "home", config)
    server.start()
    try:
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()


def run_cli(
    *arguments: str, environ: Mapping[str, str], stdin: str | bytes = b"", timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """`python -m taskforge` with these arguments; its streams are pipes, read as UTF-8."""
    given = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        [sys.executable, "-m", "taskforge", *arguments],
        env=dict(environ),
        cwd=ROOT,
        input=given,
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
