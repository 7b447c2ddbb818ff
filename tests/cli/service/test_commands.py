"""`service install/uninstall/status` against commands that stand for systemctl and launchctl."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from taskforge.cli.failure import CommandError
from taskforge.cli.service.managers import Launchd, Systemd, find_manager
from taskforge.cli.service.texts import Facts
from taskforge.config.lock import HomeLock
from tests.support.server import clean_environ, run_cli

SYSTEMCTL = """#!/bin/sh
echo "$@" >> "$FAKE/calls"
state() { cat "$FAKE/$1" 2>/dev/null || echo "$2"; }
case "$*" in
  *--property=Version*) [ -e "$FAKE/no-bus" ] && { echo "Failed to connect to bus: No medium found" >&2; exit 1; }
    echo Version=255 ;;
  *" show "*) echo "ActiveState=$(state active inactive)"; echo "SubState=$(state sub dead)"
    echo "UnitFileState=$(state enabled disabled)"; echo "MainPID=$(state pid 0)" ;;
  *" enable "*) echo enabled > "$FAKE/enabled" ;;
  *" start "*|*" restart "*) [ -e "$FAKE/fail" ] && { echo "Job failed. See the journal." >&2; exit 1; }
    echo active > "$FAKE/active"; echo running > "$FAKE/sub"; echo 4711 > "$FAKE/pid" ;;
  *" disable "*) rm -f "$FAKE/enabled" "$FAKE/active" "$FAKE/pid" "$FAKE/sub" ;;
esac
"""
LOGINCTL = """#!/bin/sh
echo "Linger=$(cat "$FAKE/linger" 2>/dev/null || echo no)"
"""
LAUNCHCTL = """#!/bin/sh
echo "$@" >> "$FAKE/calls"
case "$1" in
  bootstrap) touch "$FAKE/loaded" ;;
  bootout) rm "$FAKE/loaded" ;;
  print-disabled) echo '"dev.taskforge.taskforge" => '"$(cat "$FAKE/disabled" 2>/dev/null || echo enabled)" ;;
  enable) rm -f "$FAKE/disabled" ;;
  disable) echo disabled > "$FAKE/disabled" ;;
  print) [ -e "$FAKE/loaded" ] || { echo "Could not find service" >&2; exit 113; }
    printf 'x = {\\n\\tstate = running\\n\\tpid = 4711\\n}\\n' ;;
esac
"""


class Machine:
    """A user's machine: a home directory, and commands that keep what they are told."""

    def __init__(self, folder: Path) -> None:
        self.fake = folder / "fake"
        self.fake.mkdir()
        for name, text in (("systemctl", SYSTEMCTL), ("loginctl", LOGINCTL), ("launchctl", LAUNCHCTL)):
            (self.fake / name).write_text(text)
            (self.fake / name).chmod(0o755)
        self.home = folder / "home"
        self.environ = clean_environ(
            self.home, HOME=str(folder), FAKE=str(self.fake), PATH=f"{self.fake}:/usr/bin:/bin", USER="ada",
            XDG_CONFIG_HOME="",
        )  # fmt: skip
        self.unit = folder / ".config" / "systemd" / "user" / "taskforge.service"

    def cli(self, *arguments: str, **environ: str) -> tuple[int, str, str]:
        done = run_cli("service", *arguments, environ=self.environ | environ)
        return done.returncode, done.stdout, done.stderr

    def calls(self) -> list[str]:
        """What was asked for since the last look, but for questions."""
        path = self.fake / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.write_text("")
        kept = [line.removeprefix("--user --no-pager ") for line in lines]
        return [line for line in kept if not line.startswith(("show", "print"))]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


linux = pytest.mark.skipif(sys.platform == "darwin", reason="the commands choose launchd on macOS")


@linux
def test_install_is_idempotent_says_what_it_changes_and_uninstall_takes_it_back(machine: Machine) -> None:
    code, out, err = machine.cli("install")
    assert (code, f"taskforge is written and enabled: {machine.unit}" in out) == (0, True), err
    assert "loginctl enable-linger ada" in err
    assert "journalctl --user -u taskforge" in err
    assert machine.calls() == ["daemon-reload", "enable taskforge.service"]
    assert (machine.home / "config.toml").exists()
    text = machine.unit.read_text()
    assert f'Environment="TASKFORGE_HOME={machine.home}"' in text
    assert f'ExecStart="{sys.executable}" "-P" "-m" "taskforge" "serve"' in text
    assert machine.cli("status")[0] == 1

    (machine.fake / "linger").write_text("yes")
    code, out, err = machine.cli("install", "--now", "-o", "json")
    assert (code, json.loads(out)["done"], "enable-linger" in err) == (0, ["started"], False)
    assert "start taskforge.service" in machine.calls()
    code, out, _ = machine.cli("install", "--now")
    assert (code, "nothing has changed" in out) == (0, True)
    assert "restart taskforge.service" not in machine.calls()

    (machine.home / "config.toml").write_text("[engine]\ngrace_seconds = 60\n")
    assert "not what this program would write" in machine.cli("status")[2]
    code, out, _ = machine.cli("install", "--now", "-o", "json")
    assert json.loads(out)["done"] == ["changed", "restarted"]
    assert "TimeoutStopSec=75" in machine.unit.read_text()

    code, out, _ = machine.cli("status", "-o", "json")
    found = json.loads(out)
    assert (code, found["enabled"], found["active"], found["pid"], found["current"]) == (0, True, True, 4711, True)
    assert found["home"] == str(machine.home)

    machine.calls()
    code, out, _ = machine.cli("uninstall")
    assert (code, "stopped, disabled and removed" in out) == (0, True)
    assert machine.calls() == ["disable --now taskforge.service", "daemon-reload", "reset-failed taskforge.service"]
    assert not machine.unit.exists()
    assert (machine.home / "secret.key").exists()
    code, out, err = machine.cli("uninstall")
    assert (code, out, "there is no" in err) == (0, "", True)
    assert machine.cli("status")[0] == 4


