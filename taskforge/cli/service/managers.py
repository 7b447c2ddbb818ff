"""systemd and launchd, each through its own command: where the file goes, and how it is enabled and asked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from taskforge.cli.failure import CommandError
from taskforge.cli.service.texts import Facts, launchd_plist, systemd_unit

_PATIENCE_S: Final = 120


class Status(NamedTuple):
    """What the manager says of a service. `enabled`: it starts by itself; `state` is the manager's own word."""

    enabled: bool
    active: bool
    state: str
    pid: int | None = None


class Manager(Protocol):
    """What starts services on this machine."""

    kind: str
    logs: str

    def path(self, name: str) -> Path:
        """Where the file of a service is."""

    def content(self, facts: Facts) -> bytes:
        """What stands in it. Raises Unwritable."""

    def missing(self) -> str | None:
        """Why this manager cannot be used here, or None."""

    def enable(self, name: str, *, now: bool, changed: bool) -> list[str]:
        """Start it by itself from now on, and at once with `now`. Returns what was done."""

    def disable(self, name: str) -> list[str]:
        """Stop it and never start it by itself again. Returns what was done."""

    def forget(self, name: str) -> None:
        """The file is gone."""

    def status(self, name: str) -> Status:
        """What the manager says of it."""

    def at_boot(self) -> str | None:
        """What a person must do so that it runs without a login; None when nothing is to be done."""


class Systemd:
    """The systemd of the user (systemctl --user)."""

    kind = "systemd"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.logs = "journalctl --user -u {name}"

    def path(self, name: str) -> Path:
        base = self._environ.get("XDG_CONFIG_HOME") or os.path.join(_user_home(self._environ), ".config")
        return Path(base) / "systemd" / "user" / f"{name}.service"

    def content(self, facts: Facts) -> bytes:
        return systemd_unit(facts).encode()

    def missing(self) -> str | None:
        if shutil.which("systemctl", path=self._environ.get("PATH")) is None:
            return "there is no systemd on this machine (systemctl is not there)"
        done = self._ask("show", "--property=Version")
        return None if done.returncode == 0 else f"the systemd of this user cannot be reached: {_words(done)}"

    def enable(self, name: str, *, now: bool, changed: bool) -> list[str]:
        self._do("daemon-reload")
        self._do("enable", f"{name}.service")
        if not now:
            return ["enabled"]
        if self.status(name).active:
            if not changed:
                return ["enabled"]
            self._do("restart", f"{name}.service")
            return ["enabled", "restarted"]
        self._do("start", f"{name}.service")
        return ["enabled", "started"]

    def disable(self, name: str) -> list[str]:
        active = self.status(name).active
        self._do("disable", "--now", f"{name}.service")
        return (["stopped"] if active else []) + ["disabled"]

    def forget(self, name: str) -> None:
        self._do("daemon-reload")
        self._ask("reset-failed", f"{name}.service")

    def status(self, name: str) -> Status:
        done = self._ask("show", "--property=ActiveState,SubState,UnitFileState,MainPID", f"{name}.service")
        found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
        state, pid = found.get("ActiveState", "unknown"), found.get("MainPID", "0")
        sub = found.get("SubState", "")
        return Status(
            found.get("UnitFileState", "").startswith("enabled"),
            state in ("active", "activating", "reloading"),
            f"{state} ({sub})" if sub else state,
            int(pid) if pid.isdigit() and pid != "0" else None,
        )

    def at_boot(self) -> str | None:
        user = self._environ.get("USER") or self._environ.get("LOGNAME") or str(os.geteuid())
        if shutil.which("loginctl", path=self._environ.get("PATH")) is not None:
            done = _run(["loginctl", "show-user", user, "--property=Linger"], self._environ)
            if "Linger=yes" in done.stdout:
                return None
        return f"it runs while you are logged in; so that it starts with the machine: loginctl enable-linger {user}"

    def _ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return _run(["systemctl", "--user", "--no-pager", *arguments], self._environ)

    def _do(self, *arguments: str) -> None:
        done = self._ask(*arguments)
        if done.returncode != 0:
            raise CommandError(
                f"systemctl --user {' '.join(arguments)} failed (exit code {done.returncode})",
                lines=done.stderr.strip().splitlines()[:5],
                hint="systemctl --user status shows whether your session has a systemd of its own",
            )


