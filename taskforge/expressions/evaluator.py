"""Asks jq children to evaluate programs: a small pool of processes, each killed at its deadline and replaced.

One round trip evaluates a batch. The deadline counts for each program from the moment its evaluation starts: waiting
for a free child and starting one do not count. A child that dies takes only its own batch with it.

On Windows a child has no memory limit and no alarm of its own; the deadline holds there too.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import os
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Literal

import orjson

from taskforge.core import jsontext
from taskforge.core.jsontext import JsonError
from taskforge.core.model import JSON
from taskforge.core.record import dataclass
from taskforge.expressions import worker
from taskforge.expressions.errors import (
    EXPRESSION_ERROR,
    EXPRESSION_MEMORY,
    EXPRESSION_TIMEOUT,
    EvaluationFailed,
    ExpressionSyntaxError,
    SyntaxProblem,
)
from taskforge.expressions.jqchild import Child, Spawn
from taskforge.expressions.results import Result, condition, single
from taskforge.expressions.syntax import parse_program

__all__ = ["Batch", "Evaluator", "Limits", "Program", "Result", "condition", "single"]

_MAX_REMEMBERED = 8_192
_PATIENCE = 0.05
"""Seconds that an evaluation waits for a busy child before one more is started."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one evaluation may use: seconds, memory of the child beyond its baseline, bytes of JSON that come out."""

    seconds: float = 1.0
    memory_bytes: int = 512 * 2**20
    result_bytes: int = 2**20


