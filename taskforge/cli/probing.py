"""Asking a server on this machine, whatever its certificate says, whether it is there: without a token, in little time.

A client that verifies would refuse a certificate that names the public host; nothing secret is sent here.
"""

from __future__ import annotations

import http.client
import json
import ssl
from typing import NamedTuple
from urllib.parse import urlsplit

_PATIENCE_S = 2.0
_LONGEST = 1 << 20


class Probe(NamedTuple):
    """What came back: the status, and the JSON object that came with it (empty for anything else)."""

    status: int
    body: dict[str, object]

    @property
    def is_ours(self) -> bool:
        """Does this look like TaskForge? Its health answers are either `{"status": …}` or a problem with a code."""
        return isinstance(self.body.get("status"), str) or isinstance(self.body.get("code"), str)


def probe(url: str, path: str = "/readyz", patience_s: float = _PATIENCE_S) -> Probe | None:
    """GET one path without a token. None: nobody answers HTTP there."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=patience_s, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=patience_s)
    try:
        connection.request("GET", path, headers={"Accept": "application/json", "Connection": "close"})
        answer = connection.getresponse()
        content = answer.read(_LONGEST)
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    return Probe(answer.status, body if isinstance(body, dict) else {})
