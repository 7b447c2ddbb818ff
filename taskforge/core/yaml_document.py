"""YAML 1.2 with JSON's types only, with the place of every key and value. `read_yaml` is pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from taskforge.core.problem import InvalidDocument, Pointer, quoted
from taskforge.core.record import dataclass
from taskforge.core.source import SURROGATE, DocumentLimits, Findings, Node, SourceText, Style
from taskforge.core.yaml_messages import QUOTE_IT, explain, syntax_hint
from taskforge.core.yaml_scanner import YamlSyntax, yaml_events

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")
_INT = re.compile(r"[-+]?[0-9]+", re.ASCII)
_OCTAL, _HEX = re.compile(r"0o[0-7]+"), re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_NAMED = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_PROPERTIES = re.compile(r"(?:(?:!<[^>\n]*+>|[&!][^ \t\n,\[\]{}]*+)(?:[ \t\n]++(?:#[^\n]*+)?+)*+)++")
_TAG = re.compile(r"!(?:<[^>\n]*+>|[^ \t\n,\[\]{}]*+)")
_KINDS = {"map": "a mapping", "list": "a list"}
_OPENED = re.compile(r"(?<!\$)\$\{\{")
_BITS_PER_DIGIT = 3.3219280948873626


def read_yaml(source: SourceText, limits: DocumentLimits) -> Node:
    """The tree of a YAML text. Raises InvalidDocument with every problem found; syntax stops at the first."""
    findings = Findings(source)
    if bad := _UNPRINTABLE.search(source.text):
        raise findings.stop(
            (),
            bad.start(),
            f"YAML cannot hold the character U+{ord(bad[0]):04X}",
            "write it as an escape in double quotes",
        )
    builder = _Builder(source, limits, findings)
    try:
        root = builder.read(yaml_events(source.text, limits.max_depth))
    except YamlSyntax as error:
        hint = syntax_hint(source, (error.offset,)) or error.hint
        raise findings.stop(builder.pointer, error.offset, error.message, hint) from None
    except MarkedYAMLError as error:
        offset, message, hint = explain(source, error)
        if hint == QUOTE_IT and findings.has_line(offset):
            raise findings.refusal() from None  # the same missing quotes, said before
        raise findings.stop(builder.pointer, offset, message, hint) from None
    findings.raise_if_any()
    return root


@dataclass(slots=True)
class _Frame:
    """A collection that is being read. In a mapping `key` is what the next value belongs to."""

    node: Node
    anchor: str | None
    key: str | None = None
    has_key: bool = False


class _Builder:
    """Turns events into nodes without recursion, and keeps the costs bounded on the way."""

    def __init__(self, source: SourceText, limits: DocumentLimits, findings: Findings) -> None:
        self.source, self.limits, self.findings = source, limits, findings
        self.text = source.text
        self.stack: list[_Frame] = []
        self.anchors: dict[str, Node | None] = {}  # None while the anchored collection is open
        self.root: Node | None = None
        self.count = self.weight = self.aliases = 0

    @property
    def pointer(self) -> Pointer:
        """The path of the value that comes next."""
        parts: list[str | int] = []
        for frame in self.stack:
            if frame.node.kind == "list":
                parts.append(len(frame.node.items))
            elif frame.key is not None:
                parts.append(frame.key)
        return tuple(parts)

    def read(self, events: Iterator[Any]) -> Node:
        for event in events:
            if isinstance(event, ScalarEvent):
                self.scalar(event)
            elif isinstance(event, MappingStartEvent | SequenceStartEvent):
                self.open(event, "map" if isinstance(event, MappingStartEvent) else "list")
            elif isinstance(event, MappingEndEvent | SequenceEndEvent):
                frame = self.stack.pop()
                frame.node.end = event.end_mark.index
                self.place(frame.node, frame.anchor)
            elif isinstance(event, AliasEvent):
                self.alias(event)
            elif isinstance(event, DocumentStartEvent) and self.root is not None:
                message = "the file holds more than one document"
                raise self.findings.stop((), event.start_mark.index, message, 'remove the "---" or split the file')
        if self.root is None or self._is_nothing(self.root):
            raise self.findings.stop((), 0, "the document is empty", "it needs at least name: and steps:")
        return self.root

    def _is_nothing(self, root: Node) -> bool:
        return root.kind == "scalar" and root.style == "plain" and root.start == root.end

    # Values

    def open(self, event: Any, kind: Any) -> None:
        start = self.begin(event)
        if len(self.stack) >= self.limits.max_depth:
            raise self.stop(start, f"the document is nested more than {self.limits.max_depth} deep")
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        self.stack.append(_Frame(Node(kind, start, start), event.anchor))

    def scalar(self, event: Any) -> None:
        start = self.begin(event)
        style: Style = event.style or "plain"
        node = Node("scalar", start, max(start, event.end_mark.index), event.value, style, weight=len(event.value))
        self.spend(start, 0, node.weight)
        if style == "plain":
            self.check_template(node)
            node.value = self.resolve(event.value, start)
        elif style == '"' and SURROGATE.search(event.value):
            message = "the text has half of a surrogate pair (\\uD800 to \\uDFFF), which is no character"
            self.findings.add(self.pointer, start, message)
        self.place(node, event.anchor)

    def alias(self, event: Any) -> None:
        start, end = event.start_mark.index, event.end_mark.index
        self.aliases += 1
        if self.aliases > self.limits.max_aliases:
            raise self.stop(start, f"the document has more than {self.limits.max_aliases:,} aliases")
        target = self.anchors.get(event.anchor)
        if target is None:
            self.spend(start, 1, 0)
            if event.anchor in self.anchors:
                self.findings.add(self.pointer, start, f"the alias *{event.anchor} stands inside its own anchor")
            else:
                message = f"the alias {quoted('*' + event.anchor)} has no anchor before it"
                self.findings.add(self.pointer, start, message, "if it is text, put it in single quotes")
            target = Node("scalar", start, end, "")
        else:
            self.spend(start, target.count, target.weight)
            if len(self.stack) + target.height > self.limits.max_depth + 1:
                raise self.stop(start, f"the document is nested more than {self.limits.max_depth} deep")
        self.place(target.aliased(start, end), None)

    def begin(self, event: Any) -> int:
        """Where the value itself starts, after its anchor; a tag is refused."""
        start: int = event.start_mark.index
        self.spend(start, 1, 0)
        if event.anchor is None and event.ctag is None:
            return start
        properties = _PROPERTIES.match(self.text, start)
        end = properties.end() if properties else start
        if event.ctag is not None:
            tag = _TAG.search(self.text, start, end)
            shown = f"the tag {quoted(tag[0])}" if tag else "a tag"
            message = f"{shown} is not accepted: values have JSON's types only"
            self.findings.add(self.pointer, start, message, "remove the tag; put the value in quotes if it is text")
        return min(end, max(event.end_mark.index, start)) if isinstance(event, ScalarEvent) else end

    def spend(self, offset: int, count: int, weight: int) -> None:
        self.count += count
        self.weight += weight
        if self.count > self.limits.max_values:
            message = f"the document has more than {self.limits.max_values:,} keys and values, aliases written out"
            raise self.stop(offset, message)
        if self.weight > self.limits.max_expanded:
            message = f"the document has more than {self.limits.max_expanded:,} characters, aliases written out"
            raise self.stop(offset, message)

    def stop(self, offset: int, message: str) -> InvalidDocument:
        return self.findings.stop(self.pointer, offset, message)

    # Where values go

    def place(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self.anchors[anchor] = node
        if not self.stack:
            self.root = node
            return
        frame = self.stack[-1]
        parent = frame.node
        if parent.kind == "list":
            parent.items.append(node)
            parent.adopt(node)
        elif frame.has_key:
            if frame.key is not None:
                parent.entries[frame.key] = node
            parent.adopt(node)
            frame.key, frame.has_key = None, False
        else:
            frame.key, frame.has_key = self.key(parent, node), True
            parent.weight += node.weight

    def key(self, parent: Node, node: Node) -> str | None:
        """The text of a key; None for one that was refused, whose value is then dropped."""
        pointer, start = self.pointer, node.start
        if node.kind != "scalar":
            line = self.source.line_at(start)
            hint = QUOTE_IT if "{{" in line else "put the key in quotes if it is text"
            self.findings.add(pointer, start, f"a key must be text, not {_KINDS[node.kind]}", hint)
        elif not isinstance(node.value, str):
            written = self.text[node.start : node.end]
            kind = "null" if node.value is None else "a boolean" if isinstance(node.value, bool) else "a number"
            shown = f"the key {quoted(written)} is {kind}; " if written else "the key is empty; "
            self.findings.add(pointer, start, f"{shown}keys must be text", f"quote it: {quoted(written or 'name')}")
        elif node.style == "plain" and node.value == "<<":
            message = 'merge keys ("<<") are not accepted'
            self.findings.add(pointer, start, message, "write the entries out, or alias each value")
        elif node.value in parent.key_starts:
            first, _ = self.source.position(parent.key_starts[node.value])
            message = f"the key {quoted(node.value)} stands twice; first on line {first}"
            self.findings.add((*pointer, node.value), start, message)
        else:
            parent.key_starts[node.value] = start
            return str(node.value)
        return None

    # Plain texts

    def resolve(self, value: str, start: int) -> Any:
        """What a plain scalar is, by the core schema of YAML 1.2."""
        if value in _NAMED:
            return _NAMED[value]
        if value[0] not in "-+.0123456789":
            return value
        if _INT.fullmatch(value):
            return self.whole(value.lstrip("+-"), 10, start, value[0] == "-")
        if _OCTAL.fullmatch(value):
            return self.whole(value[2:], 8, start)
        if _HEX.fullmatch(value):
            return self.whole(value[2:], 16, start)
        if _NOT_FINITE.fullmatch(value):
            self.findings.add(self.pointer, start, f"{value} is not a JSON number", "use null, or quote it")
            return value
        if not _FLOAT.fullmatch(value):
            return value
        number = float(value)
        if number in (float("inf"), float("-inf")):
            self.findings.add(self.pointer, start, f"the number {quoted(value)} is out of range", "quote it")
        return number

    def whole(self, digits: str, base: int, start: int, negative: bool = False) -> int:
        bits = len(digits) * {8: 3, 10: _BITS_PER_DIGIT, 16: 4}[base]
        if bits > self.limits.max_digits * _BITS_PER_DIGIT + 1e-6:
            message = f"the number has more than {self.limits.max_digits:,} digits"
            self.findings.add(self.pointer, start, message, "quote it")
            return 0
        number = int(digits, base)
        return -number if negative else number

    def check_template(self, node: Node) -> None:
        """An unquoted `${{` that YAML cut short: at ` #`, or at `: ` where the rest became a value of its own."""
        opened = [match.end() for match in _OPENED.finditer(node.value)] if "${{" in node.value else []
        if not opened or "}}" in node.value[opened[-1] :]:
            return
        comment = re.compile(r"[ \t]+#").match(self.text, node.end)
        if comment:
            message = 'YAML ends an unquoted text at " #", so "${{" has no "}}" here'
        elif self.text.startswith(":", node.end):
            message = 'YAML splits an unquoted text at ": ", so "${{" has no "}}" here'
        else:
            message = '"${{" has no "}}" in this unquoted text'
        self.findings.add(self.pointer, node.start, message, QUOTE_IT)
