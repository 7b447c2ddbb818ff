"""`up`, `down` and `status` when things are not as they should be."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from taskforge.config.lock import Holder, HomeLock, forget_holder, is_held, read_holder
from tests.support.server import ROOT, clean_environ, run_cli, running_server


@pytest.fixture
def environ(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a home whose server, if there is one at the end, is killed."""
    found = clean_environ(tmp_path / "home", TASKFORGE_SERVER__PORT="0")
    yield found
    holder = read_holder(tmp_path / "home")
    if is_held(tmp_path / "home") and holder is not None and holder.pid != os.getpid():
        os.killpg(holder.pid, signal.SIGKILL)


def test_two_ups_at_once_start_one_server_and_both_end_well(tmp_path: Path, environ: dict[str, str]) -> None:
    assert run_cli("init", environ=environ).returncode == 0
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "taskforge", "up", "-o", "json"],
            env=environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    told = [json.loads(each.communicate(timeout=60)[0]) for each in both]
    assert [each.returncode for each in both] == [0, 0]
    assert told[0]["pid"] == told[1]["pid"]
    assert sorted(each["started"] for each in told) == [False, True]
    assert (tmp_path / "home" / "serve.log").stat().st_mode & 0o777 == 0o600
    again = run_cli("up", "--port", "9", environ=environ)
    assert (again.returncode, "--port 9 counts for nothing" in again.stderr) == (0, True)
    # What is wrong with the configuration by now does not keep the server from being stopped.
    (tmp_path / "home" / "config.toml").write_text("[server]\nprot = 1\n")
    down = run_cli("down", "-o", "json", environ=environ)
    assert (down.returncode, json.loads(down.stdout)["killed"]) == (0, False)


def test_up_starts_over_what_a_dead_server_of_the_same_number_left(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "serve.pid").write_text('{"pid": 1, "url": "http://127.0.0.1:9"}')
    forget_holder(home)
    assert read_holder(home) is None
    lock = HomeLock(home)
    lock.announce("http://127.0.0.1:1", 5)
    lock.announce_stop()
    forget_holder(home)
    assert read_holder(home) == Holder(os.getpid(), "http://127.0.0.1:1", 5, True)
    lock.release()


@pytest.mark.parametrize("text", ["", "[]", "7", '{"pid": "x"}', '{"url": 1}', "\0", "[" * 10_000])
def test_any_text_in_the_pid_file_is_read_as_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "serve.pid").write_text(text)
    assert read_holder(tmp_path) is None


