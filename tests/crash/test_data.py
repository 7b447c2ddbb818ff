"""Backups under load, restores on a live site, and deaths while old runs are deleted and space is given back."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from taskforge.core.clock import from_rfc3339
from tests.support.crashing_server import CrashingServer, crashing_server
from tests.support.invariants import check_invariants, look
from tests.support.server import ServerProcess, clean_environ, run_cli, running_server
from tests.support.steady_load import steady_load
from tests.support.target import Answer, running_target

pytestmark = [pytest.mark.crash, pytest.mark.slow]

BRIEF = b"name: brief\nsteps: [{id: a, transform: 1}, {id: b, transform: '${{ $a }}'}]\n"
CALL = 'name: call\nsteps: [{{id: send, http: {{method: POST, url: "{url}/call"}}}}]\n'
TICK = b"name: tick\ntriggers: {t: {cron: '@every 1s', catch_up: all}}\nsteps: [{id: a, transform: 1}]\n"


def restored_home(server: ServerProcess, folder: Path, backup: Path) -> Path:
    """A new home with this server's key, in which the backup was restored."""
    home = folder / backup.stem
    home.mkdir(mode=0o700)
    shutil.copy(server.home / "secret.key", home)
    done = run_cli("db", "restore", str(backup), environ=clean_environ(home))
    assert done.returncode == 0, done.stderr
    return home


def test_backups_under_load_are_whole_and_have_every_run_accepted_before(tmp_path: Path) -> None:
    """Three here; `python -m tests.bench.backups` takes fifty, with 200 starts a second."""
    with running_server(tmp_path) as server:
        server.call("PUT", "/v1/workflows/brief", BRIEF)
        taken = []
        with steady_load(server, "brief", rate=60, threads=4) as load:
            for number in range(3):
                load.await_accepted(60 * (number + 1))
                before = load.before(time.monotonic())
                file = tmp_path / f"backup-{number}.db"
                made = server.run_cli("db", "backup", str(file), "-o", "json")
                assert made.returncode == 0, made.stderr
                taken.append((file, before))
        assert load.refused == []
        for file, before in taken:
            home = restored_home(server, tmp_path, file)
            checked = run_cli("db", "check", "-o", "json", environ=clean_environ(home))
            assert json.loads(checked.stdout)["sound"], checked.stdout
            assert len(before) >= 60
            check_invariants(home / "taskforge.db", before, idle=False)


