"""A home with everything in it that doctor looks at, made once by a real server and copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import apsw
import pytest

from taskforge.cli.doctor.command import examine
from taskforge.cli.doctor.finding import Finding
from tests.support.server import clean_environ, running_server

_FLOW = b"""name: nightly
triggers: {night: {cron: "0 3 * * *", timezone: Europe/Berlin}}
steps: [{id: a, transform: 1}]
"""


class Patient:
    """A home of the test's own. The configuration says a port that is free for all."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environ = clean_environ(home, TASKFORGE_SERVER__PORT="0")
        self.database = home / "taskforge.db"

    def sql(self, *statements: str, keep_log: bool = False) -> None:
        """Change the database, as no program should."""
        conn = apsw.Connection(str(self.database))
        if keep_log:
            conn.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        conn.pragma("foreign_keys", 0)
        for statement in statements:
            conn.execute(statement).fetchall()
        conn.close()

    def configure(self, old: str, new: str) -> None:
        path = self.home / "config.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def examine(self, *, quick: bool = False, **environ: str) -> list[Finding]:
        return examine(self.home, self.environ | environ, quick=quick)


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose server has ended: a workflow with a schedule, a run, a secret."""
    with running_server(tmp_path_factory.mktemp("healthy")) as server:
        assert server.call("PUT", "/v1/workflows/nightly", _FLOW)[0] == 201
        assert server.call("PUT", "/v1/secrets/API_KEY", {"value": "s3cret-value"})[0] in (200, 201, 204)
        for _ in range(3):
            assert server.call("POST", "/v1/workflows/nightly/runs?wait=10s", {})[0] == 200
        assert server.terminate() == 0
        return server.home


@pytest.fixture
def patient(tmp_path: Path, healthy: Path) -> Patient:
    shutil.copytree(healthy, tmp_path / "home")
    (tmp_path / "home").chmod(0o700)
    return Patient(tmp_path / "home")
