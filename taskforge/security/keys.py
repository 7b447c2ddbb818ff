"""The home's key (`secret.key`) and the keys that are derived from it, one for each purpose.

The file has the key on its first line, 32 bytes in base64. Two kinds of lines may follow: `previous KEY` while the key
is being changed, as long as something may be sealed with it; and `link KEY`, a derived key with which one-time links
were signed before a change. From a derived key nobody gets back to the key.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
from pathlib import Path
from typing import Final, NamedTuple

from taskforge.config.home import KEY_FILE
from taskforge.core.errors import StartupError, Unavailable

_BYTES = 32
_PREVIOUS, _LINK = "previous", "link"
LINK_PURPOSE: Final = "taskforge resume link 1"
MOST_LINKS: Final = 8
"""Changes of the key after which a link of before is good no more."""


class KeyRing(NamedTuple):
    """What `secret.key` holds. `links` are derived keys, the newest first."""

    current: bytes
    previous: bytes | None = None
    links: tuple[bytes, ...] = ()

    def begin_change(self, new: bytes, *, keep_links: bool = True) -> KeyRing:
        """With a new key, and the old one beside it until everything is sealed anew."""
        links = (derive_key(self.current, LINK_PURPOSE), *self.links)[:MOST_LINKS] if keep_links else ()
        return KeyRing(new, self.current, links)

    def end_change(self) -> KeyRing:
        """Without the old one."""
        return self._replace(previous=None)


class KeyFile:
    """`secret.key` of a home: read, and replaced as a whole."""

    def __init__(self, home: Path) -> None:
        self.path = home / KEY_FILE
        self._next = home / f".next-{KEY_FILE}"

    def read(self) -> KeyRing:
        """Raises StartupError, naming the file and never its content."""
        try:
            raw = self.path.read_bytes()
        except OSError as error:
            raise StartupError(f"{self.path} cannot be read: {(error.strerror or str(error)).lower()}") from None
        first, *rest = raw.strip().split(b"\n")
        current = self._decode(first)
        previous: bytes | None = None
        links: list[bytes] = []
        for line in rest:
            word, _, key = line.partition(b" ")
            if word == _PREVIOUS.encode() and previous is None:
                previous = self._decode(key)
            elif word == _LINK.encode():
                links.append(self._decode(key))
            else:
                raise self._wrong()
        return KeyRing(current, previous, tuple(links))

    def write(self, ring: KeyRing) -> None:
        """Replace the file: old or new, never half, mode 0600, on disk on return. Raises Unavailable."""
        lines = [_encode(ring.current)]
        lines += [] if ring.previous is None else [f"{_PREVIOUS} {_encode(ring.previous)}"]
        lines += [f"{_LINK} {_encode(key)}" for key in ring.links]
        try:
            self._replace("\n".join(lines) + "\n")
        except OSError as error:
            self.remove_leftover()
            reason = (error.strerror or str(error)).lower()
            raise Unavailable(f"{self.path} cannot be written: {reason}; the key was not changed") from None

    def remove_leftover(self) -> None:
        """Remove what a death in the middle of `write` has left."""
        with contextlib.suppress(OSError):
            self._next.unlink(missing_ok=True)

    def _replace(self, text: str) -> None:
        self._next.unlink(missing_ok=True)
        handle = os.open(self._next, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self._place()

    def _place(self) -> None:
        os.replace(self._next, self.path)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _decode(self, text: bytes) -> bytes:
        try:
            key = base64.b64decode(text.strip(), validate=True)
        except binascii.Error:
            key = b""
        if len(key) != _BYTES:
            raise self._wrong()
        return key

    def _wrong(self) -> StartupError:
        return StartupError(f"{self.path} holds no key of {_BYTES} bytes in base64; put the key back from your backup")


def read_key(home: Path) -> bytes:
    """Return the 32 bytes of the home's key. Raises StartupError, naming the file and never its content."""
    return KeyFile(home).read().current


def new_key() -> bytes:
    """A new key for a home."""
    return os.urandom(_BYTES)


def derive_key(key: bytes, purpose: str) -> bytes:
    """Return a key of 32 bytes for one purpose: HKDF-SHA256 (RFC 5869) without a salt, one block."""
    extracted = hmac.digest(bytes(_BYTES), key, hashlib.sha256)
    return hmac.digest(extracted, purpose.encode() + b"\x01", hashlib.sha256)


def _encode(key: bytes) -> str:
    return base64.b64encode(key).decode("ascii")
