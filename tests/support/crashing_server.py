"""A server that kills itself at a named point: before or after the k-th call of a store's verb, or of an HTTP request.
`break finish_attempt 1` makes that call raise an error that nobody expects, `writer finish_attempt 1` ends the store's
writer thread just before it.

`python -m tests.support.crashing_server` imports everything once and then starts a server for each line
`serve PORT HOME` on its standard input; it prints `started PID`, passes the server's own words on, and prints
`ended CODE`. The point is read from the file that TASKFORGE_TEST_POINT names (`before finish_attempt 2`) at every call,
so that it can be set while the server runs. `CrashingServer` is the test's side of it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from taskforge import app
from taskforge.engine import timers
from taskforge.security.keys import KeyFile, KeyRing
from taskforge.steps.http_client import HttpClient, Request, Response
from taskforge.store.protocol import Store
from taskforge.store.sqlite.store import SqliteStore
from tests.support.faulty_store import FaultyStore, When
from tests.support.server import ROOT, ServerProcess

_PATIENCE_S = 30.0


# ---- in the server's process


class Point:
    """Where to die or to break. Calls are counted from the moment in which the point was set."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._said = ""
        self._calls: Counter[tuple[str, str]] = Counter()
        self.end_writer: Callable[[], object] = lambda: None

    def meet(self, when: When, verb: str) -> None:
        """Die or break here, if this is the call."""
        try:
            said = self._file.read_text()
        except FileNotFoundError:
            return
        if said != self._said:
            self._said = said
            self._calls.clear()
        self._calls[when, verb] += 1
        number = str(self._calls[when, verb])
        if said.split() == [when, verb, number]:
            os.kill(os.getpid(), signal.SIGKILL)
        if when == "before" and said.split() == ["break", verb, number]:
            raise RuntimeError(f"planted in {verb}")
        if when == "before" and said.split() == ["writer", verb, number]:
            self.end_writer()


class _CrashingClient:
    """The HTTP client, which dies before a request is sent or when its answer is read."""

    def __init__(self, client: HttpClient, point: Point) -> None:
        self._client = client
        self._point = point
        self.start = client.start
        self.close = client.close

    async def request(self, request: Request) -> Response:
        self._point.meet("before", "request")
        response = await self._client.request(request)
        self._point.meet("after", "request")
        return response


