"""Every setting: its section, key, default, range and one line of explanation. The only place that knows them.

`config.toml`, `contracts/config.schema.json` and the words of refusals are made from these declarations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from taskforge.config.values import Rule, Value, check_host, check_provider, check_range, check_token, check_url
from taskforge.core.record import dataclass

_T = TypeVar("_T", bound=Value)
_MIB = 1024 * 1024


def _setting(default: _T, doc: str, **rule: Any) -> _T:
    declared = Rule(default, doc, **rule)
    return field(default=default, repr=not declared.secret, metadata={"rule": declared})


class _Fixed:
    """Settings stay as they were read: an assignment is an error, at run time too."""

    __slots__ = ()

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: object) -> None:
            if hasattr(self, name):
                raise dataclasses.FrozenInstanceError(f"the setting {name} cannot be changed")
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True)
class AuthSettings(_Fixed):
    token: str = _setting(
        "", "The administrator's token; whoever has it may do everything.", check=check_token, secret=True
    )


@dataclass(frozen=True, slots=True)
class ServerSettings(_Fixed):
    host: str = _setting("127.0.0.1", "Address to listen on.", check=check_host)
    port: int = _setting(7788, "Port to listen on; 0 takes a free one.", low=0, high=65_535)
    allowed_hosts: tuple[str, ...] = _setting(
        (), "Further names that a Host header may have.", check=check_host, entries="host names"
    )
    public_url: str = _setting(
        "", "Where others reach this server, for links that it gives out; else its own address.", check=check_url
    )
    body_limit: int = _setting(16 * _MIB, "Largest request body, in bytes.", low=1024, high=1024 * _MIB)
    tls_cert: str = _setting("", "Certificate chain (PEM file) for HTTPS; a path, seen from the home directory.")
    tls_key: str = _setting("", "Private key (PEM file) of the certificate.")
    trusted_proxies: tuple[str, ...] = _setting(
        (), "Proxies whose X-Forwarded headers are believed.", check=check_range, entries="IP ranges"
    )


@dataclass(frozen=True, slots=True)
class EngineSettings(_Fixed):
    max_attempts_in_flight: int = _setting(64, "Attempts that run at the same time.", low=1, high=10_000)
    lease_seconds: float = _setting(
        30.0, "How long an attempt may go without renewal before it counts as lost.", low=1, high=3600
    )
    grace_seconds: float = _setting(10.0, "How long attempts may go on after SIGTERM.", low=0, high=3600)
    poll_seconds: float = _setting(
        2.0, "Longest pause between two looks for due work that no event told of.", low=0.05, high=60
    )


@dataclass(frozen=True, slots=True)
class ExpressionSettings(_Fixed):
    timeout_seconds: float = _setting(1.0, "Longest evaluation of one expression.", low=0.01, high=60)
    memory_mib: int = _setting(512, "Memory of one evaluator process.", low=64, high=65_536)
    children: int = _setting(2, "Evaluator processes; they start when first needed.", low=2, high=64)


@dataclass(frozen=True, slots=True)
class LimitSettings(_Fixed):
    document_bytes: int = _setting(256 * 1024, "Largest workflow document.", low=1024, high=16 * _MIB)
    steps: int = _setting(500, "Most steps in a workflow.", low=1, high=10_000)
    nesting: int = _setting(10, "Deepest nesting of steps.", low=1, high=50)
    input_bytes: int = _setting(_MIB, "Largest input of a run.", low=1024, high=64 * _MIB)
    output_bytes: int = _setting(_MIB, "Largest output of a step, and largest HTTP answer.", low=1024, high=64 * _MIB)
    foreach_items: int = _setting(10_000, "Most items of a foreach.", low=1, high=1_000_000)
    webhook_bytes: int = _setting(_MIB, "Largest body of a webhook delivery.", low=1024, high=64 * _MIB)
    queued_runs: int = _setting(
        20_000, "QUEUED runs from which on deliveries are answered 503.", low=1, high=10_000_000
    )
    free_disk_mib: int = _setting(
        64, "Free space below which deliveries are answered 503; no more than 2 % of the disk.", low=0, high=1_048_576
    )


@dataclass(frozen=True, slots=True)
class InboxSettings(_Fixed):
    keep_days: float = _setting(
        30.0, "How long webhook deliveries are kept; a delivery id starts one run within it.", low=1, high=3650
    )
    keep_mib: int = _setting(1024, "Bodies that are kept; the oldest go first.", low=1, high=1_048_576)


@dataclass(frozen=True, slots=True)
class RetentionSettings(_Fixed):
    runs_days: float = _setting(90.0, "How long runs are kept after their end; 0: for ever.", low=0, high=3650)
    runs_count: int = _setting(0, "Ended runs that are kept, the newest; 0: any number.", low=0, high=1_000_000_000)
    home_mib: int = _setting(
        0,
        "Size of the home from which on the oldest backups and ended runs go; 0: any size.",
        low=0,
        high=1_073_741_824,
    )
    backups: int = _setting(0, "Files that are kept in backups/, the newest; 0: any number.", low=0, high=1_000_000)
    every_seconds: float = _setting(600.0, "Pause between two looks at these limits.", low=0.1, high=86_400)


@dataclass(frozen=True, slots=True)
class HttpSettings(_Fixed):
    connect_timeout_seconds: float = _setting(
        10.0, "Longest wait for a connection of an http step.", low=0.01, high=600
    )
    default_timeout_seconds: float = _setting(
        30.0, "Longest attempt of an http step without a timeout of its own.", low=0.01, high=86_400
    )
    per_host_limit: int = _setting(32, "Connections to one host at the same time.", low=1, high=10_000)
    max_redirects: int = _setting(5, "Redirects that an http step follows.", low=0, high=20)
    retry_after_cap_seconds: float = _setting(
        3600.0, "Longest pause that a Retry-After header can ask for.", low=0, high=604_800
    )


@dataclass(frozen=True, slots=True)
class EgressSettings(_Fixed):
    allow_loopback: bool = _setting(True, "May http steps reach this machine (127.0.0.0/8, ::1)?")
    allow_private: bool = _setting(True, "May http steps reach private networks (10.0.0.0/8, 192.168.0.0/16, …)?")
    allow_self: bool = _setting(False, "May http steps reach this server itself?")
    allow: tuple[str, ...] = _setting(
        (), "Ranges that are open although loopback or private is closed.", check=check_range, entries="IP ranges"
    )
    deny: tuple[str, ...] = _setting(
        (), "Ranges that are closed, whatever else says.", check=check_range, entries="IP ranges"
    )


@dataclass(frozen=True, slots=True)
class SecretsSettings(_Fixed):
    providers: tuple[str, ...] = _setting(
        ("store",),
        "Where $secrets come from, in order: store, env:PREFIX, file:DIRECTORY, command:PROGRAM.",
        check=check_provider,
        entries="providers",
    )
    cache_seconds: float = _setting(
        60.0, "How long a value of another provider than the store is kept.", low=1, high=86_400
    )
    command_timeout_seconds: float = _setting(
        10.0, "Longest time that a command may take to print a value.", low=0.1, high=600
    )


@dataclass(frozen=True, slots=True)
class AuditSettings(_Fixed):
    keep_days: float = _setting(365.0, "How long entries of the audit log are kept.", low=1, high=36_500)


@dataclass(frozen=True, slots=True)
class LogSettings(_Fixed):
    level: str = _setting("info", "Least severe entry that is written.", choices=("debug", "info", "warning", "error"))
    format: str = _setting(
        "auto",
        "How entries look; auto is console on a terminal, else json.",
        choices=("auto", "json", "console"),
    )
    file_mib: int = _setting(
        16, "Size from which serve.log is put aside as serve.log.1, which takes the place of an older one.",
        low=1, high=10_240,
    )  # fmt: skip


SECTIONS: Final = {
    "auth": AuthSettings,
    "server": ServerSettings,
    "engine": EngineSettings,
    "expressions": ExpressionSettings,
    "limits": LimitSettings,
    "inbox": InboxSettings,
    "retention": RetentionSettings,
    "http": HttpSettings,
    "egress": EgressSettings,
    "secrets": SecretsSettings,
    "audit": AuditSettings,
    "log": LogSettings,
}


@dataclass(frozen=True, slots=True)
class Settings(_Fixed):
    """What the program runs with. `sources` names where each setting that is no default came from, by `section.key`."""

    home: Path
    auth: AuthSettings = AuthSettings()
    server: ServerSettings = ServerSettings()
    engine: EngineSettings = EngineSettings()
    expressions: ExpressionSettings = ExpressionSettings()
    limits: LimitSettings = LimitSettings()
    inbox: InboxSettings = InboxSettings()
    retention: RetentionSettings = RetentionSettings()
    http: HttpSettings = HttpSettings()
    egress: EgressSettings = EgressSettings()
    secrets: SecretsSettings = SecretsSettings()
    audit: AuditSettings = AuditSettings()
    log: LogSettings = LogSettings()
    sources: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def rules() -> dict[str, dict[str, Rule]]:
    """Every declaration, by section and key, in the order of the file."""
    return {
        name: {entry.name: entry.metadata["rule"] for entry in dataclasses.fields(section)}
        for name, section in SECTIONS.items()
    }
