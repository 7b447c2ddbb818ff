"""The fingerprints of a home's keys: what a backup may say of the key that its secrets need."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from taskforge.config.home import KEY_FILE
from taskforge.core.errors import StartupError
from taskforge.security.secrets import SecretBox

_BYTES = 32


def key_fingerprints(home: Path) -> list[str]:
    """Return the fingerprint of every key in `secret.key` that may open secrets: the current one first, then, in lines
    `previous KEY`, those of before.

    Raises StartupError where the file cannot be read, or holds no key."""
    path = home / KEY_FILE
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise StartupError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    found: list[str] = []
    for line in lines:
        kind, _, word = line.strip().rpartition(b" ")
        if kind not in (b"", b"previous"):
            continue  # derived keys, which open no secrets
        try:
            key = base64.b64decode(word, validate=True)
        except binascii.Error:
            continue
        if len(key) == _BYTES:
            found.append(SecretBox(key).key_id)
    if not found:
        raise StartupError(f"{path} holds no key of {_BYTES} bytes in base64; put the key back from your backup")
    return found
