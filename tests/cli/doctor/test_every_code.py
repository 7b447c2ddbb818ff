"""Every code of doctor: the fault is planted in a real home, and the finding is there with its level and a fix."""

from __future__ import annotations

import base64
import errno
import http.server
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from taskforge.cli.doctor.finding import CODES, Finding, Level
from taskforge.cli.doctor.machine import check_clock, check_zones, judge_disk
from taskforge.cli.doctor.serving import check_port
from taskforge.config.lock import HomeLock
from taskforge.core.clock import SystemClock
from tests.cli.doctor.conftest import Patient
from tests.cli.test_background import make_certificate
from tests.support.server import ROOT

NOW = SystemClock().wall()
GIB = 1 << 30

Plant = Callable[[Patient], list[Finding]]
PLANTS: dict[str, tuple[Level, Plant]] = {}


def plant(code: str, level: str) -> Callable[[Plant], Plant]:
    def keep(made: Plant) -> Plant:
        assert f"{code} {level}" not in PLANTS
        PLANTS[f"{code} {level}"] = (Level(level), made)
        return made

    return keep


def found_by_sql(code: str, level: str, *statements: str, keep_log: bool = False) -> None:
    def made(patient: Patient) -> list[Finding]:
        patient.sql(*statements, keep_log=keep_log)
        return patient.examine()

    plant(code, level)(made)


def found_in_config(code: str, level: str, old: str, new: str) -> None:
    def made(patient: Patient) -> list[Finding]:
        patient.configure(old, new)
        return patient.examine()

    plant(code, level)(made)


def found_after(code: str, level: str, change: Callable[[Patient], object]) -> None:
    def made(patient: Patient) -> list[Finding]:
        change(patient)
        return patient.examine()

    plant(code, level)(made)


# ---- program, home, configuration

for sound in ("PROGRAM_OK", "HOME_OK", "CONFIG_OK", "KEY_OK", "DB_OK", "CLOCK_OK", "WORK_OK"):
    found_after(sound, "ok", lambda patient: None)
found_after("SERVER_STOPPED", "note", lambda patient: None)
found_after("BACKUP_NONE", "note", lambda patient: None)


@plant("SQLITE_OLD", "failure")
def _(patient: Patient) -> list[Finding]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taskforge.store.sqlite.connection.OLDEST_LIBRARY", (99, 0, 0))
        return patient.examine()


@plant("HOME_MISSING", "failure")
def _(patient: Patient) -> list[Finding]:
    patient.home = patient.home / "none"
    found = patient.examine()
    assert not patient.home.exists()
    return found


@plant("HOME_UNUSABLE", "failure")
def _(patient: Patient) -> list[Finding]:
    patient.home = patient.home / "config.toml"
    return patient.examine()


found_after("HOME_OPEN", "warning", lambda patient: patient.home.chmod(0o755))
found_after("CONFIG_OPEN", "failure", lambda patient: (patient.home / "config.toml").chmod(0o640))
found_after("KEY_OPEN", "failure", lambda patient: (patient.home / "secret.key").chmod(0o604))
found_after("FILE_OPEN", "warning", lambda patient: patient.database.chmod(0o644))
found_after("CONFIG_MISSING", "warning", lambda patient: (patient.home / "config.toml").unlink())
found_in_config("CONFIG_INVALID", "failure", "port =", "prot =")
found_in_config("TOKEN_MISSING", "failure", 'token = "', 'token = "" # "')
found_in_config("ADDRESS_EXPOSED", "warning", "127.0.0.1", "0.0.0.0")


@plant("CONFIG_WARNING", "warning")
def _(patient: Patient) -> list[Finding]:
    from dataclasses import replace

    from taskforge.cli.doctor.configuration import check_settings
    from taskforge.config.reading import load_settings

    settings = load_settings(patient.home, patient.environ)
    return [*check_settings(replace(settings, warnings=("this is probably not meant",)), NOW)]


def with_certificate(patient: Patient, days: float, begins: float = -400) -> None:
    make_certificate(patient.home, days, begins=begins)
    patient.environ |= {"TASKFORGE_SERVER__TLS_CERT": "cert.pem", "TASKFORGE_SERVER__TLS_KEY": "key.pem"}


found_after("TLS_NOT_YET", "failure", lambda patient: with_certificate(patient, 30, 0.01))
found_after("TLS_EXPIRED", "failure", lambda patient: with_certificate(patient, -1))
found_after("TLS_EXPIRING", "warning", lambda patient: with_certificate(patient, 3))


