"""The home's key (`secret.key`) and the keys that are derived from it, one for each purpose."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from pathlib import Path

from taskforge.config.home import KEY_FILE
from taskforge.core.errors import StartupError

_BYTES = 32


def read_key(home: Path) -> bytes:
    """Return the 32 bytes of the home's key. Raises StartupError, naming the file and never its content."""
    path = home / KEY_FILE
    try:
        key = base64.b64decode(path.read_bytes().strip(), validate=True)
    except OSError as error:
        raise StartupError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    except binascii.Error:
        key = b""
    if len(key) != _BYTES:
        raise StartupError(f"{path} holds no key of {_BYTES} bytes in base64; put the key back from your backup")
    return key


def derive_key(key: bytes, purpose: str) -> bytes:
    """Return a key of 32 bytes for one purpose: HKDF-SHA256 (RFC 5869) without a salt, one block."""
    extracted = hmac.digest(bytes(_BYTES), key, hashlib.sha256)
    return hmac.digest(extracted, purpose.encode() + b"\x01", hashlib.sha256)
