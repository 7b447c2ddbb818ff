"""Secrets at rest: sealed with a key derived from the home's `secret.key`, each bound to its name."""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from taskforge.security.keys import derive_key

_PURPOSE: Final = "taskforge secrets 1"
_KEY_ID: Final = "taskforge key id 1"
_NONCE_BYTES: Final = 12


class UnreadableSecret(Exception):
    """The secret was sealed with another key, under another name, or was changed since."""


class SecretBox:
    """Seals and opens values with AES-256-GCM. What is stored: a random nonce, then the sealed bytes with their tag."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(derive_key(key, _PURPOSE))
        self.key_id = derive_key(key, _KEY_ID)[:8].hex()
        """Names the key without telling anything of it."""

    def seal(self, name: str, value: str) -> bytes:
        """Return what may be stored of a secret."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, value.encode(), name.encode())

    def open(self, name: str, sealed: bytes) -> str:
        """Raises UnreadableSecret."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode()).decode()
        except (InvalidTag, ValueError):
            raise UnreadableSecret(name) from None
