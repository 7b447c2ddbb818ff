"""A server for measurements: as users run it, in a home of its own, with a look at what it costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path
from typing import Any


class BenchServer:
    """`python -m taskforge serve` on a free port, ready; `settings` are variables, TASKFORGE_…."""

    def __init__(self, home: Path, **settings: str) -> None:
        environment = {**os.environ, "TASKFORGE_HOME": str(home), "TASKFORGE_LOG__LEVEL": "warning", **settings}
        begun = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "taskforge", "serve", "--port", "0"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.ready_s = time.perf_counter() - begun
        self.url = line.split(" ready at ")[1].split()[0]
        self.host, port = self.url.removeprefix("http://").split(":")
        self.port = int(port)
        self.token = tomllib.loads((home / "config.toml").read_text())["auth"]["token"]

    def request(self, method: str, path: str, body: bytes | None = None, media: str = "application/yaml") -> Any:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": media}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def memory_mib(self, which: str = "VmRSS") -> float:
        """Now; `VmHWM` is the most that it ever was."""
        status = Path(f"/proc/{self.process.pid}/status")
        if not status.exists():
            return float("nan")
        return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith(which))

    def cpu_s(self) -> float:
        stat = Path(f"/proc/{self.process.pid}/stat")
        if not stat.exists():
            return float("nan")
        fields = stat.read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=20)
