"""What a command of the client imports: nothing of the server, and nothing heavy that it has no use for.

Module lists, not times: `python -m tests.bench.cli` measures the times.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from taskforge.cli.command import Group
from taskforge.cli.reference import entries
from tests.cli.prepared import World, sample
from tests.support.server import clean_environ

_HTTP = {"httpx2", "httpcore2", "h11", "anyio", "ssl"}
_HEAVY = _HTTP | {
    "aiohappyeyeballs", "annotated_types", "apscheduler", "apsw", "asyncio", "asyncpg", "attr", "cryptography",
    "httptools", "jq", "jsonschema", "nacl", "pkg_resources", "prometheus_client", "pydantic", "pydantic_core",
    "redis", "referencing", "rich", "ruamel", "sqlite3", "starlette", "textual", "uvicorn", "uvloop",
}  # fmt: skip
_DOCUMENT = {"ruamel"}  # reads a workflow's YAML
# Checks a document: with neither jsonschema nor a jq child, as long as nothing unusual stands in it.
_CHECKING = _DOCUMENT | {"annotated_types", "pydantic", "pydantic_core"}
# Works on the home's own database, as the server does.
_DATABASE = {"apsw", "asyncio", "nacl"}
# What a command needs besides HTTP. A command that is not here gets by with HTTP alone.
_NEEDED = {
    "taskforge apply": _CHECKING,
    "taskforge validate": _CHECKING,
    "taskforge schedule simulate": _CHECKING,
    "taskforge schedule next": _DOCUMENT,
    "taskforge runs show": _DOCUMENT,
    "taskforge runs timeline": _DOCUMENT,
    "taskforge trigger": _DOCUMENT,
    "taskforge graph": _DOCUMENT,
    "taskforge export": _DOCUMENT,
    "taskforge plan": _CHECKING,
    "taskforge doctor": {"apsw", "asyncio", "nacl"},
    "taskforge db backup": _DATABASE,
    "taskforge db restore": _DATABASE,
    "taskforge db migrate": _DATABASE,
    "taskforge db vacuum": _DATABASE,
    "taskforge db prune": _DATABASE,
    "taskforge db check": _DATABASE,
}  # fmt: skip
_OFFLINE = {"taskforge version", "taskforge completion", "taskforge init"}
_OF_THE_SERVER = ("taskforge.api", "taskforge.app", "taskforge.engine", "taskforge.steps", "taskforge.expressions")
_LIFE = {"taskforge demo", "taskforge serve", "taskforge up", "taskforge down", "taskforge status"}
_LEAVES = [entry for entry in entries() if not isinstance(entry.command, Group) and entry.path not in _LIFE]
# One command of each module, for time's sake, and all that may import more than others.
_ONE_EACH = {getattr(entry.command.callback, "__module__", ""): entry.path for entry in reversed(_LEAVES)}
_PATHS = sorted({*_ONE_EACH.values(), *(entry.path for entry in _LEAVES if entry.path in {*_NEEDED, *_OFFLINE})})
_TELL = """
import json, sys
from taskforge.cli.main import run_command_line
before = set(sys.modules)
code = run_command_line(json.loads(sys.argv[1]))
names = set(sys.modules)
print(json.dumps({"code": code, "names": sorted(names)}), file=sys.stderr)
"""
_TELL_MODELS = """
import json, sys
from taskforge.cli.main import run_command_line
assert run_command_line(["validate", sys.argv[1]]) == 0
from taskforge.core.templated import StepConfig
pending, built = [StepConfig], []
while pending:
    model = pending.pop()
    pending += model.__subclasses__()
    if model is not StepConfig and model.__pydantic_complete__:
        built.append(model.__name__)
print(json.dumps(built), file=sys.stderr)
"""


def imported(world: World, arguments: list[str], line: str) -> set[str]:
    here, environ = world.stand(line)
    done = subprocess.run(
        [sys.executable, "-c", _TELL, json.dumps(arguments)],
        env=environ, cwd=here, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    world.restore(line)
    found: list[str] = json.loads(done.stderr.splitlines()[-1])["names"]
    return set(found)


@pytest.mark.parametrize("path", _PATHS)
def test_a_command_imports_what_it_needs_only(world: World, path: str) -> None:
    names = imported(world, world.arguments(path), sample(path) or "")
    allowed = set() if path in _OFFLINE else _HTTP | _NEEDED.get(path, set())
    assert {name.partition(".")[0] for name in names} & _HEAVY <= allowed
    if not allowed & {"pydantic", "apsw"}:
        assert [name for name in names if name.startswith(_OF_THE_SERVER)] == []


def test_a_model_is_built_for_the_kinds_only_that_a_document_has(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("name: one\nsteps: [{id: look, http: {url: 'http://example.com/'}}]\n")
    done = subprocess.run(
        [sys.executable, "-c", _TELL_MODELS, str(tmp_path / "one.yaml")],
        env=clean_environ(tmp_path), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert json.loads(done.stderr.splitlines()[-1]) == ["HttpConfig"]


def test_help_imports_nothing_but_the_command_itself(world: World) -> None:
    for arguments in (["--help"], ["runs", "--help"], ["run", "--help"], ["__complete", "bash", ":=", "taskforge ru"]):
        names = imported(world, arguments, "")
        assert {name.partition(".")[0] for name in names} & _HEAVY == set(), arguments
