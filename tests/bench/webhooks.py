"""`python -m tests.bench.webhooks [--rate 200] [--seconds 10] [--burst 10000] [--queued 1000]`: how they are taken.

First signed deliveries at a steady rate, with the time until each is answered; then a burst, as fast as they are taken
but at most for ten seconds: whatever was answered with 202 has one finished run, and memory stays bounded. At last the
same burst for a workflow whose runs all wait: from `--queued` on they are answered 503. The load comes from this
process, over keep-alive connections.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import cast

from httptools import HttpResponseParser

from tests.bench.floor import fsyncs_per_second
from tests.bench.server import BenchServer
from tests.support.invariants import look

_SECRET = b"a secret of github's"
_FLOW = b"""
name: inbox
triggers:
  github: {webhook: {verify: {scheme: github, secret: GH}}, input: {n: "${{ $trigger.body.n }}"}}
steps: [{id: a, transform: "${{ $input.n }}"}]
output: "${{ $a }}"
"""
_STUCK = _FLOW.replace(b"steps:", b"concurrency: {key: one, limit: 1, on_limit: queue}\nsteps:").replace(
    b'transform: "${{ $input.n }}"', b"wait: {for: 1h}"
)


class _Connection(asyncio.Protocol):
    """One keep-alive connection: `post` sends a request and returns the status."""

    answer: asyncio.Future[int]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        status, self._parser = self._parser.get_status_code(), HttpResponseParser(self)
        self.answer.set_result(status)

    async def post(self, request: bytes) -> int:
        self.answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await asyncio.wait_for(self.answer, 60)


def _request(number: int) -> bytes:
    body = b'{"n": %d}' % number
    signature = hmac.new(_SECRET, body, hashlib.sha256).hexdigest()
    head = (
        f"POST /hooks/inbox/github HTTP/1.1\r\nHost: hooks\r\nContent-Type: application/json\r\n"
        f"X-GitHub-Delivery: d{number}\r\nX-Hub-Signature-256: sha256={signature}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Sender:
    """Sends deliveries; keeps the times and statuses of the answers."""

    def __init__(self, server: BenchServer) -> None:
        self._server = server
        self._free: list[_Connection] = []
        self.number = 0
        self.times: list[float] = []
        self.statuses: Counter[int] = Counter()

    async def send(self) -> None:
        self.number += 1
        request = _request(self.number)
        if self._free:
            connection = self._free.pop()
        else:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(_Connection, self._server.host, self._server.port)
        begun = time.perf_counter()
        self.statuses[await connection.post(request)] += 1
        self.times.append(time.perf_counter() - begun)
        self._free.append(connection)

    async def steadily(self, rate: float, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        begun, sent = loop.time(), []
        for index in range(round(rate * seconds)):
            await asyncio.sleep(begun + index / rate - loop.time())
            sent.append(asyncio.create_task(self.send()))
        await asyncio.gather(*sent)

    async def burst(self, count: int, seconds: float, in_flight: int) -> None:
        left, deadline = count, time.monotonic() + seconds

        async def client() -> None:
            nonlocal left
            while left > 0 and time.monotonic() < deadline:
                left -= 1
                await self.send()

        await asyncio.gather(*(client() for _ in range(in_flight)))

    def quantile(self, part: float) -> float:
        times = sorted(self.times)
        return times[min(len(times) - 1, int(len(times) * part))] * 1000


def _measure(server: BenchServer, sender: _Sender, what: str, work: object) -> None:
    assert asyncio.iscoroutine(work)
    sender.times, sender.statuses = [], Counter()
    cpu, own, begun = server.cpu_s(), time.process_time(), time.monotonic()
    asyncio.run(work)
    seconds, count = time.monotonic() - begun, len(sender.times)
    cpu, own = server.cpu_s() - cpu, time.process_time() - own
    print(f"{what}: {count} in {seconds:.1f} s ({count / seconds:.0f}/s), {dict(sender.statuses)}")
    print(f"  answered after p50 {sender.quantile(0.5):.1f}, p99 {sender.quantile(0.99):.1f}, "
          f"at most {max(sender.times) * 1000:.1f} ms")  # fmt: skip
    print(f"  CPU of the server {cpu * 1000 / count:.2f} ms a delivery, {cpu / seconds:.0%} of a core; "
          f"of the load {own / seconds:.0%}; memory at most {server.peak_mib():.0f} MiB")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.webhooks", description=__doc__)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--burst", type=int, default=10_000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--queued", type=int, default=1_000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        print(f"the disk syncs {fsyncs_per_second(Path(directory)):.0f} times a second")
        _take_all(Path(directory) / "home", chosen)
        _take_some(Path(directory) / "other", chosen)


def _take_all(home: Path, chosen: argparse.Namespace) -> None:
    server = _start(home, _FLOW)
    accepted = 0
    for rate in dict.fromkeys((20.0, chosen.rate)):
        sender = _Sender(server)
        sender.number = accepted
        _measure(server, sender, f"{rate:.0f} a second", sender.steadily(rate, chosen.seconds))
        accepted += sender.statuses[202]
    sender = _Sender(server)
    sender.number = 10_000_000
    _measure(server, sender, "a burst", sender.burst(chosen.burst, 10, chosen.in_flight))
    accepted += sender.statuses[202]
    _await_rest(server)
    states = dict(look(home / "taskforge.db", "SELECT state, count(*) FROM runs GROUP BY state"))
    assert states == {"SUCCEEDED": accepted}, (states, accepted)
    print(f"each of {accepted} deliveries that were answered with 202 has its finished run")
    server.stop()


def _take_some(home: Path, chosen: argparse.Namespace) -> None:
    server = _start(home, _STUCK, TASKFORGE_LIMITS__QUEUED_RUNS=str(chosen.queued))
    sender = _Sender(server)
    _measure(server, sender, "a burst of what has to wait", sender.burst(chosen.burst, 10, chosen.in_flight))
    ((runs,),) = look(home / "taskforge.db", "SELECT count(*) FROM runs")
    ((kept,),) = look(home / "taskforge.db", "SELECT count(*) FROM deliveries")
    assert runs == kept == sender.statuses[202], (runs, kept, sender.statuses)
    print(
        f"{runs} runs and deliveries are stored, and nothing of the {sender.statuses[503]} that were answered with 503"
    )
    server.stop()


def _start(home: Path, flow: bytes, **settings: str) -> BenchServer:
    server = BenchServer(home, **settings)
    server.request("PUT", "/v1/secrets/GH", b'{"value": "%s"}' % _SECRET, "application/json")
    server.request("PUT", "/v1/workflows/inbox", flow)
    return server


def _await_rest(server: BenchServer) -> None:
    deadline = time.monotonic() + 120
    while any(server.request("GET", "/v1/stats")["runs"].get(state, 0) for state in ("QUEUED", "RUNNING", "WAITING")):
        assert time.monotonic() < deadline, "not all runs have ended"
        time.sleep(0.2)


if __name__ == "__main__":
    main()