@plant("TLS_UNUSABLE", "failure")
def _(patient: Patient) -> list[Finding]:
    with_certificate(patient, 30)
    (patient.home / "key.pem").write_text("no key")
    return patient.examine()


# ---- key

found_after("KEY_MISSING", "failure", lambda patient: (patient.home / "secret.key").unlink())
found_after("KEY_INVALID", "failure", lambda patient: (patient.home / "secret.key").write_text("short"))
found_by_sql("SECRET_DAMAGED", "failure", "UPDATE secrets SET sealed = CAST(sealed || x'00' AS BLOB)")


@plant("KEY_WRONG", "failure")
def _(patient: Patient) -> list[Finding]:
    (patient.home / "secret.key").write_text(base64.b64encode(b"another key of 32 bytes, exactly").decode())
    found = patient.examine()
    assert any("API_KEY" in finding.message for finding in found)
    return found


@plant("KEY_CHANGING", "note")
def _(patient: Patient) -> list[Finding]:
    path = patient.home / "secret.key"
    old = path.read_text().split()[0]
    path.write_text(f"{base64.b64encode(b'another key of 32 bytes, exactly').decode()}\nprevious {old}\n")
    found = patient.examine()
    assert any(finding.code == "KEY_OK" for finding in found)
    return found


@plant("KEY_UNCHECKED", "note")
def _(patient: Patient) -> list[Finding]:
    patient.database.write_bytes(b"")
    return patient.examine()


# ---- database


def cut_in_half(patient: Patient) -> None:
    os.truncate(patient.database, patient.database.stat().st_size // 2)


def overwrite_pages(patient: Patient) -> None:
    with patient.database.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096 * 4)


def put_foreign_database(patient: Patient) -> None:
    patient.database.unlink()
    conn = apsw.Connection(str(patient.database))
    conn.execute("CREATE TABLE t (x)")
    conn.close()


def leave_log(patient: Patient) -> Path:
    """As a server that was killed: marked as open, with a log."""
    patient.sql("INSERT OR REPLACE INTO properties VALUES ('open', 1)")
    patient.sql("UPDATE vars SET value = '1'", "INSERT INTO holds VALUES ('x', 1)", "DELETE FROM holds", keep_log=True)
    log = patient.home / "taskforge.db-wal"
    assert log.stat().st_size > 0
    return log


found_after("DB_MISSING", "note", lambda patient: patient.database.unlink())
found_after("DB_EMPTY", "failure", lambda patient: patient.database.write_bytes(b""))
found_after("DB_FOREIGN", "failure", put_foreign_database)
found_after("DB_TRUNCATED", "failure", cut_in_half)
found_after("DB_DAMAGED", "failure", overwrite_pages)
found_after("DB_NOT_CLOSED", "note", leave_log)
found_by_sql("DB_LOG_MISSING", "failure", "INSERT OR REPLACE INTO properties VALUES ('open', 1)")
found_by_sql("DB_NEWER", "failure", "INSERT INTO schema_migrations VALUES (999, 'later', 'x', 1, '9.9.9')")
found_by_sql("DB_ALTERED", "failure", "UPDATE schema_migrations SET checksum = 'x'")
found_by_sql("DB_OLDER", "note", "DELETE FROM schema_migrations")
found_by_sql("DB_COUNTS", "failure", "UPDATE counts SET n = n + 1 WHERE kind = 'run'")
found_by_sql("DB_INVARIANT", "failure", "UPDATE runs SET due_at = 1 WHERE number = 1")
found_by_sql("DB_ORPHANS", "failure", "INSERT INTO slots VALUES (99, 1, 'SLOT_MISSED', 1, 1, 1, 0, NULL, NULL)")
found_after("DB_PLACE", "warning", lambda patient: os.link(patient.database, patient.home / "other-name.db"))


@plant("DB_MISSING", "failure")
def _(patient: Patient) -> list[Finding]:
    leave_log(patient)
    patient.database.unlink()
    return patient.examine()


@plant("DB_LOG_FOREIGN", "failure")
def _(patient: Patient) -> list[Finding]:
    leave_log(patient).write_bytes(b"the log of something else".ljust(8192, b"."))
    return patient.examine()


@plant("DB_UNREADABLE", "failure")
def _(patient: Patient) -> list[Finding]:
    (patient.home / "taskforge.db-wal").mkdir()
    return patient.examine()


@plant("DB_NOT_READ", "note")
def _(patient: Patient) -> list[Finding]:
    return patient.examine(quick=True)


