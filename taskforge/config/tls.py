"""The certificate and the key of HTTPS: read once before anything starts, so that what is wrong is told then."""

from __future__ import annotations

import ssl

from taskforge.config.settings import Settings
from taskforge.core.errors import StartupError


def check_tls(settings: Settings) -> None:
    """StartupError when the files that the configuration names cannot serve; nothing without such files."""
    server = settings.server
    if not server.tls_cert:
        return
    cert, key = settings.home / server.tls_cert, settings.home / server.tls_key
    for path in (cert, key):
        try:
            path.read_bytes()
        except OSError as error:
            raise StartupError(f"cannot read {path} ([server] tls_cert, tls_key): {error.strerror}") from None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, lambda: "")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise StartupError(
            f"{cert} and {key} cannot be used for TLS ({getattr(error, 'reason', None) or error}): they must be a "
            "certificate and its key, both PEM, the key without a passphrase"
        ) from None
