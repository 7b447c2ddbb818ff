"""`db check` on sound, damaged and missing files, with the server running and without."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.server import clean_environ, run_cli, running_server

_FLOW = b"name: w\nsteps: [{id: a, transform: 1}]\n"


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
    done = run_cli("db", "check", environ=clean_environ(tmp_path / "nothing"))
    assert done.returncode == 1
    assert "there is no database" in done.stderr
