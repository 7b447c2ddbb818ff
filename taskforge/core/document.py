"""A workflow document as text becomes a plain JSON value that remembers where everything stands.

YAML 1.2 with JSON's types only, or JSON. Everything here is pure; every cost is bounded by `DocumentLimits`.
"""

from __future__ import annotations

import codecs
from typing import Any, Literal

from taskforge.core.json_document import read_json
from taskforge.core.problem import InvalidDocument, Pointer, Problem, format_path
from taskforge.core.scalar_offset import source_offset
from taskforge.core.source import DocumentLimits, Node, SourceText
from taskforge.core.yaml_document import read_yaml

__all__ = ["Document", "DocumentLimits", "parse_document"]

Media = Literal["yaml", "json"]

_WIDE_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DEFAULT_LIMITS = DocumentLimits()


class Document:
    """A document that was read. `source` is the text as given, `value` its plain JSON value (a dict)."""

    def __init__(self, source: str, text: SourceText, root: Node) -> None:
        self.source = source
        self.value: dict[str, Any] = root.build()
        self._text = text
        self._root = root

    def locate(self, pointer: Pointer, *, key: bool = False, offset: int = 0) -> tuple[int, int]:
        """Line and column, from 1, of the value at `pointer`, or of its key.

        `offset` counts characters of the value's decoded text. Where the pointer leads nowhere, the place of its
        nearest ancestor that exists.
        """
        node, key_start = self._root, self._root.start
        found = True
        for part in pointer:
            child: Node | None = None
            if isinstance(part, str) and node.kind == "map":
                child = node.entries.get(part)
                key_start = node.key_starts[part] if child is not None else key_start
            elif isinstance(part, int) and node.kind == "list" and 0 <= part < len(node.items):
                child = node.items[part]
                key_start = child.start
            if child is None:
                found = False
                break
            node = child
        if key:
            return self._text.position(key_start)
        return self._text.position(source_offset(self._text.text, node, offset) if found and offset else node.start)

    def problem(
        self,
        pointer: Pointer,
        message: str,
        *,
        hint: str | None = None,
        key: bool = False,
        offset: int = 0,
        severity: Literal["error", "warning"] = "error",
        code: str | None = None,
    ) -> Problem:
        """A problem at a pointer, with its place; `key` and `offset` as in `locate`."""
        line, column = self.locate(pointer, key=key, offset=offset)
        return Problem(format_path(pointer), message, line, column, hint, severity, code)


def parse_document(text: bytes, media: Media, limits: DocumentLimits = _DEFAULT_LIMITS) -> Document:
    """Read a document. Raises InvalidDocument with all problems that can be found at once, and nothing else."""
    if len(text) > limits.max_bytes:
        message = f"the document has {len(text):,} bytes; at most {limits.max_bytes:,} are accepted"
        raise InvalidDocument([Problem("", message, code="DOCUMENT_TOO_LARGE")])
    source = _decode(text)
    lines = SourceText(source)
    root = read_yaml(lines, limits) if media == "yaml" else read_json(lines, limits)
    if root.kind != "map":
        kind = "a list" if root.kind == "list" else "a single value"
        line, column = lines.position(root.start)
        example = "name: …, steps: …" if media == "yaml" else '{"name": …, "steps": […]}'
        raise InvalidDocument([Problem("", f"the document must be a mapping, not {kind}", line, column, example)])
    return Document(source, lines, root)


def _decode(text: bytes) -> str:
    wide = text.startswith(_WIDE_MARKS)
    if wide or (len(text) > 1 and (text[0] == 0) != (text[1] == 0)):
        message = "the document looks like UTF-16 or UTF-32; only UTF-8 is accepted"
        raise InvalidDocument([Problem("", message, 1, 1, "save it as UTF-8")])
    try:
        source = text.decode("utf-8")
    except UnicodeDecodeError as error:
        before = SourceText(text[: error.start].decode("utf-8", "replace"))
        line, column = before.position(len(before.text))
        message = f"byte 0x{text[error.start]:02X} at position {error.start:,} is not UTF-8"
        raise InvalidDocument([Problem("", message, line, column, "save the document as UTF-8")]) from None
    nul = source.find("\0")
    if nul >= 0:
        before = SourceText(source[:nul])
        line, column = before.position(len(before.text))
        raise InvalidDocument([Problem("", "the document has a NUL character, so it is no text", line, column)])
    return source
