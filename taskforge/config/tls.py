"""The certificate and the key of HTTPS: read once before anything starts, so that what is wrong is told then."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from taskforge.config.settings import Settings
from taskforge.core.errors import StartupError

_NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, to which Python gives no name."""


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
            "certificate and its key, both PEM, the server's own certificate first, the key without a passphrase"
        ) from None


def certificate_times_ms(cert: Path, key: Path) -> tuple[int, int]:
    """When the certificate begins and ends, in milliseconds UTC: as a client sees it that trusts nothing but this file.

    Makes a TLS handshake with itself in memory, since that is where the standard library reads a certificate. SSLError
    says why no client could take it.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key, lambda: "")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(cert)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(back, there)
    open_ends = [asking, server.wrap_bio(there, back, server_side=True)]
    while open_ends:
        end = open_ends.pop(0)
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            open_ends.append(end)
    seen = asking.getpeercert() or {}
    begins, ends = (int(ssl.cert_time_to_seconds(str(seen[name]))) * 1000 for name in ("notBefore", "notAfter"))
    return begins, ends
