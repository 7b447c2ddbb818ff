"""The pool of jq children: what a batch gives, what it may use, and that one evaluation disturbs no other."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from taskforge.core.model import JSON
from taskforge.expressions.builtins import FORBIDDEN
from taskforge.expressions.errors import EvaluationFailed
from taskforge.expressions.evaluator import Batch, Evaluator, Limits, Program, Result, condition, single

NOW = 1_700_000_000_123
ENDLESS = "def f: f; f"


@pytest.fixture
async def evaluator() -> AsyncIterator[Evaluator]:
    evaluator = Evaluator()
    yield evaluator
    await evaluator.close()


def batch(*programs: str, mode: Any = "all", dot: JSON = None, **variables: JSON) -> Batch:
    return Batch(variables, NOW, tuple(Program(source, dot) for source in programs), mode)


def code(result: Result) -> str | None:
    return result.code if isinstance(result, EvaluationFailed) else None


async def one(evaluator: Evaluator, program: str, dot: JSON = None, **variables: JSON) -> Result:
    (result,) = await evaluator.evaluate(batch(program, dot=dot, **variables))
    return result


async def test_a_batch_gives_every_result_of_every_program(evaluator: Evaluator) -> None:
    results = await evaluator.evaluate(
        batch("1, 2", "empty", "$a.b", '"x" | error', "$c", ".", a={"b": None}, c="é", dot=[0])
    )
    assert [results[0], results[1], results[2], results[4], results[5]] == [[1, 2], [], [None], ["é"], [[0]]]
    assert isinstance(results[3], EvaluationFailed)
    assert (results[3].code, results[3].message) == ("EXPRESSION_ERROR", "x")


async def test_integers_keep_every_digit(evaluator: Evaluator) -> None:
    huge = 12345678901234567890
    assert await one(evaluator, "$x, $x[0], ($x | tojson), ([$x[1]] | add)", x=[huge, 2**100]) == [
        [huge, 2**100],
        huge,
        f"[{huge},{2**100}]",
        2**100,
    ]
    assert await one(evaluator, f"{huge}, -{2**70}") == [huge, -(2**70)]
    # Arithmetic is in doubles, as in jq.
    assert await one(evaluator, "$x + 2", x=2**53 + 1) == [2**53 + 2]


async def test_numbers_that_are_no_json_read_as_jq_writes_them(evaluator: Evaluator) -> None:
    largest = sys.float_info.max
    assert await one(evaluator, "nan, [infinite, -infinite], 1e1000, -1e1000") == [
        None,
        [largest, -largest],
        largest,
        -largest,
    ]
    assert await one(evaluator, "1.10, 1e2, 3.0, 0.1 + 0.2") == [1.1, 100.0, 3.0, 0.30000000000000004]


async def test_one_program_that_fails_to_compile_fails_alone(evaluator: Evaluator) -> None:
    results = await evaluator.evaluate(batch("1", "$nowhere", "{(1): 2}", "2"))
    assert [results[0], results[3]] == [[1], [2]]
    assert [code(result) for result in results[1:3]] == ["EXPRESSION_ERROR"] * 2
    assert "$nowhere is not defined" in str(results[1])


async def test_a_program_cannot_reach_out_of_its_place(evaluator: Evaluator) -> None:
    for source in (
        "1) | (2",
        "1), (2",
        "1 # \\",
        "1 # ) \\\\",
        "1\n# c",
        "1 as $x | $x",
        "def f: 3; f",
        "break $x",
        '"\\("',
    ):
        results = await evaluator.evaluate(batch("0", source, "9"))
        assert isinstance(results[1], EvaluationFailed) or results == [[0], results[1], [9]]


@pytest.mark.parametrize(
    ("mode", "programs", "results"),
    [
        ("guard", ("false", "1"), [[False]]),
        ("guard", ("null", "1"), [[None]]),
        ("guard", ("true, true", "1"), [[True, True]]),
        ("guard", ("true", "1", "2"), [[True], [1], [2]]),
        ("first_true", ("false", "null", "true", "error(1)"), [[False], [None], [True]]),
        ("first_true", ("false", "5", "true"), [[False], [5]]),
        ("first_true", ("false", "null"), [[False], [None]]),
    ],
)
async def test_modes_end_a_batch_where_it_is_decided(
    evaluator: Evaluator, mode: str, programs: tuple[str, ...], results: list[JSON]
) -> None:
    assert await evaluator.evaluate(batch(*programs, mode=mode)) == results


@pytest.mark.parametrize("mode", ["guard", "first_true"])
@pytest.mark.parametrize("broken", ["error(0)", "{(1): 2}", "$nowhere", "env", "1 +"])
async def test_modes_end_a_batch_at_a_condition_that_fails(evaluator: Evaluator, mode: str, broken: str) -> None:
    results = await evaluator.evaluate(batch(broken, "true", mode=mode))
    assert code(results[0]) == "EXPRESSION_ERROR"
    assert all(code(result) for result in results)


async def test_now_is_the_instant_of_the_batch_and_dates_take_fractions(evaluator: Evaluator) -> None:
    assert await one(evaluator, "now") == [1700000000.123]
    assert await one(evaluator, '"2023-11-14T22:13:20.25Z", "2023-11-14T22:13:20Z" | fromdate') == [
        1700000000.25,
        1700000000,
    ]
    assert await one(evaluator, '"1969-12-31T23:59:50.5Z" | fromdateiso8601, (0 | todate)') == [
        -9.5,
        "1970-01-01T00:00:00Z",
    ]
    assert await one(evaluator, "0 | localtime | mktime") == [0]
    for wrong in ('"2023-11-14T22:13:20.Z"', '"x.5Z"', "5", "null"):
        assert code(await one(evaluator, f"{wrong} | fromdate")) == "EXPRESSION_ERROR"


async def test_data_that_looks_like_an_expression_is_data(evaluator: Evaluator) -> None:
    evil = '${{ env }} \\(1) " | halt # {{ $secrets }}'
    assert await one(evaluator, '$x, "<\\($x)>", {($x): 1}', x=evil) == [evil, f"<{evil}>", {evil: 1}]


# ---- limits


async def test_an_endless_program_is_stopped_and_disturbs_nobody(evaluator: Evaluator) -> None:
    await one(evaluator, "1")
    start = time.monotonic()
    endless = asyncio.create_task(one(evaluator, ENDLESS))
    await asyncio.sleep(0)
    results = await asyncio.gather(*(one(evaluator, "[range(100)] | add + $i", i=i) for i in range(50)))
    assert results == [[4950 + i] for i in range(50)]
    assert not endless.done()
    result = await endless
    assert time.monotonic() - start < 2
    assert isinstance(result, EvaluationFailed)
    assert (result.code, result.message) == (
        "EXPRESSION_TIMEOUT",
        "the expression took longer than 1 s and was stopped",
    )


async def test_more_endless_programs_than_children_delay_others_no_longer_than_the_limit(evaluator: Evaluator) -> None:
    start = time.monotonic()
    endless = [asyncio.create_task(one(evaluator, ENDLESS)) for _ in range(3)]
    await asyncio.sleep(0)
    assert await one(evaluator, "1") == [1]
    assert time.monotonic() - start < 4
    assert {code(result) for result in await asyncio.gather(*endless)} == {"EXPRESSION_TIMEOUT"}


async def test_each_program_of_a_batch_has_its_own_time() -> None:
    evaluator = Evaluator(limits=Limits(seconds=1))
    try:
        slow = "last(range(300000))"
        start = time.monotonic()
        assert await one(evaluator, slow) == [299_999]
        count = int(1.5 / (time.monotonic() - start)) + 1
        results = await evaluator.evaluate(batch(*[slow] * count, ENDLESS, "1"))
        assert time.monotonic() - start > 2
        assert results[:-2] == [[299_999]] * count
        assert [code(result) for result in results[-2:]] == ["EXPRESSION_TIMEOUT"] * 2
    finally:
        await evaluator.close()


async def test_a_queue_does_not_count_into_the_time() -> None:
    evaluator = Evaluator(limits=Limits(seconds=0.5), most_children=2)
    try:
        tasks = [asyncio.create_task(one(evaluator, ENDLESS)) for _ in range(4)]
        tasks.append(asyncio.create_task(one(evaluator, "1")))
        results = await asyncio.gather(*tasks)
        assert [code(result) for result in results] == ["EXPRESSION_TIMEOUT"] * 4 + [None]
    finally:
        await evaluator.close()


@pytest.mark.parametrize(
    ("program", "codes"),
    [
        ('"x" * 1000000000 | length', {"EXPRESSION_MEMORY"}),
        ("[range(1e9)] | length", {"EXPRESSION_MEMORY", "EXPRESSION_TIMEOUT"}),
        ("[limit(1e10; repeat(1))] | length", {"EXPRESSION_MEMORY", "EXPRESSION_TIMEOUT"}),
        ("def f: 1 + f; f", {"EXPRESSION_MEMORY", "EXPRESSION_TIMEOUT"}),
        ("def f: [f]; f", {"EXPRESSION_MEMORY", "EXPRESSION_TIMEOUT"}),
        ("last(range(1e18))", {"EXPRESSION_TIMEOUT"}),
        ("9 | pow(.; .) | pow(.; .) | pow(.; .)", {None}),
        ("repeat(1)", {"EXPRESSION_TOO_LARGE", "EXPRESSION_TIMEOUT"}),
        ("[range(500000)]", {"EXPRESSION_TOO_LARGE", "EXPRESSION_TIMEOUT"}),
        ('"x" * 2000000', {"EXPRESSION_TOO_LARGE"}),
        ('"é" * 700000', {"EXPRESSION_TOO_LARGE"}),
        ('("a" * 40 + "!") | test("^(a+)+$")', {"EXPRESSION_ERROR", "EXPRESSION_TIMEOUT"}),
        ('("a" * 30) | test("(a*)*(a*)*(a*)*b")', {"EXPRESSION_ERROR", "EXPRESSION_TIMEOUT", None}),
        ("reduce range(2000) as $i (null; [.])", {"EXPRESSION_ERROR"}),
        ("(" * 10_000 + "1" + ")" * 10_000, {"EXPRESSION_ERROR"}),
        ("1" + " + 1" * 250_000, {"EXPRESSION_ERROR"}),
        ("1" + "+1" * 15_000, {"EXPRESSION_ERROR", "EXPRESSION_TIMEOUT", None}),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
async def test_hostile_programs_are_refused_or_stopped(
    evaluator: Evaluator, program: str, codes: set[str | None]
) -> None:
    await one(evaluator, "1")
    start = time.monotonic()
    result = await one(evaluator, program)
    assert time.monotonic() - start < 2
    assert code(result) in codes
    if isinstance(result, EvaluationFailed):
        assert len(result.message) < 600
        assert "\n" not in result.message
    assert await one(evaluator, "2") == [2]


async def test_the_limit_of_what_comes_out_is_exact() -> None:
    evaluator = Evaluator(limits=Limits(result_bytes=1_000))
    try:
        assert await one(evaluator, '"x" * 996 | length') == [996]
        assert await one(evaluator, '"x" * 990') == ["x" * 990]
        assert code(await one(evaluator, '"x" * 1000')) == "EXPRESSION_TOO_LARGE"
    finally:
        await evaluator.close()


async def test_memory_of_one_evaluation_fails_only_its_own_batch(evaluator: Evaluator) -> None:
    bomb, *others = await asyncio.gather(
        one(evaluator, '"x" * 1000000000 | length'), *(one(evaluator, "$i", i=i) for i in range(20))
    )
    assert code(bomb) == "EXPRESSION_MEMORY"
    assert others == [[i] for i in range(20)]


# ---- the sandbox


@pytest.mark.parametrize("name", [*sorted(FORBIDDEN), "$ENV", "$__prog_args", "debug(1)", "halt_error(1)", "env.PATH"])
async def test_what_is_forbidden_is_refused_before_jq_sees_it(evaluator: Evaluator, name: str) -> None:
    result = await one(evaluator, name)
    assert isinstance(result, EvaluationFailed)
    assert "is not available in expressions" in result.message
    assert evaluator.pids == []


async def test_the_child_itself_refuses_what_is_forbidden(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskforge.expressions.evaluator._refuse", lambda batch: None)
    for name in [*sorted(FORBIDDEN), "debug(1)", "halt_error(1)"]:
        result = await one(evaluator, name)
        assert isinstance(result, EvaluationFailed)
        assert "is not available in expressions" in result.message
    assert await one(evaluator, "$ENV") == [{}]
    for source in ('import "a" as a; 1', 'include "a"; 1', "$__prog_args", "1) | env | (1", "module {}; 1"):
        assert code(await one(evaluator, source)) == "EXPRESSION_ERROR"
    for source in ("(" * 10_000 + "1" + ")" * 10_000, "[" * 100_000, '"\\(' * 100_000):
        assert code(await one(evaluator, source)) is not None
    assert await one(evaluator, "1") == [1]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_child_has_no_environment_files_or_new_privileges(evaluator: Evaluator) -> None:
    await one(evaluator, "1")
    (pid,) = evaluator.pids
    proc = Path(f"/proc/{pid}")
    assert (proc / "environ").read_bytes() == b""
    assert len(list((proc / "fd").iterdir())) == 3
    limits = {line[:26].strip(): line[26:].split()[0] for line in (proc / "limits").read_text().splitlines()}
    assert limits["Max open files"] == "3"
    assert limits["Max core file size"] == "0"
    assert limits["Max file size"] == "0"
    assert limits["Max processes"] == "0"
    assert 2**29 <= int(limits["Max address space"]) < 2**30
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    assert os.getpgid(pid) == os.getpgrp()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
async def test_a_child_outlives_signals_to_the_group(evaluator: Evaluator) -> None:
    await one(evaluator, "1")
    (pid,) = evaluator.pids
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    assert await one(evaluator, "2") == [2]
    assert evaluator.pids == [pid]


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal of a parent")
async def test_children_die_with_the_server_even_while_they_evaluate() -> None:
    source = (
        "import asyncio, sys\n"
        "from taskforge.expressions.evaluator import *\n"
        "async def main():\n"
        "    evaluator = Evaluator(limits=Limits(seconds=60))\n"
        "    await evaluator.evaluate(Batch({}, 0, (Program('1'),)))\n"
        "    print(evaluator.pids[0], flush=True)\n"
        f"    await evaluator.evaluate(Batch({{}}, 0, (Program({ENDLESS!r}),)))\n"
        "asyncio.run(main())\n"
    )
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", source, stdout=asyncio.subprocess.PIPE)
    assert server.stdout is not None
    child = int(await server.stdout.readline())
    server.kill()
    await server.wait()
    await until(lambda: not alive(child))


# ---- the pool


async def test_a_child_that_is_killed_from_outside_is_replaced_and_the_batch_repeated() -> None:
    evaluator = Evaluator(limits=Limits(seconds=60))
    try:
        await one(evaluator, "1")
        (first,) = evaluator.pids
        running = asyncio.create_task(one(evaluator, "last(range(2000000))"))
        await asyncio.sleep(0.05)
        os.kill(first, signal.SIGKILL)
        assert await running == [1_999_999]
        assert first not in evaluator.pids
    finally:
        await evaluator.close()


async def test_an_idle_child_that_died_is_not_used(evaluator: Evaluator) -> None:
    await one(evaluator, "1")
    (first,) = evaluator.pids
    os.kill(first, signal.SIGKILL)
    for number in range(20):
        assert await one(evaluator, "$n", n=number) == [number]
    assert first not in evaluator.pids


async def test_cancelling_an_evaluation_frees_its_child(evaluator: Evaluator) -> None:
    await one(evaluator, "1")
    tasks = [asyncio.create_task(one(evaluator, ENDLESS)) for _ in range(6)]
    await asyncio.sleep(0.1)
    start = time.monotonic()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await one(evaluator, "1") == [1]
    assert time.monotonic() - start < 0.9


async def test_children_start_when_needed_and_grow_no_further_than_allowed() -> None:
    evaluator = Evaluator(limits=Limits(seconds=30))
    try:
        assert evaluator.pids == []
        results = await asyncio.gather(*(one(evaluator, "last(range(50000)) + $i", i=i) for i in range(40)))
        assert results == [[49_999 + i] for i in range(40)]
        assert 1 <= len(evaluator.pids) <= 4
        await asyncio.gather(*(one(evaluator, "1") for _ in range(20)))
        await until(lambda: len(evaluator.pids) <= 2)
    finally:
        await evaluator.close()


async def test_close_ends_all_children_and_all_who_wait() -> None:
    evaluator = Evaluator()
    await one(evaluator, "1")
    tasks = [asyncio.create_task(one(evaluator, ENDLESS)) for _ in range(8)]
    await asyncio.sleep(0.1)
    pids = evaluator.pids
    await evaluator.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, EvaluationFailed) for result in results)
    assert not any(map(alive, pids))
    with pytest.raises(EvaluationFailed, match="stopping"):
        await one(evaluator, "1")


async def test_a_command_that_cannot_be_started_is_an_error_for_all_who_wait() -> None:
    for argv in (["/nowhere/python"], [sys.executable, "-c", "raise SystemExit(3)", "--"]):
        evaluator = Evaluator(argv)
        results = await asyncio.gather(*(one(evaluator, "1") for _ in range(3)), return_exceptions=True)
        assert all("no jq process can be started" in str(result) for result in results)
        await evaluator.close()


async def test_a_missing_jq_library_is_named() -> None:
    worker = str(Path(__file__).parents[2] / "taskforge" / "expressions" / "worker.py")
    evaluator = Evaluator([sys.executable, "-I", "-S", worker, "--", "/nowhere"])
    with pytest.raises(EvaluationFailed, match="the jq library cannot be loaded"):
        await one(evaluator, "1")
    await evaluator.close()


async def test_check_gives_jqs_own_complaint_with_its_place(evaluator: Evaluator) -> None:
    problems = await evaluator.check(
        [(".a", []), ("$x.a", ["x"]), ("1 |\n  $y", ["x"]), ('"é" | nope', []), ("{(1): 2}", []), ("1 +", [])]
    )
    assert problems[:2] == [None, None]
    placed = [(problem.offset, problem.message) for problem in problems[2:] if problem is not None]
    assert placed[0] == (6, "$y is not defined")
    assert placed[1] == (6, "nope/0 is not defined")
    assert placed[2][1] == "Cannot use number (1) as object key"
    assert "unexpected" in placed[3][1]
    assert await evaluator.check([]) == []


async def test_an_empty_batch_needs_no_child(evaluator: Evaluator) -> None:
    assert await evaluator.evaluate(batch()) == []
    assert evaluator.pids == []


async def test_the_child_runs_as_a_module_too() -> None:
    evaluator = Evaluator([sys.executable, "-m", "taskforge.expressions.worker", "--"])
    assert await one(evaluator, "1") == [1]
    await evaluator.close()


def test_the_child_imports_nothing_of_the_server() -> None:
    tree = ast.parse((Path(__file__).parents[2] / "taskforge" / "expressions" / "worker.py").read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) == {"jq"}


async def test_it_runs_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def work() -> list[Result]:
        evaluator = Evaluator(limits=Limits(seconds=0.3))
        try:
            return [
                await one(evaluator, "1"),
                await one(evaluator, ENDLESS),
                await one(evaluator, '"x" * 1e9 | length'),
            ]
        finally:
            await asyncio.wait_for(evaluator.close(), 5)

    results = await asyncio.to_thread(_run_in, uvloop.new_event_loop, work)
    assert [code(result) for result in results] == [None, "EXPRESSION_TIMEOUT", "EXPRESSION_MEMORY"]


def _run_in(factory: Callable[[], asyncio.AbstractEventLoop], work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work())


# ---- what a result must be


def test_single_takes_exactly_one_result() -> None:
    assert single([None]) is None
    with pytest.raises(EvaluationFailed, match=r"no result.*\[…\]"):
        single([])
    with pytest.raises(EvaluationFailed, match=r"2 results.*first\(…\)"):
        single([1, 2])
    with pytest.raises(EvaluationFailed, match="why"):
        single(EvaluationFailed("EXPRESSION_ERROR", "why"))


def test_a_condition_is_true_false_or_null() -> None:
    assert [condition(value) for value in (True, False, None)] == [True, False, False]
    values: list[JSON] = [0, 1, "", "true", [], {}, 1.0]
    for value in values:
        with pytest.raises(EvaluationFailed, match="must give true, false or null"):
            condition(value)


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
