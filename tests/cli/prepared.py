"""A world in which every example of the help texts can run: a server with history, a directory of files, programs.

Names in examples stand for things: `uptime#42` becomes a run in the state that the command is for, `dead_0199` a dead
letter, and so on. `PREPARATIONS` says what else an example needs; what cannot run here is in `SKIPPED`, with reasons.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskforge.cli.command import Command
from taskforge.cli.reference import entries
from tests.support.forked_cli import ForkedCli
from tests.support.server import ServerProcess, clean_environ

_UPTIME = """\
name: uptime
description: Look at a site, version {version}
inputs:
  type: object
  properties:
    site: {{type: string, default: example.com}}
    tries: {{type: integer, default: 4}}
    fail: {{type: boolean, default: false}}
    hold: {{type: boolean, default: false}}
steps:
  - id: fetch
    transform: {{name: page, body: {{open: 3}}}}
  - id: each
    foreach:
      items: '${{{{ [range($input.tries) | {{id: .}}] }}}}'
      steps: [{{id: post, transform: {{site: "${{{{ $input.site }}}}", number: "${{{{ $item }}}}"}}}}]
  - id: check
    if: ${{{{ $input.fail }}}}
    fail: {{message: "it is down"}}
  - id: approval
    if: ${{{{ $input.hold }}}}
    wait: {{signal: approved, timeout: 1h}}
output: ${{{{ $each }}}}
"""
_DIGEST = """\
name: issue-digest
triggers:
  github:
    webhook:
      verify: {scheme: github, secret: GITHUB_SECRET}
      if: '${{ $trigger.body.action | IN($vars.ACTIONS[]) }}'
steps: [{id: shape, transform: '${{ $trigger.body }}'}]
"""
_NIGHTLY = """\
name: nightly-report
triggers:
  nightly: {cron: "0 9 * * MON-FRI", timezone: Europe/Berlin, catch_up: latest}
steps: [{id: figures, transform: {total: 3}}]
"""
_DEPLOY = """\
name: deploy
steps: [{id: ask, wait: {signal: approved, timeout: 1h}}]
"""
_PROBE = """\
name: probe
steps:
  - id: call
    http: {url: "http://127.0.0.1:9/"}
    retry: {max_attempts: 1}
