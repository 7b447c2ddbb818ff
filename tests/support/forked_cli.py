"""The command line as real processes that start in milliseconds: one imports the program, and forks for each call.

A call is a process of its own, with its own streams (closed ones, too), directory and environment. The interpreter's
start and the imports are shared. What depends on those (start time, `-X` options, locale) needs `run_cli` instead.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.server import ROOT

_CLOSED = -1
_SHIM = """\
#!{python} -IS
import array, json, os, socket, sys
streams = []
for number in (0, 1, 2):
    try:
        os.fstat(number)
        streams.append(number)
    except OSError:
        streams.append(None)
sent = [number for number in streams if number is not None] + [os.open(".", os.O_RDONLY)]
with socket.socket(socket.AF_UNIX) as line:
    line.connect({address!r})
    call = json.dumps({{"arguments": sys.argv[1:], "environ": dict(os.environ), "streams": streams}}).encode()
    line.sendmsg([len(call).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", sent))])
    line.sendall(call)
    code = int(line.recv(8) or b"255")
sys.exit(code)
"""


class ForkedCli:
    """A running parent of calls. `program` is an executable that makes one: for shells."""

    def __init__(self, address: str, program: Path) -> None:
        self.address = address
        self.program = program

    def __call__(
        self,
        *arguments: str,
        environ: Mapping[str, str],
        stdin: bytes | None = b"",
        cwd: int | None = None,
        timeout: float = 60,
        **given: int,
    ) -> subprocess.CompletedProcess[str]:
        """Run `taskforge ARGUMENTS`. `stdin` None closes it; `stdout` and `stderr` are descriptors, -1 closes one."""
        pipes: dict[str, int] = {}
        streams: dict[str, int] = {}
        with contextlib.ExitStack() as opened:
            own = opened.enter_context(_Descriptors())
            for name in ("stdout", "stderr"):
                streams[name] = given.get(name, _CLOSED)
                if name not in given:
                    pipes[name], streams[name] = own.pipe()
            if stdin is None:
                streams["stdin"] = _CLOSED
            else:
                streams["stdin"], feeding = own.pipe()
                if stdin:
                    threading.Thread(target=_feed, args=(os.dup(feeding), stdin), daemon=True).start()
                own.close(feeding)
            directory = own.open(ROOT) if cwd is None else cwd
            line = opened.enter_context(socket.socket(socket.AF_UNIX))
            line.settimeout(timeout)
            line.connect(self.address)
            order = [streams[name] for name in ("stdin", "stdout", "stderr")]
            sent = array.array("i", [*(number for number in order if number != _CLOSED), directory])
            numbers = [at if number != _CLOSED else None for at, number in enumerate(order)]
            call = json.dumps({"arguments": arguments, "environ": dict(environ), "streams": numbers}).encode()
            line.sendmsg([len(call).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)])
            line.sendall(call)
            for name in pipes:
                own.close(streams[name])
            said = {name: _Reader(number) for name, number in pipes.items()}
            code = int(line.recv(8) or b"255")
            texts = {name: reader.text(timeout) for name, reader in said.items()}
        return subprocess.CompletedProcess(
            ["taskforge", *arguments], code, texts.get("stdout", ""), texts.get("stderr", "")
        )


class _Descriptors:
    """Descriptors of this call, each closed once: a number that was closed belongs to whoever opens the next file."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def __enter__(self) -> _Descriptors:
        return self

    def __exit__(self, *error: object) -> None:
        for number in list(self._open):
            self.close(number)

    def pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self._open.update(ends)
        return ends

    def open(self, path: Path) -> int:
        number = os.open(path, os.O_RDONLY)
        self._open.add(number)
        return number

    def close(self, number: int) -> None:
        self._open.remove(number)
        os.close(number)


class _Reader:
    """Reads a pipe to its end, in a thread, so that the other side never waits."""

    def __init__(self, number: int) -> None:
        self._number, self._parts = number, list[bytes]()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while chunk := os.read(self._number, 65_536):
            self._parts.append(chunk)

    def text(self, timeout: float) -> str:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "something still holds the stream"
        return b"".join(self._parts).decode()


@contextlib.contextmanager
def forked_cli(folder: Path) -> Iterator[ForkedCli]:
    """A parent of calls whose program is in `folder`; ended at the end."""
    # The path of a Unix socket may have some hundred bytes; pytest's directories are longer.
    short = tempfile.mkdtemp(prefix="tf-")
    address = f"{short}/socket"
    program = folder / "taskforge"
    program.write_text(_SHIM.format(python=sys.executable, address=address))
    program.chmod(0o755)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.forked_cli", address], cwd=ROOT, env=environ, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield ForkedCli(address, program)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        shutil.rmtree(short)


def _feed(number: int, content: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), os.fdopen(number, "wb") as stream:
        stream.write(content)


# ---- the parent and its children


def serve(address: str) -> None:
    """Import the program, then fork for each call until killed."""
    import signal

    _warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        print("ready", flush=True)
        while True:
            line, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _answer(line)
            line.close()


def _warm_up() -> None:
    """Everything that commands import as they go, so that a child need not: one call of each kind, seen by nobody."""
    from taskforge.__main__ import main
    from taskforge.cli.reference import entries

    for name in ("core.definition", "core.document", "triggers.forecast"):
        importlib.import_module(f"taskforge.{name}")
    list(entries())
    kept = sys.argv, sys.stdout, dict(os.environ)
    with open(os.devnull, "w") as nowhere, socket.create_server(("127.0.0.1", 0)) as listener:
        answering = threading.Thread(target=_answer_once, args=(listener,))
        answering.start()
        sys.stdout = nowhere
        os.environ.update(TASKFORGE_SERVER=f"http://127.0.0.1:{listener.getsockname()[1]}", TASKFORGE_TOKEN="x")
        for arguments in (
            ["workflow", "list", "-o", "json"],
            ["schedule", "next", "--cron", "* * * * *"],
            ["-q", "runs"],
        ):
            sys.argv = ["taskforge", *arguments]
            main()
        answering.join()
    sys.argv, sys.stdout = kept[:2]
    os.environ.clear()
    os.environ.update(kept[2])
    gc.collect()
    gc.freeze()


def _answer_once(listener: socket.socket) -> None:
    body = b'{"items": [], "next_cursor": null}'
    for _ in range(2):
        line, _ = listener.accept()
        with line:
            line.recv(65_536)
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            line.sendall(head.encode() + body)


def _answer(line: socket.socket) -> None:
    size, ancillary, _, _ = line.recvmsg(4, socket.CMSG_SPACE(4 * array.array("i").itemsize))
    received = array.array("i")
    received.frombytes(ancillary[0][2])
    content, left = b"", int.from_bytes(size, "big")
    while len(content) < left:
        content += line.recv(left - len(content))
    call = json.loads(content)
    code = 1
    try:
        code = _run(call, list(received))
    finally:
        line.sendall(str(code).encode())
        os._exit(code)


def _run(call: dict[str, Any], received: Sequence[int]) -> int:
    import traceback

    numbers = iter(received)
    taken = [None if number is None else next(numbers) for number in call["streams"]]
    directory = next(numbers)
    os.fchdir(directory)
    os.close(directory)
    os.environ.clear()
    os.environ.update(call["environ"])
    # Above the standard ones first, so that one does not overwrite another.
    safe = [None if number is None else os.dup2(number, 100 + number, inheritable=False) for number in taken]
    for at, number in enumerate(safe):
        with contextlib.suppress(OSError):
            os.close(at)
        if number is not None:
            os.dup2(number, at)
    sys.stdin, sys.stdout, sys.stderr = (_stream(at, number is None) for at, number in enumerate(safe))
    sys.argv = ["taskforge", *call["arguments"]]
    from taskforge.__main__ import main

    try:
        code = main()
        if sys.stdout is not None:
            sys.stdout.flush()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        # As the interpreter does with what is not caught.
        traceback.print_exc()
        code = 1
    return code


def _stream(at: int, closed: bool) -> Any:
    if closed:
        return None
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
    mode = "r" if at == 0 else "w"
    return open(at, mode, encoding=encoding or "utf-8", errors=errors or None, closefd=False)


if __name__ == "__main__":
    serve(sys.argv[1])
