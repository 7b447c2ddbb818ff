"""What a route is: everything that the dispatcher, the scopes, the docs and OpenAPI need to know of one call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal

from taskforge.core.errors import TaskForgeError
from taskforge.core.record import dataclass

if TYPE_CHECKING:
    from starlette.responses import Response

    from taskforge.api.call import Call

Handler = Callable[["Call"], Awaitable["Response"]]
Schema = dict[str, Any]


class Scope(IntEnum):
    """What a token may do. Each includes those below it: admin ⊃ write ⊃ run ⊃ read."""

    READ = 1
    RUN = 2
    WRITE = 3
    ADMIN = 4


@dataclass(frozen=True, slots=True)
class Param:
    """A query parameter. `parse` turns its text into a value, or raises ValueError that says what is accepted.

    `multiple`: it may come several times, and as a list with commas; the value is a tuple.
    """

    name: str
    parse: Callable[[str], Any]
    schema: Schema
    doc: str
    multiple: bool = False


@dataclass(frozen=True, slots=True)
class Field:
    """A member of a JSON body. `parse` checks its value, or raises ValueError that says what is accepted."""

    name: str
    parse: Callable[[Any], Any]
    schema: Schema
    doc: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class JsonBody:
    """A JSON object with these members and no others. An empty body counts as `{}` when nothing is required."""

    fields: tuple[Field, ...]
    schema_name: str
    at_least_one: bool = False
    max_bytes: int | None = None
    """Where a body may be larger than `[server] body_limit`."""

    @property
    def required(self) -> bool:
        return self.at_least_one or any(entry.required for entry in self.fields)


@dataclass(frozen=True, slots=True)
class DocumentBody:
    """A workflow document, YAML or JSON by content type; taken as bytes, checked by the service."""


@dataclass(frozen=True, slots=True)
class DataBody:
    """Any JSON value, or a form (`application/x-www-form-urlencoded`); may be left out."""


@dataclass(frozen=True, slots=True)
class RawBody:
    """Any bytes; the call reads them itself."""


Body = JsonBody | DocumentBody | DataBody | RawBody


@dataclass(frozen=True, slots=True)
class Answer:
    """A documented answer: its component schema (None: no body) and media type."""

    doc: str
    schema: str | None = None
    media: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """One call. `scope` None makes it public: no token is asked for.

    `headers` are request headers, each with its words and the pattern of its value. `refusals` are the errors that this
    call adds to those which every call can give.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    scope: Scope | None
    handler: Handler
    summary: str
    answers: Mapping[int, Answer]
    query: tuple[Param, ...] = ()
    headers: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    body: Body | None = None
    refusals: tuple[type[TaskForgeError], ...] = ()
    tag: str = ""

    @property
    def takes_anything(self) -> bool:
        """Whether the call reads body and query itself."""
        return isinstance(self.body, RawBody)

    @property
    def operation(self) -> str:
        """The name of the act, as in the handler, the service and the store."""
        return getattr(self.handler, "__name__", "call")
