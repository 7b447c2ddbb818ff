"""A server as users run it, in a process of its own, and the load against it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class BenchServer:
    """Starts on `home`; `module` is what is run in place of `taskforge`, `prefix` what runs Python itself. `ready_s` is
    how long the start took."""

    def __init__(self, home: Path, module: str = "taskforge", *, prefix: Sequence[str] = (), **variables: str) -> None:
        environment = {**os.environ, "TASKFORGE_HOME": str(home), "TASKFORGE_LOG__LEVEL": "warning", **variables}
        self.begun = time.perf_counter()
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", module, "serve", "--port", "0"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.ready_s = time.perf_counter() - self.begun
        self.url = line.split(" ready at ")[1].split()[0]
        self.host, port = self.url.removeprefix("http://").split(":")
        self.port = int(port)
        self.token = tomllib.loads((home / "config.toml").read_text())["auth"]["token"]

    def __enter__(self) -> BenchServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=30)

    def request(self, method: str, path: str, body: bytes | None = None, media: str = "application/yaml") -> Any:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": media}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def call(self, path: str, value: object) -> Any:
        return self.request("POST", path, json.dumps(value).encode(), "application/json")

    def load(self, path: str, count: int, in_flight: int, *, rate: float = 0, body: object = None) -> dict[str, Any]:
        """Post `count` times from another process, as fast as answers come or `rate` a second (`tests.bench.load`)."""
        said = json.dumps({} if body is None else body)
        return load(self.host, self.port, path, count, in_flight, token=self.token, rate=rate, body=said)

    def await_ended(self, count: int, patience_s: float = 60) -> None:
        """Return when `count` runs have SUCCEEDED."""
        deadline = time.perf_counter() + patience_s
        while (states := self.request("GET", "/v1/stats")["runs"]).get("SUCCEEDED", 0) < count:
            if time.perf_counter() > deadline:
                raise SystemExit(f"not all of {count} runs SUCCEEDED: {states}")
            time.sleep(0.02)

    def memory_mib(self) -> float:
        """Resident memory of the server and its children."""
        return sum(_resident_kib(pid) for pid in [self.process.pid, *_children(self.process.pid)]) / 1024

    def peak_mib(self) -> float:
        """The most that the server alone has ever had resident."""
        return _resident_kib(self.process.pid, "VmHWM") / 1024

    def cpu_s(self) -> float:
        """CPU time of the server and its children so far."""
        return sum(_cpu_s(pid) for pid in [self.process.pid, *_children(self.process.pid)])


def load(
    host: str, port: int, path: str, count: int, in_flight: int, *, token: str = "-", rate: float = 0, body: str = "{}"
) -> dict[str, Any]:
    """What `tests.bench.load` prints; SystemExit when an answer is none of success."""
    command = [sys.executable, "-m", "tests.bench.load", host, str(port), token, path, str(count), str(in_flight)]
    done = subprocess.run([*command, body, str(rate)], capture_output=True, text=True, check=True, timeout=120)
    found: dict[str, Any] = json.loads(done.stdout)
    unexpected = set(found["statuses"]) - {"200", "202"}
    if unexpected:
        raise SystemExit(f"{path}: unexpected answers: {found['statuses']}")
    return found


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _resident_kib(pid: int, which: str = "VmRSS") -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((float(line.split()[1]) for line in lines if line.startswith(which)), 0.0)


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
