"""The jq child: evaluates batches of programs that come in on stdin, and writes results to stdout.

A program of its own: it imports the standard library and jq, nothing of TaskForge, and runs as a script, as a module,
or from a frozen program (`main`). Before the first program it gives up what it does not need: memory beyond a limit,
core dumps, new files and processes, new privileges. It ignores SIGINT, SIGTERM and SIGHUP, which a terminal or a
service manager sends to the whole group: the server ends it by closing its stdin, and where a server is dead while a
batch is still being evaluated, the kernel (Linux) or an alarm ends it.

Frames are a 4-byte big-endian length and as many bytes. A request is two frames: a JSON object `{programs: [[source,
dot]], names, dots, mode, limit}` and the JSON text `{"v": {name: value}, "d": [dot], "now": seconds}`. It is answered
by one frame for each program, in their order, and an empty one at the end: `R` and a JSON list of the results, or `E`
and `[code, message]`. A request whose object has `check` compiles only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections import OrderedDict
from typing import Any, BinaryIO

try:
    import resource
except ImportError:  # Windows has none; the parent's deadline still holds there
    resource = None  # type: ignore[assignment]

_PRELUDE = """
def env: error("env is not available in expressions");
def input: error("input is not available in expressions");
def inputs: error("inputs is not available in expressions");
def debug: error("debug is not available in expressions");
def debug(f): error("debug is not available in expressions");
def stderr: error("stderr is not available in expressions");
def halt: error("halt is not available in expressions");
def halt_error: error("halt_error is not available in expressions");
def halt_error(f): error("halt_error is not available in expressions");
def input_filename: error("input_filename is not available in expressions");
def input_line_number: error("input_line_number is not available in expressions");
def get_search_list: error("get_search_list is not available in expressions");
def get_prog_origin: error("get_prog_origin is not available in expressions");
def get_jq_origin: error("get_jq_origin is not available in expressions");
def modulemeta: error("modulemeta is not available in expressions");
def now: $__tf_now;
def fromdateiso8601:
  if type == "string" and test("^[0-9]+-[0-9]+-[0-9]+T[0-9:]+[.][0-9]+Z$")
  then (capture("(?<f>[.][0-9]+)Z$").f) as $f | (.[:-($f | length) - 1] + "Z" | strptime("%Y-%m-%dT%H:%M:%SZ") | mktime)
    + ("0" + $f | tonumber)
  else strptime("%Y-%m-%dT%H:%M:%SZ") | mktime end;
def fromdate: fromdateiso8601;
""".replace("\n", " ")
_MAX_COMPILED = 256
_ERROR = "EXPRESSION_ERROR"
_TOO_LARGE = "EXPRESSION_TOO_LARGE"


def wrap(programs: list[tuple[str, int]], names: list[str], dots: int) -> str:
    """One jq program that evaluates several: each one's results as JSON texts, then its position as a number.

    Every program starts on a line of its own, so that jq's line numbers can be told apart.
    """
    bound = ["now: $__tf_now", "v: {" + ", ".join(f"${name}" for name in names) + "}"]
    if not names:
        bound.pop()
    if dots:
        bound.append("d: [" + ", ".join(f"$__tf_{dot}" for dot in range(dots)) + "]")
    head = ". as {" + ", ".join(bound) + "} | {} as $ENV | " + _PRELUDE
    parts = []
    for position, (source, dot) in enumerate(programs):
        # Two line breaks: a comment at the end may swallow one of them with a backslash.
        start = "null" if dot < 0 else f"$__tf_{dot}"
        parts.append(f"({start} | (\n{source}\n\n) | tojson), {position}")
    return head + ",\n".join(parts)


class Compiled:
    """The programs that have been compiled, the latest used last; bounded."""

    def __init__(self) -> None:
        self._programs: OrderedDict[str, Any] = OrderedDict()

    def get(self, source: str) -> Any:
        """The compiled program. Raises ValueError with jq's message."""
        program = self._programs.pop(source, None)
        if program is None:
            import jq

            program = jq.compile(source)
            if len(self._programs) >= _MAX_COMPILED:
                self._programs.popitem(last=False)
        self._programs[source] = program
        return program


def serve(source: BinaryIO, target: BinaryIO, seconds: float) -> None:
    """Answer requests until stdin ends."""
    compiled = Compiled()
    while (header := _read(source)) is not None:
        request = json.loads(header)
        text = _read(source)
        if text is None:
            return
        # A backstop for a child whose server is gone: the server itself kills it earlier.
        _alarm(seconds * (len(request["programs"]) + 1) + 5)
        if request.get("check"):
            _check(compiled, request, target)
        else:
            _evaluate(compiled, request, text.decode(), target)
        _alarm(0)
        _write(target, b"")


def compile_all(programs: list[str], names: list[str], seconds: float, memory_bytes: int) -> bool:
    """For a process made by `fork`, which can do nothing else afterwards: whether jq compiles every program."""
    import jq

    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    os.environ.clear()
    restrict(memory_bytes)
    _alarm(seconds)
    try:
        # All at once: reading the prelude is most of the work.
        jq.compile(wrap([(source, -1) for source in programs], names, 0))
    except ValueError:
        return False
    return True


def _evaluate(compiled: Compiled, request: dict[str, Any], text: str, target: BinaryIO) -> None:
    programs = [(source, dot) for source, dot in request["programs"]]
    names, mode, limit, dots = request["names"], request["mode"], request["limit"], request["dots"]
    position = 0
    while position < len(programs):
        rest = programs[position:]
        try:
            program = compiled.get(wrap(rest, names, dots))
        except ValueError:
            # One of them does not compile: go one at a time, so that each gets its own answer.
            rest = rest[:1]
            try:
                program = compiled.get(wrap(rest, names, dots))
            except ValueError as error:
                _error(target, _ERROR, syntax_message(str(error))[1])
                if mode != "all":
                    return
                position += 1
                continue
        done, stopped = _run(program, text, len(rest), limit, mode, position == 0, target)
        if stopped:
            return
        position += done