@plant("WAL_LARGE", "warning")
def _(patient: Patient) -> list[Finding]:
    os.truncate(leave_log(patient), 65 << 20)
    return patient.examine()


# ---- machine

DISKS = {
    "DISK_OK ok": (50 * GIB, 100 * GIB, 1000),
    "DISK_LOW warning": (GIB // 2, 100 * GIB, None),
    "DISK_FULL failure": (10 << 20, 100 * GIB, 1000),
    "DISK_INODES failure": (50 * GIB, 100 * GIB, 3),
}
for name, (free, total, inodes) in DISKS.items():
    plant(*name.split())(
        lambda patient, free=free, total=total, inodes=inodes: [  # type: ignore[misc]
            judge_disk(patient.home, free, total, 64 << 20, inodes)
        ]
    )


@plant("CLOCK_WRONG", "failure")
def _(patient: Patient) -> list[Finding]:
    return [check_clock(0, None)]


found_by_sql("CLOCK_BEHIND", "warning", f"UPDATE runs SET created_at = {NOW + 3_600_000} WHERE number = 1")
found_by_sql("ZONE_UNKNOWN", "failure", "UPDATE schedules SET config = json_set(config, '$.timezone', 'Europe/Berlim')")


@plant("ZONES_MISSING", "failure")
def _(patient: Patient) -> list[Finding]:
    from taskforge.triggers.cron_fields import CronError

    def none(name: str) -> object:
        raise CronError("there is no time zone", "timezone", 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taskforge.triggers.zones.get_zone", none)
        return patient.examine()


@plant("ZONES_OLD", "note")
def _(patient: Patient) -> list[Finding]:
    return [*check_zones([], NOW, ("2019c", "/somewhere"))]


@plant("ZONES_OK", "ok")
def _(patient: Patient) -> list[Finding]:
    return [*check_zones([("a/b", "Europe/Berlin")], 1_780_000_000_000, ("2026a", ""))]


# ---- server, token, port


@contextmanager
def held(patient: Patient, url: str | None, *, stopping: bool = False) -> Iterator[None]:
    """This process holds the home, as a server that listens at `url`."""
    lock = HomeLock(patient.home)
    try:
        if url is not None:
            lock.announce(url)
        if stopping:
            lock.announce_stop()
        yield
    finally:
        lock.release()


@contextmanager
def answering(answers: Mapping[str, tuple[int, object]]) -> Iterator[str]:
    """A small HTTP server; gives its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, value = answers.get(self.path, (404, {"code": "NOT_FOUND"}))
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@plant("SERVER_SILENT", "failure")
def _(patient: Patient) -> list[Finding]:
    with held(patient, None):
        assert any(finding.code == "SERVER_SILENT" for finding in patient.examine())
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with held(patient, f"http://127.0.0.1:{port}"):
        return patient.examine()


@plant("SERVER_STOPPING", "note")
def _(patient: Patient) -> list[Finding]:
    with held(patient, "http://127.0.0.1:9", stopping=True):
        return patient.examine()


@plant("SERVER_NOT_READY", "failure")
def _(patient: Patient) -> list[Finding]:
    not_ready = (503, {"code": "UNAVAILABLE", "detail": "the store does not answer"})
    with answering({"/readyz": not_ready}) as url, held(patient, url):
        found = patient.examine()
    assert any("the store does not answer" in finding.message for finding in found)
    return found


@plant("VERSION_DIFFERS", "warning")
def _(patient: Patient) -> list[Finding]:
    answers = {"/readyz": (200, {"status": "ready"}), "/openapi.json": (200, {"info": {"version": "9.9.9"}})}
    with answering(answers) as url, held(patient, url):
        return patient.examine()


@plant("TOKEN_REFUSED", "failure")
def _(patient: Patient) -> list[Finding]:
    answers = {"/readyz": (200, {"status": "ready"}), "/v1/stats": (401, {"code": "UNAUTHORIZED"})}
    with answering(answers) as url, held(patient, url):
        return patient.examine()


@plant("SERVER_ELSEWHERE", "note")
def _(patient: Patient) -> list[Finding]:
    return patient.examine(TASKFORGE_SERVER="http://example.com")


found_after("PID_STALE", "note", lambda patient: (patient.home / "serve.pid").write_text('{"pid": 99999999}'))


@plant("PORT_OK", "ok")
def _(patient: Patient) -> list[Finding]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    return patient.examine(TASKFORGE_SERVER__PORT=str(port))


@plant("PORT_TAKEN", "failure")
def _(patient: Patient) -> list[Finding]:
    with answering({"/readyz": (200, {"status": "ready"})}) as url:
        port = url.rpartition(":")[2]
        found = patient.examine(TASKFORGE_SERVER__PORT=port)
    (taken,) = [finding for finding in found if finding.code == "PORT_TAKEN"]
    assert "a TaskForge server of another home" in taken.message
    if os.path.exists("/proc/net/tcp"):
        assert f"process {os.getpid()}" in taken.message
    return found


@plant("PORT_FORBIDDEN", "failure")
def _(patient: Patient) -> list[Finding]:
    class Refusing(socket.socket):
        def bind(self, address: object) -> None:
            raise OSError(errno.EACCES, "Permission denied")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", Refusing)
        return [check_port("127.0.0.1", 80)]


@plant("ADDRESS_UNKNOWN", "failure")
def _(patient: Patient) -> list[Finding]:
    assert check_port("no.such.host.invalid", 7788).code == "ADDRESS_UNKNOWN"
    return [check_port("192.0.2.1", 7788)]


# ---- work

FLOWN = "UPDATE runs SET state = 'RUNNING', owner = 'node_gone', finished_at = NULL WHERE number = 1"
LEASED = (
    "INSERT INTO attempts VALUES ((SELECT min(key) FROM runs), 'a', 1, 1, 'att_1', 'RUNNING', 'node_gone', 5, 1, NULL, "
    "NULL)"
)
DUE = "UPDATE runs SET state = 'QUEUED', due_at = 5, needs_slot = {}, finished_at = NULL WHERE number = 1"
SLOT_PASSED = "UPDATE schedules SET next_at = 5"

found_by_sql("LEASES_EXPIRED", "note", LEASED)
found_by_sql("RUNS_ABANDONED", "note", FLOWN)
found_by_sql("RUNS_OVERDUE", "note", DUE.format(0))
found_by_sql("SCHEDULES_OVERDUE", "note", SLOT_PASSED)
found_by_sql("RUNS_SUSPECT", "note", DUE.format(0), "UPDATE runs SET suspect = 1 WHERE number = 1")
found_by_sql("WORK_HELD", "note", "INSERT INTO holds VALUES ('nightly', 1)")
found_by_sql(
    "DEAD_LETTERS", "note",
    "INSERT INTO dead_letters VALUES ('dl_1', (SELECT min(key) FROM runs), 'OPEN', 'a', 1, 1, NULL, '{}', NULL)",
)  # fmt: skip


def beside_a_server(code: str, level: str, *statements: str) -> None:
    """The same, found while a process serves the home."""

    def made(patient: Patient) -> list[Finding]:
        patient.sql(*statements)
        with answering({"/readyz": (200, {"status": "ready"})}) as url, held(patient, url):
            return patient.examine()

    plant(code, level)(made)


beside_a_server("LEASES_EXPIRED", "failure", LEASED)
beside_a_server("RUNS_ABANDONED", "failure", FLOWN)
beside_a_server("RUNS_OVERDUE", "warning", DUE.format(1))
beside_a_server("SCHEDULES_OVERDUE", "warning", SLOT_PASSED)


# ---- backups


def put_backup(patient: Patient, days: int) -> None:
    folder = patient.home / "backups"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "one.db").touch(mode=0o600)
    os.utime(folder / "one.db", (NOW / 1000 - days * 86_400,) * 2)


found_after("BACKUP_OK", "ok", lambda patient: put_backup(patient, 1))
found_after("BACKUP_OLD", "note", lambda patient: put_backup(patient, 9))


# ---- the tests


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_is_found_with_its_level_and_a_fix(patient: Patient, name: str) -> None:
    code = name.split()[0]
    level, made = PLANTS[name]
    found = made(patient)
    mine = [finding for finding in found if finding.code == code]
    assert [finding.level for finding in mine][:1] == [level], found
    for finding in found:
        assert finding.code in CODES
        assert finding.message
        assert "\n" not in finding.message
        if finding.level in (Level.WARNING, Level.FAILURE):
            assert finding.fix


def test_every_code_has_a_test_that_plants_its_fault() -> None:
    elsewhere = {"SERVER_READY", "TOKEN_OK"}
    assert {name.split()[0] for name in PLANTS} | elsewhere == set(CODES)


def test_every_code_is_in_the_manual() -> None:
    text = (ROOT / "docs" / "doctor.md").read_text()
    assert [code for code in CODES if f"`{code}`" not in text and not code.endswith("_OK")] == []
