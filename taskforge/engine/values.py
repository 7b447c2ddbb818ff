"""Secrets and variables: kept in the store, in memory as expressions see them, and masked wherever something is stored.

On SQLite this process is the only one that changes them, so that what is in memory is what is stored.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from taskforge.core.clock import Clock
from taskforge.core.definition import Definition
from taskforge.core.errors import Failure, InvalidRequest, StartupError
from taskforge.core.jsontext import dumps, loads
from taskforge.core.kind import Suspended
from taskforge.core.model import JSON, AttemptFailure, Name, Prepared
from taskforge.core.problem import Pointer, Problem, format_path, quoted, suggest
from taskforge.observe.logs import mask_logs
from taskforge.security.redact import SHORTEST, Masker
from taskforge.security.secrets import SecretBox, UnreadableSecret
from taskforge.store.protocol import Store

VALUE_NAME: Final = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,62}$", re.ASCII)
"""What a secret or a variable may be called: what stands behind `$secrets.` or `$vars.`."""

MAX_SECRET_BYTES: Final = 65_536
_MOST_RETIRED: Final = 1_000
_NOUNS: Final = {"secrets": ("secret", "secret"), "vars": ("variable", "var")}


@dataclass(slots=True)
class Values:
    """The variables and secrets of the store, by name, as expressions see them."""

    vars: dict[str, JSON] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)


class Secret(NamedTuple):
    """A secret as people see it: never its value. `masked` is False where the value is too short to be masked."""

    name: str
    masked: bool
    created_at: int
    updated_at: int


class Var(NamedTuple):
    """A variable with its value (JSON text)."""

    name: str
    value: str
    created_at: int
    updated_at: int


class StoredValues:
    """The one keeper of secrets and variables. `values` is what expressions see; it changes in place."""

    def __init__(self, store: Store, clock: Clock, box: SecretBox) -> None:
        self._store = store
        self._clock = clock
        self._box = box
        self._changing = asyncio.Lock()
        self._retired: dict[str, str] = {}
        """Values that were replaced or deleted, with their names: attempts in flight may still bring them back."""
        self._masker = Masker()
        self.values = Values()

    async def load(self) -> None:
        """Read everything. Raises StartupError where a secret was sealed with another key; nothing is changed."""
        found: dict[str, str] = {}
        unreadable: list[tuple[str, str]] = []
        for row in await self._store.list_secrets():
            try:
                found[row.name] = self._box.open(row.name, row.sealed)
            except UnreadableSecret:
                unreadable.append((row.name, row.key_id))
        if unreadable:
            raise StartupError(self._explain(unreadable))
        self.values.secrets.update(found)
        self.values.vars.update({row.name: loads(row.value) for row in await self._store.list_vars()})
        self._set_masker()

    def _explain(self, unreadable: list[tuple[str, str]]) -> str:
        names = ", ".join(name for name, _ in unreadable[:5]) + (" …" if len(unreadable) > 5 else "")
        others = sorted({key_id for _, key_id in unreadable} - {self._box.key_id})
        if not others:
            return (
                f"the stored secrets {names} cannot be opened although secret.key is theirs: the database was changed "
                "by something else; restore it from a backup. Nothing was changed"
            )
        return (
            f"secret.key is not the key that the stored secrets were sealed with ({names}): it is {self._box.key_id}, "
            f"they need {', '.join(others)}. Put the right secret.key back from your backup. Nothing was changed"
        )

    # ---- secrets

    def find_secret(self, name: str) -> str | None:
        """Return a secret's value, for those who verify or sign with it."""
        return self.values.secrets.get(name)

    def find_secrets(self, names: Iterable[str]) -> list[bytes]:
        """The values of the secrets that are there, in this order, as bytes: what `triggers.signatures` needs."""
        found = (self.values.secrets.get(name) for name in names)
        return [value.encode() for value in found if value is not None]

    async def list_secrets(self) -> list[Secret]:
        return [self._secret(row.name, row.created_at, row.updated_at) for row in await self._store.list_secrets()]

    async def put_secret(self, name: str, value: str) -> Secret:
        """Store a secret, sealed. What is evaluated from now on sees it. Raises InvalidRequest."""
        _check_name(name, "secret")
        if not value:
            raise InvalidRequest("a secret must not be empty", problems=[Problem("value", "it must not be empty")])
        if len(value.encode()) > MAX_SECRET_BYTES:
            message = f"it has more than {MAX_SECRET_BYTES} bytes"
            raise InvalidRequest(f"the secret is too long: {message}", problems=[Problem("value", message)])
        async with self._changing:
            # Masked before it is stored: from then on it may be anywhere.
            self._retire(name)
            before = self.values.secrets.get(name)
            self.values.secrets[name] = value
            self._set_masker()
            try:
                row = await self._store.put_secret(
                    name, self._box.seal(name, value), self._box.key_id, self._clock.now()
                )
            except BaseException:
                self._retire(name)
                self._restore(name, before)
                raise
        return self._secret(row.name, row.created_at, row.updated_at)

    async def delete_secret(self, name: str) -> None:
        """Raises NotFound."""
        async with self._changing:
            await self._store.delete_secret(name)
            self._retire(name)
            self.values.secrets.pop(name, None)
            self._set_masker()

    def _secret(self, name: str, created_at: int, updated_at: int) -> Secret:
        return Secret(name, len(self.values.secrets.get(name, "")) >= SHORTEST, created_at, updated_at)

    def _retire(self, name: str) -> None:
        value = self.values.secrets.get(name)
        if value is not None:
            self._retired[value] = name
            if len(self._retired) > _MOST_RETIRED:
                del self._retired[next(iter(self._retired))]

    def _restore(self, name: str, before: str | None) -> None:
        if before is None:
            self.values.secrets.pop(name, None)
        else:
            self.values.secrets[name] = before

    # ---- variables

    async def list_vars(self) -> list[Var]:
        return [Var._make(row) for row in await self._store.list_vars()]

    async def put_var(self, name: str, value: JSON) -> Var:
        """Store a variable: any JSON. Raises InvalidRequest."""
        _check_name(name, "variable")
        text = dumps(value)
        if len(text.encode()) > MAX_SECRET_BYTES:
            message = f"it has more than {MAX_SECRET_BYTES} bytes as JSON"
            raise InvalidRequest(f"the variable is too long: {message}", problems=[Problem("value", message)])
        async with self._changing:
            row = await self._store.put_var(name, text, self._clock.now())
            self.values.vars[name] = value
        return Var._make(row)

    async def delete_var(self, name: str) -> None:
        """Raises NotFound."""
        async with self._changing:
            await self._store.delete_var(name)
            self.values.vars.pop(name, None)

    # ---- masking

    def mask(self, value: JSON) -> JSON:
        """Return a JSON value with every secret masked."""
        return self._masker.mask(value)

    def mask_failure(self, failure: Failure) -> Failure:
        message, detail = self._masker.mask_text(failure.message), self._masker.mask(failure.detail)
        if message == failure.message and detail is failure.detail:
            return failure
        return replace(failure, message=message, detail=detail)

    def mask_attempt(self, result: AttemptFailure) -> AttemptFailure:
        failure = self.mask_failure(result.failure)
        return result if failure is result.failure else replace(result, failure=failure)

    def mask_suspended(self, suspended: Suspended) -> Suspended:
        data = self._masker.mask(suspended.data)
        return suspended if data is suspended.data else replace(suspended, data=data)

    def mask_prepared(self, prepared: Prepared, *, value: bool) -> Prepared:
        """Mask an evaluation's failure, and its value where that may be stored (`value`)."""
        failure = None if prepared.failure is None else self.mask_failure(prepared.failure)
        result = self._masker.mask(prepared.value) if value else prepared.value
        if failure is prepared.failure and result is prepared.value:
            return prepared
        return replace(prepared, failure=failure, value=result)

    def _set_masker(self) -> None:
        current = {value: name for name, value in self.values.secrets.items()}
        self._masker = Masker((name, value) for value, name in (self._retired | current).items())
        mask_logs(self._masker.mask_text)

    # ---- definitions

    def warnings(self, definition: Definition) -> list[Problem]:
        """Secrets and variables that a document names and that are not there: it may be applied before they are."""
        found: list[Problem] = []
        for expression in definition.expressions:
            missing = {(name.root, name.field): name for name in expression.names if self._is_missing(name)}
            for name in missing.values():
                offset = getattr(name, "offset", expression.offset)
                found.append(self._missing(definition, name.root, name.field or "", expression.pointer, offset))
        for pointer, secret in _verifying(definition.document):
            if secret not in self.values.secrets:
                found.append(self._missing(definition, "secrets", secret, pointer, 0))
        return found

    def missing(self, definition: Definition) -> set[tuple[str, str]]:
        """The names that `warnings` warns of, as (`secrets` or `vars`, name)."""
        named = {(name.root, name.field or "") for each in definition.expressions for name in each.names
                 if self._is_missing(name)}  # fmt: skip
        verifying = {("secrets", secret) for _, secret in _verifying(definition.document)}
        return named | {(root, name) for root, name in verifying if name not in self.values.secrets}

    def _is_missing(self, name: Name) -> bool:
        return name.root in _NOUNS and name.field is not None and name.field not in self._known(name.root)

    def _known(self, root: str) -> Mapping[str, JSON]:
        return self.values.secrets if root == "secrets" else self.values.vars

    def _missing(self, definition: Definition, root: str, name: str, pointer: Pointer, offset: int) -> Problem:
        noun, command = _NOUNS[root]
        line, column = definition.locate(pointer, offset=offset)
        hint = suggest(name, self._known(root)) or f"set it: taskforge {command} set {name}"
        message = f"there is no {noun} {quoted(name)} on the server yet"
        return Problem(format_path(pointer), message, line, column, hint, "warning")


