"""The demo's story: apply, run, kill -9 twice while a step is in flight, and show what became of the run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taskforge.cli.client import Client
from taskforge.cli.command import Session
from taskforge.cli.connection import Connection
from taskforge.cli.demo import triggers
from taskforge.cli.demo.target import ORDERS, Target
from taskforge.cli.demo.triggers import Fired, fire
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.process import ServerChild
from taskforge.cli.render import Cell, Paint, state
from taskforge.cli.shown import encode
from taskforge.cli.timeline import TERMINAL, failure, span
from taskforge.core.clock import SystemClock, from_rfc3339
from taskforge.core.durations import format_duration
from taskforge.core.jsontext import loads

NAME = "order-digest"
WORKFLOW = """\
name: order-digest
description: Tell the shop about open orders
steps:
  - id: fetch
    http: {{method: GET, url: {target}/orders}}
    retry: {{max_attempts: 5, initial: 200ms, max: 1s}}
  - id: open
    transform: '${{{{ [$fetch.body.orders[] | select(.open) | .id] }}}}'
  - id: route
    switch:
      - when: '${{{{ $open | length > 0 }}}}'
        steps:
          - id: notify
            http: {{method: POST, url: {target}/notify, json: {{open: '${{{{ $open }}}}'}}}}
      - else:
          - {{id: quiet, transform: nothing to tell}}