"""
_SECRET = "a secret of some length"

# What a person would have at hand.
_FILES = {
    "uptime.yaml": _UPTIME.format(version=3),
    "nightly.yaml": _NIGHTLY,
    "workflows/uptime.yaml": _UPTIME.format(version=3),
    "workflows/issue-digest.yaml": _DIGEST,
    "workflows/nightly-report.yaml": _NIGHTLY,
    "workflows/deploy.yaml": _DEPLOY,
    "workflows/probe.yaml": _PROBE,
    "input.json": '{"site": "example.org"}',
    "event.json": '{"action": "opened", "kind": "pull_request"}',
    "secret.txt": _SECRET,
    "token.txt": "tf_from_somewhere\n",
    "regions.json": '["eu", "us"]',
    "seen.json": "[1, 2]",
}
# Programs that an example speaks to, and a test machine may not have.
_PROGRAMS = {
    "pass": "echo from-the-password-store",
    "systemctl": "echo Version=252; echo ActiveState=active; echo UnitFileState=enabled; echo MainPID=1",
    "loginctl": "echo yes",
    "dot": "cat > uptime.svg",
}

SKIPPED: Mapping[str, str] = {
    "taskforge demo": "tests/cli/test_demo.py runs it whole; it takes some seconds",
}

# Commands that have a home, or a server, to themselves: what they do would be felt by the others.
_OWN_HOME = ("init", "up", "down", "serve", "db", "doctor", "logs", "service", "profile")
# Those of them for which the home must have seen a server.
_USED_HOME = ("db", "doctor", "logs")
# Commands that go on until they are told to stop: what they say when they are there.
_ENDLESS = {
    "taskforge serve": "is ready",
    "taskforge logs -f": "\n",
    "taskforge runs list --state RUNNING,WAITING --watch": "uptime#",
}
# Runs by what a command is for.
_WANTED_RUNS = {
    "runs cancel": "waiting", "runs signal": "waiting", "runs retry": "failed",
}  # fmt: skip
# Commands to call before an example, in the same directory.
PREPARATIONS: Mapping[str, tuple[str, ...]] = {
    # A live table of nothing says nothing: a run has to wait.
    "taskforge runs list --state RUNNING,WAITING --watch": ("taskforge run uptime --input hold=true",),
    "taskforge db restore before-upgrade.db": ("taskforge db backup before-upgrade.db",),
    "taskforge db restore copy.db -o json": ("taskforge db backup copy.db",),
    "taskforge state list uptime": ("taskforge state set uptime cursor 42",),
    "taskforge state set uptime cursor 43 --expect 42": ("taskforge state set uptime cursor 42",),
    "taskforge state delete uptime cursor": ("taskforge state set uptime cursor 42",),
    "taskforge secret delete GITHUB_TOKEN": ("taskforge secret set GITHUB_TOKEN --file token.txt",),
    "taskforge secret set GITHUB_TOKEN": ("echo from-standard-input |",),
    "taskforge trigger issue-digest/github --body '{": (f"printf %s '{_SECRET}' |",),
    "taskforge plan workflows/ --detailed-exitcode": ("taskforge apply workflows/",),
    "taskforge apply workflows/ --planned plan.json": ("taskforge plan workflows/ -o json > plan.json",),
    "taskforge var delete API_URL": ("taskforge var set API_URL x",),
    "taskforge workflow delete uptime": ("taskforge apply uptime.yaml",),
    "taskforge runs list --state FAILED -q | xargs -n1 taskforge runs retry": (
        "taskforge run uptime --input fail=true --wait || true",
    ),
    "taskforge deliveries -q --state FAILED | xargs taskforge deliveries replay": ("{failed delivery}",),
    "taskforge dead -q | xargs taskforge dead retry": ("taskforge run probe --wait || true",),
    "taskforge down": ("taskforge up --port 0",),
    "taskforge profile use prod": ("taskforge profile add prod --server 10.0.0.7 --token-file token.txt",),
    "taskforge profile remove prod": ("taskforge profile add prod --server 10.0.0.7 --token-file token.txt",),
    "taskforge profile add prod": ("echo tf_from_somewhere |",),
    "taskforge service status": ("taskforge service install",),
    "taskforge service uninstall": ("taskforge service install",),
    "taskforge db restore copy.db": ("taskforge db backup copy.db",),
    "taskforge db restore ~/.taskforge/backups/taskforge-20261123T061500Z.db": (
        "mkdir -p ~/.taskforge/backups",
        "taskforge db backup ~/.taskforge/backups/taskforge-20261123T061500Z.db",
    ),
    "taskforge completion fish > ~/.config/fish/completions/taskforge.fish": ("mkdir -p ~/.config/fish/completions",),
}


@dataclass
class World:
    """The server, and where examples are tried."""

    server: ServerProcess
    cli: ForkedCli
    folder: Path
    _count: int = 0
    _desk: tuple[Path, dict[str, str]] | None = None
    _kept: dict[str, str] = field(default_factory=dict)

    def stand(self, line: str) -> tuple[Path, dict[str, str]]:
        """A new directory with the files of `_FILES`, and the environment for this example."""
        self._count += 1
        here = self.folder / f"example{self._count}"
        for name, text in _FILES.items():
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            (here / name).write_text(text)
        programs = here / "bin"
        programs.mkdir()
        for name, text in _PROGRAMS.items():
            (programs / name).write_text(f"#!/bin/sh\n{text}\n")
            (programs / name).chmod(0o755)
        alone = command_of(line).partition(" ")[0] in _OWN_HOME
        environ = clean_environ(here / "home") if alone else dict(self.server.environ)
        if alone:
            environ["TASKFORGE_SERVER__PORT"] = "0"
        if any(line.startswith(f"taskforge {group}") for group in _USED_HOME):
            shutil.copytree(self.used_home(), here / "home")
        path = f"{self.cli.program.parent}:{programs}:{os.environ['PATH']}"
        return here, environ | {"PATH": path, "HOME": str(here)}

    def used_home(self) -> Path:
        """The home of a server that has ended."""
        if not (self.folder / "used").exists():
            (self.folder / "used").mkdir()
            environ = clean_environ(self.folder / "used" / "home", TASKFORGE_SERVER__PORT="0")
            for command in ("up", "down"):
                done = self.cli(command, environ=environ)
                assert done.returncode == 0, done
        return self.folder / "used" / "home"

    def meant(self, line: str) -> str:
        """The example with things that are there in the place of names that stand for them."""
        command = command_of(line)
        wanted = next((state for name, state in _WANTED_RUNS.items() if command.startswith(name)), "ended")
        line = line.replace("--port 8080", "--port 0")
        line = re.sub(r"\b(uptime|deploy)#\d+", lambda found: self.run(found[1], wanted), line)
        line = re.sub(r"\bdead_0199\b", lambda _: self.dead_letter(), line)
        line = re.sub(r"\bdlv_0199\b", lambda _: self.delivery(), line)
        return re.sub(r"\btok_0199\b", lambda _: self.token(), line)

    def run(self, workflow: str, wanted: str) -> str:
        """A run of its own in this state; one that has ended well serves many."""
        if wanted == "ended" and workflow in self._kept:
            return self._kept[workflow]
        given = {"fail": wanted == "failed", "hold": wanted == "waiting"} if workflow == "uptime" else {}
        wait = "" if wanted == "waiting" else "?wait=30s"
        status, run = self.server.call("POST", f"/v1/workflows/{workflow}/runs{wait}", {"input": given})
        assert status in (200, 202), run
        name = f"{workflow}#{run['number']}"
        if wanted == "ended":
            self._kept[workflow] = name
        return name

    def dead_letter(self) -> str:
        self.server.call("POST", "/v1/workflows/probe/runs?wait=30s", {})
        return str(self.server.call("GET", "/v1/dead-letters?state=OPEN&limit=1")[1]["items"][0]["id"])

    def delivery(self, action: str = "opened") -> str:
        done = self.cli(
            "trigger", "issue-digest/github", "--body", json.dumps({"action": action}), "-o", "json",
            "--header", "X-GitHub-Event=issues", environ=self.server.environ, stdin=_SECRET.encode(),
        )  # fmt: skip
        if done.returncode == 0:
            return str(json.loads(done.stdout)["delivery"])
        return str(self.server.call("GET", "/v1/deliveries?limit=1")[1]["items"][0]["id"])

    def failed_delivery(self) -> str:
        """A delivery whose condition could not be evaluated when it came."""
        self.server.call("DELETE", "/v1/vars/ACTIONS")
        found = self.delivery()
        self.server.call("PUT", "/v1/vars/ACTIONS", {"value": ["opened"]})
        return found

    def token(self) -> str:
        status, made = self.server.call("POST", "/v1/tokens", {"name": "for-a-test", "scopes": ["read"]})
        assert status == 201, made
        return str(made["id"])

    def restore(self, line: str = "workflow delete") -> None:
        """Make the server as it was before this example."""
        if any(words in line for words in ("workflow delete", "--prune")):
            for name in ("uptime", "issue-digest", "nightly-report", "deploy", "probe"):
                document = _FILES[f"workflows/{name}.yaml"].encode()
                status, answer = self.server.call("PUT", f"/v1/workflows/{name}", document)
                assert status in (200, 201), answer
        elif any(words in line for words in ("workflow hold", "workflow disable")):
            self.server.call("PATCH", "/v1/workflows/uptime", {"enabled": True, "held": False})
            self.server.call("PUT", "/v1/hold", {"held": False})

    def prepare(self) -> World:
        for version in (1, 2):
            self.server.call("PUT", "/v1/workflows/uptime", _UPTIME.format(version=version).encode())
        self.restore()
        self.server.call("PUT", "/v1/secrets/GITHUB_SECRET", {"value": _SECRET})
        self.server.call("PUT", "/v1/vars/ACTIONS", {"value": ["opened"]})
        self.run("uptime", "ended")
        self.run("uptime", "failed")
        self.run("uptime", "waiting")
        self.delivery()
        self.dead_letter()
        return self

    def arguments(self, path: str) -> list[str]:
        """Arguments with which the command does something now."""
        line = sample(path)
        assert line is not None, f"{path} needs an example that is one plain call"
        return shlex.split(self.meant(line))[1:]

    def sampled(self, path: str) -> list[str]:
        """Arguments of the command, whose names may stand for nothing: for servers that know nothing."""
        return shlex.split(sample(path) or "")[1:]

    def call(
        self,
        path: str,
        *more: str,
        arguments: Sequence[str] | None = None,
        environ: Mapping[str, str | None] | None = None,
        gone: bool = False,
        **settings: Any,
    ) -> subprocess.CompletedProcess[str]:
        """The command as in its first plain example, with `more` arguments, in a directory with the files.

        `environ` changes the environment, None takes a variable out of it. `gone`: the directory is not there any more.
        """
        line = sample(path) or ""
        if gone or path.split()[1] in _OWN_HOME:
            here, around = self.stand(line)
        else:
            here, around = self._desk or self.stand("")
            self._desk = here, around
        given = self.arguments(path) if arguments is None else arguments
        for before in _before(line):
            if not before.endswith("|") and not before.startswith("{"):
                done = _shell(before, here, around)
                assert done.returncode == 0, (before, done)
        changed = {name: value for name, value in (around | dict(environ or {})).items() if value is not None}
        directory = os.open(here, os.O_RDONLY)
        given_in = b"something" if path.startswith(("taskforge secret set", "taskforge profile add")) else b""
        try:
            if gone:
                shutil.rmtree(here)
            return self.cli(*given, *more, environ=changed, cwd=directory, **{"stdin": given_in, **settings})
        finally:
            os.close(directory)
            self.restore(line)
            if self._desk is None or here != self._desk[0]:
                shutil.rmtree(here, ignore_errors=True)

    def try_line(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run an example in a shell, after what it needs; a command without an end is interrupted when it is there."""
        here, environ = self.stand(line)
        meant = self.meant(line)
        for before in _before(line):
            if before == "{failed delivery}":
                self.failed_delivery()
            elif before.endswith("|"):
                meant = f"{before} {meant}"
            else:
                done = _shell(before, here, environ)
                assert done.returncode == 0, (before, done)
        try:
            said = next((words for start, words in _ENDLESS.items() if line.startswith(start)), None)
            if said is not None:
                return _interrupted(meant, here, environ, said)
            return _shell(meant, here, environ)
        finally:
            if (here / "home" / "serve.pid").exists():
                _shell("taskforge down", here, environ)
            self.restore(line)
            shutil.rmtree(here)