class ValueCalls:
    """What people ask for of secrets and variables: part of `engine.service.Service`."""

    _values: StoredValues

    async def list_secrets(self) -> list[Secret]:
        return await self._values.list_secrets()

    async def put_secret(self, name: str, value: str) -> Secret:
        """Store a secret. Raises InvalidRequest."""
        return await self._values.put_secret(name, value)

    async def delete_secret(self, name: str) -> None:
        """Raises NotFound."""
        await self._values.delete_secret(name)

    async def list_vars(self) -> list[Var]:
        return await self._values.list_vars()

    async def put_var(self, name: str, value: JSON) -> Var:
        """Store a variable. Raises InvalidRequest."""
        return await self._values.put_var(name, value)

    async def delete_var(self, name: str) -> None:
        """Raises NotFound."""
        await self._values.delete_var(name)


def _check_name(name: str, noun: str) -> None:
    if VALUE_NAME.fullmatch(name) is None:
        message = "use letters, digits and _, not beginning with a digit, at most 63"
        raise InvalidRequest(f"{quoted(name)} is no name for a {noun}: {message}", problems=[Problem("name", message)])


def _verifying(document: JSON) -> Iterator[tuple[Pointer, str]]:
    """The names of secrets that webhook triggers verify with, and their places in a valid document."""
    for trigger, settings in (document.get("triggers") or {}).items():
        webhook = settings.get("webhook") if isinstance(settings, dict) else None
        verify = webhook.get("verify") if isinstance(webhook, dict) else None
        if not isinstance(verify, dict):
            continue
        pointer: Pointer = ("triggers", trigger, "webhook", "verify", "secret")
        secret = verify.get("secret")
        if isinstance(secret, list):
            yield from (((*pointer, index), name) for index, name in enumerate(secret))
        elif secret is not None:
            yield pointer, secret