output: '${{{{ $open }}}}'
"""
_START_S = 15.0
_PATIENCE_S = 15.0
_KILLS = 2


def tell(session: Session) -> int:
    """Play it. Returns 0 only if everything was as promised; nothing is left behind, whatever happens."""
    with _interruptible(), contextlib.ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="taskforge-demo-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        target = Target()
        stack.callback(target.close)
        try:
            return _Story(session, home, target, stack).play()
        except KeyboardInterrupt:
            session.screen.note("interrupted; server, target and home are removed")
            raise


class _Story:
    def __init__(self, session: Session, home: Path, target: Target, stack: contextlib.ExitStack) -> None:
        self.session = session
        self.home = home
        self.target = target
        self.stack = stack
        self.clock = SystemClock()
        self.began = self.clock.monotonic()
        self.kills: list[int] = []
        self.resumes = 0
        self.child: ServerChild | None = None
        self.client: Client | None = None

    def play(self) -> int:
        self._say(Paint("A workflow that survives kill -9", "title"))
        self._say(Paint(f"  {NAME}: fetch (http) → open (transform) → route (switch) → notify (http)", "dim"))
        took = self._start()
        self._act(f"process {self._pid()} serves a throw-away home, ready after {took}")
        run_id = self._begin()
        self._kill_while("fetch")
        self._kill_while("notify")
        run = self._await_end(run_id)
        assert self.client is not None
        fired = fire(self.client, self.clock)
        hook, slot = f"{triggers.NAME}#{fired.hook['number']}", fired.cron["trigger"]["scheduled_at"]
        self._act("a signed webhook, sent twice, started ", Paint(hook, "bold"), "; the slot ", slot[11:19], " another")
        self._show(run)
        return self._judge(run, fired)

    # ---- the acts

    def _start(self) -> str:
        """Start the server and wait until it is ready; returns how long it took."""
        began = self.clock.monotonic()
        if self.client is not None:
            self.client.close()
        # The user's own settings and server are no part of the story.
        environ = {name: value for name, value in os.environ.items() if not name.startswith("TASKFORGE_")}
        self.child = ServerChild(self.home, environ, ["--host", "127.0.0.1", "--port", "0"])
        self.stack.callback(self.child.kill)
        url = self.child.wait_until_ready(_START_S)
        self.client = Client(Connection(url, self._token(), False, self.home))
        self.stack.callback(self.client.close)
        return format_duration(round((self.clock.monotonic() - began) * 1000))

    def _begin(self) -> str:
        assert self.client is not None
        document = WORKFLOW.format(target=self.target.url).encode()
        self.client.send_document("PUT", "workflows", NAME, content=document, media="yaml")
        started = self.client.post("workflows", NAME, "runs", body={})
        self._act("run ", Paint(f"{NAME}#{started['number']}", "bold"), " is accepted: it is on disk, so it will end")
        return str(started["id"])

    def _kill_while(self, step: str) -> None:
        """Wait until the target holds the step's request, kill the server, start it again."""
        if not self.target.holds.wait(_PATIENCE_S):
            raise CommandError(f"the request of step {step} has not come", lines=self._last_words())
        assert self.child is not None
        pid = self._pid()
        self.child.process.send_signal(signal.SIGKILL)
        self.child.process.wait()
        self.kills.append(self.clock.wall())
        killed = f" process {pid} while "
        self._act(Paint("kill -9", "bad"), killed, Paint(step, "bold"), " waits for its answer; start another")
        self.target.release()
        took = self._start()
        self.resumes += 1
        self._act(f"process {self._pid()} is ready after {took} and goes on with the run")

    def _await_end(self, run_id: str) -> dict[str, Any]:
        assert self.client is not None
        deadline = self.clock.monotonic() + _PATIENCE_S
        while True:
            run: dict[str, Any] = self.client.get("runs", run_id, wait="2s")
            if run["state"] in TERMINAL:
                return run
            if self.clock.monotonic() > deadline:
                raise CommandError(f"the run has not ended: it is {run['state']}", lines=self._last_words())
            time.sleep(0.02)

    # ---- the end

    def _show(self, run: dict[str, Any]) -> None:
        """The timeline, from the API; between its lines, what was done to the server."""
        created = from_rfc3339(run["created_at"])
        lines: list[tuple[int, int, list[Cell]]] = [(created, 0, ["run       ", Paint("accepted", "green")])]
        for step in run["steps"]:
            lines += [(at, 2 if step["attempts"] else 1, cells) for at, cells in _step_lines(step)]
        lines += [(at, 3, [Paint("kill -9   and another start", "bad")]) for at in self.kills]
        ended = from_rfc3339(run["finished_at"])
        lines.append((ended, 4, ["run       ", state(run["state"]), f"  after {format_duration(ended - created)}"]))
        self._say()
        self._say(Paint(f"What the API tells of {NAME}#{run['number']}", "title"))
        for at, _, cells in sorted(lines, key=lambda line: line[:2]):
            self._say(Paint(f"  {(at - created) / 1000:>7.3f}s  ", "dim"), *cells)
        self._say()

    def _judge(self, run: dict[str, Any], fired: Fired) -> int:
        """Check what is promised; say it, line by line."""
        attempts = [attempt for step in run["steps"] for attempt in step["attempts"]]
        lost = sum(attempt["state"] == "LOST" for attempt in attempts)
        expected = [order["id"] for order in ORDERS["orders"] if order["open"]]
        sent = [seen.body for seen in self.target.seen if seen.path == "/notify"]
        findings = [
            (
                run["state"] == "SUCCEEDED",
                f"the run ended {run['state']}, with the output {encode(run['output'], indent=None)}",
            ),
            (
                len(self.kills) == _KILLS == lost,
                f"killed {len(self.kills)} times, resumed {self.resumes} times: {lost} lost attempts tried again",
            ),
            self._keys(run, "fetch", "/orders"),
            self._keys(run, "notify", "/notify"),
            (
                run["output"] == expected and all(loads(body) == {"open": expected} for body in sent),
                "every digit of the order numbers arrived",
            ),
            (
                fired.hook["output"] == ["webhook", 12345678901234567893] and fired.again and fired.refused,
                "webhook: verified and run once; its second arrival was known, a wrong signature refused",
            ),
            (
                fired.cron["output"] == ["cron", fired.cron["trigger"]["scheduled_at"]],
                "cron: the slot has its run",
            ),
        ]
        for good, words in findings:
            self._say(Paint("✔" if good else "✘", "green" if good else "bad"), " ", words)
        passed = all(good for good, _ in findings)
        took = self.clock.monotonic() - self.began
        if self.session.machine:
            facts = {"passed": passed, "killed": len(self.kills), "resumed": self.resumes, "lost_attempts": lost}
            runs = {"run": run, "webhook_run": fired.hook, "cron_run": fired.cron}
            self.session.screen.document({**facts, "took_s": round(took, 1), **runs})
        if not passed:
            raise CommandError("the demo found something that should not be", lines=self._last_words())
        self._say(Paint(f"{took:.1f} s; nothing is left of it. Your own server: taskforge up", "dim"))
        return Exit.DONE

    def _keys(self, run: dict[str, Any], step: str, path: str) -> tuple[bool, str]:
        keys = self.target.keys(path)
        good = len(keys) > 1 and set(keys) == {f"{run['id']}/{step}"}
        one = "all with the same Idempotency-Key" if good else f"with {len(set(keys))} Idempotency-Keys"
        return good, f"{step}: the target saw {len(keys)} requests, {one}"

    # ---- small things

    def _act(self, *cells: Cell) -> None:
        self._say(Paint(f"  {self.clock.monotonic() - self.began:>6.2f}s  ", "dim"), *cells)

    def _say(self, *cells: Cell) -> None:
        screen = self.session.screen
        if self.session.machine:
            screen.note(*cells)
        elif not screen.quiet:
            screen.line(*cells)

    def _pid(self) -> int:
        return self.child.process.pid if self.child is not None else 0

    def _token(self) -> str:
        from taskforge.config.reading import load_settings

        return load_settings(self.home, {}).auth.token

    def _last_words(self) -> list[str]:
        return self.child.last_words() if self.child is not None else []


def _step_lines(step: dict[str, Any]) -> Iterator[tuple[int, list[Cell]]]:
    name = f"{step['path']:<8}  "
    for attempt in step["attempts"]:
        took = span(attempt)
        cells: list[Cell] = [name, f"attempt {attempt['number']}  ", state(attempt["state"])]
        if took is not None:
            cells.append(f" after {format_duration(took)}")
        if attempt.get("error"):
            cells.append(Paint(f"  {failure(attempt['error'])}", "dim"))
        yield from_rfc3339(attempt["started_at"]), cells
    if not step["attempts"] and step["finished_at"]:
        yield from_rfc3339(step["finished_at"]), [name, f"{step['kind']:<9}  ", state(step["state"])]


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does: tidily."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
