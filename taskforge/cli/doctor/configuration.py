"""The settings, the address they open, and the certificate they name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from taskforge.cli.doctor.finding import Finding, failure, ok, warning
from taskforge.config.reading import CONFIG_FILE
from taskforge.config.settings import Settings

_DAY_MS: Final = 86_400_000
_SOON_DAYS: Final = 14


def read_settings(home: Path, environ: Mapping[str, str]) -> tuple[Settings | None, list[Finding]]:
    """The settings, or every fault in them. Who can read the file is told elsewhere."""
    from taskforge.config.reading import ConfigError, load_settings

    try:
        settings = load_settings(home, environ)
    except ConfigError as error:
        fix = f"mend {home / CONFIG_FILE} or the variable; every setting with its default: taskforge init in a new home"
        return None, [failure("CONFIG_INVALID", line, fix) for line in error.message.splitlines()]
    return settings, []


def check_settings(settings: Settings, now: int) -> Iterator[Finding]:
    """What can be said of settings that are valid."""
    path = settings.home / CONFIG_FILE
    wrong = False
    if not path.exists():
        wrong = True
        yield warning("CONFIG_MISSING", f"there is no {path}; the next start makes one, with a new token",
                      "put it back from your backup, or: taskforge init")  # fmt: skip
    elif not settings.auth.token:
        wrong = True
        yield failure("TOKEN_MISSING", f"{path} has no [auth] token, so nobody can administer the server",
                      f"write one into {path}: [auth] token = \"…\"   (openssl rand -hex 32 makes one)")  # fmt: skip
    for words in settings.warnings:
        if "can be read by others" not in words:
            wrong = True
            yield warning("CONFIG_WARNING", words, f"look at {path}")
    host = settings.server.host
    loopback = host in ("localhost", "::1") or host.startswith("127.")
    if not loopback and not settings.server.tls_cert and not settings.server.trusted_proxies:
        wrong = True
        fix = "set [server] tls_cert and tls_key, or put a proxy in front and name it in trusted_proxies"
        yield warning("ADDRESS_EXPOSED", f"the server listens on {host} without TLS", fix)
    found = check_certificate(settings, now)
    if found is not None:
        wrong = True
        yield found
    if not wrong:
        set_here = len(settings.sources)
        yield ok("CONFIG_OK", f"{set_here} settings are set, the others have their defaults")


def check_certificate(settings: Settings, now: int) -> Finding | None:
    """Whether the files can be used, and how long the certificate is valid."""
    import ssl

    from taskforge.config.tls import certificate_times_ms, check_tls
    from taskforge.core.clock import to_rfc3339
    from taskforge.core.errors import StartupError

    if not settings.server.tls_cert:
        return None
    try:
        check_tls(settings)
    except StartupError as error:
        return failure(
            "TLS_UNUSABLE", error.message, "put certificate and key back, or change [server] tls_cert, tls_key"
        )
    path = settings.home / settings.server.tls_cert
    try:
        begins, ends = certificate_times_ms(path, settings.home / settings.server.tls_key)
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", None) or error.reason or error
        return failure("TLS_UNUSABLE", f"no client can take the certificate {path}: {why}", "get one for a TLS server")
    if begins > now:
        fix = "look at the machine's clock; else wait, or get a certificate that is valid now"
        return failure("TLS_NOT_YET", f"the certificate {path} is not valid before {to_rfc3339(begins)}", fix)
    left = (ends - now) // _DAY_MS
    fix = f"renew the certificate {path}, then: taskforge down && taskforge up"
    if left < 0:
        return failure("TLS_EXPIRED", f"the certificate {path} was valid until {to_rfc3339(ends)[:10]}", fix)
    if left < _SOON_DAYS:
        return warning("TLS_EXPIRING", f"the certificate {path} is valid for {left} more days", fix)
    return None
