"""A steady load of starts on a server, from threads of this process: what was acknowledged, when, and how quickly."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.support.server import ServerProcess


class Accepted(NamedTuple):
    """A run that was acknowledged: its id, when (monotonic seconds), and how long the answer took."""

    id: str
    at: float
    seconds: float


@dataclass
class SteadyLoad:
    """Starts runs of `workflow`, `rate` a second, until `stop` is set."""

    server: ServerProcess
    workflow: str
    rate: float
    threads: int = 8
    accepted: list[Accepted] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def before(self, moment: float) -> list[str]:
        """The runs that had been acknowledged by then."""
        return [run.id for run in list(self.accepted) if run.at < moment]

    def p99_ms(self, since: float, until: float) -> float:
        """The 99th percentile of the answers that came between two moments."""
        times = sorted(run.seconds for run in list(self.accepted) if since <= run.at < until)
        return times[min(len(times) - 1, int(len(times) * 0.99))] * 1000 if times else float("nan")

    def await_accepted(self, count: int) -> None:
        """Return when so many runs have been acknowledged."""
        deadline = time.monotonic() + 60
        while len(self.accepted) < count:
            assert time.monotonic() < deadline, f"only {len(self.accepted)} runs; refused: {self.refused[:5]}"
            time.sleep(0.01)

    def _live(self, number: int, begun: float) -> None:
        place = urlsplit(self.server.url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
        headers = {"Authorization": f"Bearer {self.server.token}", "Content-Type": "application/json"}
        body = json.dumps({"input": {"text": "x" * 500}})
        turn = number
        with contextlib.closing(connection):
            while not self._stop.wait(max(0.0, begun + turn / self.rate - time.monotonic())):
                turn += self.threads
                sent = time.perf_counter()
                connection.request("POST", f"/v1/workflows/{self.workflow}/runs", body, headers)
                answer = connection.getresponse()
                content = answer.read()
                took = time.perf_counter() - sent
                if answer.status == 202:
                    self.accepted.append(Accepted(json.loads(content)["id"], time.monotonic(), took))
                else:
                    self.refused.append(answer.status)


@contextlib.contextmanager
def steady_load(server: ServerProcess, workflow: str, rate: float, threads: int = 8) -> Iterator[SteadyLoad]:
    """Load on the server while the body runs."""
    load = SteadyLoad(server, workflow, rate, threads)
    begun = time.monotonic()
    alive = [threading.Thread(target=load._live, args=(number, begun), daemon=True) for number in range(threads)]
    for thread in alive:
        thread.start()
    try:
        yield load
    finally:
        load._stop.set()
        for thread in alive:
            thread.join(60)