@linux
def test_the_file_alone_needs_no_systemd_and_the_rest_says_that_it_is_missing(machine: Machine) -> None:
    (machine.fake / "no-bus").touch()
    code, out, err = machine.cli("install")
    assert (code, out) == (1, "")
    assert "Failed to connect to bus: No medium found" in err
    assert "--no-enable" in err
    assert not machine.unit.exists()
    (machine.fake / "systemctl").unlink()
    code, out, err = machine.cli("install", PATH=str(machine.fake))
    assert (code, "there is no systemd on this machine" in err) == (1, True)
    assert machine.cli("install", "--no-enable", PATH=str(machine.fake))[0] == 0
    assert machine.unit.exists()
    assert machine.unit.stat().st_mode & 0o777 == 0o644
    code, out, _ = machine.cli("status", "-o", "json", PATH=str(machine.fake))
    assert (code, json.loads(out)["active"]) == (1, None)
    code, _, err = machine.cli("uninstall", PATH=str(machine.fake))
    assert (code, "removed all the same" in err, machine.unit.exists()) == (0, True, False)


@linux
def test_nothing_of_others_is_overwritten_and_a_second_home_needs_a_second_name(machine: Machine) -> None:
    machine.unit.parent.mkdir(parents=True)
    machine.unit.write_text("[Unit]\nDescription=mine\n")
    for command in ("install", "uninstall"):
        code, _, err = machine.cli(command)
        assert (code, "was not made by taskforge" in err) == (5, True)
    machine.unit.unlink()
    assert machine.cli("install", "--no-enable")[0] == 0
    second = {"TASKFORGE_HOME": str(machine.home.with_name("second"))}
    code, _, err = machine.cli("install", "--no-enable", **second)
    assert (code, f"serves another home, {machine.home}" in err, "--name" in err) == (5, True, True)
    assert machine.cli("install", "--no-enable", "--name", "second", **second)[0] == 0
    assert machine.unit.with_name("second.service").exists()


@linux
def test_a_server_that_was_started_otherwise_is_not_fought_with(machine: Machine) -> None:
    assert run_cli("init", environ=machine.environ).returncode == 0
    lock = HomeLock(machine.home)
    try:
        code, _, err = machine.cli("install", "--now")
        assert (code, f"process {os.getpid()}" in err, "taskforge down" in err) == (5, True, True)
        assert not machine.unit.exists()
        assert machine.calls() == []
    finally:
        lock.release()


@linux
def test_what_systemctl_says_is_passed_on(machine: Machine) -> None:
    (machine.fake / "fail").touch()
    code, _, err = machine.cli("install", "--now")
    assert code == 1
    assert "Job failed. See the journal." in err
    assert "systemctl --user start taskforge.service failed" in err


@linux
def test_printing_writes_nothing_and_variables_of_the_shell_are_warned_of(machine: Machine) -> None:
    code, out, _ = machine.cli("install", "--print")
    assert (code, out.startswith("# Made by `taskforge service install`")) == (0, True)
    assert not machine.unit.exists()
    assert not machine.home.exists()
    _, _, err = machine.cli("install", "--no-enable", TASKFORGE_SERVER__PORT="8080")
    assert "TASKFORGE_SERVER__PORT" in err
    assert machine.cli("install", "--now", "--no-enable")[0] == 2
    assert machine.cli("install", "--name", "../evil")[0] == 2


def test_launchd_is_told_what_systemd_is(machine: Machine) -> None:
    manager = find_manager(machine.environ, "darwin")
    assert isinstance(manager, Launchd)
    assert manager.missing() is None
    path = manager.path("taskforge")
    assert path == machine.home.parent / "Library" / "LaunchAgents" / "dev.taskforge.taskforge.plist"
    path.parent.mkdir(parents=True)
    path.write_bytes(manager.content(Facts("taskforge", machine.home, ["/bin/taskforge", "serve"], {}, 10)))
    domain = f"gui/{os.geteuid()}"
    service = f"{domain}/dev.taskforge.taskforge"
    assert manager.enable("taskforge", now=False, changed=True) == ["enabled"]
    assert not manager.status("taskforge").active
    assert manager.enable("taskforge", now=True, changed=True) == ["enabled", "started"]
    assert manager.status("taskforge")[:4] == (True, True, "running", 4711)
    assert manager.enable("taskforge", now=True, changed=False) == ["enabled"]
    assert manager.enable("taskforge", now=True, changed=True) == ["enabled", "restarted"]
    assert manager.disable("taskforge") == ["stopped", "disabled"]
    assert not manager.status("taskforge").enabled
    assert machine.calls() == [
        f"enable {service}", f"enable {service}", f"bootstrap {domain} {path}", f"enable {service}",
        f"enable {service}", f"bootout {service}", f"bootstrap {domain} {path}", f"bootout {service}",
        f"disable {service}",
    ]  # fmt: skip
    machine.environ["PATH"] = str(machine.home)
    assert "there is no launchd" in (manager.missing() or "")
    with pytest.raises(CommandError):
        manager.disable("taskforge")


def test_a_machine_without_the_word_linux_has_systemd(machine: Machine) -> None:
    assert isinstance(find_manager(machine.environ, "linux"), Systemd)
    machine.environ["XDG_CONFIG_HOME"] = "/etc/ada"
    assert find_manager(machine.environ, "linux").path("x") == Path("/etc/ada/systemd/user/x.service")
