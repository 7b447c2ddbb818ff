"""The Host header. A page on a foreign name that resolves to this machine (DNS rebinding) is refused here.

A literal address cannot be rebound, so every one is admitted; names are admitted one by one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]{1,253})(?::[0-9]{1,5})?")
_REMEMBERED = 256


class HostCheck:
    """Admits localhost, literal addresses, the host that the server is bound to, and the configured names.

    A configured `*.example.com` admits every name below `example.com`.
    """

    def __init__(self, bound: str, allowed: Iterable[str]) -> None:
        names = {"localhost", bound.lower(), *(name.lower() for name in allowed)}
        self._names = {name.rstrip(".") for name in names if not name.startswith("*.")}
        self._below = tuple(name[1:] for name in names if name.startswith("*."))
        self._admitted: set[bytes] = set()

    def admits(self, host: bytes) -> bool:
        """Whether a Host header may be answered. The port is not looked at: it may be mapped."""
        if host in self._admitted:
            return True
        if not self._check(host.decode("latin-1").lower()):
            return False
        if len(self._admitted) < _REMEMBERED:
            self._admitted.add(host)
        return True

    def _check(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].rstrip(".")
        return name in self._names or self._is_below(name) or _is_address(match[1])

    def _is_below(self, name: str) -> bool:
        return any(name.endswith(suffix) and len(name) > len(suffix) for suffix in self._below)


def _is_address(text: str) -> bool:
    bare = text[1:-1] if text.startswith("[") else text
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return False
    return (address.version == 6) == text.startswith("[")
