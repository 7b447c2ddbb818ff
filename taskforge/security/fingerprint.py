"""What may be said of a home's keys without telling them: their fingerprints, and which secrets they open."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from pathlib import Path

from taskforge.config.home import KEY_FILE
from taskforge.core.errors import StartupError
from taskforge.security.secrets import SecretBox

_BYTES = 32


def key_fingerprints(home: Path) -> list[str]:
    """Return the fingerprint of every key in `secret.key` that may open secrets: the current one first, then, in lines
    `previous KEY`, those of before.

    Raises StartupError where the file cannot be read, or holds no key."""
    return [box.key_id for box in _boxes(home)]


def secret_opener(home: Path) -> Callable[[str, bytes], bool]:
    """Return what says of a secret's name and sealed value whether a key of the home opens it. Raises as
    `key_fingerprints`."""
    boxes = _boxes(home)
    return lambda name, sealed: any(box.opens(name, sealed) for box in boxes)


def _boxes(home: Path) -> list[SecretBox]:
    path = home / KEY_FILE
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise StartupError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    found: list[SecretBox] = []
    for line in lines:
        kind, _, word = line.strip().rpartition(b" ")
        if kind not in (b"", b"previous"):
            continue  # derived keys, which open no secrets
        try:
            key = base64.b64decode(word, validate=True)
        except binascii.Error:
            continue
        if len(key) == _BYTES:
            found.append(SecretBox(key))
    if not found:
        raise StartupError(f"{path} holds no key of {_BYTES} bytes in base64; put the key back from your backup")
    return found