def test_a_server_makes_a_backup_of_itself_for_whoever_asks_from_elsewhere(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        server.call("PUT", "/v1/workflows/brief", BRIEF)
        elsewhere = clean_environ(tmp_path / "elsewhere", TASKFORGE_SERVER=server.url, TASKFORGE_TOKEN=server.token)
        made = json.loads(run_cli("db", "backup", "-o", "json", environ=elsewhere).stdout)
        assert Path(made["file"]).parent == server.home / "backups"
        assert run_cli("db", "check", made["file"], environ=elsewhere).returncode == 0
        for arguments in (["backup", "here.db"], ["restore", made["file"]], ["check"], ["migrate"]):
            done = run_cli("db", *arguments, environ=elsewhere)
            assert done.returncode == 2, done.stderr
            assert "machine" in done.stderr


def test_an_old_backup_on_a_live_site_sends_nothing_again_and_makes_up_for_nothing_unasked(tmp_path: Path) -> None:
    with running_target() as target, running_server(tmp_path, engine__grace_seconds=0) as server:
        target.answer("/call", Answer(hold=True), Answer())
        server.call("PUT", "/v1/workflows/call", CALL.format(url=target.url).encode())
        server.call("PUT", "/v1/workflows/brief", BRIEF)
        server.call("PUT", "/v1/workflows/tick", TICK)
        _, run = server.call("POST", "/v1/workflows/call/runs", {})
        target.await_requests(1, "/call")
        backup = tmp_path / "old.db"
        assert server.run_cli("db", "backup", str(backup)).returncode == 0
        server.terminate()
        restored_at = time.time() * 1000
        done = json.loads(server.run_cli("db", "restore", str(backup), "-o", "json").stdout)
        assert (done["held"], done["in_flight"], done["schedules"]) == (True, 1, 1)
        server.start()
        assert "taskforge workflow release --all" in server.output()
        _, new = server.call("POST", "/v1/workflows/call/runs", {})
        assert server.call("GET", f"/v1/runs/{new['id']}?wait=300ms")[1]["finished_at"] is None
        ticks = {tick["id"] for tick in server.call("GET", "/v1/runs?workflow=tick")[1]["items"]}
        assert len(target.requests("/call")) == 1
        server.run_cli("workflow", "release", "--all")
        for known in (run, new):
            assert server.call("GET", f"/v1/runs/{known['id']}?wait=30s")[1]["state"] == "SUCCEEDED"
        sent = Counter(seen.key for seen in target.requests("/call"))
        assert sent == {f"{run['id']}/send": 2, f"{new['id']}/send": 1}
        for tick in await_ticks(server, ticks):
            assert (from_rfc3339(tick["trigger"]["scheduled_at"]) or 0) > restored_at - 1_000
        server.terminate()
        check_invariants(server.home / "taskforge.db", [run["id"], new["id"]])


def await_ticks(server: ServerProcess, known: set[str]) -> list[dict[str, Any]]:
    """The runs of the schedule that are not among these, as soon as there are two."""
    deadline = time.monotonic() + 30
    while len(new := [t for t in server.call("GET", "/v1/runs?workflow=tick")[1]["items"] if t["id"] not in known]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return new


DEATHS = [
    ("before prune_runs 1", "prune", 120),
    ("after prune_runs 1", "prune", 70),
    ("after prune_runs 2", "prune", 20),
    ("before free_pages 1", "vacuum", 120),
    ("after free_pages 1", "vacuum", 120),
]
"""Where the server dies, at which act, and how many of 120 runs are left then. Fifty go at a time."""


def test_deaths_while_runs_are_deleted_and_space_is_given_back_leave_it_whole(tmp_path: Path) -> None:
    with crashing_server(tmp_path) as server:
        server.call("PUT", "/v1/workflows/brief", BRIEF)
        for point, act, left in DEATHS:
            start_many(server, 120)
            server.arm(point)
            with pytest.raises(OSError):
                server.call("POST", f"/v1/db:{act}", {"older_than": 0} if act == "prune" else None)
            assert server.await_end() == -signal.SIGKILL
            server.disarm()
            server.start()
            assert server.call("POST", "/v1/db:prune", {"older_than": 0})[1]["runs"] == left
        assert server.call("POST", "/v1/db:vacuum")[1]["free_bytes"] == 0
        check_invariants(server.home / "taskforge.db")


def test_a_death_during_a_backup_leaves_none_or_a_whole_one(tmp_path: Path) -> None:
    with crashing_server(tmp_path) as server:
        server.call("PUT", "/v1/workflows/brief", BRIEF)
        for when in ("before", "after"):
            server.arm(f"{when} back_up 1")
            with pytest.raises(OSError):
                server.call("POST", "/v1/db:backup")
            assert server.await_end() == -signal.SIGKILL
            server.disarm()
            server.start()
            found = sorted((server.home / "backups").glob("*"))
            assert len(found) == (1 if when == "after" else 0)
        checked = run_cli("db", "check", str(found[0]), environ=server.environ)
        assert checked.returncode == 0, checked.stdout


def start_many(server: CrashingServer, count: int) -> None:
    """So many runs more, and all have ended."""
    assert server.call("POST", "/v1/workflows/brief/runs:batch", {"inputs": [{}] * count})[0] == 202
    deadline = time.monotonic() + 30
    while server.call("GET", "/v1/stats")[1]["runs"]["SUCCEEDED"] < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_retention_beside_load_keeps_to_its_number_and_refuses_nothing(tmp_path: Path) -> None:
    with running_server(tmp_path, retention__runs_count=100, retention__every_seconds=0.2) as server:
        server.call("PUT", "/v1/workflows/brief", BRIEF)
        with steady_load(server, "brief", rate=80, threads=4) as load:
            load.await_accepted(300)
        deadline = time.monotonic() + 30
        while (stats := server.call("GET", "/v1/stats")[1])["runs"]["SUCCEEDED"] != 100:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert load.refused == []
        assert stats["retention"]["runs"] == len(load.accepted) - 100
        newest = sorted(run.id for run in load.accepted)[-100:]
        kept = {id for (id,) in look(server.home / "taskforge.db", "SELECT id FROM runs")}
        assert kept == set(newest)
        check_invariants(server.home / "taskforge.db", newest)