class _CrashingKeyFile(KeyFile):
    """The file of the home's key: `write_keys` is its replacement, `place_keys` the moment before the new one is put in
    the old one's place."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._point = _point()

    def write(self, ring: KeyRing) -> None:
        self._point.meet("before", "write_keys")
        super().write(ring)
        self._point.meet("after", "write_keys")

    def _place(self) -> None:
        self._point.meet("before", "place_keys")
        super()._place()
        self._point.meet("after", "place_keys")


class _Crashing(app.Server):
    async def _open_store(self) -> Store:
        store, point = await super()._open_store(), _point()
        assert isinstance(store, SqliteStore)
        point.end_writer = lambda: store._writer.enqueue(_end_thread)
        return FaultyStore(store, point.meet).as_store()

    def _key_file(self) -> KeyFile:
        return _CrashingKeyFile(self.settings.home)

    def _http_client(self) -> HttpClient:
        return cast(HttpClient, _CrashingClient(super()._http_client(), _point()))


def _end_thread(_: object) -> None:
    raise SystemExit("planted in the writer")


def _point() -> Point:
    return Point(Path(os.environ["TASKFORGE_TEST_POINT"]))


def _supervise() -> None:
    """Start a server for each line; the imports are paid for once."""
    for module in ("uvloop", "uvicorn.protocols.http.httptools_impl"):
        importlib.import_module(module)
    timers.SUSPECT_PAUSE_S = float(os.environ.get("TASKFORGE_TEST_SUSPECT_PAUSE", timers.SUSPECT_PAUSE_S))
    for line in sys.stdin:
        _, port, home = line.rstrip("\n").split(" ", 2)
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            code = 1
            try:
                code = app.serve(Path(home), {"server.port": int(port)}, _Crashing)
            finally:
                os._exit(code)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
        print(f"started {pid}", flush=True)
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        print(f"ended {os.waitstatus_to_exitcode(status)}", flush=True)


# ---- in the test


class CrashingServer(ServerProcess):
    """A server of a supervisor: `arm` says where it is to die, `await_end` returns how it ended."""

    def __init__(self, home: Path, config: dict[str, Any], suspect_pause_s: float | None = None) -> None:
        super().__init__(home, config)
        self._point = home.with_name(f"{home.name}.point")
        self.environ["TASKFORGE_TEST_POINT"] = str(self._point)
        if suspect_pause_s is not None:
            self.environ["TASKFORGE_TEST_SUSPECT_PAUSE"] = str(suspect_pause_s)
        self._pid = 0
        self._lines: queue.Queue[str] = queue.Queue()
        self.is_running = False

    def arm(self, point: str) -> None:
        """Die at the point, counted from now, and again after each start until `disarm`."""
        new = self._point.with_suffix(".next")
        new.write_text(point)
        new.rename(self._point)

    def disarm(self) -> None:
        self._point.unlink(missing_ok=True)

    def start(self) -> None:
        """Start it and wait for its ready line. AssertionError when it ends before."""
        code = self.try_start()
        assert code is None, f"the server ended with exit code {code}\n{self.output()}"

    def try_start(self) -> int | None:
        """Start it; return None when it is ready, else its exit code."""
        if self.process is None:
            self._supervise()
        assert self.process is not None
        assert self.process.stdin is not None
        port = int(self.url.rpartition(":")[2] or 0)
        self.process.stdin.write(f"serve {port} {self.home}\n".encode())
        self.process.stdin.flush()
        self.is_running = True
        while True:
            word, _, rest = self._next_line().partition(" ")
            if word == "started":
                self._pid = int(rest)
            elif word == "ended":
                self.is_running = False
                return int(rest)
            elif "is ready at " in rest:
                self.url = rest.partition("is ready at ")[2].split()[0]
                return None

    def await_end(self) -> int:
        """Wait until the server has ended; returns its exit code, -9 for SIGKILL."""
        while True:
            word, _, rest = self._next_line().partition(" ")
            if word == "ended":
                self.is_running = False
                return int(rest)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def terminate(self) -> int:
        return self._signal(signal.SIGTERM)

    def restart(self) -> None:
        if self.is_running:
            self.kill()
        self.start()

    @property
    def pid(self) -> int:
        return self._pid

    def close(self) -> None:
        """End the server and its supervisor."""
        if self.process is None:
            return
        if self.is_running:
            self.kill()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(_PATIENCE_S)
        self._reader.join(_PATIENCE_S)
        self.process.stdout.close()

    def _signal(self, number: int) -> int:
        os.kill(self._pid, number)
        return self.await_end()

    def _supervise(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.crashing_server"],
                env=self.environ,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.decode().rstrip("\n"))
        self._lines.put("ended -1")

    def _next_line(self) -> str:
        try:
            return self._lines.get(timeout=_PATIENCE_S)
        except queue.Empty:
            raise AssertionError(f"the server said nothing for {_PATIENCE_S:g} s\n{self.output()}") from None


@contextlib.contextmanager
def crashing_server(
    tmp_path: Path, suspect_pause_s: float | None = None, home: Path | None = None, **config: Any
) -> Iterator[CrashingServer]:
    """A server in `home` (`tmp_path/home`), ready; ended at the end. Its log and its point are in `tmp_path`."""
    server = CrashingServer(tmp_path / "home", config, suspect_pause_s)
    server.home = home or server.home
    try:
        server.start()
        yield server
    finally:
        server.close()


if __name__ == "__main__":
    _supervise()
