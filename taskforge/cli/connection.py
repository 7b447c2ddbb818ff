"""Which server a command talks to, and with which token: options, then variables, then the home."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from taskforge.cli.failure import CommandError, Exit
from taskforge.config.lock import read_holder
from taskforge.config.reading import load_settings, resolve_home
from taskforge.config.settings import Settings


class Connection(NamedTuple):
    """`local`: the address came from the home, so that a command of ours could start this server.

    `certificate`: the file with the one certificate (PEM) that the home's own server may show.
    """

    url: str
    token: str
    local: bool
    home: Path
    certificate: Path | None = None


def find_connection(server: str | None, token: str | None, environ: Mapping[str, str]) -> Connection:
    """Raises CommandError where what was given cannot be meant."""
    home = resolve_home(environ)
    given = server or environ.get("TASKFORGE_SERVER") or ""
    secret = token or environ.get("TASKFORGE_TOKEN") or ""
    settings = load_settings(home, environ) if not (given and secret) else None
    if not given:
        assert settings is not None
        return Connection(
            home_url(settings), _usable(secret or settings.auth.token), True, home, own_certificate(settings)
        )
    url = _checked(given)
    if not secret and settings is not None and _belongs(url, settings):
        secret = settings.auth.token
    return Connection(url, _usable(secret), False, home)


def home_url(settings: Settings) -> str:
    """The address of the home's server: what a running one wrote down, else what the configuration says."""
    holder = read_holder(settings.home)
    if holder is not None and holder.url:
        return reachable_url(holder.url)
    scheme = "https" if settings.server.tls_cert else "http"
    return f"{scheme}://{_reachable(settings.server.host.strip('[]'))}:{settings.server.port}"


def own_certificate(settings: Settings) -> Path | None:
    """The certificate of the home's server: it may be for another name than the address that is used here."""
    return settings.home / settings.server.tls_cert if settings.server.tls_cert else None


def reachable_url(url: str) -> str:
    """The address by which this machine reaches a server that says it listens at `url`."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{_reachable(parts.hostname or '')}:{parts.port}"


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _reachable(host: str) -> str:
    """A server that listens on every address is reached on the loopback one."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _checked(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        fit = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        fit = False
    if not fit or parts.query or parts.fragment or parts.username is not None:
        raise CommandError(
            f"{url!r} is no address of a server", hint="write it like http://127.0.0.1:7788", code=Exit.USAGE
        )
    return parts.geturl().rstrip("/")


def _belongs(url: str, settings: Settings) -> bool:
    """The home's token is the administrator's: it goes to this machine or to the configured host, nowhere else."""
    return is_loopback(url) or urlsplit(url).hostname == settings.server.host


def _usable(token: str) -> str:
    if token and not all("!" <= char <= "~" for char in token):
        raise CommandError("the token has characters that no token has", code=Exit.UNREACHABLE)
    return token
