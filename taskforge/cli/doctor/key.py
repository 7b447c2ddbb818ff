"""The home's key, and whether it is the one that the stored secrets were sealed with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from taskforge.cli.doctor.finding import Finding, failure, note, ok, some
from taskforge.config.home import DATABASE_FILE, KEY_FILE

if TYPE_CHECKING:
    from taskforge.store.sqlite.inspecting import Sealed

_BACK = "put secret.key back from your backup"
_WITHOUT = "taskforge down, taskforge db backup, taskforge db restore that backup --without-secrets, set them anew"


def check_key(home: Path, secrets: Sequence[Sealed] | None) -> Iterator[Finding]:
    """`secrets` None: the database could not be read."""
    from taskforge.core.errors import StartupError
    from taskforge.security.keys import KeyFile
    from taskforge.security.secrets import SecretBox

    path = home / KEY_FILE
    if not path.exists():
        fix = _BACK if (home / DATABASE_FILE).exists() else "taskforge init"
        yield failure("KEY_MISSING", f"there is no {path}", fix)
        return
    try:
        ring = KeyFile(home).read()
    except StartupError as error:
        yield failure("KEY_INVALID", error.message, _BACK)
        return
    box = SecretBox(ring.current)
    previous = None if ring.previous is None else SecretBox(ring.previous)
    if previous is not None:
        words = f"the key is being changed from {previous.key_id} to {box.key_id}"
        yield note("KEY_CHANGING", f"{words}; a server that starts ends that", "taskforge up")
    if secrets is None:
        yield note("KEY_UNCHECKED", f"the key {box.key_id} could not be tried on the stored secrets")
        return
    sound = True
    others: dict[str, list[str]] = {}
    for secret in secrets:
        if secret.key_id != box.key_id and (previous is None or secret.key_id != previous.key_id):
            others.setdefault(secret.key_id, []).append(secret.name)
    for key_id, names in others.items():
        sound = False
        words = f"{len(names)} secrets were sealed with the key {key_id}, and this is {box.key_id}: {some(names)}"
        yield failure("KEY_WRONG", words, f"{_BACK} (its id is {key_id}), or set these secrets anew")
    damaged = [
        secret.name for secret in secrets
        for key in (box, previous)
        if key is not None and secret.key_id == key.key_id and not key.opens(secret.name, secret.sealed)
    ]  # fmt: skip
    if damaged:
        sound = False
        words = f"{len(damaged)} secrets were changed since they were sealed: {some(damaged)}"
        yield failure("SECRET_DAMAGED", words, f"restore a backup from before; without one: {_WITHOUT}")
    if sound:
        yield ok(
            "KEY_OK", f"{path} ({box.key_id}) opens all {len(secrets)} secrets" if secrets else f"{path} ({box.key_id})"
        )
