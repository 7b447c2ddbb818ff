"""Workflow files as they lie on the disk: which of a directory count, and their bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.run_input import read_stdin
from taskforge.core.record import dataclass

SUFFIXES = (".yaml", ".yml", ".json")
IGNORE_FILE = ".taskforgeignore"
STDIN = "<stdin>"
Media = Literal["yaml", "json"]


@dataclass(frozen=True, slots=True)
class Source:
    """A file that was read. `problem` says why it could not be; then `content` is empty."""

    file: str
    content: bytes
    media: Media
    problem: str | None = None

    @property
    def text(self) -> str | None:
        """The text as it can be sent; None where it is no UTF-8."""
        try:
            return self.content.decode()
        except UnicodeDecodeError:
            return None

    def to_json(self) -> dict[str, Any]:
        """As `POST /v1/workflows:plan` and `:apply` take a document."""
        file = self.file.encode("utf-8", "backslashreplace").decode()
        return {"source": self.text, "media": self.media, "file": file[-1000:]}


def find_files(paths: Sequence[str], *, allow_empty: bool = False) -> Iterator[str]:
    """The files themselves, each once; of a directory and those in it, every *.yaml, *.yml and *.json, by name.

    Hidden files and directories are passed over, and what `.taskforgeignore` names. Links to directories are not
    followed. `-` is standard input.
    """
    seen: set[str] = set()
    for path in paths:
        is_folder = path != "-" and Path(path).is_dir()
        found = _walk(Path(path)) if is_folder else [path]
        if not found and not allow_empty:
            hint = "give the directory that has the workflows, or say --allow-empty"
            raise CommandError(f"{path} has no *.yaml, *.yml or *.json file", hint=hint, code=Exit.USAGE)
        for file in found:
            place = file if file == "-" else os.path.abspath(file)
            if place not in seen:
                seen.add(place)
                yield file


def read_sources(files: Iterable[str]) -> list[Source]:
    return [_read(file) for file in files]


def _read(file: str) -> Source:
    shown = STDIN if file == "-" else file
    try:
        content = read_stdin() if file == "-" else Path(file).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return Source(shown, b"", "yaml", str(reason).lower())
    json = file.endswith(".json") or (file == "-" and content.lstrip()[:1] == b"{")
    return Source(shown, content, "json" if json else "yaml")


def _walk(folder: Path) -> list[str]:
    ignored = _patterns(folder / IGNORE_FILE)
    found: list[str] = []

    def passed_over(entry: Path) -> bool:
        inside = entry.relative_to(folder).as_posix()
        return entry.name.startswith(".") or any(
            fnmatchcase(inside, pattern) or fnmatchcase(entry.name, pattern) for pattern in ignored
        )

    for root, folders, files in os.walk(folder, onerror=_unreadable):
        here = Path(root)
        folders[:] = [name for name in folders if not passed_over(here / name)]
        for name in files:
            entry = here / name
            # A link that leads nowhere counts: what it should lead to may be a workflow that must not be forgotten.
            counts = entry.suffix in SUFFIXES and (entry.is_file() or (entry.is_symlink() and not entry.exists()))
            if counts and not passed_over(entry):
                found.append(str(entry))
    return sorted(found)


def _unreadable(error: OSError) -> None:
    raise CommandError(f"{error.filename}: {(error.strerror or str(error)).lower()}", code=Exit.USAGE)


def _patterns(file: Path) -> list[str]:
    try:
        lines = file.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise CommandError(f"{file}: {str(reason).lower()}", code=Exit.USAGE) from None
    patterns = (line.strip().rstrip("/") for line in lines)
    return [pattern for pattern in patterns if pattern and not pattern.startswith("#")]
