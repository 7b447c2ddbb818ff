"""doctor beside a server that runs."""

from __future__ import annotations

import json

from tests.support.server import ServerProcess


def test_a_server_that_works_is_found_ready_and_its_token_good(server: ServerProcess) -> None:
    done = server.run_cli("doctor", "-o", "json")
    assert done.returncode == 0, done.stdout
    found = {finding["code"]: finding["level"] for finding in json.loads(done.stdout)["findings"]}
    assert found["SERVER_READY"] == found["TOKEN_OK"] == found["DB_OK"] == found["WORK_OK"] == "ok"


def test_a_token_that_the_server_does_not_know_is_found(server: ServerProcess) -> None:
    of_the_shell = server.run_cli("doctor", "-o", "json", TASKFORGE_TOKEN="tf_another")
    refused = [each for each in json.loads(of_the_shell.stdout)["findings"] if each["code"] == "TOKEN_REFUSED"]
    assert (of_the_shell.returncode, len(refused), refused[0]["fix"]) == (1, 1, "unset TASKFORGE_TOKEN")
    changed = server.run_cli("doctor", "-q", TASKFORGE_AUTH__TOKEN="tf_changed_since_the_start")
    assert (changed.returncode, changed.stdout) == (1, "TOKEN_REFUSED\n")
