"""Where secrets come from besides the store: variables of the server, files of a directory, a command.

A provider is asked for one name and gives its value, or says that it has none. What goes wrong is told with the
provider's name, and never with anything that it gave.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from taskforge.config.values import COMMAND, ENV, FILE, STORE, split_command, split_provider

MAX_SECRET_BYTES: Final = 65_536


class ProviderFailed(Exception):
    """The provider could not say whether it has the secret; the message tells why, and nothing of a value."""


class Provider(Protocol):
    """`label` is as the configuration has it, shortened to what people recognise."""

    label: str
    can_list: bool

    async def read(self, name: str) -> str | None:
        """The value of a secret, None where there is none of this name. Raises ProviderFailed."""
        ...

    def list_names(self) -> list[str]:
        """The names that it has, some of which may be no names of secrets; none where it cannot list them."""
        ...


class EnvProvider:
    """Variables of the server's own environment whose names begin with `prefix`. An empty one counts as none."""

    can_list = True

    def __init__(self, prefix: str, environ: Mapping[str, str]) -> None:
        self.label = f"{ENV}:{prefix}"
        self._prefix = prefix
        self._environ = environ

    async def read(self, name: str) -> str | None:
        return _decoded(os.fsencode(self._environ.get(self._prefix + name, "")), self.label, name)

    def list_names(self) -> list[str]:
        found = (name.removeprefix(self._prefix) for name in self._environ if name.startswith(self._prefix))
        return sorted(name for name in found if name)


class FileProvider:
    """Files of one directory: each has the name of its secret. One newline at the end is lost."""

    can_list = True

    def __init__(self, directory: Path) -> None:
        self.label = f"{FILE}:{directory}"
        self._directory = directory

    async def read(self, name: str) -> str | None:
        raw = await asyncio.to_thread(self._read, name)
        return None if raw is None else _decoded(_without_newline(raw), self.label, name)

    def _read(self, name: str) -> bytes | None:
        try:
            # O_NONBLOCK: a pipe that nobody writes to must not hold the thread.
            handle = os.open(self._directory / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(handle, "rb") as file:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise ProviderFailed(f"{self.label} has {name}, but that is no file")
                return file.read(MAX_SECRET_BYTES + 3)
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ProviderFailed(f"{self.label} cannot read {name}: {reason}") from None

    def list_names(self) -> list[str]:
        try:
            return sorted(entry.name for entry in self._directory.iterdir() if entry.is_file())
        except OSError:
            return []


class CommandProvider:
    """A program that prints the value: run without a shell, without standard input, in a group of its own.

    `{name}` in an argument is the secret's name; without it the name is the last argument. Success without output means
    that there is none of this name; one newline at the end is lost."""

    can_list = False

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], timeout_s: float) -> None:
        self.label = f"{COMMAND}:{Path(argv[0]).name}"
        named = any("{name}" in argument for argument in argv[1:])
        self._argv = list(argv) if named else [*argv, "{name}"]
        # It may need what the server was started with, but never the server's own token.
        self._environ = {key: value for key, value in environ.items() if not key.startswith("TASKFORGE_")}
        self._timeout_s = timeout_s
        self._several = asyncio.Semaphore(4)

    async def read(self, name: str) -> str | None:
        first, *rest = self._argv
        async with self._several:
            raw = await self._run([first, *(argument.replace("{name}", name) for argument in rest)], name)
        return _decoded(_without_newline(raw), self.label, name)

    def list_names(self) -> list[str]:
        return []

    async def _run(self, argv: list[str], name: str) -> bytes:
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=self._environ,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = (getattr(error, "strerror", None) or str(error)).lower()
            raise ProviderFailed(f"{self.label} cannot be run for {name}: {reason}") from None
        try:
            async with asyncio.timeout(self._timeout_s):
                raw = await self._read_all(process, name)
                code = await process.wait()
        except TimeoutError:
            raise ProviderFailed(f"{self.label} gave no value for {name} within {self._timeout_s:g} s") from None
        finally:
            # Whatever it has started goes with it.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.shield(process.wait())
        if code != 0:
            raise ProviderFailed(f"{self.label} failed for {name} with exit code {code}; run it by hand to see why")
        return raw

    async def _read_all(self, process: asyncio.subprocess.Process, name: str) -> bytes:
        assert process.stdout is not None
        raw = b""
        while chunk := await process.stdout.read(MAX_SECRET_BYTES):
            raw += chunk
            if len(raw) > MAX_SECRET_BYTES + 2:
                raise ProviderFailed(_too_long(self.label, name))
        return raw


def make_providers(
    chosen: Sequence[str], environ: Mapping[str, str], home: Path, timeout_s: float
) -> list[Provider | None]:
    """The providers of `[secrets] providers`, in order; None stands for the store. Nothing is read or run yet."""
    found: list[Provider | None] = []
    for text in chosen:
        kind, argument = split_provider(text)
        if kind == STORE:
            found.append(None)
        elif kind == ENV:
            found.append(EnvProvider(argument, environ))
        elif kind == FILE:
            found.append(FileProvider(home / Path(argument).expanduser()))
        else:
            found.append(CommandProvider(split_command(argument), environ, timeout_s))
    return found


def _without_newline(raw: bytes) -> bytes:
    return raw[:-2] if raw.endswith(b"\r\n") else raw.removesuffix(b"\n")


def _decoded(raw: bytes, label: str, name: str) -> str | None:
    if len(raw) > MAX_SECRET_BYTES:
        raise ProviderFailed(_too_long(label, name))
    try:
        return raw.decode() or None
    except UnicodeDecodeError:
        raise ProviderFailed(f"{label} gave a value for {name} that is not UTF-8 text") from None


def _too_long(label: str, name: str) -> str:
    return f"{label} gave more than {MAX_SECRET_BYTES} bytes for {name}"
