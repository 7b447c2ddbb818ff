"""A file system under SQLite that fails on demand and remembers what was synced: apsw VFS, no hooks in the product.

It has no shared memory, so a connection through it keeps the file to itself (`locking_mode = EXCLUSIVE`): the store's
writer works as always, its readers cannot be used.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apsw

NAME = "faulty"


class Op(NamedTuple):
    """One thing that happened to a file, or (kind `note`) to the test."""

    kind: str
    file: str
    offset: int
    data: bytes


class FaultyVFS(apsw.VFS):
    """`fail` is asked before every call with its kind and file; what it returns is raised instead of the call. `log`
    has every call that was carried out."""

    def __init__(self) -> None:
        super().__init__(NAME, "")
        self.log: list[Op] = []
        self.fail: Callable[[str, str], BaseException | None] = lambda kind, file: None

    def excepthook(self, *_: Any) -> bool:
        """Errors raised on purpose are not reported to the terminal."""
        return True

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return FaultyFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.happens("delete", filename)
        super().xDelete(filename, syncdir)

    def happens(self, kind: str, file: str, offset: int = 0, data: bytes = b"") -> None:
        name = Path(file).name
        error = self.fail(kind, name)
        if error is not None:
            raise error
        self.log.append(Op(kind, name, offset, data))

    def note(self, text: str) -> None:
        """Write into the log what the test has been told."""
        self.log.append(Op("note", text, 0, b""))


class FaultyFile(apsw.VFSFile):
    def __init__(self, vfs: FaultyVFS, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._vfs = vfs
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        super().__init__("", name, flags)

    def excepthook(self, *_: Any) -> bool:
        """Errors raised on purpose are not reported to the terminal."""
        return True

    def xWrite(self, data: bytes, offset: int) -> None:
        self._vfs.happens("write", self._name, offset, bytes(data))
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self._vfs.happens("sync", self._name)
        super().xSync(flags)

    def xTruncate(self, newsize: int) -> None:
        self._vfs.happens("truncate", self._name, newsize)
        super().xTruncate(newsize)


def _keep_to_itself(conn: apsw.Connection) -> None:
    if conn.open_vfs == NAME:
        conn.pragma("locking_mode", "exclusive")


@contextmanager
def faulty_vfs() -> Iterator[FaultyVFS]:
    """Register the file system while the body runs."""
    vfs = FaultyVFS()
    apsw.connection_hooks.append(_keep_to_itself)
    try:
        yield vfs
    finally:
        apsw.connection_hooks.remove(_keep_to_itself)
        vfs.unregister()


def io_error(extended: int) -> apsw.IOError:
    """The error of a call that the disk did not carry out."""
    error = apsw.IOError("disk I/O error")
    error.extendedresult = extended  # type: ignore[attr-defined]
    return error


def after_power_loss(before: dict[str, bytes], log: list[Op], rng: random.Random) -> dict[str, bytes]:
    """Return the files as they may be after the power went at the end of `log`: everything that was synced, and of what
    was not any part, in any order, torn at sectors."""
    durable = {name: bytearray(content) for name, content in before.items()}
    waiting: dict[str, list[Op]] = {}
    for op in log:
        if op.kind in ("write", "truncate"):
            waiting.setdefault(op.file, []).append(op)
        elif op.kind == "sync":
            for earlier in waiting.pop(op.file, []):
                _carry_out(durable, earlier)
        elif op.kind == "delete":
            waiting.pop(op.file, None)
            durable.pop(op.file, None)
    keep = rng.random()
    for ops in waiting.values():
        for op in ops:
            if rng.random() < keep:
                _carry_out(durable, _torn(op, rng))
    return {name: bytes(content) for name, content in durable.items()}


def _torn(op: Op, rng: random.Random) -> Op:
    if op.kind == "write" and len(op.data) > 512 and rng.random() < 0.3:
        return op._replace(data=op.data[: 512 * rng.randrange(1, (len(op.data) + 511) // 512)])
    return op


def _carry_out(files: dict[str, bytearray], op: Op) -> None:
    content = files.setdefault(op.file, bytearray())
    if op.kind == "truncate":
        del content[op.offset :]
        content.extend(bytes(op.offset - len(content)))
        return
    content.extend(bytes(max(0, op.offset - len(content))))
    content[op.offset : op.offset + len(op.data)] = op.data