def _run(
    program: Any, text: str, count: int, limit: int, mode: str, is_first: bool, target: BinaryIO
) -> tuple[int, bool]:
    """Answer for programs until one fails. Gives how many were answered, and whether the mode ends the batch."""
    done = 0
    results: list[str] = []
    size = 0
    outputs = iter(program.input_text(text))
    while done < count:
        try:
            output = next(outputs)
        except StopIteration:
            # Only `break` out of a program ends all of them.
            _error(target, _ERROR, "the expression ended the evaluation")
        except ValueError as error:
            _error(target, _ERROR, _one_line(str(error)))
        except MemoryError:
            _error(target, "EXPRESSION_MEMORY", "the expression ran out of memory")
        else:
            if isinstance(output, str):
                size += len(output) + 1
                results.append(output)
                if size <= limit:
                    continue
                _error(target, _TOO_LARGE, f"the expression gave more than {limit:,} bytes")
            else:
                answer = ("[" + ",".join(results) + "]").encode("utf-8", "replace")
                if len(answer) > limit + 2:
                    _error(
                        target, _TOO_LARGE, f"the expression gave {len(answer):,} bytes; at most {limit:,} are taken"
                    )
                else:
                    _write(target, b"R" + answer)
                    done += 1
                    if mode == "guard" and is_first and done == 1 and results != ["true"]:
                        return done, True
                    if mode == "first_true" and results not in (["false"], ["null"]):
                        return done, True
                    results, size = [], 0
                    continue
        # A failed one: what follows starts anew, if it is wanted.
        return done + 1, mode == "first_true" or (mode == "guard" and is_first and done == 0)
    return done, False


def _check(compiled: Compiled, request: dict[str, Any], target: BinaryIO) -> None:
    for source, names in request["programs"]:
        try:
            compiled.get(wrap([(source, -1)], names, 0))
        except ValueError as error:
            line, message, column = _place(str(error))
            _write(target, b"E" + json.dumps([line, column, message]).encode())
        else:
            _write(target, b"R[]")


def syntax_message(text: str) -> tuple[int, str]:
    """jq's first compile error as a line of the program and one line of text."""
    line, message, _ = _place(text)
    return line, message


def _place(text: str) -> tuple[int, str, int]:
    first = text.split("\n", 1)[0]
    first = first.removeprefix("jq: error: ")
    message, _, place = first.partition(" at <top-level>, line ")
    line, _, column = place.partition(", column ")
    # The program starts on the second line of what was compiled.
    number = int(line) - 1 if line.isdecimal() else 1
    column = column.rstrip(":")
    return max(number, 1), _one_line(message), int(column) if column.isdecimal() else 1


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 500 else text[:497] + "..."


def _error(target: BinaryIO, code: str, message: str) -> None:
    _write(target, b"E" + json.dumps([code, message]).encode())


def _read(source: BinaryIO) -> bytes | None:
    head = source.read(4)
    if len(head) < 4:
        return None
    body = source.read(int.from_bytes(head, "big"))
    return body


def _write(target: BinaryIO, body: bytes) -> None:
    target.write(len(body).to_bytes(4, "big") + body)
    target.flush()


def _alarm(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def restrict(memory_bytes: int) -> None:
    """Give up what a jq program has no use for. What a platform does not have is left out."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if sys.platform == "linux":
        _restrict_linux()
    if resource is None:
        return
    page = resource.getpagesize()
    baseline = 0
    with contextlib.suppress(OSError, ValueError), open("/proc/self/statm", "rb") as file:
        baseline = int(file.read().split()[0]) * page
    limits = {
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_NPROC": 0,
        # Standard input, output and error are open; nothing else ever is.
        "RLIMIT_NOFILE": 3,
        "RLIMIT_AS": baseline + memory_bytes,
        "RLIMIT_DATA": baseline + memory_bytes,
    }
    for limit, value in limits.items():
        if hasattr(resource, limit):
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(getattr(resource, limit), (value, value))


def _restrict_linux() -> None:
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    set_parent_death_signal, set_no_new_privileges = 1, 38
    library.prctl(set_parent_death_signal, int(signal.SIGKILL), 0, 0, 0)
    library.prctl(set_no_new_privileges, 1, 0, 0, 0)


def main(arguments: list[str]) -> int:
    """Run the child. Arguments: seconds per evaluation, bytes of memory, the server's process id, jq's directory."""
    seconds, memory_bytes, parent = float(arguments[0]), int(arguments[1]), int(arguments[2])
    sys.path.extend(arguments[3:])
    os.environ["TZ"] = "UTC"
    source, target = sys.stdin.buffer, sys.stdout.buffer
    try:
        import jq

        jq.compile(wrap([(".", -1)], [], 0)).input_text('{"now":0}').first()
    except ImportError as error:
        _write(target, f"the jq library cannot be loaded: {error}".encode())
        return 1
    restrict(memory_bytes)
    # Not `!=`: a frozen program has its loader in between.
    if sys.platform != "win32" and os.getppid() == 1 != parent:
        return 0
    _write(target, b"")
    with contextlib.suppress(BrokenPipeError):
        serve(source, target, seconds)
    return 0


if __name__ == "__main__":
    # Not sys.exit: nothing is left to tidy up, and a broken stdout must not be flushed again.
    os._exit(main(sys.argv[1:]))
