"""The text of a systemd unit and of a launchd property list. Pure: the same facts give the same bytes."""

from __future__ import annotations

import plistlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

MARK: Final = "Made by `taskforge service install`"
"""Stands in every file of ours; one without it is never overwritten or removed."""

_MARGIN_S: Final = 15
"""Beyond the grace time: storing what ended, closing the database. The same as `taskforge down` waits."""


class Facts(NamedTuple):
    """What a service file says. `command` starts the server; `environ` is what it needs beside TASKFORGE_HOME."""

    name: str
    home: Path
    command: Sequence[str]
    environ: Mapping[str, str]
    grace_s: float


class Unwritable(Exception):
    """A path or a value that the file cannot hold; the message says which."""


def stop_seconds(grace_s: float) -> int:
    """How long the service's manager must wait before it kills."""
    return int(-(-grace_s // 1)) + _MARGIN_S


def systemd_unit(facts: Facts) -> str:
    """A unit for the user's own systemd. Raises Unwritable."""
    environ = {"TASKFORGE_HOME": str(facts.home), **facts.environ}
    variables = [f"Environment={_quoted(f'{name}={value}')}" for name, value in environ.items()]
    # `:` makes $ a plain character in a command line, as it is in an environment.
    started = (":" if any("$" in part for part in facts.command) else "") + " ".join(map(_quoted, facts.command))
    return "\n".join(
        [
            f"# {MARK}; `taskforge service install` writes it anew.",
            f"# Changes of your own are kept in: systemctl --user edit {facts.name}",
            "[Unit]",
            f"Description=TaskForge ({_escaped(str(facts.home))})",
            "StartLimitIntervalSec=60",
            "StartLimitBurst=5",
            "",
            "[Service]",
            "Type=exec",
            *variables,
            f"ExecStart={started}",
            "Restart=on-failure",
            "RestartSec=1",
            "# A second signal ends the server at once, with 130.",
            "SuccessExitStatus=130",
            "# SIGTERM goes to the server alone: its children are needed until the last attempt has ended.",
            "KillMode=mixed",
            f"TimeoutStopSec={stop_seconds(facts.grace_s)}",
            "# An evaluator that runs out of memory is started again by the server.",
            "OOMPolicy=continue",
            "LimitNOFILE=65536",
            "UMask=0077",
            "NoNewPrivileges=yes",
            "LockPersonality=yes",
            "RestrictRealtime=yes",
            "RestrictSUIDSGID=yes",
            "RestrictNamespaces=yes",
            "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
            "SystemCallArchitectures=native",
            "",
            "[Install]",
            "WantedBy=default.target",
            "",
        ]
    )


def launchd_plist(facts: Facts, label: str) -> bytes:
    """A property list for the user's own launchd. Raises Unwritable."""
    environ = {"TASKFORGE_HOME": str(facts.home), **facts.environ}
    for text in (*facts.command, *environ.values()):
        _plain(text)
    log = str(facts.home / "serve.log")
    wanted: dict[str, Any] = {
        "Comment": f"{MARK}, which writes it anew.",
        "Label": label,
        "ProgramArguments": list(facts.command),
        "EnvironmentVariables": environ,
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 5,
        "ExitTimeOut": stop_seconds(facts.grace_s),
        "SoftResourceLimits": {"NumberOfFiles": 8192},
        "Umask": 0o077,
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    return plistlib.dumps(wanted, sort_keys=False)


def is_ours(content: bytes) -> bool:
    """Was this file made by us?"""
    return MARK.encode() in content


def unit_home(content: bytes) -> str | None:
    """The home that a file of ours serves."""
    for line in content.decode("utf-8", "replace").splitlines():
        if line.startswith('Environment="TASKFORGE_HOME='):
            text = line.removeprefix('Environment="TASKFORGE_HOME=').removesuffix('"')
            return text.replace("%%", "%").replace('\\"', '"').replace("\\\\", "\\")
    try:
        environ = plistlib.loads(content).get("EnvironmentVariables", {})
    except Exception:  # plistlib raises whatever its XML parser does
        return None
    home = environ.get("TASKFORGE_HOME") if isinstance(environ, dict) else None
    return home if isinstance(home, str) else None


def _plain(text: str) -> str:
    if not text.isprintable():
        raise Unwritable(f"{text!r} has characters that a service file cannot hold")
    return text


def _escaped(text: str) -> str:
    """% begins a specifier of systemd's."""
    return _plain(text).replace("%", "%%")


def _quoted(text: str) -> str:
    """One word, whatever is in it (systemd.syntax, "Quoting")."""
    return '"' + _escaped(text).replace("\\", "\\\\").replace('"', '\\"') + '"'
