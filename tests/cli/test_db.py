"""`db backup/restore/check/migrate/vacuum/prune`, with the server running and without."""

from __future__ import annotations

import base64
import json
import os
from contextlib import closing
from pathlib import Path

import apsw

from tests.support.server import ServerProcess, clean_environ, run_cli, running_server

_FLOW = b"name: w\nsteps: [{id: a, transform: 1}]\n"


def filled(server: ServerProcess, runs: int = 3) -> None:
    server.call("PUT", "/v1/workflows/w", _FLOW)
    for _ in range(runs):
        server.call("POST", "/v1/workflows/w/runs?wait=10s", {})


def test_a_database_in_use_and_one_at_rest_are_sound(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        server.call("PUT", "/v1/workflows/w", _FLOW)
        server.call("POST", "/v1/workflows/w/runs", b"{}")
        assert server.run_cli("db", "check").returncode == 0
        server.terminate()
        done = server.run_cli("db", "check", "-o", "json")
    assert json.loads(done.stdout)["sound"] is True


def test_damage_is_told_and_ends_with_1(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        server.call("PUT", "/v1/workflows/w", _FLOW)
        server.terminate()
        path = server.home / "taskforge.db"
        content = bytearray(path.read_bytes())
        content[4096 * 3 : 4096 * 6] = b"\xff" * (4096 * 3)
        path.write_bytes(content)
        done = server.run_cli("db", "check")
    assert done.returncode == 1
    assert "damage" in done.stdout or "integrity" in done.stdout
    assert "restore a backup" in done.stderr


def test_a_home_without_a_database_says_so(tmp_path: Path) -> None:
    environ = clean_environ(tmp_path / "nothing")
    for arguments in (["check"], ["backup"], ["migrate"], ["vacuum"], ["prune", "--older-than", "1d"]):
        done = run_cli("db", *arguments, environ=environ)
        assert done.returncode == 1
        assert "there is no database" in done.stderr
    assert not (tmp_path / "nothing").exists()


def test_a_backup_is_taken_beside_the_server_and_restored_when_it_is_stopped(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        filled(server)
        server.run_cli("secret", "set", "KEY", stdin="an opaque value")
        made = server.run_cli("db", "backup", "-q").stdout.strip()
        assert Path(made).parent == server.home / "backups" and Path(made).stat().st_mode & 0o777 == 0o600
        filled(server)
        refused = server.run_cli("db", "restore", made)
        assert refused.returncode == 5
        assert refused.stderr.count(f"process id {server.pid}") == 1 and "taskforge down" in refused.stderr
        server.terminate()
        done = server.run_cli("db", "restore", made)
        assert done.returncode == 0, done.stderr
        assert "3 runs" in done.stdout and "release --all" in done.stdout
        server.start()
        assert len(server.call("GET", "/v1/runs")[1]["items"]) == 3
        assert [row["name"] for row in server.call("GET", "/v1/secrets")[1]["items"]] == ["KEY"]
        assert server.call("GET", "/v1/hold")[1]["held"] is True
        server.run_cli("workflow", "release", "--all")
        assert server.call("POST", "/v1/workflows/w/runs?wait=10s", {})[1]["state"] == "SUCCEEDED"


def test_a_backup_of_another_home_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        filled(server)
        file = tmp_path / "copy.db"
        assert server.run_cli("db", "backup", str(file)).returncode == 0
        other = clean_environ(tmp_path / "other")
        assert run_cli("init", environ=other).returncode == 0
        refused = run_cli("db", "restore", str(file), environ=other)
        assert refused.returncode == 1 and "secret.key" in refused.stderr
        assert not (tmp_path / "other" / "taskforge.db").exists()
        # It may be the key of before, while the home's key is being changed.
        keys = [base64.b64encode(os.urandom(32)), (server.home / "secret.key").read_bytes().strip()]
        (tmp_path / "other" / "secret.key").write_bytes(keys[0] + b"\nprevious " + keys[1] + b"\n")
        assert run_cli("db", "restore", str(file), environ=other).returncode == 0
        empty = clean_environ(tmp_path / "empty")
        missing = run_cli("db", "restore", str(file), environ=empty)
        assert missing.returncode == 1 and "secret.key is missing" in missing.stderr
        done = run_cli("db", "restore", str(file), "--without-secrets", "-o", "json", environ=empty)
        assert json.loads(done.stdout)["runs"] == 3


def test_a_secret_that_was_damaged_can_be_left_behind(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        filled(server)
        for name in ("KEY", "OTHER"):
            assert server.run_cli("secret", "set", name, stdin=f"the value of {name}").returncode == 0
        server.terminate()
        with closing(apsw.Connection(str(server.home / "taskforge.db"))) as database:
            database.execute("UPDATE secrets SET sealed = CAST(sealed || x'00' AS BLOB) WHERE name = 'KEY'")
        refused = server.run_cli("serve")
        assert refused.returncode == 1 and "KEY" in refused.stderr and "--without-secrets" in refused.stderr
        made = json.loads(server.run_cli("db", "backup", "-o", "json").stdout)["file"]
        done = json.loads(server.run_cli("db", "restore", made, "--without-secrets", "-o", "json").stdout)
        assert (done["secrets_left_out"], done["runs"]) == (1, 3)
        server.start()
        assert [row["name"] for row in server.call("GET", "/v1/secrets")[1]["items"]] == ["OTHER"]


def test_a_backup_replaces_nothing_unasked(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        filled(server)
        server.terminate()
        file = tmp_path / "copy.db"
        file.write_bytes(b"something of mine")
        refused = server.run_cli("db", "backup", str(file))
        assert refused.returncode == 5 and "--force" in refused.stderr
        assert file.read_bytes() == b"something of mine"
        done = server.run_cli("db", "backup", str(file), "--force", "-o", "json")
        assert json.loads(done.stdout)["bytes"] == file.stat().st_size
        assert server.run_cli("db", "backup", "-").returncode == 2
        assert server.run_cli("db", "backup", str(tmp_path)).returncode == 2
        assert server.run_cli("db", "backup", str(tmp_path / "nowhere" / "x.db")).returncode == 4
        for name in ("taskforge.db", "secret.key", "config.toml"):
            kept = (server.home / name).read_bytes()
            assert server.run_cli("db", "backup", str(server.home / name), "--force").returncode == 5
            assert (server.home / name).read_bytes() == kept
        assert server.run_cli("db", "restore", str(tmp_path / "nowhere.db")).returncode == 4


def test_prune_and_vacuum_work_beside_the_server_and_without_it(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        filled(server, 4)
        dry = server.run_cli("db", "prune", "--older-than", "0s", "--dry-run", "-o", "json")
        assert json.loads(dry.stdout) == {"runs": 4, "freed_bytes": 0, "dry_run": True}
        assert server.run_cli("db", "prune", "--older-than", "0s", "-q").stdout == "4\n"
        assert json.loads(server.run_cli("db", "vacuum", "-o", "json").stdout)["free_bytes"] == 0
        filled(server, 2)
        assert server.run_cli("db", "prune", "--older-than", "soon").returncode == 2
        assert json.loads(server.run_cli("db", "migrate", "-o", "json").stdout)["applied"] == []
        server.terminate()
        assert server.run_cli("db", "prune", "--older-than", "1d", "-q").stdout == "0\n"
        assert server.run_cli("db", "prune", "--older-than", "0s", "-q").stdout == "2\n"
        assert json.loads(server.run_cli("db", "vacuum", "-o", "json").stdout)["free_bytes"] == 0
        assert server.run_cli("db", "migrate").returncode == 0
        assert server.run_cli("db", "check").returncode == 0
