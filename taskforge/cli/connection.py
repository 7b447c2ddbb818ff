"""Which server a command talks to, and with which token: options, then variables, then a profile, then the home."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from taskforge.cli.failure import CommandError, Exit
from taskforge.config.lock import read_holder
from taskforge.config.profiles import Profile, load_profiles, profiles_path
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
    chosen_by: str = "home"
    """What has decided on the server, in words."""


def find_connection(
    server: str | None, token: str | None, environ: Mapping[str, str], profile: str | None = None
) -> Connection:
    """Raises CommandError where what was given cannot be meant.

    A server is said by, in this order: --server, --profile, TASKFORGE_SERVER, TASKFORGE_PROFILE, the current profile,
    the home. A profile's token goes to its own server and nowhere else.
    """
    if server and profile:
        raise CommandError("--server and --profile both say which server; give one of them", code=Exit.USAGE)
    home = resolve_home(environ)
    given = server or ("" if profile else environ.get("TASKFORGE_SERVER") or "")
    secret = token or environ.get("TASKFORGE_TOKEN") or ""
    if not given:
        chosen = _find_profile(profile, environ)
        if chosen is not None:
            found, words = chosen
            # A profile that is named on the command line brings its token; else the variable goes before it.
            own = token or found.token or secret if profile else secret or found.token
            return Connection(checked_url(found.server), _usable(own), False, home, chosen_by=words)
    settings = load_settings(home, environ) if not (given and secret) else None
    if not given:
        assert settings is not None
        return Connection(
            home_url(settings), _usable(secret or settings.auth.token), True, home, own_certificate(settings)
        )
    url = checked_url(given)
    if not secret and settings is not None and _belongs(url, settings):
        secret = settings.auth.token
    return Connection(url, _usable(secret), False, home, chosen_by="--server" if server else "TASKFORGE_SERVER")


def _find_profile(named: str | None, environ: Mapping[str, str]) -> tuple[Profile, str] | None:
    """The profile that says which server, and the words for why it does."""
    path = profiles_path(environ)
    name = named or environ.get("TASKFORGE_PROFILE") or ""
    if not name and (path is None or not path.exists()):
        return None
    from taskforge.cli.profile import require_profile

    profiles = load_profiles(environ)
    if name:
        return require_profile(profiles, name), f"profile {name} ({'--profile' if named else 'TASKFORGE_PROFILE'})"
    if profiles.current is None:
        return None
    return require_profile(profiles, profiles.current), f"profile {profiles.current} (taskforge profile use)"


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


def checked_url(url: str) -> str:
    """The address of a server, in one form. Raises CommandError."""
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
