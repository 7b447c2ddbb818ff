"""Secrets at rest: sealed with a key derived from the home's `secret.key`, each bound to its name."""

from __future__ import annotations

from typing import Final

from nacl.exceptions import CryptoError
from nacl.secret import Aead

from taskforge.security.keys import derive_key

_PURPOSE: Final = "taskforge secrets 2"
_KEY_ID: Final = "taskforge key id 1"


class UnreadableSecret(Exception):
    """The secret was sealed with another key, under another name, or was changed since."""


class SecretBox:
    """Seals and opens values with XChaCha20-Poly1305. What is stored: a random nonce, then the sealed bytes with their
    tag. Nonces of 192 bits may be random however many values one key seals."""

    def __init__(self, key: bytes) -> None:
        self._box = Aead(derive_key(key, _PURPOSE))
        self.key_id = derive_key(key, _KEY_ID)[:8].hex()
        """Names the key without telling anything of it."""

    def seal(self, name: str, value: str) -> bytes:
        """Return what may be stored of a secret."""
        return bytes(self._box.encrypt(value.encode(), name.encode()))

    def open(self, name: str, sealed: bytes) -> str:
        """Raises UnreadableSecret."""
        try:
            return self._box.decrypt(sealed, name.encode()).decode()
        except (CryptoError, ValueError):
            raise UnreadableSecret(name) from None

    def opens(self, name: str, sealed: bytes) -> bool:
        """Whether `open` would succeed."""
        try:
            self.open(name, sealed)
        except UnreadableSecret:
            return False
        return True