def command_of(line: str) -> str:
    """The words after the last `taskforge` of a line, without options: what the line is about."""
    words = line.rpartition("taskforge ")[2].split()
    return " ".join(words)


def examples() -> Iterator[tuple[str, str]]:
    """Every example of every help text, with the command whose help has it."""
    for entry in entries():
        if isinstance(entry.command, Command):
            for example in entry.command.examples:
                yield entry.path, example.line


_SAMPLES = {
    "taskforge completion": "taskforge completion bash",
}


def sample(path: str) -> str | None:
    """An example of this command that is one call and no more, so that a test can add to it."""
    lines = [line for owner, line in examples() if owner == path]
    plain = [line for line in lines if line.startswith("taskforge ") and not re.search(r"[|<>*~]", line)]
    return plain[0].replace(" -o json", "") if plain else _SAMPLES.get(path)


def _before(line: str) -> tuple[str, ...]:
    found = [start for start in PREPARATIONS if line.startswith(start)]
    return PREPARATIONS[max(found, key=len)] if found else ()


def _shell(line: str, here: Path, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=here, env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def _interrupted(line: str, here: Path, environ: Mapping[str, str], said: str) -> subprocess.CompletedProcess[str]:
    """Ctrl-C, once it has said that it is there. What ends so, or well, has done what it should."""
    program = here / "bin" / "taskforge"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m taskforge "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}:{environ['PATH']}"
    process = subprocess.Popen(
        ["bash", "-c", f"exec {line} 2>&1"],
        cwd=here, env={**environ, "PATH": path}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    shown = ""
    while said not in shown and (text := process.stdout.readline()):
        shown += text
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    code = process.returncode if said in shown else 1
    return subprocess.CompletedProcess(line, 0 if code == 130 else code, shown + rest, "")
