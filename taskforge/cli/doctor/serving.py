"""The server of the home: whether one runs, answers, and takes the token; or whether one could listen."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from taskforge.cli.doctor.finding import Finding, failure, note, ok, warning
from taskforge.cli.probing import Probe, probe
from taskforge.config.lock import PID_FILE, Holder
from taskforge.config.settings import Settings

_LOGS = "taskforge logs --level warning"
_RESTART = "taskforge down && taskforge up"


def check_stopped(home: Path, holder: Holder | None, settings: Settings | None) -> Iterator[Finding]:
    """No process holds the home. `holder`: what `serve.pid` says nevertheless."""
    yield note("SERVER_STOPPED", "none runs", "taskforge up")
    if holder is not None:
        words = f"{home / PID_FILE} names process {holder.pid}, which is gone; it does no harm"
        yield note("PID_STALE", words, "taskforge up   (writes it anew)")
    if settings is not None and settings.server.port:
        yield check_port(settings.server.host, settings.server.port, "https" if settings.server.tls_cert else "http")


def check_running(holder: Holder | None, settings: Settings | None, given: str | None = None) -> Iterator[Finding]:
    """A process holds the home: it must answer, be ready, be of this version, and take the tokens: that of the
    configuration, and the one that is `given` to commands instead."""
    who = f"process {holder.pid}" if holder else "a process that serve.pid does not name"
    kill = "taskforge down --timeout 10s --kill && taskforge up   (nothing that was accepted is lost)"
    if holder is None or not holder.url:
        yield failure("SERVER_SILENT", f"{who} holds the home, and has not said where it listens: it starts, or hangs",
                      f"wait; then {_LOGS}, and {kill}")  # fmt: skip
        return
    from taskforge.cli.connection import reachable_url

    url = reachable_url(holder.url)
    answer = probe(url)
    if holder.stopping:
        yield note("SERVER_STOPPING", f"{who} at {url} was told to end", "taskforge down   (waits for it)")
        return
    if answer is None or not answer.is_ours:
        yield failure("SERVER_SILENT", f"{who} holds the home, but does not answer at {url}", f"{_LOGS}; {kill}")
        return
    if answer.status != 200:
        reason = answer.body.get("detail") or f"it answers {answer.status}"
        yield failure("SERVER_NOT_READY", f"{who} at {url} is not ready: {reason}", f"{_LOGS}; {_RESTART}")
    else:
        held = "; everything is held back" if answer.body.get("held") is True else ""
        yield ok("SERVER_READY", f"{who} is ready at {url}{held}")
    yield from _check_version(probe(url, "/openapi.json"))
    if settings is not None and settings.auth.token:
        fix = f"the token in config.toml was changed since the server started: {_RESTART}"
        yield check_token(url, settings, settings.auth.token, "the token of the configuration", fix)
    if settings is not None and given:
        yield check_token(url, settings, given, "TASKFORGE_TOKEN of this shell", "unset TASKFORGE_TOKEN")


def _check_version(answer: Probe | None) -> Iterator[Finding]:
    from taskforge import __version__

    info = answer.body.get("info") if answer is not None else None
    version = info.get("version") if isinstance(info, dict) else None
    if isinstance(version, str) and version != __version__:
        yield warning("VERSION_DIFFERS", f"the server is TaskForge {version}, this program is {__version__}", _RESTART)


def check_token(url: str, settings: Settings, token: str, what: str, fix: str) -> Finding:
    """Try a token on a call that changes nothing."""
    from taskforge.cli.client import Client
    from taskforge.cli.connection import Connection, own_certificate
    from taskforge.cli.failure import CommandError

    if not all("!" <= char <= "~" for char in token):
        return failure("TOKEN_REFUSED", f"{what} has characters that no token has", fix)
    client = Client(Connection(url, token, True, settings.home, own_certificate(settings)))
    try:
        client.get("stats")
    except CommandError as error:
        return failure("TOKEN_REFUSED", f"{what} does not open the server: {error.message}", fix)
    finally:
        client.close()
    return ok("TOKEN_OK", f"{what} is accepted")


def check_elsewhere(server: str | None, profile: str | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """An option, a variable or a profile that turns commands away from the home's server."""
    from taskforge.cli.connection import find_connection
    from taskforge.cli.failure import CommandError
    from taskforge.core.errors import StartupError

    try:
        connection = find_connection(server, None, environ, profile)
    except CommandError as error:
        yield note("SERVER_ELSEWHERE", f"commands of this shell find no server: {error.message}", error.hint)
        return
    except StartupError:  # the configuration, which is told elsewhere
        return
    if not connection.local:
        words = (
            f"commands of this shell talk to {connection.url} ({connection.chosen_by}); these checks are of the home"
        )
        yield note("SERVER_ELSEWHERE", words, "unset TASKFORGE_SERVER TASKFORGE_PROFILE; taskforge profile list")


def check_port(host: str, port: int, scheme: str = "http") -> Finding:
    """Could the server listen there? Tries it for a moment, as the server will."""
    place = f"{host} port {port}"
    other = "choose another [server] port, or --port"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as trial:
            if os.name == "posix":
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except socket.gaierror as error:
        words = f"[server] host {host} is no address: {(error.strerror or str(error)).lower()}"
        return failure("ADDRESS_UNKNOWN", words, "set [server] host to an address of this machine, as 127.0.0.1")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return _taken(host, port, scheme)
        if error.errno in (errno.EACCES, errno.EPERM):
            return failure(
                "PORT_FORBIDDEN", f"this user may not listen on {place}", f"{other}; those above 1023 are for all"
            )
        words = f"nobody can listen on {place} here: {(error.strerror or str(error)).lower()}"
        return failure("ADDRESS_UNKNOWN", words, "set [server] host to an address of this machine, as 127.0.0.1")
    return ok("PORT_OK", f"{place} is free")


def _taken(host: str, port: int, scheme: str) -> Finding:
    from taskforge.cli.connection import reachable_url
    from taskforge.cli.doctor.listeners import find_listener

    shown = f"[{host}]" if ":" in host else host
    answer = probe(reachable_url(f"{scheme}://{shown}:{port}"), patience_s=0.5)
    who = find_listener(port)
    if answer is not None and answer.is_ours:
        by = "a TaskForge server of another home" + (f", {who}" if who else "")
    else:
        by = who or "another program; find it with: ss -ltnp"
    words = f"{host} port {port} is taken by {by}, so the server of this home cannot start"
    return failure("PORT_TAKEN", words, "stop that, or choose another [server] port")