def test_who_looks_at_the_lock_does_not_keep_a_server_from_taking_it(tmp_path: Path) -> None:
    import fcntl
    import threading

    with open(tmp_path / "serve.pid", "w") as looking:
        fcntl.flock(looking, fcntl.LOCK_EX)
        threading.Timer(0.05, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        HomeLock(tmp_path).release()


def test_a_server_that_dies_while_starting_is_told_in_its_own_words(tmp_path: Path, environ: dict[str, str]) -> None:
    assert run_cli("init", environ=environ).returncode == 0
    (tmp_path / "home" / "taskforge.db").write_bytes(b"")
    done = run_cli("up", environ=environ)
    assert (done.returncode, done.stdout) == (1, "")
    assert "is empty (0 bytes)" in done.stderr
    assert "ended while starting (exit code 1)" in done.stderr
    assert "serve.log" in done.stderr


@pytest.mark.parametrize(("host", "reason"), [("no.such.host.invalid", ""), ("192.0.2.1", "cannot assign")])
def test_a_host_that_is_not_this_machines_is_told(environ: dict[str, str], host: str, reason: str) -> None:
    done = run_cli("up", "--host", host, environ=environ)
    assert done.returncode == 1
    assert f"cannot listen on {host}" in done.stderr
    assert reason in done.stderr


def test_a_time_that_is_none_is_wrong_usage(environ: dict[str, str]) -> None:
    for arguments in (("up", "--timeout", "soon"), ("down", "--timeout", "0"), ("up", "--timeout", "-1s")):
        assert run_cli(*arguments, environ=environ).returncode == 2


def test_down_names_what_it_cannot_find_and_waits_for_what_it_may_not_signal_twice(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    home = tmp_path / "home"
    assert run_cli("init", environ=environ).returncode == 0
    lock = HomeLock(home)
    try:
        lock.announce("http://127.0.0.1:9")
        lock.announce_stop()  # this very process: a signal would end the test
        done = run_cli("down", "--timeout", "100ms", environ=environ)
        assert done.returncode == 1
        assert f"(process {os.getpid()}) has not ended within 0.1 s" in done.stderr
        (home / "serve.pid").write_text("")
        done = run_cli("down", environ=environ)
        assert done.returncode == 1
        assert "does not say which" in done.stderr
    finally:
        lock.release()


def test_down_kills_a_server_that_does_not_end(tmp_path: Path, environ: dict[str, str]) -> None:
    started = json.loads(run_cli("up", "-o", "json", environ=environ).stdout)
    os.kill(started["pid"], signal.SIGSTOP)
    done = run_cli("down", "--timeout", "200ms", environ=environ)
    assert (done.returncode, "--kill" in done.stderr) == (1, True)
    # Forget that it was told to end: as a stopped process it has not heard of it.
    done = run_cli("down", "--timeout", "200ms", "--kill", "-o", "json", environ=environ)
    assert (done.returncode, json.loads(done.stdout)["killed"]) == (0, True)
    assert not is_held(tmp_path / "home")


def test_status_tells_a_server_of_another_home_from_none(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        mine = clean_environ(tmp_path / "mine", TASKFORGE_SERVER__PORT=server.url.rpartition(":")[2])
        assert run_cli("init", environ=mine).returncode == 0
        done = run_cli("status", environ=mine)
        assert (done.returncode, done.stdout) == (3, "")
        assert f"no server runs on {tmp_path / 'mine'}" in done.stderr
        assert "belongs to another home" in done.stderr
        found = json.loads(server.run_cli("status", "-o", "json").stdout)
        assert found["pid"] == server.pid
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT[0-9:.]+Z", found["ready_at"])


def test_status_names_the_process_that_holds_the_home_but_is_silent(tmp_path: Path, environ: dict[str, str]) -> None:
    assert run_cli("init", environ=environ).returncode == 0
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    lock = HomeLock(tmp_path / "home")
    try:
        lock.announce(f"http://127.0.0.1:{port}")
        done = run_cli("status", environ=environ)
    finally:
        lock.release()
    assert done.returncode == 3
    assert f"process {os.getpid()} serves" in done.stderr


def test_up_waits_for_a_server_whose_certificate_is_for_another_name(tmp_path: Path, environ: dict[str, str]) -> None:
    assert run_cli("init", environ=environ).returncode == 0
    make_certificate(tmp_path / "home")
    environ |= {"TASKFORGE_SERVER__TLS_CERT": "cert.pem", "TASKFORGE_SERVER__TLS_KEY": "key.pem"}
    done = run_cli("up", "-q", environ=environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("https://127.0.0.1:")
    assert run_cli("down", environ=environ).returncode == 0


def test_the_log_is_put_aside_while_the_server_runs(tmp_path: Path) -> None:
    path = tmp_path / "serve.log"
    code = (
        "import sys; from pathlib import Path; from taskforge.observe import logs, log_file; "
        "logs.configure_logging(); log_file.keep_small(Path(sys.argv[1]), 200_000)\n"
        "for n in range(3000): logs.get_logger('x').info('entry', n=n)\n"
        "print('last', flush=True)"
    )
    with path.open("ab") as log:
        subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=log, stderr=log, check=True)
    older = tmp_path / "serve.log.1"
    assert 200_000 <= older.stat().st_size < 300_000
    assert path.stat().st_size < 300_000
    assert path.stat().st_mode & 0o777 == 0o600
    newest = path.read_text().splitlines()
    assert newest[-1] == "last"
    assert json.loads(newest[0])["n"] == json.loads(older.read_text().splitlines()[-1])["n"] + 1


def test_a_log_that_has_grown_is_put_aside_at_the_start(tmp_path: Path) -> None:
    from taskforge.observe.log_file import older, open_log

    path = tmp_path / "serve.log"
    path.write_bytes(b"x" * 100)
    path.chmod(0o644)
    os.close(open_log(path, 101))
    assert (path.stat().st_size, path.stat().st_mode & 0o777) == (100, 0o600)
    older(path).write_text("older still")
    os.close(open_log(path, 100))
    assert (path.stat().st_size, older(path).stat().st_size) == (0, 100)


def test_a_log_that_is_not_the_homes_is_left_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from taskforge.observe import logs, log_file; "
        "logs.configure_logging(); log_file.keep_small(Path(sys.argv[1]), 10)\n"
        "for n in range(30): logs.get_logger('x').info('entry', n=n)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "serve.log")], cwd=ROOT, capture_output=True, check=True
    )
    assert len(done.stderr.splitlines()) == 30
    assert not list(tmp_path.iterdir())


def make_certificate(folder: Path, days: float = 30, name: str = "taskforge.example", begins: float = -400) -> None:
    """Write cert.pem and key.pem: signed by itself, valid from and for so many days from now."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.fromtimestamp(time.time(), UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(names).issuer_name(names).public_key(key.public_key())
        .serial_number(7).not_valid_before(now + timedelta(days=begins)).not_valid_after(now + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )  # fmt: skip
