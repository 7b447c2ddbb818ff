"""Secrets and variables: kept in the store, in memory as expressions see them, and masked wherever something is stored.

On SQLite this process is the only one that changes them, so that what is in memory is what is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from typing import Final, NamedTuple

from taskforge.core.clock import Clock
from taskforge.core.definition import Definition
from taskforge.core.errors import Failure, InvalidRequest, StartupError, Unavailable
from taskforge.core.jsontext import dumps, loads
from taskforge.core.kind import Suspended
from taskforge.core.model import JSON, AttemptFailure, Name, Prepared
from taskforge.core.problem import Pointer, Problem, format_path, quoted, suggest
from taskforge.core.record import dataclass
from taskforge.engine.sources import STORE, VALUE_NAME, Sources
from taskforge.observe.logs import get_logger, mask_logs
from taskforge.security.providers import MAX_SECRET_BYTES, Provider, ProviderFailed
from taskforge.security.redact import SHORTEST, Masker
from taskforge.security.secrets import SecretBox, UnreadableSecret
from taskforge.store.protocol import Store
from taskforge.store.values import SecretRow

log = get_logger("secrets")

_MOST_RETIRED: Final = 1_000
_NOUNS: Final = {"secrets": ("secret", "secret"), "vars": ("variable", "var")}


@dataclass(slots=True)
class Values:
    """The variables and secrets of the store, by name, as expressions see them."""

    vars: dict[str, JSON] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)


class Secret(NamedTuple):
    """A secret as people see it: never its value. `masked` is False where the value is too short to be masked. Only the
    store (`source`) knows times."""

    name: str
    masked: bool
    created_at: int | None
    updated_at: int | None
    source: str = STORE


class Var(NamedTuple):
    """A variable with its value (JSON text)."""

    name: str
    value: str
    created_at: int
    updated_at: int


class StoredValues:
    """The one keeper of secrets and variables. `values` is what expressions see; it changes in place."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        box: SecretBox,
        providers: Sequence[Provider | None] = (None,),
        keep_ms: int = 60_000,
    ) -> None:
        self._store = store
        self._clock = clock
        self._box = box
        self._previous: SecretBox | None = None
        self.changing = asyncio.Lock()
        """Held by whoever changes values, or the key that they are sealed with."""
        self._retired: dict[str, str] = {}
        """Values that were replaced or deleted, with their names: attempts in flight may still bring them back."""
        self._masker = Masker()
        self._given: dict[str, str] = {}
        """Values that other providers than the store have given, with their names."""
        self.values = Values()
        self.sources = Sources(self.values.secrets, clock, providers, keep_ms, self._note)

    async def load(self) -> None:
        """Read everything. Raises StartupError where a secret was sealed with another key; nothing is changed."""
        found: dict[str, str] = {}
        unreadable: list[tuple[str, str]] = []
        for row in await self._store.list_secrets():
            try:
                found[row.name] = self._open(row)
            except UnreadableSecret:
                unreadable.append((row.name, row.key_id))
        if unreadable:
            raise StartupError(self._explain(unreadable))
        self.values.secrets.update(found)
        self.values.vars.update({row.name: loads(row.value) for row in await self._store.list_vars()})
        self._set_masker()

    def use_keys(self, box: SecretBox, previous: SecretBox | None) -> None:
        """Seal with `box` from now on. What was sealed with `previous` can still be opened."""
        self._box, self._previous = box, previous

    async def reseal(self) -> int:
        """Seal every secret anew that is not sealed with the key of now, all in one transaction; return how many."""
        rows = [row for row in await self._store.list_secrets() if row.key_id != self._box.key_id]
        anew = [row._replace(sealed=self._box.seal(row.name, self._open(row)), key_id=self._box.key_id) for row in rows]
        return await self._store.reseal_secrets(anew)

    def _open(self, row: SecretRow) -> str:
        previous = self._previous
        box = previous if previous is not None and row.key_id == previous.key_id else self._box
        return box.open(row.name, row.sealed)

    def _explain(self, unreadable: list[tuple[str, str]]) -> str:
        names = ", ".join(name for name, _ in unreadable[:5]) + (" …" if len(unreadable) > 5 else "")
        others = sorted({key_id for _, key_id in unreadable} - {self._box.key_id})
        if not others:
            return (
                f"the stored secrets {names} cannot be opened although secret.key is theirs: the database was changed "
                "by something else, or comes from another TaskForge; restore a backup from before, or make one now and "
                "restore it --without-secrets (taskforge db backup, db restore). Nothing was changed"
            )
        return (
            f"secret.key is not the key that the stored secrets were sealed with ({names}): it is {self._box.key_id}, "
            f"they need {', '.join(others)}. Put the right secret.key back from your backup. Nothing was changed"
        )

    # ---- secrets

    async def obtain_secrets(self, names: Sequence[str]) -> list[bytes]:
        """The values of the secrets that are there, in this order, as bytes: what `triggers.signatures` needs. Raises
        Unavailable where a provider fails."""
        try:
            await self.sources.fetch(names)
        except ProviderFailed as error:
            log.warning("secrets_unavailable", error=str(error))
            raise Unavailable("the secret of this hook cannot be read now; try again later") from None
        found = (self.sources.find(name) for name in names)
        return [value.encode() for value in found if value is not None]

    async def list_secrets(self) -> list[Secret]:
        """Those of the store, and those that other providers can list, by name."""
        stored = {row.name: row for row in await self._store.list_secrets()}
        found: list[Secret] = []
        for name, source in sorted(self.sources.listed().items()):
            if source == STORE and name in stored:
                row = stored[name]
                found.append(self._secret(name, row.created_at, row.updated_at))
            elif source != STORE:
                found.append(Secret(name, await self._is_masked(name), None, None, source))
        return found

    async def _is_masked(self, name: str) -> bool:
        try:
            await self.sources.fetch([name])
        except ProviderFailed:
            return True
        return len(self.sources.find(name) or "") >= SHORTEST

    async def put_secret(self, name: str, value: str) -> Secret:
        """Store a secret, sealed. What is evaluated from now on sees it. Raises InvalidRequest."""
        _check_name(name, "secret")
        if not self.sources.has_store:
            message = "the store is not among [secrets] providers: nobody would see it"
            raise InvalidRequest(message, problems=[Problem("name", message)])
        if not value:
            raise InvalidRequest("a secret must not be empty", problems=[Problem("value", "it must not be empty")])
        if len(value.encode()) > MAX_SECRET_BYTES:
            message = f"it has more than {MAX_SECRET_BYTES} bytes"
            raise InvalidRequest(f"the secret is too long: {message}", problems=[Problem("value", message)])
        async with self.changing:
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
        async with self.changing:
            await self._store.delete_secret(name)
            self._retire(name)
            self.values.secrets.pop(name, None)
            self._set_masker()

    def _secret(self, name: str, created_at: int, updated_at: int) -> Secret:
        return Secret(name, len(self.values.secrets.get(name, "")) >= SHORTEST, created_at, updated_at)

    def _note(self, name: str, value: str) -> None:
        """Another provider has given a value: it is masked from now on."""
        if value not in self._given:
            self._given[value] = name
            if len(self._given) > _MOST_RETIRED:
                del self._given[next(iter(self._given))]
            self._set_masker()

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
        async with self.changing:
            row = await self._store.put_var(name, text, self._clock.now())
            self.values.vars[name] = value
        return Var._make(row)

    async def delete_var(self, name: str) -> None:
        """Raises NotFound."""
        async with self.changing:
            await self._store.delete_var(name)
            self.values.vars.pop(name, None)

    # ---- masking

    @property
    def has_masks(self) -> bool:
        """Whether there is anything to mask."""
        return self._masker.has_masks

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
        return prepared._replace(failure=failure, value=result)

    def _set_masker(self) -> None:
        current = {value: name for name, value in self.values.secrets.items()}
        self._masker = Masker((name, value) for value, name in (self._retired | self._given | current).items())
        mask_logs(self._masker.mask_text)

    # ---- definitions

    def warnings(self, definition: Definition) -> list[Problem]:
        """Secrets and variables that a document names and that are not there: it may be applied before they are."""
        found: list[Problem] = []
        listed = self.sources.listed()
        for expression in definition.expressions:
            missing = {(name.root, name.field): name for name in expression.names if self._is_missing(name, listed)}
            for name in missing.values():
                offset = getattr(name, "offset", expression.offset)
                found.append(self._missing(definition, name.root, name.field or "", expression.pointer, offset))
        for pointer, secret in _verifying(definition.document):
            if not self._has_secret(secret, listed):
                found.append(self._missing(definition, "secrets", secret, pointer, 0))
        return found

    def missing(self, definition: Definition) -> set[tuple[str, str]]:
        """The names that `warnings` warns of, as (`secrets` or `vars`, name)."""
        listed = self.sources.listed()
        names = [name for each in definition.expressions for name in each.names if self._is_missing(name, listed)]
        verifying = [secret for _, secret in _verifying(definition.document) if not self._has_secret(secret, listed)]
        return {(name.root, name.field or "") for name in names} | {("secrets", secret) for secret in verifying}

    def _is_missing(self, name: Name, listed: Mapping[str, str]) -> bool:
        if name.root not in _NOUNS or name.field is None:
            return False
        return name.field not in self.values.vars if name.root == "vars" else not self._has_secret(name.field, listed)

    def _has_secret(self, name: str, listed: Mapping[str, str]) -> bool:
        return name in listed or self.sources.is_open

    def _missing(self, definition: Definition, root: str, name: str, pointer: Pointer, offset: int) -> Problem:
        noun, command = _NOUNS[root]
        line, column = definition.locate(pointer, offset=offset)
        known = self.values.vars if root == "vars" else self.sources.listed()
        hint = suggest(name, known) or f"set it: taskforge {command} set {name}"
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
