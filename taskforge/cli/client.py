"""The only module that speaks HTTP. Every answer that is no success becomes a CommandError with an exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from taskforge.cli.connection import Connection, is_loopback
from taskforge.cli.failure import CommandError, Exit
from taskforge.core.jsontext import JsonError, dump_bytes, loads

if TYPE_CHECKING:
    from pathlib import Path
    from ssl import SSLContext

    from httpx2 import Client as HttpClient
    from httpx2 import Response

_CODES = {400: Exit.USAGE, 401: Exit.UNREACHABLE, 403: Exit.UNREACHABLE, 404: Exit.NOT_FOUND, 409: Exit.CONFLICT,
          413: Exit.USAGE, 415: Exit.USAGE, 421: Exit.UNREACHABLE, 422: Exit.USAGE}  # fmt: skip
_LISTS = {"workflows": "workflow list", "runs": "runs list", "dead-letters": "dead list", "tokens": "token list",
          "secrets": "secret list", "vars": "var list"}  # fmt: skip
_NO_SUCH_CALL = "there is nothing at this address"  # as the server says it of a path that no route has
_NO_VERSION = re.compile(r"workflow (\S+) has no version \d+")
_PASSING = frozenset({408, 429, 500, 502, 503, 504, 507})
"""Answers after which the same call may be taken."""
_CONNECT_S = 5.0
_ANSWER_S = 60.0
_DOCUMENTS_S = 900.0
_MEDIA = {"yaml": "application/yaml", "json": "application/json"}


class Answer(NamedTuple):
    status: int
    body: Any


class Client:
    """Calls of the API, by what they do. Paths and shapes are those of the interface, section 5."""

    def __init__(self, connection: Connection, patience_s: float | None = None) -> None:
        """`patience_s`: how long an answer may take, where that is not the usual minute."""
        self.connection = connection
        self._answer_s = patience_s or _ANSWER_S
        self._connect_s = min(self._answer_s, _CONNECT_S)
        self._http: HttpClient | None = None
        self.answered = False

    def close(self) -> None:
        if self._http is not None:
            self._http.close()

    # ---- calls

    def get(self, *path: str, **query: Any) -> Any:
        return self._call("GET", path, query=query)

    def post(self, *path: str, body: Any = None, headers: Mapping[str, str] | None = None, **query: Any) -> Any:
        content = None if body is None else dump_bytes(body)
        return self._call("POST", path, query=query, content=content, media="json", headers=headers)

    def send_documents(self, *path: str, body: Any) -> Any:
        """Many workflow documents; reading them takes a while, so that the answer may take long."""
        return self._call("POST", path, content=dump_bytes(body), media="json", answer_s=_DOCUMENTS_S)

    def patch(self, *path: str, body: Any) -> Any:
        return self._call("PATCH", path, content=dump_bytes(body), media="json")

    def put(self, *path: str, body: Any) -> Any:
        return self._call("PUT", path, content=dump_bytes(body), media="json")

    def delete(self, *path: str) -> Any:
        return self._call("DELETE", path)

    def send_document(self, method: str, *path: str, content: bytes, media: str) -> Answer:
        """A workflow document, byte for byte; `media` is yaml or json."""
        return self._exchange(method, path, content=content, media=media)

    def send_hook(
        self,
        method: str,
        *path: str,
        content: bytes,
        headers: Sequence[tuple[str, str]],
        query: Sequence[tuple[str, str]],
    ) -> Answer:
        """A webhook, as its sender would send it: without a token. A text where the answer is not JSON."""
        url = "/hooks/" + "/".join(_segment(part) for part in path)
        # In this order, and byte for byte: values of headers are Latin-1 text.
        sent = [(name.encode("ascii", "replace"), value.encode("latin-1", "replace")) for name, value in headers]
        answer = self._send(method, url, params=list(query), content=content, headers=sent)
        if answer.status_code == 401:
            hint = "the secret that was given is not the trigger's; taskforge secret set stores a new one"
            raise CommandError(
                "the trigger does not accept the signature", hint=hint, code=Exit.UNREACHABLE, refused=True
            )
        if not answer.is_success:
            raise self._refusal(answer)
        try:
            return Answer(answer.status_code, _value(answer.content))
        except (JsonError, ValueError, RecursionError):
            return Answer(answer.status_code, answer.content.decode("utf-8", "replace"))

    def pages(self, *path: str, **query: Any) -> Iterator[Any]:
        """Every item of a list, page by page."""
        cursor: str | None = None
        while True:
            page = self.get(*path, **{**query, "cursor": cursor, "limit": 500})
            yield from page["items"]
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def stream(self, *path: str, headers: Mapping[str, str]) -> Iterator[str]:
        """The lines of an answer that goes on, as they come; they end with it, whoever brought that about."""
        sent = {"accept": "text/event-stream", **headers}
        if self.connection.token:
            sent["authorization"] = f"Bearer {self.connection.token}"
        url = "/v1/" + "/".join(_segment(part) for part in path)
        with self._guarded():
            if self._http is None:
                self._http = self._open()
            with self._http.stream("GET", url, headers=sent) as answer:
                if not answer.is_success:
                    answer.read()
                    raise self._refusal(answer)
                yield from answer.iter_lines()

    def alive(self) -> str | None:
        """What keeps the server from working, or None when it is ready. CommandError when there is no server."""
        answer = self._send("GET", "/readyz")
        if answer.status_code == 200:
            return None
        return _problem(answer).get("detail") or f"it answers {answer.status_code}"

    def server_version(self) -> str | None:
        """The version that the server has of itself; None when it does not say."""
        answer = self._send("GET", "/openapi.json")
        try:
            version = loads(answer.content)["info"]["version"]
        except (JsonError, KeyError, TypeError):
            return None
        return version if isinstance(version, str) else None

    # ---- how

    def _call(self, method: str, path: tuple[str, ...], **request: Any) -> Any:
        return self._exchange(method, path, **request).body

    def _exchange(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        query: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        media: str = "json",
        headers: Mapping[str, str] | None = None,
        answer_s: float | None = None,
    ) -> Answer:
        sent = dict(headers or {})
        if content is not None:
            sent["content-type"] = _MEDIA[media]
        if self.connection.token:
            sent["authorization"] = f"Bearer {self.connection.token}"
        url = "/v1/" + "/".join(_segment(part) for part in path)
        chosen = {key: value for key, value in (query or {}).items() if value is not None and value != ()}
        answer = self._send(method, url, answer_s=answer_s, params=chosen, content=content, headers=sent)
        if not answer.is_success:
            raise self._refusal(answer)
        if not answer.content:
            return Answer(answer.status_code, None)
        try:
            body = _value(answer.content)
        except (JsonError, ValueError, RecursionError):
            raise self._stranger(answer) from None
        self.answered = True
        return Answer(answer.status_code, body)

    def _send(self, method: str, url: str, *, answer_s: float | None = None, **request: Any) -> Response:
        import httpx2

        patience = answer_s or self._answer_s
        with self._guarded(patience):
            if self._http is None:
                self._http = self._open()
            timeout = httpx2.Timeout(patience, connect=self._connect_s)
            return self._http.request(method, url, timeout=timeout, **request)

    @contextmanager
    def _guarded(self, patience: float = _ANSWER_S) -> Iterator[None]:
        """What goes wrong on the way becomes a CommandError."""
        import httpx2

        try:
            yield
        except httpx2.TimeoutException as error:
            early = isinstance(error, httpx2.ConnectTimeout)
            words = f"does not answer within {self._connect_s if early else patience:g} s"
            raise self._unreachable(words, started=not early) from None
        except httpx2.ConnectError as error:
            raise self._unreachable(f"cannot be reached: {_reason(error)}") from None
        except httpx2.DecodingError as error:
            raise self._unreachable(f"sends what cannot be read: {_reason(error)}", started=True) from None
        except (httpx2.RequestError, httpx2.InvalidURL, UnicodeError) as error:
            raise self._unreachable(f"broke the connection off: {_reason(error)}", started=True) from None

    def _open(self) -> HttpClient:
        import httpx2

        from taskforge import __version__

        url = self.connection.url
        return httpx2.Client(
            base_url=url,
            headers={"user-agent": f"taskforge/{__version__}", "accept": "application/json"},
            timeout=httpx2.Timeout(self._answer_s, connect=self._connect_s),
            # A proxy is for other machines; to this one the way is always direct.
            trust_env=not is_loopback(url),
            # Without TLS nothing is verified; reading the certificates would cost a tenth of a second.
            verify=not url.startswith("http:") and (_only(self.connection.certificate) or True),
            follow_redirects=False,
        )

    def _unreachable(self, words: str, *, started: bool = False) -> CommandError:
        if started:
            hint = "what was asked for may have been done; look before you repeat it"
        elif self.connection.local:
            hint = "start one with: taskforge up   (or, in the foreground: taskforge serve)"
        else:
            hint = "check --server or TASKFORGE_SERVER; a server of your own starts with: taskforge up"
        return CommandError(f"the server at {self.connection.url} {words}", hint=hint, code=Exit.UNREACHABLE)

    def _stranger(self, answer: Response) -> CommandError:
        media = answer.headers.get("content-type", "no content type")
        return CommandError(
            f"what answers at {self.connection.url} is no TaskForge server (HTTP {answer.status_code}, {media})",
            hint="check --server or TASKFORGE_SERVER",
            code=Exit.UNREACHABLE,
        )

    def misunderstood(self, error: Exception) -> CommandError:
        """For an answer whose shape is not the expected one: another version, or another kind of server."""
        from taskforge import __version__

        try:
            other = self.server_version()
        except CommandError:
            other = None
        if other == __version__:
            hint = (
                "this is a fault of taskforge; repeat with `python -X dev -m taskforge …` to see where, and report it"
            )
        else:
            hint = f"it says that its version is {other or 'nothing'}; this program is {__version__}. Use the same"
        what = f"the answer of {self.connection.url} is not of the shape that is expected"
        return CommandError(f"{what} ({type(error).__name__}: {error})", hint=hint, code=Exit.UNREACHABLE)

    def _refusal(self, answer: Response) -> CommandError:
        problem = _problem(answer)
        if not problem:
            return self._stranger(answer)
        status = answer.status_code
        if status == 401:
            return self._unauthorised(problem)
        message = str(problem.get("detail") or problem.get("title") or f"the server answers {status}")
        errors = [error for error in problem.get("errors") or [] if isinstance(error, dict)]
        hint = problem.get("hint")
        if status == 404:
            kind = answer.request.url.path.removeprefix("/v1/").partition("/")[0]
            hint = f"what there is: taskforge {_LISTS[kind]}" if kind in _LISTS else None
            if found := _NO_VERSION.fullmatch(message):
                hint = f"what there is: taskforge workflow versions {found[1]}"
            if message == _NO_SUCH_CALL:
                hint = "the server may be of another version than this program: taskforge status shows both"
        return CommandError(
            message,
            hint=str(hint) if hint else None,
            code=_CODES.get(status, Exit.FAILED),
            lines=[place_line(error) for error in errors],
            refused=status not in _PASSING,
            errors=errors,
        )

    def _unauthorised(self, problem: Mapping[str, Any]) -> CommandError:
        if self.connection.token:
            told = problem.get("detail") or "the token is not accepted"
            hint = "it may have been revoked, or belong to another server; check --token or TASKFORGE_TOKEN"
            if self.connection.chosen_by.startswith("profile "):
                name = self.connection.chosen_by.split()[1]
                hint = f"a new one: taskforge profile add {name} --server {self.connection.url} --token-file FILE"
        else:
            told = "this server wants a token, and there is none"
            hint = "give it with TASKFORGE_TOKEN or --token, or set TASKFORGE_HOME to the server's home"
        return CommandError(f"{self.connection.url}: {told}", hint=hint, code=Exit.UNREACHABLE, refused=True)


def _only(certificate: Path | None) -> SSLContext | None:
    """Trust in one certificate, whatever name it is for: the home says which its server has."""
    if certificate is None:
        return None
    import ssl

    try:
        first, end, _ = certificate.read_text(encoding="ascii").partition("-----END CERTIFICATE-----")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=first[first.index("-----BEGIN") :] + end)
    except (OSError, ValueError):  # SSLError is an OSError; a wrong file is told when nothing answers
        return None
    return context


def place_line(error: Mapping[str, Any], file: str = "") -> str:
    """One entry of a problem's `errors` as `FILE:LINE:COL: message (hint)`: with this file, the one that it names, or
    its path."""
    from taskforge.core.problem import Problem, format_problem

    line, column = error.get("line"), error.get("column")
    path = str(error.get("path") or "")
    found = Problem(
        path,
        str(error.get("message") or ""),
        line if isinstance(line, int) else None,
        column if isinstance(column, int) else None,
        str(error["hint"]) if error.get("hint") else None,
    )
    return format_problem(found, file or str(error.get("file") or path))


def _segment(text: str) -> str:
    """One part of a path. What would name another resource than was meant is not found before it is sent."""
    if text in ("", ".", ".."):
        raise CommandError(f"there is nothing of the name {text!r}", code=Exit.NOT_FOUND)
    return quote(text, safe=":", errors="replace")


def _problem(answer: Response) -> dict[str, Any]:
    if "problem+json" not in answer.headers.get("content-type", ""):
        return {}
    try:
        found = loads(answer.content)
    except JsonError:
        return {}
    return found if isinstance(found, dict) else {}


def _value(content: bytes) -> Any:
    """Read an answer. The server wraps values that are as deep as allowed, so an answer may be a little deeper."""
    try:
        return loads(content)
    except JsonError:
        return json.loads(content)


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    number = text.partition("]")
    return number[2].strip() if text.startswith("[Errno") else text