class Launchd:
    """The launchd of the user (a LaunchAgent)."""

    kind = "launchd"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._domain = f"gui/{os.geteuid()}"
        self.logs = "taskforge logs"

    def path(self, name: str) -> Path:
        return Path(_user_home(self._environ)) / "Library" / "LaunchAgents" / f"{_label(name)}.plist"

    def content(self, facts: Facts) -> bytes:
        return launchd_plist(facts, _label(facts.name))

    def missing(self) -> str | None:
        if shutil.which("launchctl", path=self._environ.get("PATH")) is None:
            return "there is no launchd on this machine (launchctl is not there)"
        return None

    def enable(self, name: str, *, now: bool, changed: bool) -> list[str]:
        self._do("enable", f"{self._domain}/{_label(name)}")
        if not now:
            return ["enabled"]
        if self._is_loaded(name):
            if not changed:
                return ["enabled"]
            self._do("bootout", f"{self._domain}/{_label(name)}")
            self._do("bootstrap", self._domain, str(self.path(name)))
            return ["enabled", "restarted"]
        self._do("bootstrap", self._domain, str(self.path(name)))
        return ["enabled", "started"]

    def disable(self, name: str) -> list[str]:
        done = []
        if self._is_loaded(name):
            self._do("bootout", f"{self._domain}/{_label(name)}")
            done.append("stopped")
        self._do("disable", f"{self._domain}/{_label(name)}")
        return [*done, "disabled"]

    def forget(self, name: str) -> None: ...

    def status(self, name: str) -> Status:
        service = f"{self._domain}/{_label(name)}"
        disabled = _run(["launchctl", "print-disabled", self._domain], self._environ).stdout
        off = re.search(rf'"{re.escape(_label(name))}" => (?:true|disabled)', disabled) is not None
        done = _run(["launchctl", "print", service], self._environ)
        if done.returncode != 0:
            return Status(self.path(name).exists() and not off, False, "not loaded")
        state = re.search(r"^\s*state = (.+)$", done.stdout, re.MULTILINE)
        pid = re.search(r"^\s*pid = (\d+)$", done.stdout, re.MULTILINE)
        word = state[1].strip() if state else "loaded"
        return Status(not off, word == "running", word, int(pid[1]) if pid else None)

    def at_boot(self) -> str | None:
        return "it runs while you are logged in"

    def _is_loaded(self, name: str) -> bool:
        return _run(["launchctl", "print", f"{self._domain}/{_label(name)}"], self._environ).returncode == 0

    def _do(self, *arguments: str) -> None:
        done = _run(["launchctl", *arguments], self._environ)
        if done.returncode != 0:
            raise CommandError(
                f"launchctl {' '.join(arguments)} failed (exit code {done.returncode})",
                lines=done.stderr.strip().splitlines()[:5],
            )


def find_manager(environ: Mapping[str, str], platform: str = sys.platform) -> Manager:
    """The one of this operating system, whether or not it is there."""
    return Launchd(environ) if platform == "darwin" else Systemd(environ)


def _label(name: str) -> str:
    return f"dev.taskforge.{name}"


def _user_home(environ: Mapping[str, str]) -> str:
    return environ.get("HOME") or os.path.expanduser("~")


def _words(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[0]


def _run(command: list[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    program = shutil.which(command[0], path=environ.get("PATH")) or command[0]
    try:
        done = subprocess.run(
            [program, *command[1:]],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
    return subprocess.CompletedProcess(
        command, done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    )
