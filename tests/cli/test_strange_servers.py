"""Whatever answers at the address: every command ends with 3, or what a refusal means, and without a traceback."""

from __future__ import annotations

import contextlib
import re
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskforge.cli.client import Client
from taskforge.cli.connection import Connection
from taskforge.cli.failure import CommandError, Exit
from tests.cli.prepared import World
from tests.cli.test_every_command import _FAULT, _ONLINE, _SOME
from tests.support.server import ServerProcess


def answer(body: bytes, status: str = "200 OK", media: str = "application/json", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {media}\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


# What the client itself refuses: every command does so in the same place, so that some commands stand for all.
_UNREADABLE = {
    "html": answer(b"<html>Welcome to nginx", media="text/html"),
    "garbage": b"\x16\x03\x01\x00\xff\xfe\r\n\r\n garbage",
    "nothing": b"",
    "truncated": answer(b'{"items": [').replace(b"content-length: 11", b"content-length: 99"),
    "not json": answer(b"{'items': []}"),
    "bad gateway": answer(b"<h1>502</h1>", "502 Bad Gateway", "text/html"),
    "redirect": answer(b"", "302 Found", more="location: http://127.0.0.1:9/login\r\n"),
    "compressed garbage": answer(b"no gzip at all", more="content-encoding: gzip\r\n"),
}  # fmt: skip
_REFUSALS = {
    "problem that is a list": answer(b"[1]", "400 Bad Request", "application/problem+json"),
    "problem of strange parts": answer(
        b'{"detail": {"a": 1}, "errors": [1, {"line": "x", "message": null}], "hint": 7}',
        "422 No", "application/problem+json",
    ),
    "escapes": answer(
        b'{"detail": "\\u001b[31mred\\u001b]0;title\\u0007", "errors": []}', "418 No", "application/problem+json"
    ),
}  # fmt: skip
# What only the command can find to be wrong.
_ODD = {
    "list": answer(b"[]"),
    "text": answer(b'"hello"'),
    "null": answer(b"null"),
    "object": answer(b"{}"),
    "items of text": answer(b'{"items": ["a", 1, null], "next_cursor": null}'),
}  # fmt: skip


@contextlib.contextmanager
def stub(content: bytes) -> Iterator[str]:
    """A server that answers every request with these bytes, and hangs up."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                length = 0
                while (line := self.rfile.readline().strip()) != b"":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                self.rfile.read(length)
                self.wfile.write(content)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def ask(world: World, path: str, url: str) -> subprocess.CompletedProcess[str]:
    done = world.call(path, arguments=world.sampled(path), environ={"TASKFORGE_SERVER": url, "TASKFORGE_TOKEN": "tf_x"})
    assert 0 <= done.returncode <= 5, (path, done.stderr)
    assert not _FAULT.search(done.stderr), (path, done.stderr)
    assert "\x1b" not in done.stdout + done.stderr
    if done.returncode and path != "taskforge doctor":  # it tells findings
        assert re.search(r"^error: \S", done.stderr, re.MULTILINE), (path, done.stderr)
    return done


@pytest.mark.parametrize("kind", sorted(_UNREADABLE))
def test_what_is_no_answer_of_ours_is_exit_code_3_with_the_address(world: World, kind: str) -> None:
    with stub(_UNREADABLE[kind]) as url:
        for path in _SOME:
            done = ask(world, path, url)
            assert done.returncode == 3, (path, done.stdout, done.stderr)
            assert url in done.stderr


@pytest.mark.parametrize("kind", sorted(_REFUSALS))
def test_a_refusal_of_strange_parts_is_one_all_the_same(world: World, kind: str) -> None:
    with stub(_REFUSALS[kind]) as url:
        for path in _SOME:
            assert ask(world, path, url).returncode


@pytest.mark.parametrize("kind", sorted(_ODD))
def test_every_command_survives_an_answer_of_another_shape(world: World, kind: str) -> None:
    with stub(_ODD[kind]) as url:
        for path in _ONLINE:
            ask(world, path, url)


@pytest.mark.parametrize("content", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n1"])
def test_a_server_that_never_answers_is_waited_for_so_long(content: bytes) -> None:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(content)
            over.wait(20)

    over = threading.Event()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        client = Client(Connection(f"http://127.0.0.1:{server.server_address[1]}", "", False, Path()), 0.2)
        began = time.monotonic()
        with pytest.raises(CommandError) as failed:
            client.get("runs")
        assert time.monotonic() - began < 5
        assert failed.value.code == Exit.UNREACHABLE
        assert "does not answer within 0.2 s" in failed.value.message
        client.close()
        over.set()
        server.shutdown()


def test_an_answer_of_another_shape_names_both_versions(world: World) -> None:
    with stub(_ODD["object"]) as url:
        done = world.cli("runs", "--server", url, "--token", "x", environ=world.server.environ)
    assert done.returncode == 3
    assert "not of the shape" in done.stderr
    assert "this program is" in done.stderr


def test_a_call_that_the_server_does_not_know_is_told_as_such(server: ServerProcess) -> None:
    client = Client(Connection(server.url, server.token, True, server.home))
    with pytest.raises(CommandError) as failed:
        client.get("invented-later")
    client.close()
    assert failed.value.code == Exit.NOT_FOUND
    assert "version" in (failed.value.hint or "")