@dataclass(frozen=True, slots=True)
class Program:
    """A jq program and what `.` is for it."""

    source: str
    dot: JSON = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What is evaluated in one round trip. `now_ms` is what jq's `now` says, in milliseconds UTC.

    `mode`: "all"; "guard": where the first program gives anything but one `true`, the others are not evaluated;
    "first_true": stops at the first program that gives anything but one `false` or `null`.
    """

    variables: dict[str, JSON]
    now_ms: int
    programs: tuple[Program, ...]
    mode: Literal["all", "guard", "first_true"] = "all"


def default_command() -> list[str]:
    """The command that runs a child from source files. Frozen programs pass their own to `Evaluator`."""
    spec = importlib.util.find_spec("jq")
    directory = str(Path(spec.origin).parent) if spec is not None and spec.origin else ""
    # Isolated, without site-packages: the child gets jq's directory and nothing else.
    return [sys.executable, "-I", "-S", "-B", str(Path(worker.__file__).resolve()), "--", directory]


@dataclass(slots=True)
class _Waiter:
    """An evaluation that waits for a child."""

    turn: asyncio.Future[Child]
    patience: asyncio.TimerHandle | None = field(default=None)


class Evaluator:
    """A pool of jq children. Children start when they are first needed; `close` ends them all.

    `argv` is the command of a child, ending in `--` and directories that jq is found in; the arguments of
    `worker.main` go in front of those. Belongs to the event loop that it is first used on.
    """

    def __init__(
        self,
        argv: Sequence[str] | None = None,
        limits: Limits | None = None,
        *,
        children: int = 2,
        most_children: int = 4,
    ) -> None:
        self._argv = list(argv) if argv is not None else None
        self.limits = limits or Limits()
        self._usual = max(2, children)
        self._most = max(self._usual, most_children)
        self._idle: list[Child] = []
        self._all: set[Child] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._waiters: deque[_Waiter] = deque()
        self._closed = False

    async def evaluate(self, batch: Batch) -> list[Result]:
        """Evaluate a batch in one child. The list ends where the mode ended the evaluation.

        Failures of programs are in the list, never raised. Raises only when no child can be started at all.
        """
        refused = _refuse(batch)
        if refused is not None or not batch.programs:
            return refused or []
        try:
            header, text = self._request(batch)
        except JsonError as error:
            failure = EvaluationFailed(EXPRESSION_ERROR, f"a variable cannot be given to jq: {error}")
            return [failure for _ in batch.programs]
        child, answers = await self._ask(header, text)
        if child.failure == "gone":
            # Something outside ended it, not the programs: once more, in another.
            child, answers = await self._ask(header, text)
        return self._results(batch, answers, child)

    async def check(self, sources: Sequence[tuple[str, Sequence[str]]]) -> list[SyntaxProblem | None]:
        """Let jq compile programs, each with the names of its variables; give its first complaint or None for each.

        For what `syntax` lets through. Offsets count from 0 in the program.
        """
        if not sources:
            return []
        header = {"check": True, "programs": [[source, list(names)] for source, names in sources]}
        _, answers = await self._ask(orjson.dumps(header), b"")
        problems: list[SyntaxProblem | None] = []
        for (source, _), answer in zip(sources, answers, strict=False):
            problems.append(_problem(source, answer))
        missing = len(sources) - len(problems)
        return problems + [SyntaxProblem(0, "jq did not finish reading the expression")] * missing

    async def close(self) -> None:
        """End all children and wait for them. Evaluations that wait or run fail."""
        self._closed = True
        for waiter in self._waiters:
            if not waiter.turn.done():
                waiter.turn.set_exception(EvaluationFailed(EXPRESSION_ERROR, "the server is stopping"))
        self._waiters.clear()
        if self._starting:
            await asyncio.gather(*self._starting, return_exceptions=True)
        self._idle.clear()
        for child in list(self._all):
            self._end(child)
        await asyncio.gather(*self._ending)

    @property
    def pids(self) -> list[int]:
        """Process ids of the living children."""
        return [child.pid for child in self._all]

    async def _ask(self, header: bytes, text: bytes) -> tuple[Child, list[bytes]]:
        child = await self._acquire()
        try:
            return child, await child.ask(header, text, self.limits.seconds)
        finally:
            self._release(child)

    # ---- the pool

    async def _acquire(self) -> Child:
        if self._closed:
            raise EvaluationFailed(EXPRESSION_ERROR, "the server is stopping")
        while self._idle:
            child = self._idle.pop()
            if child.is_alive:
                return child
            self._end(child)
        loop = asyncio.get_running_loop()
        waiter = _Waiter(loop.create_future())
        self._waiters.append(waiter)
        if len(self._all) + len(self._starting) < self._usual:
            self._start()
        else:
            waiter.patience = loop.call_later(_PATIENCE, self._grow, waiter)
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                self._release(waiter.turn.result())
            raise
        finally:
            if waiter.patience is not None:
                waiter.patience.cancel()

    def _grow(self, waiter: _Waiter) -> None:
        if not waiter.turn.done() and len(self._all) + len(self._starting) < self._most:
            self._start()

    def _release(self, child: Child) -> None:
        """Take a child back, or see to it that another replaces it."""
        if child.is_alive and not child.is_busy and not self._closed:
            self._hand_over(child)
            return
        self._end(child)
        if not self._closed and len(self._all) + len(self._starting) < self._usual:
            self._start()

    def _hand_over(self, child: Child) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.turn.done():
                waiter.turn.set_result(child)
                return
        if len(self._all) > self._usual:
            self._end(child)
            return
        self._idle.append(child)

    def _end(self, child: Child) -> None:
        self._all.discard(child)
        child.kill()
        ending = asyncio.get_running_loop().create_task(child.ended())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _start(self) -> None:
        task = asyncio.get_running_loop().create_task(self._start_child())
        self._starting.add(task)
        task.add_done_callback(self._started)

    async def _start_child(self) -> None:
        if self._argv is None:
            self._argv = default_command()
        at = self._argv.index("--") if "--" in self._argv else len(self._argv)
        arguments = [str(self.limits.seconds), str(self.limits.memory_bytes), str(os.getpid())]
        child = await Child.start(Spawn([*self._argv[:at], *arguments, *self._argv[at + 1 :]]))
        if self._closed:
            self._end(child)
            return
        self._all.add(child)
        self._hand_over(child)

    def _started(self, task: asyncio.Task[None]) -> None:
        self._starting.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None or self._all or self._starting:
            return
        # Nobody else would ever answer: tell all who wait.
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.turn.done():
                waiter.turn.set_exception(EvaluationFailed(EXPRESSION_ERROR, f"no jq process can be started: {error}"))

    # ---- requests and answers

    def _request(self, batch: Batch) -> tuple[bytes, bytes]:
        """The header and jq's input: only the variables that occur, each `.` once."""
        names = [name for name in batch.variables if any(f"${name}" in program.source for program in batch.programs)]
        dots: list[JSON] = []
        programs: list[tuple[str, int]] = []
        for program in batch.programs:
            at = -1
            if program.dot is not None:
                at = next((index for index, dot in enumerate(dots) if dot is program.dot), len(dots))
                if at == len(dots):
                    dots.append(program.dot)
            programs.append((program.source, at))
        header = {
            "programs": programs,
            "names": names,
            "dots": len(dots),
            "mode": batch.mode,
            "limit": self.limits.result_bytes,
        }
        values = {name: batch.variables[name] for name in names}
        text = jsontext.dump_bytes({"v": values, "d": dots, "now": batch.now_ms / 1000})
        return orjson.dumps(header), text

    def _results(self, batch: Batch, answers: Sequence[bytes], child: Child) -> list[Result]:
        results: list[Result] = [_read(answer) for answer in answers]
        if child.failure is None:
            return results
        failure = self._failure(child)
        missing = len(batch.programs) - len(results)
        if batch.mode == "all" or not results:
            return results + [failure] * missing
        return [*results, failure]

    def _failure(self, child: Child) -> EvaluationFailed:
        seconds, megabytes = self.limits.seconds, self.limits.memory_bytes // 2**20
        if child.failure == "deadline":
            return EvaluationFailed(
                EXPRESSION_TIMEOUT, f"the expression took longer than {seconds:g} s and was stopped"
            )
        if child.failure == "gone":
            return EvaluationFailed(EXPRESSION_MEMORY, "the jq process was killed while it evaluated the expression")
        message = f"the expression needed more than {megabytes} MiB of memory and was stopped"
        return EvaluationFailed(EXPRESSION_MEMORY, message)


