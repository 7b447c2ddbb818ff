"""Doctor changes nothing, and whatever is wrong with a home it answers with findings."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskforge.cli.doctor.database import check_database
from taskforge.cli.doctor.finding import Level
from taskforge.cli.doctor.listeners import find_listener
from tests.cli.doctor.conftest import Patient
from tests.cli.doctor.test_every_code import leave_log, overwrite_pages
from tests.support.server import ROOT, ServerProcess, run_cli, running_server


def contents(home: Path) -> dict[str, tuple[int, bytes]]:
    """Every file but the index of the log, which every reader of SQLite makes anew."""
    return {
        path.name: (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in home.rglob("*")
        if not path.name.endswith("-shm")
    }


def test_a_closed_home_and_one_after_a_crash_are_left_as_they_were(patient: Patient) -> None:
    for prepare in (lambda _: None, leave_log, overwrite_pages):
        prepare(patient)
        before = contents(patient.home)
        patient.examine()
        assert contents(patient.home) == before
    assert {path.name for path in patient.home.iterdir()} >= {"taskforge.db", "secret.key", "config.toml"}


def test_what_a_crash_left_in_the_log_is_there_after_doctor(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        server.call("PUT", "/v1/workflows/w", b"name: w\nsteps: [{id: a, transform: 1}]\n")
        started = server.call("POST", "/v1/workflows/w/runs", {})[1]
        server.kill()
        done = server.run_cli("doctor", "-o", "json")
        codes = {finding["code"] for finding in json.loads(done.stdout)["findings"]}
        assert done.returncode == 0, done.stdout
        assert {"DB_NOT_CLOSED", "PID_STALE", "SERVER_STOPPED", "WORK_OK"} <= codes | {"WORK_OK"}
        # A plain copy of the main file, without its log, is noticed.
        (tmp_path / "copy").mkdir(mode=0o700)
        for name in ("taskforge.db", "secret.key", "config.toml"):
            shutil.copy(server.home / name, tmp_path / "copy" / name)
        copied = run_cli("doctor", "-q", environ=server.environ | {"TASKFORGE_HOME": str(tmp_path / "copy")})
        assert (copied.returncode, "DB_LOG_MISSING" in copied.stdout) == (1, True)
        server.restart()
        assert server.call("GET", f"/v1/runs/{started['id']}")[0] == 200
        assert server.run_cli("doctor", "-q").stdout == ""


def test_a_log_that_was_deleted_under_a_server_is_told_and_not_made_anew(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        (server.home / "taskforge.db-wal").unlink()
        done = server.run_cli("doctor", "-q")
        assert (done.returncode, done.stdout) == (1, "DB_LOG_MISSING\n")
        assert not (server.home / "taskforge.db-wal").exists()


@given(seed=st.integers(0, 2**32), kind=st.sampled_from(["flip", "cut", "zero", "noise"]))
@settings(max_examples=40, deadline=None)
def test_no_damage_of_the_file_brings_doctor_down(
    tmp_path_factory: pytest.TempPathFactory, healthy: Path, seed: int, kind: str
) -> None:
    rng = random.Random(seed)
    path = tmp_path_factory.getbasetemp() / "damaged.db"
    content = bytearray((healthy / "taskforge.db").read_bytes())
    at = rng.randrange(len(content))
    if kind == "flip":
        content[at] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[at:]
    else:
        content[at : at + 5000] = bytes(5000) if kind == "zero" else rng.randbytes(5000)
    path.write_bytes(content)
    found, _ = check_database(path, 1_800_000_000_000, served=False, quick=False)
    assert found
    if kind == "cut":
        assert found[0].level is Level.FAILURE


@pytest.mark.parametrize(
    "make",
    [
        lambda home: None,
        lambda home: home.write_text("a file"),
        lambda home: home.mkdir(0o777),
        lambda home: home.symlink_to(home.with_name("nowhere")),
        lambda home: (home.mkdir(), (home / "config.toml").mkdir(), (home / "taskforge.db").mkdir()),
        lambda home: (home.mkdir(), (home / "config.toml").write_bytes(b"\xff\xfe[[["), (home / "secret.key").mkdir()),
        lambda home: (home.mkdir(), (home / "serve.pid").mkdir(), (home / "backups").write_text("")),
        lambda home: (home.mkdir(), (home / "taskforge.db").symlink_to("/dev/null")),
    ],
)
def test_a_home_that_is_none_gives_findings_and_no_exception(tmp_path: Path, make: object) -> None:
    home = tmp_path / "home"
    make(home)  # type: ignore[operator]
    patient = Patient(home)
    found = patient.examine()
    assert any(finding.level is Level.FAILURE for finding in found)


def test_the_answer_is_one_document_and_quiet_prints_the_codes_to_act_on(patient: Patient) -> None:
    patient.home.chmod(0o755)
    sound = run_cli("doctor", "-o", "json", environ=patient.environ)
    told = json.loads(sound.stdout)
    assert (sound.returncode, told["sound"], told["home"]) == (0, True, str(patient.home))
    assert {frozenset(finding) for finding in told["findings"]} == {
        frozenset({"level", "code", "subject", "message", "fix"})
    }
    (patient.home / "secret.key").unlink()
    quiet = run_cli("doctor", "-q", environ=patient.environ)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (1, "HOME_OPEN\nKEY_MISSING\n", "")
    shown = run_cli("doctor", environ=patient.environ | {"PYTHONIOENCODING": "ascii"})
    assert "x key" in shown.stdout
    assert "[KEY_MISSING]" in shown.stdout
    assert "put secret.key back from your backup" in shown.stdout
    assert "1 failure, 1 warning" in shown.stderr


def test_a_server_whose_certificate_is_for_another_name_is_asked_all_the_same(tmp_path: Path) -> None:
    from tests.cli.test_background import make_certificate

    (tmp_path / "home").mkdir(mode=0o700)
    make_certificate(tmp_path / "home")
    environ = Patient(tmp_path / "home").environ
    environ |= {"TASKFORGE_SERVER__TLS_CERT": "cert.pem", "TASKFORGE_SERVER__TLS_KEY": "key.pem"}
    try:
        assert run_cli("up", environ=environ).returncode == 0
        found = json.loads(run_cli("doctor", "-o", "json", environ=environ).stdout)["findings"]
        assert {"SERVER_READY", "TOKEN_OK"} <= {finding["code"] for finding in found}
        assert run_cli("status", environ=environ).returncode == 0
        # Another server's certificate is not taken for ours: the token does not go there.
        make_certificate(tmp_path / "home")
        assert run_cli("status", environ=environ).returncode == 3
    finally:
        assert run_cli("down", environ=environ).returncode == 0


def test_who_listens_is_read_from_the_systems_tables(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text(
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 0100007F:1E6C 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100\n"
        "   1: 0100007F:1E6C 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1 0 100\n"
    )
    (tmp_path / "12" / "fd").mkdir(parents=True)
    (tmp_path / "12" / "fd" / "5").symlink_to("socket:[4712]")
    (tmp_path / "34" / "fd").mkdir(parents=True)
    (tmp_path / "34" / "fd" / "3").symlink_to("socket:[4711]")
    (tmp_path / "34" / "comm").write_text("nginx\n")
    assert find_listener(7788, tmp_path) == "process 34 (nginx)"
    assert find_listener(7789, tmp_path) is None
    assert find_listener(7788, tmp_path / "none") is None


def test_doctor_under_load_finds_nothing_wrong(server: ServerProcess) -> None:
    for _ in range(3):
        for _ in range(20):
            server.call("POST", "/v1/workflows/greet/runs", {})
        done = server.run_cli("doctor", "-q")
        assert (done.returncode, done.stdout) == (0, ""), done.stdout


def test_the_manual_names_the_file_it_is_kept_in() -> None:
    assert (ROOT / "docs" / "doctor.md").read_text().startswith("# Doctor")
