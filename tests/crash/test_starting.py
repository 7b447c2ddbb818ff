"""A server that cannot start says why in one line, ends with exit code 1, and has changed nothing."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from tests.support.crashing_server import CrashingServer, crashing_server
from tests.support.mounts import mounted
from tests.support.server import ROOT, ServerProcess, clean_environ, running_server

NOBODY = 65534


def serve(home: Path, *prefix: str, port: int = 0, **environ: str) -> str:
    """Try to start a server that must refuse; returns its one line."""
    began = time.monotonic()
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "taskforge", "serve", "--port", str(port)],
        env=clean_environ(home, **environ),
        cwd=ROOT,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1, done
    assert done.stdout == b""
    assert time.monotonic() - began < 10
    return only_line(done.stderr.decode())


def only_line(output: str) -> str:
    """The one line that says why there is no server."""
    lines = [line for line in output.splitlines() if not line.startswith("taskforge: warning: ")]
    assert len(lines) == 1, output
    assert lines[0].startswith("taskforge: ")
    return lines[0]


def content(home: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below the home but the lock, with its mode."""
    return {
        str(path.relative_to(home)): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(home.rglob("*"))
        if path.name != "serve.pid"
    }


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrashingServer]:
    """Starts servers on homes that are set on it, without the cost of a process's imports."""
    with crashing_server(tmp_path_factory.mktemp("used")) as server:
        server.call("POST", "/v1/workflows", b"name: one\nsteps: [{id: a, transform: 1}]\n")
        assert server.call("POST", "/v1/workflows/one/runs?wait=10s", {})[1]["state"] == "SUCCEEDED"
        assert server.terminate() == 0
        yield server


@pytest.fixture
def home(starter: CrashingServer, tmp_path: Path) -> Path:
    """A home that a server has used and left properly."""
    used = starter.log.with_name("home")
    shutil.copytree(used, tmp_path / "home")
    return tmp_path / "home"


def refusal(starter: CrashingServer, home: Path, port: int = 0) -> str:
    """Try to start a server that must refuse; returns its one line."""
    starter.home, starter.url = home, f":{port}"
    before = len(starter.output())
    assert starter.try_start() == 1
    return only_line(starter.output()[before:])


# ---- others are there already


def test_a_second_server_on_the_same_home_is_told_who_serves_it(starter: CrashingServer, tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        began = time.monotonic()
        line = refusal(starter, server.home)
        assert time.monotonic() - began < 1
        assert f"process id {server.pid}" in line
        assert server.url in line
        # Beside it the command line works, and the first server is none the worse.
        assert server.run_cli("workflow", "list").returncode == 0
        assert server.call("GET", "/readyz")[0] == 200


def test_a_port_in_use_is_named(starter: CrashingServer, home: Path) -> None:
    before = content(home)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refusal(starter, home, port)
    assert f"127.0.0.1 port {port}: address already in use" in line
    assert content(home) == before


# ---- the home


def test_a_home_below_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in serve(tmp_path / "file" / "home")


def test_a_missing_home_is_made(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "home", {})
    server.home = tmp_path / "not" / "yet"
    server.environ["TASKFORGE_HOME"] = str(server.home)
    server.start()
    try:
        assert server.home.stat().st_mode & 0o777 == 0o700
        assert server.call("GET", "/readyz")[0] == 200
    finally:
        server.kill()


as_root = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override")
# May read everything, so that the interpreter and the program are found wherever they are, but write nothing.
SOMEBODY_ELSE = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
)  # fmt: skip


@as_root
@pytest.mark.parametrize("name", [".", "taskforge.db"])
def test_what_may_not_be_written_is_named(home: Path, name: str) -> None:
    before = content(home)
    (home / name).chmod(0o500 if name == "." else 0o400)
    line = serve(home, *UNPRIVILEGED)
    assert str(home) in line
    home.chmod(0o700)
    (home / "taskforge.db").chmod(0o600)
    assert content(home) == before


@as_root
def test_a_directory_that_may_not_be_written_holds_no_new_home(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    assert str(tmp_path / "closed") in serve(tmp_path / "closed" / "home", *UNPRIVILEGED)
    assert list((tmp_path / "closed").iterdir()) == []


@as_root
def test_a_home_of_somebody_else_is_refused(home: Path) -> None:
    before = content(home)
    line = serve(home, *SOMEBODY_ELSE)
    assert str(home) in line
    assert f"runs as user {NOBODY}" in line
    assert content(home) == before


@as_root
def test_a_read_only_file_system_is_named(home: Path) -> None:
    before = content(home)
    with mounted(home.parent / "mount", "--bind", str(home.parent)) as found:
        if subprocess.run(["mount", "-o", "remount,bind,ro", str(found)], capture_output=True, check=False).returncode:
            pytest.skip("remounting is not allowed here")
        line = serve(found / "home")
    assert str(found) in line
    assert "read-only" in line.lower()
    assert content(home) == before


# ---- the database


def test_a_newer_database_is_left_as_it_is(starter: CrashingServer, home: Path) -> None:
    conn = apsw.Connection(str(home / "taskforge.db"))
    conn.execute("INSERT INTO schema_migrations VALUES (9999, 'later', 'x', 1, '99.0.0')")
    conn.close()
    before = content(home)
    line = refusal(starter, home)
    assert "99.0.0" in line
    assert str(home / "taskforge.db") in line
    assert content(home) == before


def damage_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"no database at all")


def damage_schema(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 200)


def cut_short(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove_but_keep_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").write_bytes(b"x" * 100)
    path.unlink()


@pytest.mark.parametrize("harm", [damage_header, damage_schema, cut_short, empty, remove_but_keep_log])
def test_a_damaged_database_is_named_and_left_as_it_is(
    starter: CrashingServer, home: Path, harm: Callable[[Path], None]
) -> None:
    harm(home / "taskforge.db")
    before = content(home)
    line = refusal(starter, home)
    assert str(home / "taskforge.db") in line
    assert content(home) == before


def test_a_certificate_that_cannot_be_used_is_named(starter: CrashingServer, home: Path) -> None:
    config = (home / "config.toml").read_text()
    for name in ("tls_cert", "tls_key"):
        config = config.replace(f'#{name} = ""', f'{name} = "{name}.pem"')
    (home / "config.toml").write_text(config)
    assert f"cannot read {home / 'tls_cert.pem'}" in refusal(starter, home)
    for name in ("tls_cert", "tls_key"):
        (home / f"{name}.pem").write_text("no certificate")
    assert "cannot be used for TLS" in refusal(starter, home)