def _refuse(batch: Batch) -> list[Result] | None:
    """What our own reader refuses never reaches a child."""
    for program in batch.programs:
        message = (_refusal if len(program.source) <= _MAX_REMEMBERED else _refusal.__wrapped__)(program.source)
        if message is not None:
            return [EvaluationFailed(EXPRESSION_ERROR, message) for _ in batch.programs]
    return None


@functools.lru_cache(maxsize=2048)
def _refusal(source: str) -> str | None:
    try:
        parse_program(source)
    except ExpressionSyntaxError as error:
        first = error.problems[0]
        return f"{first.message} ({first.hint})" if first.hint else first.message
    return None


def _read(answer: bytes) -> Result:
    if answer[:1] == b"E":
        code, message = orjson.loads(answer[1:])
        return EvaluationFailed(code, message)
    try:
        return _loads(answer[1:])
    except JsonError as error:
        return EvaluationFailed(EXPRESSION_ERROR, f"the expression's result cannot be read: {error}")


def _loads(text: bytes) -> list[JSON]:
    results: list[JSON]
    try:
        results = jsontext.loads(text)
    except JsonError:
        # jq passes a number that no double holds (`1e1000`) through; it computes with the largest double.
        results = jsontext.loads(text, clamp=True)
    return results


def _problem(source: str, answer: bytes) -> SyntaxProblem | None:
    if answer[:1] != b"E":
        return None
    line, column, message = orjson.loads(answer[1:])
    lines = source.split("\n")
    before = sum(len(text) + 1 for text in lines[: line - 1])
    inside = lines[line - 1].encode()[: column - 1].decode(errors="ignore") if line <= len(lines) else ""
    return SyntaxProblem(min(before + len(inside), len(source)), message)
